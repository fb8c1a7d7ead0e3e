"""Reductions that are too few for many threads: split into parts."""

from __future__ import annotations

import math

from onnxplan.compiler.expression import REDUCTIONS
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import Shape, View
from onnxplan.kernels.cpu.select_reduce import emit_reduce
from onnxplan.kernels.phases import accumulator
from onnxplan.kernels.reduction_space import Space, make_space
from onnxplan.kernels.split_reduce import collapsed, combine, output_slots, placed, result, rewrite


def split(space: Space, emit: StepEmitter, target: Target, parts: int) -> None:
    """Reductions of depth 1: partial results for parts of the largest reduced axis, then the rest."""
    extents = [axis.extent for axis in space.reduced]
    axis = extents.index(max(extents))
    length = max(-(-extents[axis] // parts), min(extents[axis], 64))
    whole, rest = divmod(extents[axis], length)
    count = whole + (rest > 0)
    if count < 2:
        emit_reduce(space, emit, target)
        return
    reductions = [p for p, i in enumerate(space.expression.instructions) if i.op in REDUCTIONS]
    partial = rewrite(space.expression, reductions, {})
    results = tuple(a.extent for a in space.kept)
    temporaries = [
        emit.temporary(
            accumulator(space.expression.instructions[p].dtype), count * math.prod(results), "partial"
        )
        for p in reductions
    ]
    # The parts are innermost only where the kept axes cannot fill a vector.
    parts_last = math.prod(results) < target.vector_bytes
    shape = (*results, count) if parts_last else (count, *results)
    position = len(results) if parts_last else 0
    views = [View.dense(storage, shape) for storage in temporaries]
    number = len(results) + axis
    for start, pieces, size in ((0, whole, length), (whole, int(rest > 0), rest)):
        if not pieces:
            continue
        inputs = [
            _in_pieces(collapsed(view, space, slot), number, start * length, pieces, size, position)
            for slot, view in enumerate(space.views[: len(space.inputs)])
        ]
        iteration = inputs[0].shape if inputs else ()
        ones = (1,) * len(extents)
        outputs = [_append_ones(view.slice(position, start, pieces), ones) for view in views]
        reduced = tuple(range(len(results) + 1, len(results) + 1 + len(extents)))
        operation = Operation(
            MapReduce(partial, iteration, reduced),
            placed(dict(zip(space.inputs, inputs, strict=True))),
            tuple(outputs),
        )
        emit_reduce(make_space(operation), emit, target)
    final = combine(space.expression, reductions)
    outputs = [result(view, space, slot) for slot, view in output_slots(space)]
    outputs = [view.unsqueeze((position,)) for view in outputs]
    operation = Operation(MapReduce(final, shape, (position,)), tuple(views), tuple(outputs))
    emit_reduce(make_space(operation), emit, target)


def _append_ones(view: View, ones: Shape) -> View:
    return View(view.storage, view.offset, view.shape + ones, view.strides + (0,) * len(ones))


def _in_pieces(view: View, axis: int, start: int, pieces: int, size: int, position: int) -> View:
    """``pieces`` neighbouring parts of ``size`` along ``axis``, their number becoming an axis of its own."""
    shape, strides = list(view.shape), list(view.strides)
    offset = view.offset + start * strides[axis]
    step = strides[axis] * size
    shape[axis] = size
    shape.insert(position, pieces)
    strides.insert(position, step)
    return View(view.storage, offset, tuple(shape), tuple(strides))
