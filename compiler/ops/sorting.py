"""TopK, and sorting for rules that need an order."""

from __future__ import annotations

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import integer, normal_axis
from onnxplan.compiler.primitives import Sort
from onnxplan.compiler.registry import operator
from onnxplan.compiler.view import View


@operator("TopK")
def top_k(b: Builder, node: Node, x: View, k: View | None = None) -> tuple[View, ...]:
    """https://onnx.ai/onnx/operators/onnx__TopK.html

    Where any order is allowed (``sorted=0``) the elements are in order as well. NaN counts as the largest.
    """
    axis = normal_axis(node.integer("axis", -1), x.rank)
    count = node.integer("k") if k is None else integer(b, k)
    if not 0 <= count <= x.shape[axis]:
        raise ValueError(f"k is {count}, axis {axis} has {x.shape[axis]} elements")
    return sort(b, x, axis, count, largest=bool(node.integer("largest", 1)))


def sort(
    b: Builder, x: View, axis: int, count: int | None = None, *, largest: bool = False
) -> tuple[View, ...]:
    """The first ``count`` elements along ``axis`` in order (default: all), and their positions (int64)."""
    kept = x.shape[axis] if count is None else count
    shape = (*x.shape[:axis], kept, *x.shape[axis + 1 :])
    return b.emit(Sort(axis, largest), [x], [b.new(x.dtype, shape), b.new(DType.INT64, shape)])
