"""GatherElements and ScatterElements: each index stands for one position along an axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import normal_axis, scalar_map
from onnxplan.compiler.primitives import GatherElements, Scatter
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, cast, index, select
from onnxplan.compiler.view import View, dense_strides

REDUCTIONS = ("none", "add", "mul", "min", "max")


@operator("GatherElements", since=11)
def gather_elements(b: Builder, node: Node, data: View, indices: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__GatherElements.html

    Indices out of range, where only a run can see them, read some other element of ``data``.
    """
    axis = _checked_axis(node, data, indices)
    if indices.size == 0:
        return b.constant(np.empty(indices.shape, data.dtype.numpy))
    return b.emit(GatherElements(axis), [data, indices], [b.new(data.dtype, indices.shape)])[0]


@operator("Scatter", since=9)
@operator("ScatterElements", since=11)
def scatter_elements(b: Builder, node: Node, data: View, indices: View, updates: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__ScatterElements.html, whose first name was Scatter.

    Indices out of range, where only a run can see them, write nothing or some other element of the output.
    """
    if updates.shape != indices.shape or updates.dtype is not data.dtype:
        raise ValueError(
            f"updates are {updates.dtype}{list(updates.shape)} for indices of shape {list(indices.shape)} "
            f"and data of {data.dtype}"
        )
    axis = _checked_axis(node, data, indices)
    if indices.size == 0:
        return data
    positions = scalar_map(b, _element_position, indices, parameters=(axis, data.shape, indices.shape))
    return scatter(b, data, b.reshape(positions, (indices.size,)), updates, node.string("reduction", "none"))


def scatter(b: Builder, data: View, positions: View, updates: View, reduction: str = "none") -> View:
    """A copy of ``data`` with rows written to, or combined with what is at, ``positions (K,)``.

    Positions count rows of ``updates.size / K`` elements in the flattened ``data``. Booleans add as "or" and
    multiply as "and".
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction {reduction!r} is none of {', '.join(REDUCTIONS)}")
    kind = reduction
    if data.dtype is DType.BOOL:
        kind = {"add": "max", "mul": "min"}.get(reduction, reduction)
    if kind != "none" and data.dtype.kind not in "fiub":
        raise TypeError(f"reduction {reduction} of {data.dtype}")
    columns = updates.size // positions.size
    table = b.reshape(data, (data.size // columns, columns))
    rows = b.reshape(updates, (positions.size, columns))
    result = b.emit(Scatter(kind), [table, positions, rows], [b.new(data.dtype, table.shape)])[0]
    return b.reshape(result, data.shape)


def _checked_axis(node: Node, data: View, indices: View) -> int:
    """The axis that indices count along; raises where they do not fit ``data``."""
    axis = normal_axis(node.integer("axis", 0), data.rank)
    if indices.dtype not in (DType.INT32, DType.INT64):
        raise TypeError(f"indices are {indices.dtype}, not int32 or int64")
    if indices.rank != data.rank:
        raise ValueError(f"indices have rank {indices.rank}, data {data.rank}")
    for other in range(data.rank):
        if other != axis and indices.shape[other] > data.shape[other]:
            raise ValueError(f"indices of shape {list(indices.shape)} do not fit data of {list(data.shape)}")
    extent = data.shape[axis]
    if indices.size == 0:
        return axis
    if extent == 0:
        raise ValueError(f"axis {axis} has no elements")
    if indices.is_constant:
        found = indices.numpy()
        if not -extent <= found.min() <= found.max() < extent:
            raise ValueError(f"an index is out of range for axis {axis} of extent {extent}")
    return axis


def _element_position(*operands: Any) -> Scalar:
    """The row-major position of an index along ``axis`` and of its own coordinates along the others."""
    found, axis, shape, space = operands
    strides = dense_strides(shape)
    found = cast(found, DType.INT64)
    position: Scalar = select(found < 0, found + shape[axis], found)
    if strides[axis] != 1:
        position *= strides[axis]
    for other, extent in enumerate(space):
        if other != axis and extent > 1:
            along = index(found, other)
            position += along if strides[other] == 1 else along * strides[other]
    return position
