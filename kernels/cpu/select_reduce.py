"""Steps for reductions, softmax and normalisations."""

from __future__ import annotations

import math

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.lifted_constants import lift_constants
from onnxplan.kernels.cpu.select_map import select_map
from onnxplan.kernels.cpu.streaming import fetched_ahead, streamed_output
from onnxplan.kernels.cpu.vector_shape import column_unroll, lane_count
from onnxplan.kernels.cpu.walk import TILE_BYTES, access_class, inner_parameters, walk_parameters
from onnxplan.kernels.geometry import (
    Axis,
    axis_parameters,
    ceil_div,
    in_place_pairs,
    pad_axes,
    unique_bytes,
)
from onnxplan.kernels.phases import accumulator, schedule
from onnxplan.kernels.reduction_space import Space, make_space
from onnxplan.kernels.split_reduce import decompose

# Values that need more than this are computed again in each pass, not kept in the thread's scratch.
SCRATCH_LIMIT = 1 << 20
# Work is split further if there is more of it than this and fewer parts than that.
SPLIT_BYTES = 1 << 18
ENOUGH_PARTS = 32


def select_reduce(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of a MapReduce with reductions."""
    from onnxplan.kernels.cpu.split_reduce import split

    space = make_space(operation)
    if space.results == 0:
        return
    work = space.region * space.results * space.weight
    if work > SPLIT_BYTES and space.inputs and not space.coordinates:
        parts = _parallel_parts(space, target)
        phases = schedule(space.expression, cache=True).phases
        simple = len(phases) == 1
        if simple and parts < ENOUGH_PARTS:
            split(space, emit, target, min(ceil_div(work, SPLIT_BYTES // 2), 64))
            return
        if not simple and parts < ENOUGH_PARTS // 4 and work > 8 * SPLIT_BYTES:
            decompose(
                space,
                emit,
                lambda part: select_reduce(part, emit, target),
                lambda part: select_map(part, emit, target),
            )
            return
    emit_reduce(space, emit, target)


def _is_row(space: Space, target: Target) -> bool:
    """Do vectors run along the innermost reduced axis rather than along a kept one?"""
    if not space.kept or not space.reduced:
        return not space.kept
    kept, reduced = space.kept[-1], space.reduced[-1]
    lanes = max(2, target.vector_bytes // 4)
    if reduced.extent < lanes // 2 and kept.extent > reduced.extent:
        return False
    for a, b in zip(reduced.strides, kept.strides, strict=True):
        if a and b:
            return abs(a) < abs(b)
    return True


def _column_width(space: Space, target: Target) -> int:
    kinds = "".join(map(access_class, space.kept[-1].strides))
    return lane_count(space.expression, space.labels, target) * column_unroll(space.expression, kinds)


def _parallel_parts(space: Space, target: Target) -> int:
    if _is_row(space, target):
        return space.results
    outer = math.prod(axis.extent for axis in space.kept[:-1])
    return outer * ceil_div(space.kept[-1].extent, _column_width(space, target))


def emit_reduce(space: Space, emit: StepEmitter, target: Target) -> None:
    """Emits one step for all of ``space``."""
    total, sizes = len(space.labels), space.sizes
    unit = Axis(1, (1,) * total)
    row = _is_row(space, target)
    if row:
        inner = space.reduced[-1] if space.reduced else Axis(1, (0,) * total)
        outer, region, width = pad_axes(space.kept, total), space.reduced[:-1], 1
        length, chunks = inner.extent, 1
        row_bytes = space.region * space.weight
    else:
        inner = space.kept[-1] if space.kept else unit
        outer, region, width = pad_axes(space.kept[:-1], total), space.reduced, _column_width(space, target)
        length = min(inner.extent, ceil_div(TILE_BYTES, max(space.region, 1) * space.weight * width) * width)
        chunks = ceil_div(inner.extent, length)
        row_bytes = space.region * space.weight * length
    # One row is one of several: both parts of a split reduction are one kernel.
    outer = outer or [Axis(1, (0,) * total)]
    padded = pad_axes(region, total)
    kinds = "".join(map(access_class, inner.strides))
    inputs = space.views[: len(space.inputs)]
    outputs = space.views[len(space.inputs) :]
    lanes = lane_count(space.expression, space.labels, target)
    streamed = row and streamed_output(target, outputs, kinds, inner.extent, lanes, joins=True)
    scratch, cache_stride, cached = _scratch(space, target, width, behind=streamed and not padded)
    expression, words = lift_constants(space.expression)
    ahead, distance = fetched_ahead(inputs, kinds, inner.extent) if row else ((), 0)
    variant = (
        "row" if row else "column", expression, space.labels, kinds,
        (*space.inputs, *space.coordinates), len(outer), len(padded), cached, streamed, ahead,
    )  # fmt: skip
    walk, tiles = walk_parameters(outer, sizes, chunks, row_bytes)
    parameters = [*words, *walk]
    parameters += axis_parameters(padded, sizes)
    points = math.prod(axis.extent for axis in padded)
    parameters += [points, inner.extent, length, cache_stride, *inner_parameters(inner, sizes, kinds)]
    parameters += [distance] if ahead else []
    emit.step(
        KernelSpec("reduce", variant),
        tuple(space.views),
        tuple(range(len(inputs), len(space.views))),
        tuple(parameters),
        tiles=tiles,
        flops=space.region * space.results * space.expression.cost,
        bytes_moved=sum(map(unique_bytes, space.views)),
        scratch=scratch,
        in_place=in_place_pairs(inputs, outputs),
    )


def _scratch(space: Space, target: Target, width: int, *, behind: bool) -> tuple[int, int, bool]:
    """``(bytes, bytes between cached values, are there any)``; vectors of slack for the last lanes.

    Where rows are written one ``behind``, there are values of two rows.
    """
    plan = schedule(space.expression, cache=True)
    if not plan.cached:
        return 0, 0, False
    size = max(accumulator(space.expression.instructions[p].dtype).itemsize for p in plan.cached)
    stride = ceil_div(space.region * width * size, 64) * 64 + 8 * target.vector_bytes
    stride *= 2 if behind else 1
    nbytes = stride * len(plan.cached)
    return (nbytes, stride, True) if nbytes <= SCRATCH_LIMIT else (0, 0, False)
