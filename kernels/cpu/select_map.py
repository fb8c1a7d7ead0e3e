"""Steps for elementwise maps and copies."""

from __future__ import annotations

import math

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.lifted_constants import lift_constants
from onnxplan.kernels.cpu.select_transpose import select_copy
from onnxplan.kernels.cpu.streaming import streamed_output
from onnxplan.kernels.cpu.vector_shape import lane_count
from onnxplan.kernels.cpu.walk import TILE_BYTES, access_class, inner_parameters, walk_parameters
from onnxplan.kernels.geometry import (
    Axis,
    axes_of,
    ceil_div,
    collapse,
    in_place_pairs,
    pad_axes,
    unique_bytes,
)
from onnxplan.kernels.map_operands import MapOperands


def select_map(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a MapReduce without reductions."""
    found = MapOperands.of(operation)
    if 0 in found.shape:
        return
    expression, count = found.expression, found.count
    strides = [*found.strides[:count], *found.coordinates, *found.strides[count:]]
    total = len(strides)
    priority = [*range(total - len(found.outputs), total), *range(count)]
    axes = collapse(axes_of(found.shape, strides), priority)
    if found.copies and select_copy(axes, found.views, found.dtypes[0], emit, target):
        return
    inner = axes[-1] if axes else Axis(1, (1,) * total)
    outer = pad_axes(axes[:-1], total)
    kinds = "".join(map(access_class, inner.strides))
    labels = [dtype.label for dtype in found.dtypes]
    labels[count:count] = ["index"] * len(found.indexed)
    sizes = [1 if label == "index" else DType.from_label(label).itemsize for label in labels]
    streamed = streamed_output(
        target, found.outputs, kinds, inner.extent, lane_count(expression, labels, target), joins=False
    )
    lifted, words = lift_constants(expression)
    variant = (lifted, tuple(labels), kinds, (*found.used, *found.indexed), len(outer), streamed)
    weight = expression.cost + sum(
        size
        for size, kind, label in zip(sizes, kinds, labels, strict=True)
        if kind != "b" and label != "index"
    )
    length = _chunk_length(inner.extent, weight, target)
    chunks = ceil_div(inner.extent, length)
    walk, tiles = walk_parameters(outer, sizes, chunks, length * weight)
    parameters = [*words, *walk]
    parameters += [inner.extent, length, *inner_parameters(inner, sizes, kinds)]
    points = math.prod(found.shape)
    emit.step(
        KernelSpec("map", variant),
        found.views,
        tuple(range(count, len(found.views))),
        tuple(parameters),
        tiles=tiles,
        flops=points * expression.cost,
        bytes_moved=sum(map(unique_bytes, found.views)),
        in_place=in_place_pairs(found.inputs, found.outputs),
    )


def _chunk_length(extent: int, weight: int, target: Target) -> int:
    """Elements of the inner axis that one row covers: all, or a multiple of several vectors."""
    if extent * weight <= 2 * TILE_BYTES:
        return extent
    granule = 4 * target.vector_bytes
    return ceil_div(max(TILE_BYTES // weight, 1), granule) * granule
