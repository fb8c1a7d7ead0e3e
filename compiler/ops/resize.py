"""Resize and Upsample: each axis by itself, by tables made when planning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from onnxplan.compiler.arrangement import layout_order
from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import identity
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import normal_axes, scalar_map
from onnxplan.compiler.ops.indexing import positions_view
from onnxplan.compiler.ops.interpolation import (
    Integers,
    ResizedAxis,
    coordinates,
    interpolation_type,
    nearest_positions,
    to_integer,
    weighted_positions,
)
from onnxplan.compiler.primitives import Gather, MapReduce, Resample
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, select
from onnxplan.compiler.view import View

Axes = Mapping[int, ResizedAxis]


@operator("Upsample")
def upsample(b: Builder, node: Node, x: View, scales: View | None = None) -> View:
    """https://onnx.ai/onnx/operators/onnx__Upsample.html

    Version 1 has attributes for two axes of four, version 7 an attribute, version 9 an input.
    """
    if scales is not None:
        factors = tuple(b.value(scales).tolist())
    elif "scales" in node.attributes:
        factors = node.floats("scales")
    else:
        factors = (1.0, 1.0, node.float("height_scale"), node.float("width_scale"))
    return _resize_asymmetric(b, node, x, factors)


@operator("Resize", since=10)
def resize_10(b: Builder, node: Node, x: View, scales: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Resize.html (version 10)"""
    return _resize_asymmetric(b, node, x, tuple(b.value(scales).tolist()))


def _resize_asymmetric(b: Builder, node: Node, x: View, scales: tuple[float, ...]) -> View:
    mode = node.string("mode", "nearest")
    axes = _scaled_axes(x, range(x.rank), scales)
    if mode == "nearest":
        return _resize_nearest(b, x, axes, "asymmetric", "simple")
    if mode in ("linear", "bilinear"):
        return _interpolate(b, node, x, axes, "linear", "asymmetric")
    raise ValueError(f"mode {mode!r} does not exist")


@operator("Resize", since=11)
def resize(
    b: Builder,
    node: Node,
    x: View,
    roi: View | None = None,
    scales: View | None = None,
    sizes: View | None = None,
) -> View:
    """https://onnx.ai/onnx/operators/onnx__Resize.html"""
    mode = node.string("mode", "nearest")
    transformation = node.string("coordinate_transformation_mode", "half_pixel")
    listed = list(normal_axes(node.integers("axes", ()) or range(x.rank), x.rank))
    if scales is not None and scales.size:
        axes = _scaled_axes(x, listed, tuple(b.value(scales).tolist()))
    elif sizes is not None:
        policy = node.string("keep_aspect_ratio_policy", "stretch")
        axes = _sized_axes(x, listed, tuple(b.value(sizes).tolist()), policy)
    else:
        raise ValueError("neither scales nor sizes are given")
    if transformation == "tf_crop_and_resize":
        if roi is None or roi.size != 2 * len(listed):
            raise ValueError(f"{transformation} needs a region of interest for {len(listed)} axes")
        region = b.value(roi).tolist()
        axes = {
            axis: replace(axes[axis], start=start, end=end)
            for axis, start, end in zip(listed, region, region[len(listed) :], strict=False)
        }
    if mode == "nearest":
        nearest_mode = node.string("nearest_mode", "round_prefer_floor")
        result = _resize_nearest(b, x, axes, transformation, nearest_mode)
    elif mode in ("linear", "cubic"):
        result = _interpolate(b, node, x, axes, mode, transformation)
    else:
        raise ValueError(f"mode {mode!r} does not exist")
    if transformation == "tf_crop_and_resize":
        result = _extrapolate(b, result, axes, node.float("extrapolation_value", 0.0))
    return result


def _scaled_axes(x: View, listed: list[int] | range, scales: tuple[float, ...]) -> Axes:
    if len(scales) != len(listed) or min(scales, default=1) <= 0:
        raise ValueError(f"scales {list(scales)} for {len(listed)} axes")
    axes = {}
    for axis, scale in zip(listed, scales, strict=True):
        extent = x.shape[axis]
        # In float32, as all others do: 10 * 0.7 must not be below 7.
        width = float(np.float32(scale) * np.float32(extent))
        axes[axis] = ResizedAxis(extent, int(width), scale, width)
    return axes


def _sized_axes(x: View, listed: list[int], sizes: tuple[int, ...], policy: str) -> Axes:
    if len(sizes) != len(listed):
        raise ValueError(f"sizes {list(sizes)} for {len(listed)} axes")
    if any(size and not x.shape[axis] for axis, size in zip(listed, sizes, strict=True)):
        raise ValueError(f"cannot resize an empty axis of {list(x.shape)} to {list(sizes)}")
    scales = [
        size / x.shape[axis] if x.shape[axis] else 1.0 for axis, size in zip(listed, sizes, strict=True)
    ]
    if policy == "stretch":
        return {
            axis: ResizedAxis(x.shape[axis], size, scale, float(size))
            for axis, size, scale in zip(listed, sizes, scales, strict=True)
        }
    if policy not in ("not_larger", "not_smaller"):
        raise ValueError(f"keep_aspect_ratio_policy {policy!r} does not exist")
    scale = min(scales) if policy == "not_larger" else max(scales)
    axes = {}
    for axis in listed:
        width = scale * x.shape[axis]
        axes[axis] = ResizedAxis(x.shape[axis], int(width + 0.5), scale, width)
    return axes


def _resize_nearest(b: Builder, x: View, axes: Axes, transformation: str, nearest_mode: str) -> View:
    repeats: dict[int, int] = {}
    for axis, resized in sorted(axes.items(), key=lambda item: item[1].scale):
        if resized.is_unchanged:
            continue
        positions = nearest_positions(resized, coordinates(resized, transformation, np.float32), nearest_mode)
        factor = _repetition(positions, resized.extent)
        if factor > 1 and resized.extent > 1:
            repeats[axis] = factor
        else:
            x = _select(b, x, axis, positions)
    return _repeat(b, x, repeats) if repeats else x


def _repetition(positions: Integers, extent: int) -> int:
    """How often each element of the axis is repeated in ``positions``; 0 if not all equally often."""
    factor = positions.size // extent if extent else 0
    same = positions.size == factor * extent and np.array_equal(positions, np.arange(extent).repeat(factor))
    return factor if same else 0


def _select(b: Builder, x: View, axis: int, positions: Integers) -> View:
    """The elements of ``x`` at ``positions`` along ``axis``."""
    view = positions_view(x, axis, positions)
    if view is not None:
        return view
    shape = (*x.shape[:axis], len(positions), *x.shape[axis + 1 :])
    result = b.new(x.dtype, shape, layout_order(x.shape, [x]))
    return b.emit(Gather(axis), [x, b.constant(positions)], [result])[0]


def _repeat(b: Builder, x: View, repeats: Mapping[int, int]) -> View:
    """Each element of the axes ``repeats`` so many times: one copy from a broadcast view."""
    shape = tuple(extent * repeats.get(axis, 1) for axis, extent in enumerate(x.shape))
    target = b.new(x.dtype, shape, layout_order(x.shape, [x]))
    for axis in sorted(repeats, reverse=True):
        split = (*x.shape[: axis + 1], repeats[axis], *x.shape[axis + 1 :])
        x = x.unsqueeze((axis + 1,)).expand(split)
    pieces = target.reshape(x.shape)
    assert pieces is not None
    result = b.emit(MapReduce(identity(x.dtype), x.shape), [x], [pieces])[0]
    return b.reshape(result, shape)


def _interpolate(b: Builder, node: Node, x: View, axes: Axes, kernel: str, transformation: str) -> View:
    """Weighted sums along each axis in turn, those that shrink most first.

    Small types are summed in float32, integers of 32 bits and more in float64; integers are rounded to the
    nearest and clamped to their range.
    """
    if x.dtype.kind not in "fiu":
        raise TypeError(f"cannot interpolate {x.dtype}")
    work = interpolation_type(x.dtype)
    result = b.cast(x, work)
    for axis, resized in sorted(axes.items(), key=lambda item: item[1].scale):
        if resized.is_unchanged:
            continue
        if resized.extent == 1 or resized.output == 0:
            result = _select(b, result, axis, np.zeros(resized.output, np.int64))
            continue
        positions, weights = weighted_positions(
            resized,
            coordinates(resized, transformation, np.float64),
            kernel,
            antialias=bool(node.integer("antialias", 0)),
            exclude_outside=bool(node.integer("exclude_outside", 0)),
            cubic_coefficient=node.float("cubic_coeff_a", -0.75),
        )
        shape = (*result.shape[:axis], resized.output, *result.shape[axis + 1 :])
        target = b.new(work, shape, layout_order(result.shape, [result]))
        operands = [result, b.constant(positions, DType.INT32), b.constant(weights, work)]
        result = b.emit(Resample(axis), operands, [target])[0]
    if x.dtype.is_integer:
        return scalar_map(b, to_integer, result, parameters=(x.dtype,))
    return b.cast(result, x.dtype)


def _extrapolate(b: Builder, x: View, axes: Axes, value: float) -> View:
    """``value`` where the region of interest leaves the input."""
    masks = []
    for axis, resized in axes.items():
        if resized.is_unchanged:
            continue
        source = coordinates(resized, "tf_crop_and_resize", np.float32)
        outside = (source < 0) | (source > resized.extent - 1)
        if outside.any():
            masks.append(b.constant(outside.reshape((-1,) + (1,) * (x.rank - axis - 1))))
    if not masks:
        return x

    def body(v: Scalar, *outside: Scalar) -> Scalar:
        for mask in outside:
            v = select(mask, value, v)
        return v

    return b.map(body, x, *masks)
