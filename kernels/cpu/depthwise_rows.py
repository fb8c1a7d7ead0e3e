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
from onnxplan.kernels.cpu.axes import lane_count, units_per_tile
from onnxplan.kernels.cpu.epilogue import describe_epilogue, shared_with_output
from onnxplan.kernels.cpu.mapreduce import dense_copy
from onnxplan.kernels.cpu.tiling import ceil_div, round_up, sum_dtype
from onnxplan.kernels.matrices import distinct_bytes

FAMILY = "depthwise_rows"

# Taps along an axis that are unrolled.
MOST_TAPS = 7
MOST_STRIDE = 2
# Copies of input lines should stay in the first cache beside what they are copied from.
COPY_BYTES = 24 << 10
MOST_SCRATCH = 1 << 18

# The parameter words before the steps of the output and the extras along N, C, y and x; see Layout.
WORDS = (
    "units",
    "per_tile",
    "planes",
    "group",
    "channels",
    "bands",
    "band",
    "out_y",
    "out_x",
    "in_y",
    "in_x",
    "pad_y",
    "pad_x",
    "lead",
    "pitch",
    "phase_x",
    "phase_y",
    "slot",
    "sums",
    "step_n",
    "step_c",
    "step_y",
)


@dataclass(frozen=True, slots=True)
class Tile:
    """A register tile: ``rows`` output rows by ``vectors`` vectors of ``lanes``."""

    rows: int
    vectors: int
    lanes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """How lines of the input stand in scratch memory, in bytes.

    The first one begins at ``lead``, such that what is copied is aligned. Lines are ``pitch`` apart. With a
    stride of 2 even and odd positions stand ``phase_x`` apart, and so do even and odd lines by ``phase_y``. A
    plane's band takes ``slot``.
    """

    lead: int
    pitch: int
    phase_x: int
    phase_y: int
    slot: int


def has_depthwise_rows(conv: Convolution, primitive: Conv, target: Target) -> bool:
    """Is there a kernel for this depthwise convolution if rows adjoin, which fill more than half a vector?"""
    sums = sum_dtype(primitive.accumulator)
    if not (
        conv.channels == conv.features == 1
        and conv.x.dtype is sums
        and conv.w.dtype is sums
        and conv.kernel[0] == conv.output.shape[1] == conv.x.shape[1] == 1
        and conv.pads[0] == 0
        and max(conv.kernel) <= MOST_TAPS
        and max(conv.strides) <= MOST_STRIDE
        and max(conv.dilations) == 1
        and min(conv.pads) >= 0
        and 2 * conv.output.shape[-2] * sums.itemsize > target.vector_bytes
    ):
        return False
    tile = _register_tile(target, conv)
    return _layout(conv, tile, tile.rows).slot <= MOST_SCRATCH


def _register_tile(target: Target, conv: Convolution) -> Tile:
    """Seven rows divide the extents of nets for images; four waste less on some others."""
    out_y, out_x = conv.output.shape[2:4]
    lanes = lane_count(target, conv.x.dtype.itemsize, out_x, 16)
    vectors = 2 if out_x > lanes else 1
    # Beside the sums there are the taps of a column, and values.
    free = target.vector_registers - conv.kernel[1] - vectors
    heights = [rows for rows in (7, 4) if rows * vectors <= free] or [4]
    rows = min(heights, key=lambda rows: round_up(out_y, rows)) if out_y > 1 else 1
    return Tile(rows, vectors, lanes)


def _layout(conv: Convolution, tile: Tile, rows: int) -> Layout:
    """The layout for ``rows`` output rows."""
    size, (stride_y, stride_x) = conv.x.dtype.itemsize, conv.strides[1:]
    read = conv.output.shape[-2] + (conv.kernel[2] - 1) // stride_x
    written = ceil_div(conv.pads[2] + conv.x.shape[-2], stride_x)
    pitch = round_up(max(read, written) * size, 64)
    lines = ceil_div((rows - 1) * stride_y + conv.kernel[1], stride_y)
    # Whole vectors are written and read, whatever of them lies behind the last line.
    phase_x = round_up(lines * pitch + (2 * tile.vectors * tile.lanes + MOST_TAPS) * size, 64)
    phase_y = stride_x * phase_x
    padding = conv.pads[2] // stride_x * size
    return Layout(round_up(padding, 64) - padding, pitch, phase_x, phase_y, stride_y * phase_y)


def _band_rows(conv: Convolution, tile: Tile) -> int:
    """Output rows of a band: all if their lines fit, or as many whole register tiles."""
    tiles = ceil_div(conv.output.shape[2], tile.rows)
    fits = (n for n in range(tiles, 1, -1) if _layout(conv, tile, n * tile.rows).slot <= COPY_BYTES)
    return ceil_div(tiles, ceil_div(tiles, next(fits, 1))) * tile.rows


def emit_depthwise_rows(emit: StepEmitter, target: Target, conv: Convolution, primitive: Conv) -> None:
    """The steps of a convolution of which :func:`has_depthwise_rows` holds."""
    x, output, extras = conv.x, conv.output, conv.extras
    size = x.dtype.itemsize
    epilogue = describe_epilogue(primitive.epilogue, primitive.accumulator, output, extras, output.rank - 2)
    tile = _register_tile(target, conv)
    band = _band_rows(conv, tile)
    layout = _layout(conv, tile, band)
    bands = ceil_div(output.shape[2], band)
    planes = output.shape[0] * output.shape[-1]
    plane_bytes = (x.shape[2] * x.shape[-2] + output.shape[2] * output.shape[-2]) * size
    group = 1 if bands > 1 else max(1, COPY_BYTES // layout.slot)
    units = ceil_div(planes, group) * bands
    per_tile = units_per_tile(units, plane_bytes * group // bands)
    sums = round_up(layout.lead, 64) + group * layout.slot
    w = _weights(emit, target, conv)
    parameters = [
        units,
        per_tile,
        planes,
        group,
        output.shape[-1],
        bands,
        band,
        *output.shape[2:4],
        *x.shape[2:4],
        *conv.pads[1:],
        layout.lead,
        layout.pitch,
        layout.phase_x,
        layout.phase_y,
        layout.slot,
        sums,
        *(x.strides[axis] * size for axis in (0, 4, 2)),
    ]
    for view in (output, *extras):
        parameters += [view.strides[axis] * view.dtype.itemsize for axis in (0, 4, 2, 3)]
    shape = (tile.rows, tile.vectors, tile.lanes)
    variant = (x.dtype.label, shape, conv.kernel[1:], conv.strides[1:], epilogue.variant)
    emit.step(
        KernelSpec(FAMILY, variant),
        (x, w, output, *extras),
        (2,),
        tuple(parameters),
        tiles=ceil_div(units, per_tile),
        flops=(2 * conv.taps + epilogue.expression.cost) * output.size,
        bytes_moved=sum(distinct_bytes(view) for view in (x, w, output, *extras)),
        scratch=sums + tile.rows * tile.vectors * tile.lanes * size,
        in_place=tuple((2, 3 + number) for number in shared_with_output(output, extras)),
    )


def _weights(emit: StepEmitter, target: Target, conv: Convolution) -> View:
    """The taps of one channel after those of another."""
    taps = conv.w.transpose((4, 3, 0, 1, 2))
    if not taps.is_constant:
        return dense_copy(taps, emit, target, "taps")
    return View.dense(emit.constant((taps,), "taps of channels", np.ascontiguousarray), taps.shape)
