"""Elementwise maps and copies: selection. The code is in ``map_code``."""

from __future__ import annotations

import math

from onnxplan.compiler.expression import identity
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.indexing import BLOCK_THREADS, axis_words, index_type, points_of
from onnxplan.kernels.cuda.map_code import GROUP, MOST_GROUPED, build_map, items_of
from onnxplan.kernels.cuda.source import check_words
from onnxplan.kernels.cuda.transpose import select_transpose
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

__all__ = ["build_map", "select_map"]


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
    kinds = _kinds(axes, len(views), count)
    labels = tuple(dtype.label for dtype in kernel_types)
    variant = (
        BLOCK_THREADS, expression, labels, (*used, *indexed), count, len(axes), index_type(points, axes),
        kinds,
    )  # fmt: skip
    parameters = (points, *axis_words(axes))
    check_words(len(views), len(parameters))
    emit.step(
        KernelSpec("map", variant),
        tuple(views),
        tuple(range(count, len(views))),
        parameters,
        tiles=ceil_div(points, BLOCK_THREADS * items_of(count, kinds)),
        flops=math.prod(primitive.shape) * expression.cost,
        bytes_moved=sum(map(unique_bytes, views)),
        in_place=in_place_pairs(views[:count], views[count:]),
    )


def _kinds(axes: list[Axis], operands: int, inputs: int) -> str:
    """How threads that take groups of neighbouring points access each operand; "" if they take single ones.

    ``v`` as vectors, ``b`` the same element for all, ``s`` one by one. A group does not span rows.
    """
    if not axes or inputs > MOST_GROUPED or (len(axes) > 1 and axes[-1].extent % GROUP):
        return ""
    kinds = ""
    for operand in range(operands):
        inner = axes[-1].strides[operand]
        aligned = all(axis.strides[operand] % GROUP == 0 for axis in axes[:-1] if axis.extent > 1)
        kinds += "b" if inner == 0 else "v" if inner == 1 and aligned else "s"
    return kinds if "v" in kinds[inputs:] else ""
