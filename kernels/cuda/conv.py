"""Convolution: by cuDNN what it serves, one-by-one by cuBLASLt, groups of few channels directly, the rest as
an implicit product: by matrix instructions where they have the type, else by the kernel here.

The rows of that product are output positions, its depth runs over taps and, innermost, input channels; the
groups are its batch. The left matrix is never stored: a block gathers its slices from the input.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, identity
from onnxplan.compiler.plan import KernelSpec, Variant
from onnxplan.compiler.primitives import Conv, MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cuda.conv_library import LibraryConvolution, given_to_cudnn
from onnxplan.kernels.cuda.conv_matrix import emit_matrix, emit_whole, serves, weights_by_feature
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
from onnxplan.kernels.cuda.map import select_map
from onnxplan.kernels.cuda.matmul_library import emit_library
from onnxplan.kernels.cuda.product import Parts, piece_count, tile_words
from onnxplan.kernels.cuda.product_code import (
    GROUP,
    THREADS,
    Feed,
    Results,
    Tile,
    declare_places,
    declare_tiles,
    factor,
    find_tile,
    fitting_tile,
    matrix_feed,
    multiply,
    repeat,
    store_tile,
    sum_text,
    sum_type,
    wide_feed,
)
from onnxplan.kernels.cuda.source import KernelSource, KernelText, check_words
from onnxplan.kernels.cuda.tensor_core import copies_wide
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
    product = _is_pointwise(conv)
    if not product:
        conv = _channels_last(emit, target, conv)
    given = given_to_cudnn(target, conv, primitive.accumulator, epilogue, product=product)
    if given is not None:
        _emit_given(emit, target, conv, primitive.accumulator, given)
        return
    if product:
        if _emit_pointwise(emit, target, conv, primitive.accumulator, epilogue):
            return
        conv = _channels_last(emit, target, conv)
    if serves(target, conv, primitive.accumulator):
        emit_matrix(emit, target, conv, epilogue)
        return
    tile = _tile(conv, primitive.accumulator, target)
    tiles = conv.groups * ceil_div(conv.rows, tile.rows) * ceil_div(conv.features, tile.columns)
    pieces = piece_count(target, tiles, depth)
    if pieces == 1:
        _emit_step(emit, target, conv, primitive.accumulator, epilogue, None)
        return
    parts = Parts.make(emit, output, conv.extras, primitive.accumulator, pieces)
    whole = replace(conv, output=parts.first, extras=())
    _emit_step(emit, target, whole, primitive.accumulator, identity(sum_type(primitive.accumulator)), parts)
    parts.emit_sum(emit, target, epilogue)


def _emit_given(
    emit: StepEmitter, target: Target, conv: Convolution, accumulator: DType, given: LibraryConvolution
) -> None:
    """A step for cuDNN, which our own kernel can take the place of, and the map behind it."""
    if serves(target, conv, accumulator):
        emit_whole(emit, target, conv, given.epilogue, given.library)
    else:
        _emit_step(emit, target, conv, accumulator, given.epilogue, None, given.library)
    if given.rest is not None:
        output = conv.output
        select_map(Operation(MapReduce(given.rest, output.shape), (output,), (output,)), emit, target)


def _channels_last(emit: StepEmitter, target: Target, conv: Convolution) -> Convolution:
    """The convolution of a copy with neighbouring channels, where that pays."""
    if conv.channels < CHANNELS_WORTH_COPYING or conv.x.strides[-1] == 1:
        return conv
    return replace(conv, x=dense_copy(emit, target, conv.x, "channels_last"))


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


def _tile(conv: Convolution, accumulator: DType, target: Target) -> Tile:
    return fitting_tile(conv.rows, conv.features, conv.groups, accumulator, target)


def _emit_step(
    emit: StepEmitter,
    target: Target,
    conv: Convolution,
    accumulator: DType,
    epilogue: Expression,
    parts: Parts | None,
    library: tuple[str, Variant] | None = None,
) -> None:
    x, output = conv.x, conv.output
    rows, depth = conv.rows, conv.taps * conv.channels
    weights = _weights(emit, target, conv) if library is None else weights_by_feature(emit, target, conv)
    stored = weights
    if library is not None:
        weights = weights.transpose((1, 0))
    results = (*conv.extras, output)
    tile = _tile(conv, accumulator, target)
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
    wide = (
        conv.channels % GROUP == 0 and _reads_wide(x),
        conv.features % GROUP == 0 and _reads_wide(weights),
        conv.features % GROUP == 0 and split_stride % GROUP == 0 and _reads_wide(output),
    )
    variant = (THREADS, tile.variant, labels, what.variant, len(windows), index, wide)
    written = (x, stored, parts.whole) if parts else (x, stored, *results)
    check_words(len(written), len(parameters))
    flops, moved = (2 * depth + epilogue.cost) * output.size, sum(map(distinct_bytes, written))
    seconds = target.seconds(flops, moved)
    if sum_type(accumulator) is DType.FLOAT32:
        # Each lane starts an instruction per clock, or forms one product.
        started = ceil_div(blocks, target.threads) * target.threads * THREADS * ceil_div(depth, pieces)
        seconds = max(seconds, target.launch + started * tile.instructions / (target.flops / 2))
    spec, in_place = KernelSpec(FAMILY, variant), in_place_extras(output, conv.extras, 2)
    if library is not None:
        # A library may read an extra again after it wrote over it.
        spec, in_place = KernelSpec(library[0], (*library[1], variant)), ()
    emit.step(
        spec,
        written,
        (len(written) - 1,),
        tuple(parameters),
        tiles=blocks,
        flops=flops,
        bytes_moved=moved,
        seconds=seconds,
        in_place=in_place,
    )


def _weights(emit: StepEmitter, target: Target, conv: Convolution) -> View:
    """The weights as ``(depth, features of all groups)``."""
    shape = (conv.taps * conv.channels, conv.w.shape[-1])
    weights = conv.w.reshape(shape)
    if weights is None:
        weights = View.dense(dense_copy(emit, target, conv.w, "weights").storage, shape)
    return weights


def _reads_wide(view: View) -> bool:
    """Are elements floats that lie in groups of 16 bytes along the last axis?"""
    return view.dtype is DType.FLOAT32 and copies_wide(view)


def build_conv(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, tile, (x type, weight type), results, spatial axes, index type, wide)``.

    ``wide`` tells of the input, the weights and the output whether they are floats that are read or written
    four at a time, along channels or features.

    Operands: x, the weights ``(depth, features of all groups)``, the extras, the output. Parameters: those of
    the tiles, of the input and its windows, of the weights, the places of results.
    """
    threads, extents, labels, results_variant, spatial, index, wide = variant
    tile, results = Tile(*extents), Results.from_variant(*results_variant)
    x_type, w_type = (DType.from_label(label) for label in labels)
    kernel = KernelText(threads)
    kernel.operand("left", x_type, alone=True)
    kernel.operand("right", w_type, alone=True)
    results.declare_operands(kernel)
    declare_tiles(kernel, index)
    left = _gather_feed(kernel, x_type, results.accumulator, tile, spatial, index, GROUP if wide[0] else 1)
    if wide[1]:
        right = wide_feed(kernel, "right", tile, index)
    else:
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
    store_tile(kernel, tile, results, 1 + spatial, index, starts, wide=wide[2])
    return kernel.source(FAMILY)


def _gather_feed(
    kernel: KernelText,
    dtype: DType,
    accumulator: DType,
    tile: Tile,
    spatial: int,
    index: str,
    each: int,
) -> Feed:
    """Feeds what the taps of output positions read, ``each`` neighbouring channels at a time.

    A thread keeps to one place of each slice's depth: channel and tap are found once and then counted on.
    Declares the input's parameters.
    """
    for name in ("image_stride", "channels", "channel_stride"):
        kernel.parameter(name, index)
    for axis in range(spatial):
        for name in (*WINDOW_WORDS, "stride"):
            kernel.parameter(f"{name}{axis}", index)
    total = sum_text(accumulator) if each == 1 else "float4"
    deep = tile.depth // each
    count, apart = max(1, tile.rows * deep // THREADS), THREADS // deep
    prepare = [
        f"const int left_depth = thread % {deep} * {each};",
        f"{total} left_next[{count}];",
        *row_origins(count, f"thread / {deep}", apart, spatial, index),
        *first_taps(spatial, index),
    ]
    moved, distance, inside = inside_taps(spatial, index)
    element, nothing = "*(const float4*)(left + left_offset[i] + distance)", "left_zero"
    if each == 1:
        element = factor(dtype, accumulator, "left[left_offset[i] + distance]")
        nothing = f"({total})0"
    else:
        prepare.append("const float4 left_zero = {0.0f, 0.0f, 0.0f, 0.0f};")
    fetch = [
        *moved,
        f"const {index} distance = channel * channel_stride + {distance};",
        "const bool live = begin + left_depth < depth_last;",
        *repeat(count, f"left_next[i] = {nothing};", f"if (live && {inside}) left_next[i] = {element};"),
        f"channel += {tile.depth};",
        "while (channel >= channels) {",
        "channel -= channels;",
        *next_tap(spatial),
        "}",
    ]
    place = f"thread / {deep} + i * {apart}"
    parts = [("", "")] if each == 1 else [(f" + {n}", f".{part}") for n, part in enumerate("xyzw")]
    keep = repeat(
        count,
        *(f"left_tile[stage][left_depth{further}][{place}] = left_next[i]{part};" for further, part in parts),
    )
    if tile.rows * deep < THREADS:
        keep = [f"if (thread < {tile.rows * deep}) {{", *keep, "}"]
    return Feed(prepare, fetch, keep)
