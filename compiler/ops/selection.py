"""Operators that keep some elements and drop others: data decides how many are left."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression, integer, normal_axis, scalar_map
from onnxplan.compiler.primitives import Gather, Scan, Scatter
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, index, select
from onnxplan.compiler.view import View, dense_strides


@operator("NonZero", since=9)
def non_zero(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__NonZero.html

    A scalar counts as a vector of one element.
    """
    if x.rank == 0:
        x = b.reshape(x, (1,))
    zero = "" if x.dtype is DType.STRING else 0
    mask = x if x.dtype is DType.BOOL else b.scalar("not_equal", x, b.constant(zero, x.dtype))
    found = true_positions(b, b.reshape(mask, (mask.size,)))
    if x.rank == 1:
        return b.reshape(found, (1, found.size))
    if found.size == 0:
        return b.constant(np.empty((x.rank, 0), np.int64))
    strides = b.constant(np.array(dense_strides(x.shape), np.int64).reshape(-1, 1))
    extents = b.constant(np.array(x.shape, np.int64).reshape(-1, 1))
    return scalar_map(b, _coordinate, b.reshape(found, (1, found.size)), strides, extents)


@operator("Compress", since=9)
def compress(b: Builder, node: Node, x: View, condition: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Compress.html

    What a condition that is shorter than the axis does not speak of is dropped.
    """
    if condition.rank != 1 or condition.dtype is not DType.BOOL:
        raise ValueError(f"the condition is {condition.dtype}{list(condition.shape)}, not a vector of bool")
    axis = 0
    if "axis" in node.attributes:
        axis = normal_axis(node.integer("axis"), x.rank)
    else:
        x = b.reshape(x, (x.size,))
    if condition.size > x.shape[axis]:
        raise ValueError(f"the condition has {condition.size} elements for an axis of {x.shape[axis]}")
    found = true_positions(b, condition)
    shape = (*x.shape[:axis], found.size, *x.shape[axis + 1 :])
    if math.prod(shape) == 0:
        return b.constant(np.empty(shape, x.dtype.numpy))
    return b.emit(Gather(axis), [x, found], [b.new(x.dtype, shape)])[0]


def true_positions(b: Builder, mask: View) -> View:
    """The positions (int64) at which a vector of booleans is true; ends a stage unless it is constant."""
    if mask.size == 0:
        return b.constant(np.empty(0, np.int64))
    numbers = running_count(b, mask, 0)
    count = integer(b, numbers.slice(0, mask.size - 1, 1))
    if count == 0:
        return b.constant(np.empty(0, np.int64))
    targets = scalar_map(b, place_if, mask, numbers)
    positions = b.compute(expression(_own_position, (DType.BOOL,)), [mask])[0]
    return place(b, positions, targets, count)


def running_count(b: Builder, mask: View, axis: int) -> View:
    """How many elements of ``mask`` are true up to and including each along ``axis`` (int64)."""
    flags = b.cast(mask, DType.INT64)
    return b.emit(Scan("sum", axis), [flags], [b.new(DType.INT64, mask.shape)])[0]


def place(b: Builder, values: View, targets: View, count: int) -> View:
    """A vector of ``count`` elements with ``values[i]`` at ``targets[i]``; targets outside are dropped.

    Where no target names it, an element is zero.
    """
    zeros = b.constant(0, values.dtype).expand((count,)).unsqueeze((1,))
    inputs = [zeros, targets, b.reshape(values, (values.size, 1))]
    result = b.emit(Scatter(), inputs, [b.new(values.dtype, (count, 1))])[0]
    return b.reshape(result, (count,))


def place_if(*operands: Any) -> Scalar:
    """Where an element goes that is the ``number``-th to be kept (from 1), or nowhere."""
    kept, number = operands
    return select(kept, number - 1, -1)


def _own_position(*operands: Any) -> Scalar:
    return index(operands[0], 0)


def _coordinate(*operands: Any) -> Scalar:
    position, stride, extent = operands
    return apply("mod", apply("div", position, stride), extent)
