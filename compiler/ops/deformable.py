"""DeformConv: a convolution whose taps are read where a tensor of offsets says."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression, per_channel, scalar_map, wide
from onnxplan.compiler.ops.convolution import check_groups, convolution_window
from onnxplan.compiler.ops.windows import Window, channels_first, channels_last
from onnxplan.compiler.primitives import GatherReduce
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, index, select
from onnxplan.compiler.view import View


@operator("DeformConv", since=19)
def deformable_convolution(
    b: Builder,
    node: Node,
    x: View,
    w: View,
    offset: View,
    bias: View | None = None,
    mask: View | None = None,
) -> View:
    """https://onnx.ai/onnx/operators/onnx__DeformConv.html, for any number of spatial axes.

    The taps are sampled linearly (https://arxiv.org/abs/1703.06211, equation 3; zero outside of the input),
    weighted by the mask (https://arxiv.org/abs/1811.11168), and multiplied by the weights as a matrix.
    """
    window, groups = convolution_window(node, x, w), node.integer("group", 1)
    batch, channels, features = x.shape[0], x.shape[1], w.shape[0]
    check_groups(channels, features, groups)
    if channels != w.shape[1] * groups:
        raise ValueError(f"{channels} channels, weights for {w.shape[1]} in each of {groups} groups")
    parts = node.integer("offset_group", 1)
    if parts < 1 or channels % parts:
        raise ValueError(f"{channels} channels do not divide into {parts} groups of offsets")
    taps, places = math.prod(window.kernel), math.prod(window.outputs)
    for view, count, name in ((offset, taps * len(window.kernel), "offsets"), (mask, taps, "a mask")):
        if view is not None and view.shape != (batch, parts * count, *window.outputs):
            raise ValueError(
                f"{name} of shape {list(view.shape)}, not {[batch, parts * count, *window.outputs]}"
            )
    shape = (batch, *window.outputs, features)
    if math.prod(shape) == 0:
        return b.constant(np.empty((batch, features, *window.outputs), x.dtype.numpy))
    if math.prod(x.shape) * taps == 0:
        result = b.constant(0, x.dtype).expand((batch, features, *window.outputs))
    else:
        sampled = _sample(b, x, offset, mask, window, parts)
        width = channels // groups
        rows = b.reshape(sampled, (batch * places, taps, groups, width)).transpose((2, 0, 1, 3))
        weights = b.reshape(w, (groups, features // groups, width, taps)).transpose((0, 3, 2, 1))
        product = b.matmul(
            b.reshape(rows, (groups, batch * places, taps * width)),
            b.reshape(weights, (groups, taps * width, features // groups)),
        )
        result = channels_first(b.reshape(product.transpose((1, 0, 2)), shape))
    return result if bias is None else b.scalar("add", result, per_channel(bias, x.rank))


def _sample(b: Builder, x: View, offset: View, mask: View | None, window: Window, parts: int) -> View:
    """The taps of all windows, ``(batch, places, taps, channels)`` in rows of ``channels / parts``."""
    batch, channels, *extents = x.shape
    rank, taps, places = len(extents), math.prod(window.kernel), math.prod(window.outputs)
    dtype = wide(x.dtype)
    # Axes: batch, output places, taps, parts, and the two neighbours along each spatial axis.
    offsets = b.reshape(offset, (batch, parts, taps, rank, *window.outputs))
    indices, factors = [], []
    for axis, extent in enumerate(extents):
        along = offsets.slice(3, axis, 1).squeeze((3,))
        column = along.transpose((0, *range(3, 3 + rank), 2, 1)).unsqueeze((3 + rank,))
        inner = math.prod(window.kernel[axis + 1 :])
        body = expression(
            _neighbours,
            (offset.dtype,),
            dtype,
            _Tap(
                extent, window.kernel[axis], window.strides[axis], window.dilations[axis], window.pads[axis],
                inner, 1 + axis, 1 + rank,
            ),
        )  # fmt: skip
        found, weight = b.compute(body, [column], shape=(*column.shape[:-1], 2))
        beside = tuple(3 + rank + other for other in range(rank) if other != axis)
        indices.append(found.unsqueeze(beside))
        factors.append(weight.unsqueeze(beside))
    if mask is not None:
        split = b.reshape(mask, (batch, parts, taps, *window.outputs))
        split = split.transpose((0, *range(3, 3 + rank), 2, 1))
        factors.append(b.cast(split, dtype).unsqueeze(tuple(range(3 + rank, 3 + 2 * rank))))
    positions = scalar_map(b, _row, *indices, parameters=(tuple(extents), parts, 2 + rank))
    weights = functools.reduce(lambda a, other: b.scalar("mul", a, other), factors)
    rows, corners = batch * places * taps * parts, 2**rank
    table = b.reshape(channels_last(x), (batch * math.prod(extents) * parts, channels // parts))
    inputs = [
        table,
        b.reshape(positions, (rows, corners)),
        b.reshape(weights.expand(positions.shape), (rows, corners)),
    ]
    return b.emit(GatherReduce(), inputs, [b.new(x.dtype, (rows, channels // parts))])[0]


@dataclass(frozen=True, slots=True)
class _Tap:
    """Where the taps of one spatial axis stand without offsets; ``inner`` taps follow each of its own."""

    extent: int
    kernel: int
    stride: int
    dilation: int
    pad: int
    inner: int
    output_axis: int
    tap_axis: int


def _neighbours(*operands: Any) -> tuple[Scalar, Scalar]:
    """Index along an axis (-1 outside of it) and weight of the two elements beside each sample."""
    offset, dtype, tap = operands
    number = apply("remainder", index(offset, tap.tap_axis) / tap.inner, tap.kernel)
    start = index(offset, tap.output_axis) * tap.stride + number * tap.dilation - tap.pad
    place = cast(start, dtype) + cast(offset, dtype)
    low = apply("floor", place)
    fraction = place - low
    second = apply("equal", index(offset, tap.tap_axis + 2), 1)
    found = select(second, low + 1.0, low)
    inside = apply("and", found >= 0.0, found <= tap.extent - 1.0)
    weight = select(second, fraction, 1.0 - fraction)
    return cast(select(inside, found, -1.0), DType.INT64), select(inside, weight, 0.0)


def _row(*operands: Any) -> Scalar:
    """The row of the flattened input for parts of its channels, -1 where a neighbour is outside."""
    *indices, extents, parts, rank = operands
    row: Scalar = index(indices[0], 0)
    least = indices[0]
    for found, extent in zip(indices, extents, strict=True):
        row = row * extent + found
        least = apply("min", least, found)
    return select(least < 0, -1, row * parts + index(indices[0], rank))
