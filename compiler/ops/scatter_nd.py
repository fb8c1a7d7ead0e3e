"""ScatterND: slices written to where tuples of indices point."""

from __future__ import annotations

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.elements import scatter
from onnxplan.compiler.ops.gather_nd import check_tuples, tuple_positions
from onnxplan.compiler.registry import operator
from onnxplan.compiler.view import View


@operator("ScatterND", since=11)
def scatter_nd(b: Builder, node: Node, data: View, indices: View, updates: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__ScatterND.html

    Tuples out of range, where only a run can see them, write nothing or some other slice of the output.
    """
    if indices.dtype is not DType.INT64:
        raise TypeError(f"indices are {indices.dtype}, not int64")
    if updates.dtype is not data.dtype:
        raise TypeError(f"updates are {updates.dtype}, data {data.dtype}")
    length = indices.shape[-1] if indices.rank else 0
    if not 1 <= length <= data.rank:
        raise ValueError(f"tuples of {length} indices do not fit data of rank {data.rank}")
    if updates.shape != (*indices.shape[:-1], *data.shape[length:]):
        raise ValueError(
            f"updates of shape {list(updates.shape)} do not fit indices of {list(indices.shape)} "
            f"and data of {list(data.shape)}"
        )
    if updates.size == 0:
        return data
    extents = data.shape[:length]
    if 0 in extents:
        raise ValueError(f"dimensions {list(extents)} have no elements to write to")
    check_tuples(indices, extents)
    positions = tuple_positions(b, indices, (), extents)
    flat = b.reshape(positions, (positions.size,))
    return scatter(b, data, flat, updates, node.string("reduction", "none"))
