"""Selects the kernel of depthwise convolution where rows adjoin: vectors along the last spatial axis."""

from __future__ import annotations

import numpy as np

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cpu.axes import TILE_BYTES, lane_count, units_per_tile
from onnxplan.kernels.cpu.epilogue import describe_epilogue, shared_with_output
from onnxplan.kernels.cpu.mapreduce import dense_copy
from onnxplan.kernels.cpu.tiling import ceil_div, round_up, sum_dtype
from onnxplan.kernels.matrices import distinct_bytes

FAMILY = "depthwise_rows"

# Taps along an axis that are unrolled.
MOST_TAPS = 7
MOST_STRIDE = 2
# Instruction sets that read and write parts of vectors.
MASKING = ("avx512", "avx2")
FEWEST_COLUMNS = 4
# Output lines that share a vector.
MOST_LINES = 4
MOST_ROWS = 7
# Register tiles of a plane that is compiled for.
MOST_TILES = 2

# The parameter words before the steps of the output and the extras along N, C, y and x. A unit of work is a
# band of rows of one plane.
WORDS = (
    "units",
    "per_tile",
    "channels",
    "bands",
    "band",
    "out_y",
    "out_x",
    "in_y",
    "in_x",
    "pad_y",
    "pad_x",
    "step_n",
    "step_c",
    "step_y",
    "in_bytes",
)


@dataclass(frozen=True, slots=True)
class Tile:
    """A register tile: ``rows`` rows by ``vectors`` vectors of ``lanes``; a row is ``lines`` output lines.

    With several lines there is one vector, and they follow each other in it as they do in memory.
    """

    rows: int
    vectors: int
    lanes: int
    lines: int


def has_depthwise_rows(conv: Convolution, primitive: Conv, target: Target) -> bool:
    """Is there a kernel for this depthwise convolution if rows adjoin?"""
    sums = sum_dtype(primitive.accumulator)
    return (
        target.isa in MASKING
        and sums.itemsize in (4, 8)
        and conv.channels == conv.features == 1
        and conv.x.dtype is sums
        and conv.w.dtype is sums
        and conv.kernel[0] == conv.output.shape[1] == conv.x.shape[1] == 1
        and conv.pads[0] == 0
        and max(conv.kernel) <= MOST_TAPS
        and max(conv.strides) <= MOST_STRIDE
        and max(conv.dilations) == 1
        and min(conv.pads) >= 0
        and conv.output.shape[-2] >= FEWEST_COLUMNS
    )


def _register_tile(target: Target, conv: Convolution) -> Tile:
    """Seven rows divide the extents of nets for images; four waste less on some others."""
    out_y, out_x = conv.output.shape[2:4]
    full = target.vector_bytes // conv.x.dtype.itemsize
    if _lines_follow(conv) and 2 * out_x <= full:
        lines = min(MOST_LINES, full // out_x)
        if ceil_div(out_y, lines) <= MOST_ROWS:
            return Tile(ceil_div(out_y, lines), 1, full, lines)
    lanes = lane_count(target, conv.x.dtype.itemsize, out_x, 16)
    vectors = 2 if out_x > lanes else 1
    # Beside the sums there are the taps of a column, and values.
    free = target.vector_registers - conv.kernel[1] - vectors
    heights = [rows for rows in (MOST_ROWS, 4) if rows * vectors <= free] or [4]
    rows = min(heights, key=lambda rows: round_up(out_y, rows)) if out_y > 1 else 1
    return Tile(rows, vectors, lanes, 1)


def _lines_follow(conv: Convolution) -> bool:
    """Are lines as long in the output as in ``x``, and is there nothing between them?"""
    width = conv.output.shape[3]
    views = (conv.x, conv.output, *conv.extras)
    return (
        max(conv.strides) == 1
        and conv.x.shape[3] == width
        and all(view.strides[2] == width * view.strides[3] for view in views)
    )


def _small_plane(conv: Convolution, tile: Tile) -> tuple[int, ...]:
    """The extents and the padding, if planes are so small that kernels are compiled for them.

    With them known, nothing is left to be decided while a plane is computed.
    """
    (in_y, in_x), (out_y, out_x) = conv.x.shape[2:4], conv.output.shape[2:4]
    few_tiles = out_y <= MOST_TILES * tile.rows * tile.lines and out_x <= tile.vectors * tile.lanes
    if tile.lines > 1 or (few_tiles and conv.x.strides[2] == in_x):
        return in_y, in_x, out_y, out_x, *conv.pads[1:]
    return ()


def _band_rows(conv: Convolution, tile: Tile, plane_bytes: int) -> int:
    """Output rows of a band: whole register tiles, all of them unless planes are large."""
    height = tile.rows * tile.lines
    tiles = ceil_div(conv.output.shape[2], height)
    return ceil_div(tiles, min(tiles, ceil_div(plane_bytes, TILE_BYTES))) * height


def emit_depthwise_rows(emit: StepEmitter, target: Target, conv: Convolution, primitive: Conv) -> None:
    """The steps of a convolution of which :func:`has_depthwise_rows` holds."""
    x, output, extras = conv.x, conv.output, conv.extras
    size = x.dtype.itemsize
    epilogue = describe_epilogue(primitive.epilogue, primitive.accumulator, output, extras, output.rank - 2)
    tile = _register_tile(target, conv)
    planes = output.shape[0] * output.shape[-1]
    plane_bytes = (x.shape[2] * x.shape[-2] + output.shape[2] * output.shape[-2]) * size
    band = _band_rows(conv, tile, plane_bytes)
    bands = ceil_div(output.shape[2], band)
    units = planes * bands
    per_tile = units_per_tile(units, plane_bytes // bands)
    w = _weights(emit, target, conv)
    parameters = [
        units,
        per_tile,
        output.shape[-1],
        bands,
        band,
        *output.shape[2:4],
        *x.shape[2:4],
        *conv.pads[1:],
        *(x.strides[axis] * size for axis in (0, 4, 2)),
        # How far whole vectors may read.
        size
        * (1 + sum((extent - 1) * max(0, stride) for extent, stride in zip(x.shape, x.strides, strict=True))),
    ]
    for view in (output, *extras):
        parameters += [view.strides[axis] * view.dtype.itemsize for axis in (0, 4, 2, 3)]
    shape = (tile.rows, tile.vectors, tile.lanes, tile.lines)
    plane = _small_plane(conv, tile)
    variant = (x.dtype.label, shape, conv.kernel[1:], conv.strides[1:], plane, epilogue.variant)
    emit.step(
        KernelSpec(FAMILY, variant),
        (x, w, output, *extras),
        (2,),
        tuple(parameters),
        tiles=ceil_div(units, per_tile),
        flops=(2 * conv.taps + epilogue.expression.cost) * output.size,
        bytes_moved=sum(distinct_bytes(view) for view in (x, w, output, *extras)),
        scratch=tile.rows * tile.vectors * tile.lanes * size,
        in_place=tuple((2, 3 + number) for number in shared_with_output(output, extras)),
    )


def _weights(emit: StepEmitter, target: Target, conv: Convolution) -> View:
    """The taps of one channel after those of another."""
    taps = conv.w.transpose((4, 3, 0, 1, 2))
    if not taps.is_constant:
        return dense_copy(taps, emit, target, "taps")
    return View.dense(emit.constant((taps,), "taps of channels", np.ascontiguousarray), taps.shape)
