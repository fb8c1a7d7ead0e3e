"""Unique: equal elements, or equal slices, found by sorting."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression, integer, normal_axis, scalar_map
from onnxplan.compiler.ops.selection import place, place_if, running_count
from onnxplan.compiler.ops.sorting import sort
from onnxplan.compiler.primitives import Gather, Scatter
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, index
from onnxplan.compiler.view import View


@operator("Unique", since=11)
def unique(b: Builder, node: Node, x: View) -> tuple[View, ...]:
    """https://onnx.ai/onnx/operators/onnx__Unique.html

    All NaN are one value, which comes last. Slices along an axis are compared as tuples.
    """
    rising = bool(node.integer("sorted", 1))
    if "axis" in node.attributes:
        axis = normal_axis(node.integer("axis"), x.rank)
        extent = x.shape[axis]
        first = x.transpose((axis, *(other for other in range(x.rank) if other != axis)))
        keys = slice_ranks(b, b.reshape(first, (extent, x.size // extent if extent else 0)))
    else:
        axis = 0
        x = keys = b.reshape(x, (x.size,))
    if keys.size == 0:
        nothing = b.constant(np.empty(0, np.int64))
        return x, nothing, nothing, nothing
    groups = group(b, keys)
    if not rising:
        groups = by_appearance(b, groups)
    shape = (*x.shape[:axis], groups.firsts.size, *x.shape[axis + 1 :])
    if math.prod(shape) == 0:
        values = b.constant(np.empty(shape, x.dtype.numpy))
    else:
        values = b.emit(Gather(axis), [x, groups.firsts], [b.new(x.dtype, shape)])[0]
    return values, groups.firsts, groups.members, groups.counts


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of equal elements of a vector, all int64.

    For each group the position of its first element (``firsts``) and its size (``counts``), for each element
    the number of its group (``members``).
    """

    firsts: View
    members: View
    counts: View


def group(b: Builder, keys: View) -> Groups:
    """The groups of a vector that is not empty, in rising order; ends a stage unless it is constant."""
    values, order = sort(b, keys, 0)
    begins = _begins(b, values)
    numbers = running_count(b, begins, 0)
    size = keys.size
    count = integer(b, numbers.slice(0, size - 1, 1))
    firsts = place(b, order, scalar_map(b, place_if, begins, numbers), count)
    places = scalar_map(b, _less_one, numbers)
    ones = b.constant(1, DType.INT64).expand((size, 1))
    zeros = b.constant(0, DType.INT64).expand((count, 1))
    counts = b.emit(Scatter("add"), [zeros, places, ones], [b.new(DType.INT64, (count, 1))])[0]
    return Groups(firsts, place(b, places, order, size), b.reshape(counts, (count,)))


def by_appearance(b: Builder, groups: Groups) -> Groups:
    """The same groups in order of their first elements."""
    firsts, order = sort(b, groups.firsts, 0)
    count = order.size
    counts = b.emit(Gather(0), [groups.counts, order], [b.new(DType.INT64, (count,))])[0]
    numbers = b.compute(expression(_own_position, (DType.INT64,)), [order])[0]
    ranks = place(b, numbers, order, count)
    members = b.emit(Gather(0), [ranks, groups.members], [b.new(DType.INT64, groups.members.shape)])[0]
    return Groups(firsts, members, counts)


def slice_ranks(b: Builder, rows: View) -> View:
    """For each row of a matrix a number (int64): equal for equal rows, smaller for smaller tuples.

    Each column is replaced by the ranks of its elements. Then neighbouring columns are joined, two to one,
    until one is left: a pair of ranks below n is one number below n squared.
    """
    extent, columns = rows.shape
    if columns == 0 or extent == 0:
        return b.constant(np.zeros(extent, np.int64))
    ranks = column_ranks(b, rows)
    while columns > 1:
        half = columns // 2
        left = ranks.slice(1, 0, half, 2)
        right = ranks.slice(1, 1, half, 2)
        joined = column_ranks(b, scalar_map(b, _pair, left, right, parameters=(extent,)))
        if columns % 2:
            joined = b.concat([joined, ranks.slice(1, columns - 1, 1)], 1)
        ranks, columns = joined, columns - half
    return b.reshape(ranks, (extent,))


def column_ranks(b: Builder, matrix: View) -> View:
    """The rank (int64, from 0) of each element of a matrix among the different ones of its column."""
    extent, columns = matrix.shape
    values, order = sort(b, matrix, 0)
    numbers = running_count(b, _begins(b, values), 0)
    ranks = scalar_map(b, _less_one, numbers)
    targets = scalar_map(b, _matrix_position, order, parameters=(columns,))
    return b.reshape(place(b, ranks, b.reshape(targets, (matrix.size,)), matrix.size), (extent, columns))


def _begins(b: Builder, values: View) -> View:
    """Where along the first axis of sorted ``values`` an element differs from the one before."""
    first = b.constant(np.ones((1, *values.shape[1:]), bool))
    if values.shape[0] == 1:
        return first
    length = values.shape[0] - 1
    differ = scalar_map(b, _differ, values.slice(0, 1, length), values.slice(0, 0, length))
    return b.concat([first, differ], 0)


def _differ(*operands: Any) -> Scalar:
    a, before = operands
    different = apply("not_equal", a, before)
    if not a.dtype.is_float:
        return different
    numbers = apply("not", apply("and", apply("isnan", a), apply("isnan", before)))
    return apply("and", different, numbers)


def _less_one(*operands: Any) -> Scalar:
    number: Scalar = operands[0]
    return number - 1


def _own_position(*operands: Any) -> Scalar:
    return index(operands[0], 0)


def _pair(*operands: Any) -> Scalar:
    left, right, extent = operands
    result: Scalar = left * extent + right
    return result


def _matrix_position(*operands: Any) -> Scalar:
    """Where the element is that comes from the row that is given, in its own column."""
    row, columns = operands
    result: Scalar = row * columns + index(row, 1)
    return result
