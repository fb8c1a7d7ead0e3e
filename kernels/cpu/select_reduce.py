"""Steps for reductions, softmax and normalisations."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.vector_shape import column_unroll, lane_count
from onnxplan.kernels.cpu.walk import TILE_BYTES, access_class, inner_parameters, walk_parameters
from onnxplan.kernels.geometry import (
    Axis,
    axes_of,
    axis_parameters,
    ceil_div,
    collapse,
    flip_negative,
    in_place_pairs,
    pad_axes,
    unique_bytes,
)
from onnxplan.kernels.phases import accumulator, schedule

# Values that need more than this are computed again in each pass, not kept in the thread's scratch.
SCRATCH_LIMIT = 1 << 20
# Work is split further if there is more of it than this and fewer parts than that.
SPLIT_BYTES = 1 << 18
ENOUGH_PARTS = 32


@dataclass(frozen=True, slots=True)
class Space:
    """A MapReduce over collapsed axes. Operands are inputs that are read, coordinates, outputs."""

    expression: Expression
    views: tuple[View, ...]
    inputs: tuple[int, ...]
    coordinates: tuple[int, ...]
    kept: tuple[Axis, ...]
    reduced: tuple[Axis, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        labels = [view.dtype.label for view in self.views]
        labels[len(self.inputs) : len(self.inputs)] = ["index"] * len(self.coordinates)
        return tuple(labels)

    @property
    def sizes(self) -> list[int]:
        return [1 if label == "index" else DType.from_label(label).itemsize for label in self.labels]

    @property
    def region(self) -> int:
        """Points that one reduction runs over."""
        return math.prod(axis.extent for axis in self.reduced)

    @property
    def results(self) -> int:
        """Points of the kept axes."""
        return math.prod(axis.extent for axis in self.kept)

    @property
    def weight(self) -> int:
        """Bytes that one point's work is worth."""
        moved = sum(view.dtype.itemsize for view in self.views if any(s for s in view.strides))
        return moved + self.expression.cost


def select_reduce(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of a MapReduce with reductions."""
    from onnxplan.kernels.cpu.split_reduce import decompose, split

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
            decompose(space, emit, target)
            return
    emit_reduce(space, emit, target)


def make_space(operation: Operation) -> Space:
    """The operation with its axes dropped, ordered and merged."""
    primitive = operation.primitive
    assert isinstance(primitive, MapReduce)
    expression, shape = primitive.expression, primitive.shape
    used = sorted({i.arguments[0] for i in expression.instructions if i.op == "input"})
    indexed = sorted({i.arguments[0] for i in expression.instructions if i.op == "index"})
    views = [operation.inputs[number] for number in used]
    views += [_spread(view, shape) for view in operation.outputs]
    count = len(used)
    if not indexed:
        views = flip_negative(views, [*range(count, len(views)), *range(count)])
    strides = [list(view.strides) for view in views]
    strides[count:count] = [[int(axis == wanted) for axis in range(len(shape))] for wanted in indexed]
    priority = sorted(range(count), key=lambda number: -unique_bytes(views[number]))
    priority += range(count, len(strides))
    axes = axes_of(shape, strides, primitive.axes)
    kept, reduced = (
        tuple(collapse([axis for axis in axes if axis.reduced is wanted], priority))
        for wanted in (False, True)
    )
    return Space(expression, tuple(views), tuple(used), tuple(indexed), kept, reduced)


def _spread(view: View, shape: tuple[int, ...]) -> View:
    """An output as a view of the iteration shape: stride 0 where it has extent 1 and the shape has not."""
    strides = tuple(
        0 if own != wanted else stride
        for own, wanted, stride in zip(view.shape, shape, view.strides, strict=True)
    )
    return View(view.storage, view.offset, shape, strides)


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
    padded = pad_axes(region, total)
    kinds = "".join(map(access_class, inner.strides))
    scratch, cache_stride, cached = _scratch(space, target, width)
    variant = (
        "row" if row else "column", space.expression, space.labels, kinds,
        (*space.inputs, *space.coordinates), len(outer), len(padded), cached,
    )  # fmt: skip
    parameters, tiles = walk_parameters(outer, sizes, chunks, row_bytes)
    parameters += axis_parameters(padded, sizes)
    points = math.prod(axis.extent for axis in padded)
    parameters += [points, inner.extent, length, cache_stride, *inner_parameters(inner, sizes, kinds)]
    inputs = space.views[: len(space.inputs)]
    outputs = space.views[len(space.inputs) :]
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


def _scratch(space: Space, target: Target, width: int) -> tuple[int, int, bool]:
    """``(bytes, bytes between cached values, are there any)``; a vector of slack for the last lanes."""
    plan = schedule(space.expression, cache=True)
    if not plan.cached:
        return 0, 0, False
    size = max(accumulator(space.expression.instructions[p].dtype).itemsize for p in plan.cached)
    stride = ceil_div(space.region * width * size, 64) * 64 + 8 * target.vector_bytes
    nbytes = stride * len(plan.cached)
    return (nbytes, stride, True) if nbytes <= SCRATCH_LIMIT else (0, 0, False)
