"""GridSample: elements read at coordinates that a tensor holds."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import choose, expression, scalar_map, wide
from onnxplan.compiler.ops.interpolation import interpolation_type, to_integer
from onnxplan.compiler.primitives import Gather, GatherReduce
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, index, select
from onnxplan.compiler.view import View

MODES = {
    "nearest": "nearest",
    "linear": "linear",
    "bilinear": "linear",
    "cubic": "cubic",
    "bicubic": "cubic",
}
TAPS = {"nearest": 1, "linear": 2, "cubic": 4}

# https://ieeexplore.ieee.org/document/1163711 with the parameter that PyTorch and onnxruntime use.
CUBIC = -0.75

# More batches are sampled as one.
MOST_BATCHES = 16


@operator("GridSample", since=16)
def grid_sample(b: Builder, node: Node, x: View, grid: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__GridSample.html

    Any number of spatial axes in every mode; ``nearest`` takes any type, other modes numbers. Integers are
    rounded to the nearest.
    """
    mode = MODES.get(node.string("mode", "linear"))
    padding = node.string("padding_mode", "zeros")
    if mode is None or padding not in ("zeros", "border", "reflection"):
        raise ValueError(f"mode {node.string('mode', '')!r} with padding_mode {padding!r} does not exist")
    spatial = x.rank - 2
    if spatial < 1 or grid.rank != x.rank or grid.shape[-1] != spatial or grid.shape[0] != x.shape[0]:
        raise ValueError(f"a grid of shape {list(grid.shape)} does not fit an input of {list(x.shape)}")
    if x.dtype.kind not in ("fiubcs" if mode == "nearest" else "fiu"):
        raise TypeError(f"{mode} interpolation of {x.dtype}")
    batch, channels, extents, places = x.shape[0], x.shape[1], x.shape[2:], grid.shape[1:-1]
    if batch * channels * math.prod(places) == 0:
        return b.constant(np.empty((batch, channels, *places), x.dtype.numpy))
    if 0 in extents:
        raise ValueError(f"an input of shape {list(x.shape)} has nothing to sample")
    align = bool(node.integer("align_corners", 0))
    if mode == "nearest":
        return _nearest(b, x, grid, padding, align)
    table = b.cast(x, interpolation_type(x.dtype)) if x.dtype.is_integer else x
    last = channels > 1 and x.strides[1] == 1
    # What is written part by part is not computed at once where all is constant.
    apart = not last and batch <= MOST_BATCHES and not (x.is_constant and grid.is_constant)
    positions, weights = _taps(b, grid, extents, mode, padding, align, together=not apart)
    weights = b.cast(weights, wide(table.dtype))
    found = (_of_planes if apart else _of_rows)(b, table, positions, weights, math.prod(places))
    if x.dtype.is_integer:
        found = scalar_map(b, to_integer, found, parameters=(x.dtype,))
    return b.reshape(found, (batch, channels, *places))


def _nearest(b: Builder, x: View, grid: View, padding: str, align: bool) -> View:
    """The elements at the rounded coordinates."""
    batch, channels, extents, places = x.shape[0], x.shape[1], x.shape[2:], grid.shape[1:-1]
    positions, _ = _taps(b, grid, extents, "nearest", padding, align, together=True)
    rows = b.reshape(positions, (batch * math.prod(places),))
    table = _channels_last(b, x)
    found = b.emit(Gather(0), [table, rows], [b.new(x.dtype, (rows.size, channels))])[0]
    if padding == "zeros":
        inside = scalar_map(b, _is_inside, rows.unsqueeze((1,)))
        zero = b.constant("" if x.dtype is DType.STRING else 0, x.dtype)
        found = choose(b, inside, found, zero)
    last = (0, x.rank - 1, *range(1, x.rank - 1))
    return b.reshape(found, (batch, *places, channels)).transpose(last)


def _channels_last(b: Builder, x: View) -> View:
    """A row of channels for each element of each batch."""
    order = (0, *range(2, x.rank), 1)
    return b.reshape(x.transpose(order), (x.size // x.shape[1], x.shape[1]))


def _of_rows(b: Builder, x: View, positions: View, weights: View, places: int) -> View:
    """Weighted sums ``(batch, channels, places)`` of rows of channels."""
    batch, channels = x.shape[0], x.shape[1]
    rows = batch * places
    taps = positions.size // rows
    inputs = [_channels_last(b, x)]
    inputs += [b.reshape(view, (taps, rows)).transpose((1, 0)) for view in (positions, weights)]
    found = b.emit(GatherReduce(), inputs, [b.new(x.dtype, (rows, channels))])[0]
    return b.reshape(found, (batch, places, channels)).transpose((0, 2, 1))


def _of_planes(b: Builder, x: View, positions: View, weights: View, places: int) -> View:
    """The same of planes, the channels as they stand, one batch after the other."""
    batch, channels = x.shape[0], x.shape[1]
    taps = positions.size // (batch * places)
    result = b.new(x.dtype, (batch, channels, places))
    for number in range(batch):
        planes = b.reshape(x.slice(0, number, 1), (channels, x.size // (batch * channels)))
        inputs = [planes.transpose((1, 0))]
        for view in (positions, weights):
            own = b.reshape(view, (taps, batch, places)).slice(1, number, 1)
            inputs.append(own.squeeze((1,)).transpose((1, 0)))
        b.emit_into(GatherReduce(), inputs, result.slice(0, number, 1).squeeze((0,)).transpose((1, 0)))
    return result


def _taps(
    b: Builder, grid: View, extents: tuple[int, ...], mode: str, padding: str, align: bool, *, together: bool
) -> tuple[View, View]:
    """Rows of the table to read and their weights, both ``(taps, taps, ..., batch, places)``.

    A batch has a table of its own unless they stand ``together`` in one.
    """
    spatial, taps = len(extents), TAPS[mode]
    batch, places = grid.shape[0], math.prod(grid.shape[1:-1])
    dtype = DType.INT32 if batch * math.prod(extents) < 1 << 30 else DType.INT64
    indices, factors = [], []
    for axis, extent in enumerate(extents):
        # The grid names the last axis first.
        column = grid.slice(grid.rank - 1, spatial - 1 - axis, 1)
        column = b.reshape(column, (1, batch, places))
        body = expression(_axis_taps, (grid.dtype,), wide(grid.dtype), dtype, mode, padding, align, extent)
        found, weight = b.compute(body, [column], shape=(taps, batch, places))
        beside = tuple(other for other in range(spatial) if other != axis)
        indices.append(found.unsqueeze(beside))
        factors.append(weight.unsqueeze(beside))
    starts = (np.arange(batch)[:, None] * (math.prod(extents) if together else 0)).astype(dtype.numpy)
    positions = scalar_map(b, _row, b.constant(starts), *indices, parameters=(extents,))
    return positions, functools.reduce(lambda a, other: b.scalar("mul", a, other), factors)


def _axis_taps(*operands: Any) -> tuple[Scalar, Scalar]:
    """Index along an axis of ``extent`` elements (-1 for none) and weight of each tap (first axis)."""
    value, dtype, integer, mode, padding, align, extent = operands
    x = cast(value, dtype)
    x = (x + 1) * ((extent - 1) / 2) if align else ((x + 1) * extent - 1) * 0.5
    low, high = (0.0, extent - 1.0) if align else (-0.5, extent - 0.5)
    if mode == "nearest":
        x = apply("round", x)
    outside = apply("or", x < low, x > high)
    if padding == "border":
        x = select(outside, apply("min", apply("max", x, 0.0), extent - 1.0), x)
    elif padding == "reflection":
        x = select(outside, _reflected(x, low, high), x)
    base = apply("floor", x)
    tap = index(x, 0)
    first = 1 if mode == "cubic" else 0
    place = base + cast(tap - first, dtype)
    if padding == "reflection":
        beyond = apply("or", place < low, place > high)
        place = select(beyond, _reflected(place, low, high), place)
    weight = _weight(apply("abs", x - base - cast(tap - first, dtype)), mode)
    # Coordinates that are no numbers or too far away for an integer are kept within the axis as floats.
    near = apply("min", apply("max", apply("round", place), -1.0), float(extent))
    found = cast(select(apply("isnan", near), -1.0, near), integer)
    if padding == "zeros":
        valid = apply("and", apply("greater_equal", found, 0), found < extent)
        return select(valid, found, -1), weight
    return apply("min", apply("max", found, 0), extent - 1), weight


def _reflected(x: Scalar, low: float, high: float) -> Scalar:
    """``x`` mirrored at the borders until it lies between them."""
    length = high - low
    if length == 0:
        return x * 0.0 + low
    distance = apply("abs", x - low)
    turns = apply("floor", distance / length)
    rest = distance - turns * length
    half = turns * 0.5
    even = apply("equal", half, apply("floor", half))
    return select(even, rest + low, high - rest)


def _weight(distance: Scalar, mode: str) -> Scalar:
    """The weight of an element at a distance of at most 1 (``linear``) or 2 (``cubic``)."""
    if mode == "nearest":
        return distance * 0.0 + 1.0
    if mode == "linear":
        return 1.0 - distance
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance * distance + 1.0
    far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
    return select(distance <= 1.0, near, far)


def _row(*operands: Any) -> Scalar:
    """The row of the table of indices along all axes, -1 where one of them is."""
    start, *indices, extents = operands
    position, least = indices[0], indices[0]
    for found, extent in zip(indices[1:], extents[1:], strict=True):
        position = position * extent + found
        least = apply("min", least, found)
    return cast(select(least < 0, -1, position + start), DType.INT64)


def _is_inside(position: Scalar) -> Scalar:
    return position >= 0
