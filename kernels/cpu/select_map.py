"""Steps for elementwise maps and copies."""

from __future__ import annotations

import math

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import identity
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.select_transpose import select_transpose
from onnxplan.kernels.cpu.streaming import streamed_output
from onnxplan.kernels.cpu.vector_shape import lane_count
from onnxplan.kernels.cpu.walk import TILE_BYTES, access_class, inner_parameters, walk_parameters
from onnxplan.kernels.geometry import (
    Axis,
    axes_of,
    carrier,
    ceil_div,
    collapse,
    flip_negative,
    in_place_pairs,
    pad_axes,
    unique_bytes,
)


def select_map(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a MapReduce without reductions."""
    primitive = operation.primitive
    assert isinstance(primitive, MapReduce)
    expression, shape = primitive.expression, primitive.shape
    if 0 in shape:
        return
    used = sorted({i.arguments[0] for i in expression.instructions if i.op == "input"})
    indexed = sorted({i.arguments[0] for i in expression.instructions if i.op == "index"})
    views = [operation.inputs[number] for number in used] + list(operation.outputs)
    count, outputs = len(used), len(operation.outputs)
    # Coordinates are operands too: they must not be reversed, so nothing is.
    if not indexed:
        views = flip_negative(views, range(count, len(views)))
    copies = primitive.name == "copy"
    kernel_types = [view.dtype for view in views]
    strides = [list(view.strides) for view in views]
    if copies:
        element, parts = carrier(views[0].dtype)
        expression, kernel_types = identity(element), [element] * 2
        shape = (*shape, parts)
        strides = [[*(stride * parts for stride in row), 1] for row in strides]
    coordinates = [[int(axis == wanted) for axis in range(len(shape))] for wanted in indexed]
    strides[count:count] = coordinates
    total = len(strides)
    priority = [*range(total - outputs, total), *range(count)]
    axes = collapse(axes_of(shape, strides), priority)
    if copies and select_transpose(axes, views, kernel_types[0], emit, target):
        return
    inner = axes[-1] if axes else Axis(1, (1,) * total)
    outer = pad_axes(axes[:-1], total)
    kinds = "".join(map(access_class, inner.strides))
    labels = [dtype.label for dtype in kernel_types]
    labels[count:count] = ["index"] * len(indexed)
    sizes = [1 if label == "index" else DType.from_label(label).itemsize for label in labels]
    streamed = streamed_output(
        target, views[count:], kinds, inner.extent, lane_count(expression, labels, target)
    )
    variant = (expression, tuple(labels), kinds, (*used, *indexed), len(outer), streamed)
    weight = expression.cost + sum(
        size
        for size, kind, label in zip(sizes, kinds, labels, strict=True)
        if kind != "b" and label != "index"
    )
    length = _chunk_length(inner.extent, weight, target)
    chunks = ceil_div(inner.extent, length)
    parameters, tiles = walk_parameters(outer, sizes, chunks, length * weight)
    parameters += [inner.extent, length, *inner_parameters(inner, sizes, kinds)]
    points = math.prod(shape)
    emit.step(
        KernelSpec("map", variant),
        tuple(views),
        tuple(range(count, len(views))),
        tuple(parameters),
        tiles=tiles,
        flops=points * expression.cost,
        bytes_moved=sum(map(unique_bytes, views)),
        in_place=in_place_pairs(views[:count], views[count:]),
    )


def _chunk_length(extent: int, weight: int, target: Target) -> int:
    """Elements of the inner axis that one row covers: all, or a multiple of several vectors."""
    if extent * weight <= 2 * TILE_BYTES:
        return extent
    granule = 4 * target.vector_bytes
    return ceil_div(max(TILE_BYTES // weight, 1), granule) * granule
