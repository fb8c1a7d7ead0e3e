"""Selects the kernel of depthwise convolution: one input channel a group."""

from __future__ import annotations

import math

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cpu.epilogue import describe_epilogue, shared_with_output
from onnxplan.kernels.cpu.mapreduce import dense_copy
from onnxplan.kernels.cpu.pack import pack
from onnxplan.kernels.cpu.tiling import (
    LEAST_SECONDS,
    LEAST_TILES,
    RegisterTile,
    ceil_div,
    register_tile,
    round_up,
    sum_dtype,
)
from onnxplan.kernels.matrices import distinct_bytes

FAMILY = "depthwise"

# Widths of kernels for which taps along x are unrolled, so that positions share what they read.
UNROLLED = (3, 5, 7)

# The parameter words before those of the output and the extras. Triples are for the axes z, y, x; a line is a
# row of output positions along x.
WORDS = (
    "channels",
    "lines",
    "line_tiles",
    "channel_tiles",
    *(
        f"{name}_{axis}"
        for name in ("out", "in", "kernel", "stride", "dilation", "pad", "step")
        for axis in "zyx"
    ),
    "step_n",
)


def emit_depthwise(emit: StepEmitter, target: Target, conv: Convolution, primitive: Conv) -> None:
    """The steps of a convolution with as many groups as input channels."""
    x = conv.x
    if conv.features > 1:
        x = dense_copy(_repeated(x, conv.features), emit, target, "repeated")
        x = View.dense(x.storage, (*x.shape[:-2], conv.w.shape[-1]))
    sums = sum_dtype(primitive.accumulator)
    unrolled = conv.kernel[2] in UNROLLED and conv.dilations[2] == 1 and conv.strides[2] <= 2
    taps, stride = (conv.kernel[2], conv.strides[2]) if unrolled else (0, 0)
    tile = _register_tile(register_tile(target, sums), unrolled)
    w = pack(emit, conv.w.squeeze((conv.w.rank - 2,)), tile, depth_axes=conv.w.rank - 2)
    output, extras = conv.output, conv.extras
    epilogue = describe_epilogue(primitive.epilogue, primitive.accumulator, output, extras, output.rank - 1)
    channels = output.shape[-1]
    flops = (2 * conv.taps + epilogue.expression.cost) * output.size
    bytes_moved = sum(distinct_bytes(view) for view in (x, w, output, *extras))
    lines = math.prod(output.shape[:3])
    seconds = max(flops / target.flops, bytes_moved / target.bandwidth)
    line_tiles, channel_tiles = _cut(target, ceil_div(channels, tile.width), lines, seconds)
    parameters = [
        channels,
        lines,
        line_tiles,
        channel_tiles,
        *output.shape[1:-1],
        *x.shape[1:-1],
        *conv.kernel,
        *conv.strides,
        *conv.dilations,
        *conv.pads,
        *(stride * x.dtype.itemsize for stride in x.strides[1:-1]),
        x.strides[0] * x.dtype.itemsize,
    ]
    for view in (output, *extras):
        parameters += [stride * view.dtype.itemsize for stride in view.strides]
    variant = (
        x.dtype.label,
        w.dtype.label,
        (tile.rows, tile.vectors, tile.lanes),
        taps,
        stride,
        epilogue.variant,
    )
    sums_and_zeros = tile.width * (tile.rows * sums.itemsize + x.dtype.itemsize)
    # Per line of a tile: its taps' offsets, their number, its image and its places.
    record = 16 * conv.kernel[0] * conv.kernel[1] + 8 * (3 + len(extras))
    emit.step(
        KernelSpec(FAMILY, variant),
        (x, w, output, *extras),
        (2,),
        tuple(parameters),
        tiles=line_tiles * channel_tiles,
        flops=flops,
        bytes_moved=bytes_moved,
        scratch=sums_and_zeros + ceil_div(lines, line_tiles) * record,
        in_place=tuple((2, 3 + number) for number in shared_with_output(output, extras)),
    )


def _register_tile(tile: RegisterTile, unrolled: bool) -> RegisterTile:
    """Positions by channel vectors. Unrolled taps keep a line of weights in registers as well.

    Seven positions divide the extents that nets for images have.
    """
    if unrolled:
        return RegisterTile(7, tile.vectors // 2, tile.lanes)
    return RegisterTile(4, tile.vectors, tile.lanes)


def _cut(target: Target, panels: int, lines: int, seconds: float) -> tuple[int, int]:
    """How many tiles along the lines and along the panels of channels.

    Whole lines of all channels, or of some where there are few lines, and as many tiles for each thread.
    """
    wanted = max(1, min(LEAST_TILES, int(seconds / LEAST_SECONDS)))
    if wanted > 1:
        wanted = round_up(wanted, target.threads)
    line_tiles = min(lines, wanted)
    return line_tiles, min(panels, wanted // line_tiles)


def _repeated(x: View, times: int) -> View:
    return View(x.storage, x.offset, (*x.shape, times), (*x.strides, 0))
