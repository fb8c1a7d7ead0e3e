"""Convolution and pooling by their definitions: one output element at a time, in float64, channels first."""

from __future__ import annotations

import itertools
import math

import numpy as np


def same_padding(extent, stride, reach, upper):
    """``pads`` at the beginning and the end for ``ceil(extent / stride)`` outputs."""
    total = max((math.ceil(extent / stride) - 1) * stride + reach - extent, 0)
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)


def window(shape, kernel, strides=None, pads=None, dilations=None, auto_pad="NOTSET", ceil_mode=0):
    """Strides, dilations, pads at the beginning, pads at the end, and output extents."""
    rank = len(kernel)
    strides, dilations, pads = strides or [1] * rank, dilations or [1] * rank, pads or [0] * 2 * rank
    begins, ends, outputs = [], [], []
    for axis, extent in enumerate(shape):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        begin, end = pads[axis], pads[rank + axis]
        if auto_pad.startswith("SAME"):
            begin, end = same_padding(extent, strides[axis], reach, auto_pad == "SAME_UPPER")
        positions = (extent + begin + end - reach) / strides[axis] + 1
        output = math.ceil(positions) if ceil_mode else math.floor(positions)
        if ceil_mode and (output - 1) * strides[axis] >= extent + begin:
            output -= 1
        begins.append(begin)
        ends.append(end)
        outputs.append(output)
    return strides, dilations, begins, ends, outputs


def taps(kernel, strides, dilations, begins, output):
    """The input position of each tap at the output position ``output``."""
    for tap in itertools.product(*map(range, kernel)):
        yield (
            tap,
            tuple(
                o * s + k * d - p
                for o, s, k, d, p in zip(output, strides, tap, dilations, begins, strict=True)
            ),
        )


def inside(position, shape):
    return all(0 <= p < n for p, n in zip(position, shape, strict=True))


def conv(x, w, bias=None, group=1, **settings):
    """Conv of ``x (N, C, *spatial)`` by ``w (M, C/group, *kernel)``."""
    kernel = w.shape[2:]
    strides, dilations, begins, _, outputs = window(x.shape[2:], kernel, **settings)
    channels, features = w.shape[1], w.shape[0] // group
    result = np.zeros((x.shape[0], w.shape[0], *outputs))
    for output in itertools.product(*map(range, outputs)):
        for tap, position in taps(kernel, strides, dilations, begins, output):
            if inside(position, x.shape[2:]):
                for g in range(group):
                    rows = slice(g * features, (g + 1) * features)
                    part = x[(slice(None), slice(g * channels, (g + 1) * channels), *position)]
                    result[(slice(None), rows, *output)] += part @ w[(rows, slice(None), *tap)].T
    return result if bias is None else result + bias.reshape(-1, *[1] * len(outputs))


def conv_transpose(
    x, w, bias=None, group=1, strides=None, pads=None, dilations=None, output_padding=None, output_shape=None,
    auto_pad="NOTSET",
):  # fmt: skip
    """ConvTranspose of ``x (N, C, *spatial)`` by ``w (C, M/group, *kernel)``: inputs scatter their taps."""
    kernel, rank = w.shape[2:], w.ndim - 2
    strides, dilations = strides or [1] * rank, dilations or [1] * rank
    pads, output_padding = pads or [0] * 2 * rank, output_padding or [0] * rank
    full = [
        s * (n - 1) + e + (k - 1) * d + 1
        for s, n, e, k, d in zip(strides, x.shape[2:], output_padding, kernel, dilations, strict=True)
    ]
    if output_shape is None and auto_pad.startswith("SAME"):
        output_shape = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    if output_shape is None:
        begins = pads[:rank]
        outputs = [f - pads[i] - pads[rank + i] for i, f in enumerate(full)]
    else:
        outputs = output_shape
        totals = [max(f - o, 0) for f, o in zip(full, outputs, strict=True)]
        begins = [t // 2 if auto_pad == "SAME_UPPER" else t - t // 2 for t in totals]
    channels, features = w.shape[0] // group, w.shape[1]
    result = np.zeros((x.shape[0], features * group, *outputs))
    for source in itertools.product(*map(range, x.shape[2:])):
        for tap in itertools.product(*map(range, kernel)):
            position = tuple(
                i * s + k * d - p
                for i, s, k, d, p in zip(source, strides, tap, dilations, begins, strict=True)
            )
            if inside(position, outputs):
                for g in range(group):
                    rows = slice(g * channels, (g + 1) * channels)
                    columns = slice(g * features, (g + 1) * features)
                    part = x[(slice(None), rows, *source)] @ w[(rows, slice(None), *tap)]
                    result[(slice(None), columns, *position)] += part
    return result if bias is None else result + bias.reshape(-1, *[1] * rank)


def pooled(x, kernel, combine, **settings):
    """``combine(elements, taps inside of the padded input)`` of each window; elements ``(taps, N, C)``."""
    strides, dilations, begins, ends, outputs = window(x.shape[2:], kernel, **settings)
    results = []
    for output in itertools.product(*map(range, outputs)):
        positions = [position for _, position in taps(kernel, strides, dilations, begins, output)]
        limits = [n + e for n, e in zip(x.shape[2:], ends, strict=True)]
        counted = sum(all(p < n for p, n in zip(position, limits, strict=True)) for position in positions)
        kept = [position for position in positions if inside(position, x.shape[2:])]
        elements = np.stack([x[(slice(None), slice(None), *position)] for position in kept])
        results.append(combine(elements, counted))
    return np.moveaxis(np.array(results), 0, -1).reshape(*x.shape[:2], *outputs)


def max_pool(x, kernel, column_major=False, **settings):
    """Values and their positions in the flattened input."""
    values = pooled(x, kernel, lambda elements, counted: elements.max(axis=0), **settings)
    spatial = x.shape[2:]
    order = "F" if column_major else "C"
    plane = np.arange(math.prod(spatial)).reshape(spatial, order=order)
    flat = plane + math.prod(spatial) * np.arange(x.shape[0] * x.shape[1]).reshape(
        *x.shape[:2], *[1] * len(spatial)
    )
    strides, dilations, begins, _, outputs = window(spatial, kernel, **settings)
    places = np.zeros(values.shape, np.int64)
    for output in itertools.product(*map(range, outputs)):
        kept = [p for _, p in taps(kernel, strides, dilations, begins, output) if inside(p, spatial)]
        elements = np.stack([x[(slice(None), slice(None), *p)] for p in kept])
        indices = np.stack([flat[(slice(None), slice(None), *p)] for p in kept])
        first = elements.argmax(axis=0)
        places[(slice(None), slice(None), *output)] = np.take_along_axis(indices, first[None], 0)[0]
    return values, places


def average_pool(x, kernel, count_include_pad=0, **settings):
    def mean(elements, counted):
        return elements.sum(axis=0) / (counted if count_include_pad else len(elements))

    return pooled(x, kernel, mean, **settings)


def lp_pool(x, kernel, p=2, **settings):
    def norm(elements, counted):
        return (np.abs(elements) ** p).sum(axis=0) ** (1 / p)

    return pooled(x, kernel, norm, **settings)
