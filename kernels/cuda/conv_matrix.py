"""Selects convolution by matrix instructions: float16, bfloat16, and float32 in ``math="fast"``."""

from __future__ import annotations

import math
from dataclasses import astuple, replace

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, identity
from onnxplan.compiler.plan import KernelSpec, Variant
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cuda.conv_matrix_code import FAMILY, MatrixTile
from onnxplan.kernels.cuda.conv_window import window_reach, window_words
from onnxplan.kernels.cuda.dense_copy import dense_copy
from onnxplan.kernels.cuda.epilogue import in_place_extras
from onnxplan.kernels.cuda.indexing import axis_words, index_type
from onnxplan.kernels.cuda.matrix_results import column_kinds
from onnxplan.kernels.cuda.product import LEAST_PIECE, PIECES, Parts, tile_words
from onnxplan.kernels.cuda.product_code import Results, Tile
from onnxplan.kernels.cuda.source import check_words
from onnxplan.kernels.cuda.tensor_core import (
    CLOCK,
    EXPOSED,
    FETCHED_BYTES,
    MATRIX_PRODUCTS,
    RESERVED_SHARED_BYTES,
    SHARED_BYTES,
    capability,
    copies_wide,
    multiplies,
)
from onnxplan.kernels.geometry import axes_of, ceil_div, reach
from onnxplan.kernels.matrices import distinct_bytes

LEAST_FEATURES = 16
"""Fewer output channels of a group leave most of a tile empty."""

SHAPES = ((128, 128, 2, 4), (128, 64, 4, 2), (64, 128, 2, 4), (64, 64, 2, 2), (128, 32, 4, 1), (32, 64, 1, 2))
"""Rows, columns, and warps along both. Each warp reads as much of both factors, where the tile allows it."""

BLOCK_CLOCKS = 2000
"""Until the first slice arrives, and for the epilogue, about."""


@dataclass(frozen=True, slots=True)
class _Choice:
    tile: MatrixTile
    pieces: int


def serves(target: Target, conv: Convolution, accumulator: DType) -> bool:
    """Can ``conv`` be computed by matrix instructions, its input as it lies in memory?"""
    return multiplies(target, conv.x.dtype) and reads_lines(conv, accumulator)


def reads_lines(conv: Convolution, accumulator: DType) -> bool:
    """Are sums of floats formed of factors of one type, whose channels lie in pieces of 16 bytes?"""
    dtype = conv.x.dtype
    return (
        conv.w.dtype is dtype
        and accumulator is DType.FLOAT32
        and conv.features >= LEAST_FEATURES
        and conv.channels * dtype.itemsize % 16 == 0
        and copies_wide(conv.x)
        and min(conv.taps, conv.channels) > 0
    )


def emit_matrix(emit: StepEmitter, target: Target, conv: Convolution, epilogue: Expression) -> None:
    """Emits the steps of a convolution that :func:`serves`; ``epilogue`` is of the sum and the extras."""
    choice = fitting_choice(target, conv)
    if choice.pieces == 1:
        _emit_step(emit, target, conv, choice, epilogue, None)
        return
    parts = Parts.make(emit, conv.output, conv.extras, DType.FLOAT32, choice.pieces)
    whole = replace(conv, output=parts.first, extras=())
    _emit_step(emit, target, whole, choice, identity(DType.FLOAT32), parts)
    parts.emit_sum(emit, target, epilogue)


def emit_whole(
    emit: StepEmitter,
    target: Target,
    conv: Convolution,
    epilogue: Expression,
    library: tuple[str, Variant],
) -> None:
    """Emits one step, the depth in one piece, for a ``library``: its family and what its variant begins with.

    The variant ends with that of our own kernel, which has the same operands and parameters.
    """
    _emit_step(emit, target, conv, fitting_choice(target, conv, most_pieces=1), epilogue, None, library)


def weights_by_feature(emit: StepEmitter, target: Target, conv: Convolution) -> View:
    """The weights, packed, as ``(features of all groups, depth)``."""
    w = conv.w
    turned = dense_copy(emit, target, w.transpose((w.rank - 1, *range(w.rank - 1))), "weights")
    return View.dense(turned.storage, (w.shape[-1], conv.taps * conv.channels))


def fitting_choice(target: Target, conv: Convolution, most_pieces: int = max(PIECES)) -> _Choice:
    """The tile, and the pieces of the depth, that are estimated to be fastest."""
    depth = conv.taps * conv.channels
    size = conv.x.dtype.itemsize
    stages = 4 if capability(target) >= 80 else 2
    room = target.cache_bytes[0] - RESERVED_SHARED_BYTES
    choices = [
        _Choice(MatrixTile(*shape, stages, size), pieces)
        for shape in SHAPES
        for pieces in (1, *reversed(PIECES))
        if pieces == 1 or (pieces <= most_pieces and depth >= pieces * LEAST_PIECE)
    ]
    fitting = [choice for choice in choices if choice.tile.shared_bytes <= room]
    return min(fitting, key=lambda choice: _seconds(target, conv, choice))


def _seconds(target: Target, conv: Convolution, choice: _Choice) -> float:
    """What the kernel takes, and adding up the pieces."""
    seconds = _kernel_seconds(target, conv, choice)
    if choice.pieces > 1:
        seconds += conv.output.size * 4 * 2 * choice.pieces / target.bandwidth + target.launch
    return seconds


def _kernel_seconds(target: Target, conv: Convolution, choice: _Choice) -> float:
    """What the busiest multiprocessor takes."""
    tile, pieces = choice.tile, choice.pieces
    rows = math.prod(conv.output.shape[:-1])
    tiles = ceil_div(rows, tile.rows) * ceil_div(conv.features, tile.columns)
    slices = ceil_div(ceil_div(conv.taps * conv.channels, tile.depth), pieces)
    waves = ceil_div(conv.groups * tiles * pieces, target.threads)
    line = tile.depth * tile.size
    products = tile.rows * tile.columns * tile.depth / MATRIX_PRODUCTS[tile.size]
    read = (tile.rows * tile.column_warps + tile.columns * tile.row_warps) * line / SHARED_BYTES
    fetched = (tile.rows + tile.columns) * line / FETCHED_BYTES
    each = max(products, read, fetched) + EXPOSED * (products + read + fetched)
    return waves * (slices * each + BLOCK_CLOCKS) / CLOCK


def _emit_step(
    emit: StepEmitter,
    target: Target,
    conv: Convolution,
    choice: _Choice,
    epilogue: Expression,
    parts: Parts | None,
    library: tuple[str, Variant] | None = None,
) -> None:
    x, output, tile = conv.x, conv.output, choice.tile
    rows, depth = math.prod(output.shape[:-1]), conv.taps * conv.channels
    weights = weights_by_feature(emit, target, conv)
    results = (*conv.extras, output)
    extents = Tile(tile.rows, tile.columns, tile.depth)
    blocks, words = tile_words(rows, conv.features, depth, extents, choice.pieces, conv.groups)
    windows = window_words(x, output, conv.kernel, conv.strides, conv.dilations, conv.pads)
    split_stride = output.size if parts else 0
    beyond = (tile.columns + 1) * depth
    distances = [
        reach(weights) + beyond,
        *map(reach, results),
        reach(output) + (choice.pieces - 1) * split_stride,
    ]
    index = index_type(max(rows, depth, window_reach(x, windows), *distances), [])
    parameters = [
        *words,
        x.strides[0],
        conv.channels,
        *(
            word
            for window, stride in zip(windows, x.strides[1:-1], strict=True)
            for word in (*window, stride)
        ),
        *axis_words(axes_of(output.shape[:-1], [view.strides[:-1] for view in results])),
        *(view.strides[-1] for view in results),
        split_stride,
    ]
    what = Results(epilogue, DType.FLOAT32, tuple(view.dtype for view in results))
    kinds = column_kinds(results)
    variant = (tile.threads, astuple(tile), x.dtype.label, what.variant, kinds, len(windows), index)
    written = (x, weights, parts.whole) if parts else (x, weights, *results)
    check_words(len(written), len(parameters))
    spec = KernelSpec(FAMILY, variant)
    in_place = in_place_extras(output, conv.extras, 2)
    if library is not None:
        # A library may read an extra again after it wrote over it.
        spec, in_place = KernelSpec(library[0], (*library[1], variant)), ()
    emit.step(
        spec,
        written,
        (len(written) - 1,),
        tuple(parameters),
        tiles=blocks,
        flops=(2 * depth + epilogue.cost) * output.size,
        bytes_moved=sum(map(distinct_bytes, written)),
        scratch=tile.shared_bytes,
        in_place=in_place,
        seconds=_kernel_seconds(target, conv, choice),
    )
