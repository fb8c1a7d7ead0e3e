"""Two axes of which one is the last are resampled at once: what lies between them need not be in memory."""

from __future__ import annotations

from collections.abc import Callable

from onnxplan.compiler.passes.index import Index, merged_nodes
from onnxplan.compiler.passes.refusals import refuse
from onnxplan.compiler.primitives import Resample, ResamplePlane
from onnxplan.compiler.program import Operation, Program

NOT_PREFERRED = "the device has no kernel for both axes that is faster here"


def fuse_resamples(program: Program, prefers: Callable[[Operation], bool]) -> Program:
    """Replaces a :class:`Resample` along the last axis and one along another by :class:`ResamplePlane`.

    Nothing else may read what the first of them wrote, and the device must ``prefer`` the two together.
    Ensures equal results but for rounding: the last axis becomes the second one, whichever it was.
    """
    resamples = [operation for operation in program.operations if isinstance(operation.primitive, Resample)]
    if len(resamples) < 2:
        return program
    index = Index.of(program)
    for operation in resamples:
        first = index.sole_writer(operation.inputs[0].storage)
        if first is None or first.outputs != operation.inputs[:1]:
            continue
        fused = _fused(first, operation)
        if fused is None or index.sole_reader(first.outputs[0].storage) is not operation:
            continue
        if prefers(fused):
            index.remove(first)
            index.become(operation, fused)
        else:
            refuse(first, operation, NOT_PREFERRED)
    return index.finish()


def _fused(first: Operation, second: Operation) -> Operation | None:
    """Both of them as one operation, if they resample the last axis and one other."""
    if not isinstance(first.primitive, Resample) or not isinstance(second.primitive, Resample):
        return None
    x = first.inputs[0]
    tables = {
        first.primitive.axis: first.inputs[1:],
        second.primitive.axis: second.inputs[1:],
    }
    last = tables.pop(x.rank - 1, None)
    if last is None or len(tables) != 1:
        return None
    ((axis, other),) = tables.items()
    return Operation(ResamplePlane(axis), (x, *other, *last), second.outputs, merged_nodes(first, second))
