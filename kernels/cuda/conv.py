"""Convolution: one-by-one by cuBLASLt, groups of few channels directly, the rest as an implicit product:
by matrix instructions where they have the type, else by the kernel here.

The rows of that product are output positions, its depth runs over taps and, innermost, input channels; the
groups are its batch. The left matrix is never stored: a block gathers its slices from the input.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, identity
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cuda.conv_matrix import emit_matrix, serves
from onnxplan.kernels.cuda.conv_window import (
    WINDOW_WORDS,
    first_taps,
    inside_taps,
    next_tap,
    row_origins,
    window_reach,
    window_words,
)
from onnxplan.kernels.cuda.dense_copy import dense_copy
from onnxplan.kernels.cuda.depthwise import emit_depthwise
from onnxplan.kernels.cuda.epilogue import epilogue_of, in_place_extras
from onnxplan.kernels.cuda.indexing import axis_words, index_type
from onnxplan.kernels.cuda.matmul_library import emit_library
from onnxplan.kernels.cuda.product import Parts, piece_count, tile_words
from onnxplan.kernels.cuda.product_code import (
    THREADS,
    Feed,
    Results,
    Tile,
    declare_places,
    declare_tiles,
    factor,
    find_tile,
    fitting_tile,
    keep_lines,
    matrix_feed,
    multiply,
    repeat,
    slice_count,
    store_tile,
    sum_text,
    sum_type,
)
from onnxplan.kernels.cuda.source import KernelSource, KernelText, check_words
from onnxplan.kernels.geometry import axes_of, ceil_div, reach
from onnxplan.kernels.matrices import Matrices, distinct_bytes

FAMILY = "conv"

# Groups with fewer output channels waste most of a tile; they are computed directly if they are not deep.
FEATURES_WORTH_A_TILE = 16
DEPTH_WORTH_A_TILE = 256
# From so many channels on a copy with neighbouring channels pays.
CHANNELS_WORTH_COPYING = 16


def select_conv(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of a Conv of any number of spatial axes, strides and groups."""
    primitive = operation.primitive
    assert isinstance(primitive, Conv)
    x, w, *extras = operation.inputs
    output = operation.outputs[0]
    if output.size == 0:
        return
    conv = Convolution(
        x,
        w,
        output,
        tuple(extras),
        primitive.strides,
        primitive.dilations,
        primitive.pads,
        primitive.groups,
    )
    epilogue = epilogue_of(primitive.epilogue, primitive.accumulator, output)
    depth = conv.taps * conv.channels
    shallow = depth <= DEPTH_WORTH_A_TILE and conv.features < FEATURES_WORTH_A_TILE
    if conv.groups > 1 and (shallow or conv.channels == 1):
        emit_depthwise(emit, conv, primitive.accumulator, epilogue)
        return
    if _is_pointwise(conv) and _emit_pointwise(emit, target, conv, primitive.accumulator, epilogue):
        return
    if conv.channels >= CHANNELS_WORTH_COPYING and x.strides[-1] != 1:
        conv = replace(conv, x=dense_copy(emit, target, x, "channels_last"))
    if serves(target, conv, primitive.accumulator):
        emit_matrix(emit, target, conv, epilogue)
        return
    tiles = conv.groups * _tile_count(conv)
    pieces = piece_count(target, tiles, depth)
    if pieces == 1:
        _emit_step(emit, target, conv, primitive.accumulator, epilogue, None)
        return
    parts = Parts.make(emit, output, conv.extras, primitive.accumulator, pieces)
    whole = replace(conv, output=parts.first, extras=())
    _emit_step(emit, target, whole, primitive.accumulator, identity(sum_type(primitive.accumulator)), parts)
    parts.emit_sum(emit, target, epilogue)


def _is_pointwise(conv: Convolution) -> bool:
    inside = all(
        pad == 0 and (extent - 1) * stride < size
        for pad, extent, stride, size in zip(
            conv.pads, conv.output.shape[1:-1], conv.strides, conv.x.shape[1:-1], strict=True
        )
    )
    return conv.taps == 1 and inside


def _emit_pointwise(
    emit: StepEmitter, target: Target, conv: Convolution, accumulator: DType, epilogue: Expression
) -> bool:
    """A convolution of one tap as products by cuBLASLt, if it takes them."""
    x, w = conv.x, conv.w
    scaled = tuple(s * step for s, step in zip(x.strides, (1, *conv.strides, 1), strict=True))
    read = View(x.storage, x.offset, (*conv.output.shape[:-1], x.shape[-1]), scaled)
    a, output = _grouped(conv, read), _grouped(conv, conv.output)
    b = View(
        w.storage,
        w.offset,
        (*a.shape[:-2], conv.channels, conv.features),
        (conv.features * w.strides[-1], *(0,) * (a.rank - 3), *w.strides[-2:]),
    )
    extras = tuple(_grouped(conv, extra) for extra in conv.extras)
    return emit_library(emit, target, Matrices(a, b, output, extras), accumulator, epilogue)


def _grouped(conv: Convolution, view: View) -> View:
    """``(N, *spatial, channels)`` as ``(groups, N, *spatial, channels of a group)``."""
    each = view.shape[-1] // conv.groups
    shape, strides = (*view.shape[:-1], each), view.strides
    return View(view.storage, view.offset, (conv.groups, *shape), (each * strides[-1], *strides))


def _tile_count(conv: Convolution) -> int:
    rows = math.prod(conv.output.shape[:-1])
    tile = fitting_tile(rows, conv.features)
    return ceil_div(rows, tile.rows) * ceil_div(conv.features, tile.columns)


def _emit_step(
    emit: StepEmitter,
    target: Target,
    conv: Convolution,
    accumulator: DType,
    epilogue: Expression,
    parts: Parts | None,
) -> None:
    x, output = conv.x, conv.output
    rows, depth = math.prod(output.shape[:-1]), conv.taps * conv.channels
    weights = conv.w.reshape((depth, conv.w.shape[-1]))
    if weights is None:
        dense = dense_copy(emit, target, conv.w, "weights")
        weights = View.dense(dense.storage, (depth, conv.w.shape[-1]))
    results = (*conv.extras, output)
    tile = fitting_tile(rows, conv.features)
    pieces = len(parts.views) if parts else 1
    blocks, words = tile_words(rows, conv.features, depth, tile, pieces, conv.groups)
    windows = window_words(x, output, conv.kernel, conv.strides, conv.dilations, conv.pads)
    split_stride = output.size if parts else 0
    distances = [reach(weights), *map(reach, results), reach(output) + (pieces - 1) * split_stride]
    index = index_type(max(rows, depth, window_reach(x, windows), *distances), [])
    places = axes_of(output.shape[:-1], [view.strides[:-1] for view in results])
    parameters = [
        *words,
        x.strides[0],
        max(1, conv.channels),
        x.strides[-1],
        *(
            word
            for window, stride in zip(windows, x.strides[1:-1], strict=True)
            for word in (*window, stride)
        ),
        weights.strides[1],
        weights.strides[0],
        int(abs(weights.strides[0]) < abs(weights.strides[1])),
        *axis_words(places),
        *(view.strides[-1] for view in results),
        split_stride,
    ]
    what = Results(epilogue, accumulator, tuple(view.dtype for view in results))
    labels = (x.dtype.label, weights.dtype.label)
    variant = (THREADS, tile.variant, labels, what.variant, len(windows), index)
    written = (x, weights, parts.whole) if parts else (x, weights, *results)
    check_words(len(written), len(parameters))
    emit.step(
        KernelSpec(FAMILY, variant),
        written,
        (len(written) - 1,),
        tuple(parameters),
        tiles=blocks,
        flops=(2 * depth + epilogue.cost) * output.size,
        bytes_moved=sum(map(distinct_bytes, written)),
        in_place=in_place_extras(output, conv.extras, 2),
    )


def build_conv(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, tile, (x type, weight type), results, spatial axes, index type)``.

    Operands: x, the weights ``(depth, features of all groups)``, the extras, the output. Parameters: those of
    the tiles, of the input and its windows, of the weights, the places of results.
    """
    threads, extents, labels, results_variant, spatial, index = variant
    tile, results = Tile(*extents), Results.from_variant(*results_variant)
    x_type, w_type = (DType.from_label(label) for label in labels)
    kernel = KernelText(threads)
    kernel.operand("left", x_type, alone=True)
    kernel.operand("right", w_type, alone=True)
    results.declare_operands(kernel)
    declare_tiles(kernel, index)
    left = _gather_feed(kernel, x_type, results.accumulator, tile, spatial, index)
    right = matrix_feed(kernel, "right", w_type, results.accumulator, tile, index, rows=False)
    declare_places(kernel, results, 1 + spatial, index)
    find_tile(kernel, tile, index)
    kernel.line(
        f"const {index} left_start = batch * channels * channel_stride;",
        f"const {index} right_start = batch * columns * right_stride;",
    )
    multiply(kernel, tile, results.accumulator, index, [left, right])
    numbers = range(len(results.dtypes))
    starts = [f"batch * columns * column_stride{number}" for number in numbers]
    store_tile(kernel, results, 1 + spatial, index, starts)
    return kernel.source(FAMILY)


def _gather_feed(
    kernel: KernelText, dtype: DType, accumulator: DType, tile: Tile, spatial: int, index: str
) -> Feed:
    """Feeds what the taps of output positions read.

    A thread keeps to one place of each slice's depth: channel and tap are found once and then counted on.
    Declares the input's parameters.
    """
    for name in ("image_stride", "channels", "channel_stride"):
        kernel.parameter(name, index)
    for axis in range(spatial):
        for name in (*WINDOW_WORDS, "stride"):
            kernel.parameter(f"{name}{axis}", index)
    count, total = slice_count(tile.rows, tile), sum_text(accumulator)
    prepare = [
        f"const int left_depth = thread % {tile.depth};",
        f"{total} left_next[{count}];",
        *row_origins(count, f"thread / {tile.depth}", THREADS // tile.depth, spatial, index),
        *first_taps(spatial, index),
    ]
    moved, distance, inside = inside_taps(spatial, index)
    element = factor(dtype, accumulator, "left[left_offset[i] + distance]")
    fetch = [
        *moved,
        f"const {index} distance = channel * channel_stride + {distance};",
        "const bool live = begin + left_depth < depth_last;",
        *repeat(count, f"left_next[i] = live && {inside} ? {element} : ({total})0;"),
        f"channel += {tile.depth};",
        "while (channel >= channels) {",
        "channel -= channels;",
        *next_tap(spatial),
        "}",
    ]
    place = f"thread / {tile.depth} + i * {THREADS // tile.depth}"
    return Feed(prepare, fetch, keep_lines("left", tile.rows, tile, "left_depth", place))
