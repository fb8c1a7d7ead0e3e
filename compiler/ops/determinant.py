"""Det: determinants of square matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import scalar_map, wide
from onnxplan.compiler.primitives import ArgReduce, Gather
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, index, select
from onnxplan.compiler.view import View


@operator("Det", since=11)
def determinant(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Det.html

    Up to three rows by the formula, which is exact for small integers; above by Gaussian elimination with
    partial pivoting (Golub and Van Loan, "Matrix Computations", section 3.4), one column after the other.
    """
    if x.rank < 2 or x.shape[-1] != x.shape[-2]:
        raise ValueError(f"an input of shape {list(x.shape)} holds no square matrices")
    if not x.dtype.is_float:
        raise TypeError(f"the input is {x.dtype}")
    batch, extent = x.shape[:-2], x.shape[-1]
    if 0 in batch:
        return b.constant(np.empty(batch, x.dtype.numpy))
    if extent == 0:
        return b.constant(1, x.dtype).expand(batch)
    matrix = b.cast(x, wide(x.dtype))
    if extent > 3:
        flat = b.reshape(matrix, (math.prod(batch), extent, extent))
        result = b.reshape(_by_elimination(b, flat), batch)
    else:
        items = [_item(matrix, row, column) for row in range(extent) for column in range(extent)]
        result = scalar_map(b, _FORMULAS[extent - 1], *items)
    return b.cast(result, x.dtype)


def _item(matrix: View, row: int, column: int) -> View:
    """One element of each matrix."""
    rank = matrix.rank
    return matrix.slice(rank - 2, row, 1).slice(rank - 1, column, 1).squeeze((rank - 2, rank - 1))


def _one(a: Scalar) -> Scalar:
    return a


def _two(a: Scalar, b: Scalar, c: Scalar, d: Scalar) -> Scalar:
    return a * d - b * c


def _three(*items: Scalar) -> Scalar:
    a, b, c, *rest = items
    d, e, f, g, h, i = rest
    return a * _two(e, f, h, i) - b * _two(d, f, g, i) + c * _two(d, e, g, h)


_FORMULAS = (_one, _two, _three)


def _by_elimination(b: Builder, matrix: View) -> View:
    """The determinants ``(B,)`` of ``matrix (B, M, M)``."""
    result: View | None = None
    while True:
        batch, extent = matrix.shape[:2]
        if extent == 1:
            last = b.reshape(matrix, (batch,))
            return last if result is None else b.scalar("mul", result, last)
        column = b.scalar("abs", matrix.slice(2, 0, 1))
        pivot = b.emit(ArgReduce("max", 1), [column], [b.new(DType.INT64, (batch, 1, 1))])[0]
        rows = b.reshape(scalar_map(b, _row, pivot, parameters=(extent,)), (batch, 1))
        table = b.reshape(matrix, (batch * extent, extent))
        chosen = b.emit(Gather(0), [table, rows], [b.new(matrix.dtype, (batch, 1, extent))])[0]
        factor = scalar_map(b, _factor, chosen.slice(2, 0, 1), pivot)
        factor = b.reshape(factor, (batch,))
        result = factor if result is None else b.scalar("mul", result, factor)
        rest, first = matrix.slice(1, 1, extent - 1), matrix.slice(1, 0, 1)
        operands = [part for view in (rest, first, chosen) for part in _split(view)]
        matrix = scalar_map(b, _eliminated, *operands, pivot)


def _split(view: View) -> tuple[View, View]:
    """The first element of each row, and the others."""
    return view.slice(2, 0, 1), view.slice(2, 1, view.shape[2] - 1)


def _row(*operands: Any) -> Scalar:
    """The row of the flattened matrices."""
    pivot, extent = operands
    row: Scalar = index(pivot, 0) * extent + pivot
    return row


def _factor(chosen: Scalar, pivot: Scalar) -> Scalar:
    """The pivot, with the sign of the exchange of rows."""
    return select(apply("equal", pivot, 0), chosen, -chosen)


def _eliminated(*operands: Scalar) -> Scalar:
    """What is left of the rows below the first once it and the pivot's row are exchanged.

    A pivot of zero means that the column is zero, and so the determinant.
    """
    lead, item, first_lead, first_item, chosen_lead, chosen_item, pivot = operands
    exchanged = apply("equal", index(pivot, 1) + 1, pivot)
    lead = select(exchanged, first_lead, lead)
    item = select(exchanged, first_item, item)
    quotient = select(apply("equal", chosen_lead, 0.0), 0.0, lead / chosen_lead)
    return item - quotient * chosen_item
