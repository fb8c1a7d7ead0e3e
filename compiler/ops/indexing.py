"""Operators that pick elements by position."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.arrangement import layout_order
from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import normal_axis
from onnxplan.compiler.primitives import Gather
from onnxplan.compiler.registry import operator
from onnxplan.compiler.view import View


@operator("Gather")
def gather(b: Builder, node: Node, data: View, indices: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Gather.html

    Constant indices at equal distances (a single one, a range, a repeated one) are a view of ``data``.
    """
    axis = normal_axis(node.integer("axis", 0), data.rank)
    if indices.dtype not in (DType.INT32, DType.INT64):
        raise TypeError(f"indices are {indices.dtype}, not int32 or int64")
    extent = data.shape[axis]
    if extent == 0 and indices.size:
        raise ValueError(f"axis {axis} has no elements to gather")
    if indices.is_constant:
        positions = indices.numpy().astype(np.int64)
        if positions.size and not -extent <= positions.min() <= positions.max() < extent:
            raise ValueError(f"an index is out of range for axis {axis} of extent {extent}")
        positions = np.where(positions < 0, positions + extent, positions)
        view = positions_view(data, axis, positions.reshape(-1))
        if view is not None:
            split = view.reshape((*data.shape[:axis], *positions.shape, *data.shape[axis + 1 :]))
            if split is not None:
                return split
    shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    order = layout_order(data.shape, [data]) if indices.rank == 1 else None
    return b.emit(Gather(axis), [data, indices], [b.new(data.dtype, shape, order)])[0]


def positions_view(x: View, axis: int, positions: npt.NDArray[np.int64]) -> View | None:
    """The elements of ``x`` at ``positions`` along ``axis``, if these have equal distances.

    ``positions`` are not negative and lie inside of the axis.
    """
    count = len(positions)
    first = int(positions[0]) if count else 0
    step = int(positions[1]) - first if count > 1 else 1
    if not np.array_equal(positions, first + step * np.arange(count)):
        return None
    if step:
        return x.slice(axis, first, count, step)
    return x.slice(axis, first, 1).expand((*x.shape[:axis], count, *x.shape[axis + 1 :]))
