"""Convolution and pooling in NumPy, tap by tap, channels last."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Conv, Pool
from onnxplan.compiler.scalar import WIDE, convert
from onnxplan.compiler.view import Shape

Array = npt.NDArray[Any]


def _taps(
    kernel: Shape, strides: Shape, dilations: Shape, pads: Shape, extents: Shape, outputs: Shape
) -> Iterator[tuple[Shape, tuple[slice, ...], tuple[slice, ...]]]:
    """For each tap, in row-major order: its index, the output positions whose tap lies inside of the input,
    and the input positions that these read; taps that are nowhere inside are left out."""
    for tap in itertools.product(*map(range, kernel)):
        targets: list[slice] = []
        sources: list[slice] = []
        for position, stride, dilation, pad, extent, output in zip(
            tap, strides, dilations, pads, extents, outputs, strict=True
        ):
            shift = position * dilation - pad
            first = max(0, -(shift // stride))
            last = min(output - 1, (extent - 1 - shift) // stride)
            if last < first:
                break
            targets.append(slice(first, last + 1))
            sources.append(slice(first * stride + shift, last * stride + shift + 1, stride))
        else:
            yield tap, tuple(targets), tuple(sources)


def convolve(primitive: Conv, x: Array, w: Array, shape: Shape) -> Array:
    """``x (N, *spatial, C)`` with ``w (*kernel, C/groups, M)``, both in the type to sum in, to ``shape``."""
    groups = primitive.groups
    channels, features = x.shape[-1] // groups, w.shape[-1] // groups
    total = np.zeros(shape, x.dtype)
    windows = _taps(
        w.shape[:-2], primitive.strides, primitive.dilations, primitive.pads, x.shape[1:-1], shape[1:-1]
    )
    for tap, targets, sources in windows:
        part = x[(slice(None), *sources)]
        for group in range(groups):
            read = slice(group * channels, (group + 1) * channels)
            write = slice(group * features, (group + 1) * features)
            total[(slice(None), *targets, write)] += part[..., read] @ w[tap][:, write]
    return total


def evaluate_pool(primitive: Pool, x: Array, shapes: Sequence[Shape]) -> tuple[Array, ...]:
    """Pooled values and, where ``shapes`` has two entries, the positions of maxima.

    A window that holds no element of ``x`` gives the lowest value and the position of its channel's first
    element, or NaN for an average.
    """
    if primitive.kind == "average":
        return (_average(primitive, x, shapes[0]),)
    values, positions = _maximum(primitive, x, shapes[0])
    return (values, positions) if len(shapes) == 2 else (values,)


def _windows(
    primitive: Pool, x: Array, shape: Shape
) -> Iterator[tuple[Shape, tuple[slice, ...], tuple[slice, ...]]]:
    return _taps(
        primitive.kernel,
        primitive.strides,
        primitive.dilations,
        primitive.pads,
        x.shape[1:-1],
        shape[1:-1],
    )


def _average(primitive: Pool, x: Array, shape: Shape) -> Array:
    total = np.zeros(shape, np.float64)
    count = np.zeros(shape, np.float64)
    wide = x.astype(np.float64)
    for _, targets, sources in _windows(primitive, x, shape):
        total[(slice(None), *targets)] += wide[(slice(None), *sources)]
        count[(slice(None), *targets)] += 1
    if primitive.count_padding is not None:
        count[...] = 1
        for axis, outputs in enumerate(shape[1:-1]):
            first = np.arange(outputs) * primitive.strides[axis] - primitive.pads[axis]
            taps = np.arange(primitive.kernel[axis]) * primitive.dilations[axis]
            limit = x.shape[1 + axis] + primitive.count_padding[axis]
            counted = (first[:, None] + taps < limit).sum(axis=1)
            count *= counted.reshape((outputs,) + (1,) * (len(shape) - axis - 2))
    return convert(total / count, DType.from_numpy(x.dtype))


def _maximum(primitive: Pool, x: Array, shape: Shape) -> tuple[Array, Array]:
    dtype = DType.from_numpy(x.dtype)
    wide = x.astype(WIDE.get(dtype, dtype).numpy)
    lowest = -np.inf if dtype.is_float else np.iinfo(wide.dtype).min
    spatial = x.shape[1:-1]
    order = range(len(spatial)) if primitive.column_major else reversed(range(len(spatial)))
    strides = [0] * len(spatial)
    plane = 1
    for axis in order:
        strides[axis] = plane
        plane *= spatial[axis]
    flat = np.zeros(spatial, np.int64)
    for axis, extent in enumerate(spatial):
        flat += (np.arange(extent) * strides[axis]).reshape((extent,) + (1,) * (len(spatial) - axis - 1))

    values = np.full(shape, lowest, wide.dtype)
    places = np.zeros(shape, np.int64)
    seen = np.zeros(shape, np.bool_)
    for _, targets, sources in _windows(primitive, x, shape):
        target = (slice(None), *targets)
        part = wide[(slice(None), *sources)]
        best = values[target]
        # NaN differs from itself.
        better = (part > best) | ~seen[target] | ((part != part) & (best == best))
        values[target] = np.where(better, part, best)
        places[target] = np.where(better, flat[sources][..., None], places[target])
        seen[target] = True
    starts = (np.arange(shape[0])[:, None] * shape[-1] + np.arange(shape[-1])) * plane
    places += starts.reshape((shape[0],) + (1,) * len(spatial) + (shape[-1],))
    return values.astype(x.dtype), places
