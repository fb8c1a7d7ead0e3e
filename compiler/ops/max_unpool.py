"""MaxUnpool: elements put back to where pooling took them from."""

from __future__ import annotations

import math
from typing import Any

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import integers, scalar_map
from onnxplan.compiler.ops.elements import scatter
from onnxplan.compiler.ops.windows import spatial_attribute
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, select
from onnxplan.compiler.view import Shape, View, dense_strides


@operator("MaxUnpool", since=9)
def max_unpool(b: Builder, node: Node, x: View, indices: View, output_shape: View | None = None) -> View:
    """https://onnx.ai/onnx/operators/onnx__MaxUnpool.html

    The indices count elements of the tensor that kernel, strides and pads tell, also where ``output_shape``
    is larger: then the rest is zero, as in the standard's reference (ONNX Runtime counts in the larger
    tensor). Where ``output_shape`` is smaller along an axis, they count elements of that. Indices out of
    range write nothing.
    """
    if x.rank < 3 or indices.shape != x.shape:
        raise ValueError(f"indices of shape {list(indices.shape)} for an input of {list(x.shape)}")
    if indices.dtype is not DType.INT64:
        raise TypeError(f"indices are {indices.dtype}, not int64")
    pooled = pooled_shape(node, x.shape)
    shape = pooled if output_shape is None else integers(b, output_shape)
    if len(shape) != x.rank or min(shape) < 0:
        raise ValueError(f"output_shape is {list(shape)} for an input of {list(x.shape)}")
    if any(wanted < extent for wanted, extent in zip(shape, pooled, strict=True)):
        pooled = shape
    zeros = b.constant(0, x.dtype).expand(shape)
    if x.size == 0 or math.prod(shape) == 0:
        return zeros
    positions = scalar_map(b, _position, indices, parameters=(pooled, shape))
    return scatter(b, zeros, b.reshape(positions, (x.size,)), x)


def pooled_shape(node: Node, shape: Shape) -> Shape:
    """The shape of the tensor that was pooled to one of ``shape``."""
    kernel = node.integers("kernel_shape")
    rank = len(shape) - 2
    if len(kernel) != rank:
        raise ValueError(f"kernel_shape {list(kernel)} for {rank} spatial axes")
    strides = spatial_attribute(node, "strides", rank, 1)
    pads = spatial_attribute(node, "pads", 2 * rank, 0)
    extents = [
        (shape[2 + axis] - 1) * strides[axis] + kernel[axis] - pads[axis] - pads[rank + axis]
        for axis in range(rank)
    ]
    return (*shape[:2], *(max(extent, 0) for extent in extents))


def _position(*operands: Any) -> Scalar:
    """The row-major position in a tensor of ``shape`` of an element counted in one of ``pooled``."""
    place, pooled, shape = operands
    known = apply("and", place >= 0, place < math.prod(pooled))
    if pooled == shape:
        return select(known, place, -1)
    moved: Scalar = place * 0
    inner, outer = dense_strides(pooled), dense_strides(shape)
    for axis, extent in enumerate(pooled):
        if extent > 1:
            moved += apply("remainder", place / inner[axis], extent) * outer[axis]
    return select(known, moved, -1)
