"""Windows over more axes than kernels have: views of a padded copy, so that a window is a few axes more."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ops.common import expression, wide
from onnxplan.compiler.ops.padding import padded
from onnxplan.compiler.ops.windows import Window
from onnxplan.compiler.trace import Scalar, apply, cast, index, reduce, select
from onnxplan.compiler.view import Shape, View

MOST_AXES = 3
"""Kernels of convolution and pooling are written for so many spatial axes."""

_NOWHERE = 2**63 - 1


def slide(b: Builder, x: View, window: Window, axes: int, fill: float | int) -> View:
    """The windows over the first ``axes`` spatial axes of ``x (N, *spatial, C)``, ``fill`` outside of it.

    ``(N, *outputs of these axes, *kernel of these axes, *other axes, C)``, a view of a padded copy.
    """
    pads: list[tuple[int, int]] = [(0, 0)] * x.rank
    for axis in range(axes):
        reach = (window.outputs[axis] - 1) * window.strides[axis]
        reach += (window.kernel[axis] - 1) * window.dilations[axis] + 1
        pads[1 + axis] = (window.pads[axis], reach - window.pads[axis] - x.shape[1 + axis])
    source = padded(b, x, pads, b.constant(fill, x.dtype))
    moved = source.strides[1 : 1 + axes]
    return View(
        source.storage,
        source.offset,
        (x.shape[0], *window.outputs[:axes], *window.kernel[:axes], *x.shape[1 + axes :]),
        (
            source.strides[0],
            *(step * stride for step, stride in zip(moved, window.strides, strict=False)),
            *(step * dilation for step, dilation in zip(moved, window.dilations, strict=False)),
            *source.strides[1 + axes :],
        ),
    )


def unfold(b: Builder, x: View, weights: View, window: Window, groups: int) -> tuple[View, View, Window]:
    """A convolution over :data:`MOST_AXES` axes that stands for one over more.

    Of ``x (N, *spatial, C)`` and ``weights (*kernel, C/groups, M)``. The outer axes' taps become channels and
    their outputs images: the result of the convolution is ``(N * outer outputs, *inner outputs, M)``.
    """
    outer = len(window.kernel) - MOST_AXES
    windows = slide(b, x, window, outer, 0)
    channels = x.shape[-1] // groups
    taps = window.kernel[:outer]
    split = b.reshape(windows, (*windows.shape[:-1], groups, channels))
    last = split.rank - 1
    order = (
        *range(1 + outer),
        *range(1 + 2 * outer, last - 1),
        last - 1,
        *range(1 + outer, 1 + 2 * outer),
        last,
    )
    images = x.shape[0] * math.prod(window.outputs[:outer])
    depth = math.prod(taps) * channels
    rows = b.reshape(split.transpose(order), (images, *x.shape[1 + outer : -1], groups * depth))
    kernel = window.kernel[outer:]
    moved = weights.transpose(
        (*range(outer, outer + MOST_AXES), *range(outer), weights.rank - 2, weights.rank - 1)
    )
    inner = Window(
        *(
            each[outer:]
            for each in (
                window.kernel, window.strides, window.dilations, window.pads, window.ends, window.outputs,
            )
        )
    )  # fmt: skip
    return rows, b.reshape(moved, (*kernel, depth, weights.shape[-1])), inner


def pool_maxima(b: Builder, x: View, window: Window, *, positions: bool, column_major: bool) -> list[View]:
    """As the primitive ``Pool`` of kind ``max``, on any number of axes."""
    axes = len(window.kernel)
    lowest = _lowest(x.dtype)
    windows = slide(b, x, window, axes, lowest)
    reduced = tuple(range(1 + axes, 1 + 2 * axes))
    maxima = b.reduce("max", windows, reduced, keepdims=True)
    if not positions:
        return [maxima.squeeze(reduced)]
    extents = x.shape[1:-1]
    order = np.arange(math.prod(extents), dtype=np.int64).reshape(extents, order="F" if column_major else "C")
    places = slide(b, b.constant(order.reshape(1, *extents, 1)), window, axes, _NOWHERE)
    body = expression(_first_equal, (x.dtype, x.dtype, DType.INT64), 1 + 2 * axes, x.shape[-1], order.size)
    found = b.compute(body, (windows, maxima, places), reduced)[0]
    return [maxima.squeeze(reduced), found.squeeze(reduced)]


def _lowest(dtype: DType) -> float | int:
    if dtype.is_float:
        return float("-inf")
    return int(np.iinfo(dtype.numpy).min)


def _first_equal(
    value: Scalar, most: Scalar, place: Scalar, channel_axis: int, channels: int, size: int
) -> Scalar:
    """The place of the first element of a window that is its maximum, in the whole tensor."""
    equal = apply("equal", value, most)
    if value.dtype.is_float:
        equal = apply("or", equal, apply("isnan", value))
    image = index(value, 0) * channels + index(value, channel_axis)
    inside = apply("and", equal, place < _NOWHERE)
    return reduce("min", select(inside, image * size + place, _NOWHERE))


def pool_averages(b: Builder, x: View, window: Window, counted: Sequence[int] | None) -> View:
    """As ``Pool`` of kind ``average``, on any number of axes; ``counted`` is its ``count_padding``."""
    axes = len(window.kernel)
    windows = slide(b, x, window, axes, 0)
    reduced = tuple(range(1 + axes, 1 + 2 * axes))
    counts = b.constant(_tap_counts(x.shape[1:-1], window, counted).reshape(*window.outputs, *(1,) * axes, 1))
    work = wide(x.dtype)
    body = expression(_average, (x.dtype, work))
    return b.compute(body, (windows, b.cast(counts, work)), reduced)[0].squeeze(reduced)


def _average(value: Scalar, count: Scalar) -> Scalar:
    return cast(reduce("sum", cast(value, count.dtype)) / count, value.dtype)


def _tap_counts(extents: Shape, window: Window, counted: Sequence[int] | None) -> npt.NDArray[np.int64]:
    """How many taps of each window count."""
    counts = np.ones((), np.int64)
    for axis, extent in enumerate(extents):
        places = np.arange(window.outputs[axis])[:, None] * window.strides[axis] - window.pads[axis]
        places = places + np.arange(window.kernel[axis]) * window.dilations[axis]
        inside = (places >= 0) & (places < extent) if counted is None else places < extent + counted[axis]
        counts = counts[..., None] * inside.sum(1)
    return counts
