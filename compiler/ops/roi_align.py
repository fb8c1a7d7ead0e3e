"""RoiAlign: regions of feature maps, sampled between the elements."""

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


@operator("RoiAlign", since=10)
def roi_align_10(b: Builder, node: Node, x: View, rois: View, batch_indices: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__RoiAlign.html: coordinates are not shifted by half a pixel."""
    return _roi_align(b, node, x, rois, batch_indices, half_pixel=False)


@operator("RoiAlign", since=16)
def roi_align(b: Builder, node: Node, x: View, rois: View, batch_indices: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__RoiAlign.html

    ``max`` compares the products of elements and weights, as the standard's reference does.
    """
    transformation = node.string("coordinate_transformation_mode", "half_pixel")
    if transformation not in ("half_pixel", "output_half_pixel"):
        raise ValueError(f"coordinate_transformation_mode {transformation!r} does not exist")
    return _roi_align(b, node, x, rois, batch_indices, half_pixel=transformation == "half_pixel")


def _roi_align(b: Builder, node: Node, x: View, rois: View, batch_indices: View, *, half_pixel: bool) -> View:
    mode = node.string("mode", "avg").lower()
    if mode not in ("avg", "max"):
        raise ValueError(f"mode {mode!r} does not exist")
    if x.rank != 4 or rois.rank != 2 or rois.shape[1] != 4 or batch_indices.shape != rois.shape[:1]:
        raise ValueError(
            f"rois {list(rois.shape)} and batch_indices {list(batch_indices.shape)} do not fit an input of "
            f"{list(x.shape)}"
        )
    if not x.dtype.is_float:
        raise TypeError(f"the input is {x.dtype}")
    batch, channels, *extents = x.shape
    count = rois.shape[0]
    bins = (node.integer("output_height", 1), node.integer("output_width", 1))
    shape = (count, *bins, channels)
    if math.prod(shape) == 0:
        return b.constant(np.empty(shape, x.dtype.numpy)).transpose((0, 3, 1, 2))
    if 0 in (batch, *extents):
        raise ValueError(f"an input of shape {list(x.shape)} has nothing to sample")
    settings = (wide(x.dtype), half_pixel, node.float("spatial_scale", 1.0))
    sides = [_side(b, rois, axis, settings) for axis in (1, 0)]
    samples = _sample_counts(b, sides, bins, node.integer("sampling_ratio", 0))
    indices, factors = [], []
    for axis, (start, length) in enumerate(sides):
        adaptive = node.integer("sampling_ratio", 0) <= 0
        body = expression(
            _axis_taps, (wide(x.dtype),) * 2, mode, adaptive, bins[axis], samples[axis], extents[axis]
        )
        # One axis each for regions, bins, samples within a bin, and the two neighbours of a sample.
        space = (count, bins[axis], samples[axis], 2)
        column = (count, 1, 1, 1)
        found, weight = b.compute(body, [b.reshape(start, column), b.reshape(length, column)], shape=space)
        beside = (2, 4, 6) if axis == 0 else (1, 3, 5)
        indices.append(found.unsqueeze(beside))
        factors.append(weight.unsqueeze(beside))
    images = b.cast(b.reshape(batch_indices, (count,) + (1,) * 6), DType.INT64)
    positions = scalar_map(b, _row, images, *indices, parameters=tuple(extents))
    rows, taps = count * math.prod(bins), 4 * math.prod(samples)
    inputs = [
        b.reshape(x.transpose((0, 2, 3, 1)), (batch * math.prod(extents), channels)),
        b.reshape(positions, (rows, taps)),
        b.reshape(b.scalar("mul", *factors), (rows, taps)),
    ]
    kind = "sum" if mode == "avg" else "max"
    result = b.emit(GatherReduce(kind), inputs, [b.new(x.dtype, (rows, channels))])[0]
    return b.reshape(result, shape).transpose((0, 3, 1, 2))


def _side(b: Builder, rois: View, axis: int, settings: tuple[DType, bool, float]) -> tuple[View, View]:
    """Start and length of the regions along x (0) or y (1), in elements of the feature map."""
    low, high = (rois.slice(1, axis + 2 * end, 1).squeeze((1,)) for end in (0, 1))
    start, length = b.compute(expression(_interval, (rois.dtype,) * 2, *settings), [low, high])
    return start, length


def _interval(*operands: Any) -> tuple[Scalar, Scalar]:
    low, high, dtype, half_pixel, scale = operands
    shift = 0.5 if half_pixel else 0.0
    start = cast(low, dtype) * scale - shift
    length = cast(high, dtype) * scale - shift - start
    return start, length if half_pixel else apply("max", length, 1.0)


def _sample_counts(
    b: Builder, sides: list[tuple[View, View]], bins: tuple[int, int], ratio: int
) -> tuple[int, ...]:
    """The samples of a bin along y and x; where regions decide, the most of any region (ends a stage)."""
    if ratio > 0:
        return (ratio, ratio)
    longest = [b.reduce("max", length, (0,), keepdims=True) for _, length in sides]
    found = b.value(b.concat(longest, 0))
    return tuple(max(math.ceil(float(found[axis]) / bins[axis]), 1) for axis in range(2))


def _axis_taps(*operands: Any) -> tuple[Scalar, Scalar]:
    """Index and weight of the two neighbours of each sample; index -1 for samples that there are none of.

    Weights hold the division by the number of samples of an average.
    """
    start, length, mode, adaptive, bins, samples, extent = operands
    dtype = start.dtype
    size = length / bins
    number = apply("max", apply("ceil", size), 0.0) if adaptive else size * 0.0 + samples
    divisor = apply("max", number, 1.0)
    sample = cast(index(start, 2), dtype)
    place = start + cast(index(start, 1), dtype) * size + (sample + 0.5) * size / divisor
    inside = apply("and", apply("greater_equal", place, -1.0), place <= extent)
    bounded = apply("min", apply("max", place, 0.0), extent - 1.0)
    low = apply("floor", bounded)
    fraction = bounded - low
    second = apply("equal", index(start, 3), 1)
    found = apply("min", low + select(second, low * 0.0 + 1.0, low * 0.0), extent - 1.0)
    weight = select(inside, select(second, fraction, 1.0 - fraction), 0.0)
    if mode == "avg":
        weight = weight / divisor
    usable = cast(select(inside, found, found * 0.0), DType.INT64)
    return select(sample < number, usable, -1), weight


def _row(*operands: Any) -> Scalar:
    """The row of the flattened feature maps, -1 for samples that there are none of."""
    image, y, x, height, width = operands
    return select(apply("min", x, y) < 0, -1, (image * height + y) * width + x)
