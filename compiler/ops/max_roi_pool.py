"""MaxRoiPool: the largest elements of the bins of regions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression, scalar_map, wide
from onnxplan.compiler.primitives import GatherReduce
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, index, select
from onnxplan.compiler.view import View


@operator("MaxRoiPool")
def max_roi_pool(b: Builder, node: Node, x: View, rois: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__MaxRoiPool.html

    Bins as in Fast R-CNN (https://arxiv.org/abs/1504.08083): corners are rounded to elements of the
    region, bins may overlap, empty ones are zero. How many elements a bin has at most is asked for.
    """
    bins = node.integers("pooled_shape")
    if len(bins) != 2 or min(bins) < 1:
        raise ValueError(f"pooled_shape is {list(bins)}")
    if x.rank != 4 or rois.rank != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois of shape {list(rois.shape)} do not fit an input of {list(x.shape)}")
    batch, channels, *extents = x.shape
    count = rois.shape[0]
    shape = (count, *bins, channels)
    if math.prod(shape) == 0:
        return b.constant(np.empty(shape, x.dtype.numpy)).transpose((0, 3, 1, 2))
    if 0 in (batch, *extents):
        raise ValueError(f"an input of shape {list(x.shape)} has nothing to pool")
    dtype = wide(x.dtype)
    body = expression(_interval, (rois.dtype,) * 2, dtype, node.float("spatial_scale", 1.0))
    sides = []
    for axis in (1, 0):
        corners = [rois.slice(1, 1 + axis + 2 * end, 1).squeeze((1,)) for end in (0, 1)]
        sides.append(b.compute(body, corners))
    longest = b.value(b.concat([b.reduce("max", length, (0,), keepdims=True) for _, length in sides], 0))
    most = [
        min(math.ceil(float(length) / number) + 1, extent)
        for length, number, extent in zip(longest, bins, extents, strict=True)
    ]
    indices = []
    for axis, (start, length) in enumerate(sides):
        columns = [b.reshape(view, (count, 1, 1)) for view in (start, length)]
        taps = expression(_axis_taps, (dtype,) * 2, bins[axis], extents[axis])
        found = b.compute(taps, columns, shape=(count, bins[axis], most[axis]))[0]
        indices.append(found.unsqueeze((2, 4) if axis == 0 else (1, 3)))
    images = b.cast(b.reshape(rois.slice(1, 0, 1), (count, 1, 1, 1, 1)), DType.INT64)
    positions = scalar_map(b, _row, images, *indices, parameters=tuple(extents))
    rows, taps_together = count * math.prod(bins), math.prod(most)
    inputs = [
        b.reshape(x.transpose((0, 2, 3, 1)), (batch * math.prod(extents), channels)),
        b.reshape(positions, (rows, taps_together)),
        b.constant(1, dtype).expand((rows, taps_together)),
    ]
    result = b.emit(GatherReduce("max"), inputs, [b.new(x.dtype, (rows, channels))])[0]
    return b.reshape(result, shape).transpose((0, 3, 1, 2))


def _interval(*operands: Any) -> tuple[Scalar, Scalar]:
    """First element of a region along an axis, and how many there are."""
    low, high, dtype, scale = operands
    start, stop = (_rounded(cast(corner, dtype) * scale) for corner in (low, high))
    return start, apply("max", stop - start + 1.0, 1.0)


def _rounded(x: Scalar) -> Scalar:
    """To the nearest integer, halves away from zero."""
    return select(x < 0.0, apply("ceil", x - 0.5), apply("floor", x + 0.5))


def _axis_taps(*operands: Any) -> Scalar:
    """Index of each element of each bin, -1 behind the last one."""
    start, length, bins, extent = operands
    dtype = start.dtype
    number = cast(index(start, 1), dtype)
    size = length / bins
    first, last = (
        apply("min", apply("max", edge + start, 0.0), float(extent))
        for edge in (apply("floor", number * size), apply("ceil", (number + 1.0) * size))
    )
    place = first + cast(index(start, 2), dtype)
    return cast(select(place < last, place, -1.0), DType.INT64)


def _row(*operands: Any) -> Scalar:
    """The row of the flattened feature maps, -1 where there is no element."""
    image, y, x, height, width = operands
    return select(apply("min", x, y) < 0, -1, (image * height + y) * width + x)
