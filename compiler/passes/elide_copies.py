"""Copies vanish where their source can be written, or their destination read, in place of the other."""

from __future__ import annotations

from collections.abc import Callable

from onnxplan.compiler.expression import identity
from onnxplan.compiler.overlap import may_overlap
from onnxplan.compiler.passes.composition import translate
from onnxplan.compiler.passes.index import Index, merged_nodes
from onnxplan.compiler.passes.output_views import may_read, may_write
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.view import View

Prefers = Callable[[Operation], bool]
"""Has a device a kernel of its own for this operation? See ``KernelSelector.prefers``."""


def elide_copies(program: Program, prefers: Prefers = lambda operation: False) -> Program:
    """Removes copies.

    Where nothing else reads the source of a copy, the operations that write it write straight into the copy's
    destination (the parts of a concatenation, a permuted result, an output of the program). Where that
    cannot be, and all that read the destination could as well read the source, they do. Both only through
    views that the primitives at hand write and read as fast as dense ones (:mod:`output_views`),
    or where the device ``prefers`` the operation that writes the copy's destination.
    """
    copies = list(filter(is_copy, program.operations))
    if not copies:
        return program
    index = Index.of(program)
    for copy in copies:
        if not _elide_by_writers(index, copy, prefers):
            _elide_by_readers(index, copy)
    return index.finish()


def is_copy(operation: Operation) -> bool:
    """Does the operation write its one input unchanged?"""
    primitive = operation.primitive
    return (
        isinstance(primitive, MapReduce)
        and len(operation.inputs) == len(operation.outputs) == 1
        and operation.inputs[0].shape == operation.outputs[0].shape
        and primitive.expression == identity(operation.inputs[0].dtype)
    )


def _elide_by_writers(index: Index, copy: Operation, prefers: Prefers) -> bool:
    source, target = copy.inputs[0], copy.outputs[0]
    writers = list(index.writers(source.storage))
    if not writers or index.sole_reader(source.storage) is not copy:
        return False
    changed: list[Operation] = []
    for writer in writers:
        outputs, written = [], []
        for view in writer.outputs:
            moved: View | None = view
            if view.storage is source.storage:
                moved = translate(view, source, target)
                if moved is None:
                    return False
                written.append(moved)
            assert moved is not None
            outputs.append(moved)
        operation = Operation(writer.primitive, writer.inputs, tuple(outputs), merged_nodes(writer, copy))
        if not all(may_write(writer.primitive, view) for view in written) and not prefers(operation):
            return False
        changed.append(operation)
    if not _keeps_order_of_writes(index, copy, min(index.order[writer] for writer in writers)):
        return False
    index.remove(copy)
    for writer, replacement in zip(writers, changed, strict=True):
        index.become(writer, replacement)
    return True


def _keeps_order_of_writes(index: Index, copy: Operation, earliest: float) -> bool:
    """Does nothing that overlaps the copy's destination write it between ``earliest`` and the copy?"""
    target = copy.outputs[0]
    for writer in index.writers(target.storage):
        if writer is copy or not earliest <= index.order[writer] <= index.order[copy]:
            continue
        if any(may_overlap(view, target) for view in writer.outputs):
            return False
    return True


def _elide_by_readers(index: Index, copy: Operation) -> bool:
    source, target = copy.inputs[0], copy.outputs[0]
    storage = target.storage
    if storage in index.outputs or index.sole_writer(storage) is not copy:
        return False
    changed: list[tuple[Operation, Operation]] = []
    for reader in index.readers(storage):
        inputs = []
        for number, view in enumerate(reader.inputs):
            moved: View | None = view
            if view.storage is storage:
                moved = translate(view, target, source)
                if moved is None or not _reads_as_well(reader, number, view, moved):
                    return False
            assert moved is not None
            inputs.append(moved)
        nodes = merged_nodes(copy, reader)
        changed.append((reader, Operation(reader.primitive, tuple(inputs), reader.outputs, nodes)))
    index.remove(copy)
    for reader, replacement in changed:
        index.become(reader, replacement)
    return True


def _reads_as_well(reader: Operation, number: int, before: View, after: View) -> bool:
    """May ``reader`` read ``after``, and, if it reads rows several times, as continuously as ``before``?"""
    primitive = reader.primitive
    if not may_read(primitive, number, after):
        return False
    if not isinstance(primitive, MapReduce) or not primitive.axes:
        return True
    continuous = [axis for axis in range(before.rank) if before.strides[axis] == 1 and before.shape[axis] > 1]
    return all(abs(after.strides[axis]) <= 1 for axis in continuous)
