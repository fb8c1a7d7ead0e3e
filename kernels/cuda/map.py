"""Elementwise maps and copies: selection. The code is in ``map_code``."""

from __future__ import annotations

import math

from onnxplan.compiler.expression import identity
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.groups import grouping
from onnxplan.kernels.cuda.indexing import BLOCK_THREADS, axis_words, index_type, points_of
from onnxplan.kernels.cuda.map_code import MOST_GROUPED, build_map, groups_of, items_of
from onnxplan.kernels.cuda.source import check_words
from onnxplan.kernels.cuda.transpose import select_transpose
from onnxplan.kernels.geometry import (
    axes_of,
    carrier,
    ceil_div,
    collapse,
    flip_negative,
    in_place_pairs,
    pad_axes,
    unique_bytes,
)

__all__ = ["build_map", "select_map"]

# Blocks for each multiprocessor that there should be before threads take more than one group.
BLOCKS_WANTED = 4


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
    count = len(used)
    # Coordinates are operands too: they must not be reversed, so nothing is.
    if not indexed:
        views = flip_negative(views, range(count, len(views)))
    kernel_types = [view.dtype for view in views]
    strides = [list(view.strides) for view in views]
    copies = primitive.name == "copy"
    if copies:
        element, parts = carrier(views[0].dtype)
        expression, kernel_types = identity(element), [element] * 2
        shape = (*shape, parts)
        strides = [[*(stride * parts for stride in row), 1] for row in strides]
    strides += [[int(axis == wanted) for axis in range(len(shape))] for wanted in indexed]
    priority = [*range(count, len(views)), *range(count)]
    merged = collapse(axes_of(shape, strides), priority)
    if copies and select_transpose(merged, views[0], views[1], kernel_types[0], emit):
        return
    axes = pad_axes(merged, len(strides))
    points = points_of(axes)
    group, kinds = 0, ""
    if count <= MOST_GROUPED:
        sizes = [dtype.itemsize for dtype in kernel_types]
        group, kinds = grouping(axes, (), sizes, range(count, len(views)))
    labels = tuple(dtype.label for dtype in kernel_types)
    variant = (
        BLOCK_THREADS, expression, labels, (*used, *indexed), count, len(axes), index_type(points, axes),
        kinds, group,
    )  # fmt: skip
    if group:
        # Few points are spread over all multiprocessors first.
        rounds = ceil_div(points, BLOCK_THREADS * group * BLOCKS_WANTED * target.threads)
        rounds = min(rounds, groups_of(expression, count, kinds, group))
        tiles = ceil_div(points, BLOCK_THREADS * group * rounds)
    else:
        rounds = items_of(count)
        tiles = ceil_div(points, BLOCK_THREADS * rounds)
    parameters = (points, rounds, *axis_words(axes))
    check_words(len(views), len(parameters))
    emit.step(
        KernelSpec("map", variant),
        tuple(views),
        tuple(range(count, len(views))),
        parameters,
        tiles=tiles,
        flops=math.prod(primitive.shape) * expression.cost,
        bytes_moved=sum(map(unique_bytes, views)),
        in_place=in_place_pairs(views[:count], views[count:]),
    )
