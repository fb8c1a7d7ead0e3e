"""GatherND: slices picked by tuples of indices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import scalar_map
from onnxplan.compiler.ops.indexing import positions_view
from onnxplan.compiler.primitives import Gather
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, select
from onnxplan.compiler.view import Shape, View


@operator("GatherND", since=11)
def gather_nd(b: Builder, node: Node, data: View, indices: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__GatherND.html

    The indexed axes are flattened to one, the tuples to positions along it. Tuples out of range, where only a
    run can see them, read some other element of ``data``.
    """
    batch = node.integer("batch_dims", 0)
    if indices.dtype is not DType.INT64:
        raise TypeError(f"indices are {indices.dtype}, not int64")
    if not 0 <= batch < min(data.rank, indices.rank):
        raise ValueError(f"batch_dims {batch} does not fit ranks {data.rank} and {indices.rank}")
    if data.shape[:batch] != indices.shape[:batch]:
        raise ValueError(f"the first {batch} dimensions of data and indices differ")
    length = indices.shape[-1]
    if not 1 <= length <= data.rank - batch:
        raise ValueError(f"tuples of {length} indices do not fit data of rank {data.rank}")
    extents, inner = data.shape[batch : batch + length], data.shape[batch + length :]
    shape = (*indices.shape[:-1], *inner)
    if math.prod(shape) == 0:
        return b.constant(np.empty(shape, data.dtype.numpy))
    if 0 in extents:
        raise ValueError(f"dimensions {list(extents)} have no elements to gather")
    check_tuples(indices, extents)
    positions = tuple_positions(b, indices, data.shape[:batch], extents)
    flat = b.reshape(data, (math.prod(data.shape[:batch]) * math.prod(extents), *inner))
    if positions.is_constant:
        view = positions_view(flat, 0, positions.numpy().reshape(-1))
        split = None if view is None else view.reshape(shape)
        if split is not None:
            return split
    return b.emit(Gather(0), [flat, positions], [b.new(data.dtype, shape)])[0]


def check_tuples(indices: View, extents: Shape) -> None:
    """Raises ``ValueError`` where constant tuples are out of range."""
    if indices.is_constant:
        tuples = indices.numpy().reshape(-1, len(extents))
        wrong = ((tuples < -np.array(extents)) | (tuples >= extents)).any(axis=1)
        if wrong.any():
            found = tuples[int(wrong.argmax())].tolist()
            raise ValueError(f"the indices {found} are out of range for dimensions {list(extents)}")


def tuple_positions(b: Builder, indices: View, batches: Shape, extents: Shape) -> View:
    """Positions of the tuples along the flattened batch and indexed axes, not negative."""
    last = indices.rank - 1
    columns = [indices.slice(last, number, 1).squeeze((last,)) for number in range(len(extents))]
    if math.prod(batches) > 1:
        starts = np.arange(math.prod(batches)) * math.prod(extents)
        columns.append(b.constant(starts.reshape(batches + (1,) * (last - len(batches)))))
    return scalar_map(b, _flat_position, *columns, parameters=(extents,))


def _flat_position(*operands: Any) -> Scalar:
    """The row-major position of indices in a tensor of ``extents``, after a start, if there is one."""
    *values, extents = operands
    position: Scalar | None = None
    for value, extent in zip(values, extents, strict=False):
        found = select(value < 0, value + extent, value)
        position = found if position is None else position * extent + found
    assert position is not None
    if len(values) > len(extents):
        position += values[-1]
    return position
