"""Elementwise maps and copies: selection. The code is in ``map_code``."""

from __future__ import annotations

import math

from onnxplan.compiler.plan import KernelSpec
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
    ceil_div,
    collapse,
    in_place_pairs,
    pad_axes,
    unique_bytes,
)
from onnxplan.kernels.map_operands import MapOperands

__all__ = ["build_map", "select_map"]

# Blocks for each multiprocessor that there should be before threads take more than one group.
BLOCKS_WANTED = 4


def select_map(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a MapReduce without reductions."""
    found = MapOperands.of(operation)
    if 0 in found.shape:
        return
    expression, count, views = found.expression, found.count, found.views
    strides = [*found.strides, *found.coordinates]
    priority = [*range(count, len(views)), *range(count)]
    merged = collapse(axes_of(found.shape, strides), priority)
    if found.copies and select_transpose(merged, views[0], views[1], found.dtypes[0], emit):
        return
    axes = pad_axes(merged, len(strides))
    points = points_of(axes)
    group, kinds = 0, ""
    if count <= MOST_GROUPED:
        sizes = [dtype.itemsize for dtype in found.dtypes]
        group, kinds = grouping(axes, (), sizes, range(count, len(views)))
    labels = tuple(dtype.label for dtype in found.dtypes)
    variant = (
        BLOCK_THREADS, expression, labels, (*found.used, *found.indexed), count, len(axes),
        index_type(points, axes), kinds, group,
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
        views,
        tuple(range(count, len(views))),
        parameters,
        tiles=tiles,
        flops=math.prod(found.shape) * expression.cost,
        bytes_moved=sum(map(unique_bytes, views)),
        in_place=in_place_pairs(found.inputs, found.outputs),
    )
