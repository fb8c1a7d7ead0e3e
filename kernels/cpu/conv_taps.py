"""The general convolution: a product whose rows are what the taps of output positions read."""

from __future__ import annotations

import math

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import Storage, View
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cpu.conv_lines import FEWEST_CHANNELS
from onnxplan.kernels.cpu.epilogue import describe_epilogue, shared_with_output
from onnxplan.kernels.cpu.mapreduce import dense_copy
from onnxplan.kernels.cpu.matmul import same_bits
from onnxplan.kernels.cpu.pack import pack, panel_count
from onnxplan.kernels.cpu.product import lay_out_scratch, place_words, product_seconds
from onnxplan.kernels.cpu.quads import QUAD, quad_tile
from onnxplan.kernels.cpu.tiling import (
    Problem,
    RegisterTile,
    ceil_div,
    cut,
    depth_block,
    register_tile,
    round_up,
    sum_dtype,
)
from onnxplan.kernels.matrices import Matrices, batch_records, distinct_bytes, fold_batch

FAMILY = "conv"

# The parameter words after those of every product. Triples are for the axes z, y, x.
CONV_WORDS = (
    "channels",
    "taps",
    "block_taps",
    "channel_blocks",
    "channel_block",
    *(
        f"{name}_{axis}"
        for name in ("out", "in", "kernel", "stride", "dilation", "pad", "step")
        for axis in "zyx"
    ),
    "step_n",
    "pitch",
    "positions",
    "zeros",
    "zero_bytes",
)


def grouped(conv: Convolution, view: View) -> View:
    """``(N, z, y, x, channels)`` as ``(groups, N, z, y, x, channels of a group)``."""
    each = view.shape[-1] // conv.groups
    return View(
        view.storage,
        view.offset,
        (conv.groups, *view.shape[:-1], each),
        (each * view.strides[-1], *view.strides),
    )


def grouped_weights(conv: Convolution) -> View:
    """``(groups, kz, ky, kx, channels of a group, features of a group)``."""
    w = conv.w
    return View(
        w.storage,
        w.offset,
        (conv.groups, *w.shape[:-1], conv.features),
        (conv.features * w.strides[-1], *w.strides),
    )


@dataclass(frozen=True, slots=True)
class _Depth:
    """Blocks of the depth: ``taps`` taps by ``channels`` channels (or quads of them), ``blocks`` of them."""

    taps: int
    channels: int
    channel_blocks: int
    blocks: int


def _cut_depth(
    target: Target, tile: RegisterTile, conv: Convolution, channels: int, itemsize: int, kind: str
) -> _Depth:
    """``channels`` is how many elements of ``itemsize`` bytes a tap has."""
    rows = max(conv.rows, tile.rows + 1)
    if kind != "addressed":
        # Copied rows are cut between lines of taps only.
        line = conv.kernel[2] * channels
        lines = conv.taps // conv.kernel[2]
        each = max(1, depth_block(target, tile, lines * line, itemsize, rows) // max(1, line))
        each = ceil_div(lines, ceil_div(lines, each))
        return _Depth(each * conv.kernel[2], channels, 1, ceil_div(lines, each))
    limit = depth_block(target, tile, 1 << 20, itemsize, rows)
    if channels > limit:
        each = depth_block(target, tile, channels, itemsize, rows)
        blocks = ceil_div(channels, each)
        return _Depth(1, each, blocks, blocks * conv.taps)
    taps = ceil_div(conv.taps, ceil_div(conv.taps, max(1, limit * 5 // 4 // channels)))
    return _Depth(taps, channels, 1, ceil_div(conv.taps, taps))


def row_kind(conv: Convolution, accumulator: DType, *, quads: bool) -> str:
    """How rows are made: ``addressed`` in place tap by tap, or copied by ``lines`` or single ``taps``."""
    x = conv.x
    in_place = conv.channels % QUAD == 0 if quads else same_bits(x.dtype, sum_dtype(accumulator))
    if in_place and conv.channels >= FEWEST_CHANNELS:
        return "addressed"
    contiguous = conv.dilations[2] == 1 and x.strides[-2] == conv.channels and conv.groups == 1
    return "lines" if contiguous or conv.kernel[2] == 1 else "taps"


def emit_conv_taps(
    emit: StepEmitter, target: Target, conv: Convolution, primitive: Conv, *, quads: bool
) -> None:
    sums = sum_dtype(primitive.accumulator)
    tile = quad_tile(target, conv.features) if quads else register_tile(target, sums, conv.features)
    weights = grouped_weights(conv)
    kind = row_kind(conv, primitive.accumulator, quads=quads)
    # Elements of the depth that the kernel multiplies, and how many channels each is.
    element = QUAD if quads else 1
    x_itemsize = conv.x.dtype.itemsize if quads else sums.itemsize
    depth = ceil_div(conv.taps * conv.channels, element)
    if kind == "addressed" or not quads:
        blocks = _cut_depth(target, tile, conv, conv.channels // element, sums.itemsize, kind)
    else:
        # Quads of copied rows cross the borders of taps.
        blocks = _Depth(conv.taps, conv.channels, 1, 1)
    folded = _fold(conv, depth)
    output, (x_axes, *extras) = folded.output, folded.extras
    epilogue = describe_epilogue(primitive.epilogue, primitive.accumulator, output, extras, output.rank - 1)
    batch = math.prod(output.shape[:-2])
    problem = Problem(
        batch,
        folded.rows,
        conv.features,
        depth,
        sums.itemsize,
        weights.dtype.itemsize * element,
        output.dtype.itemsize,
    )
    block_depth = depth if blocks.blocks == 1 else blocks.taps * blocks.channels
    block_depth = max(1, block_depth)
    pitch = 0 if kind == "addressed" else round_up(block_depth * sums.itemsize, 64) + 64
    tiling = cut(
        target, tile, problem, depth=block_depth, depth_blocks=max(1, blocks.blocks), copied_row=pitch
    )
    if quads and not weights.is_constant:
        weights = dense_copy(weights, emit, target, "weights")
        weights = View.dense(weights.storage, (conv.groups, conv.taps * conv.channels, conv.features))
    packed = pack(emit, weights, tile, depth_axes=weights.rank - 2, quads=quads)
    row_bytes = tile.width * packed.dtype.itemsize * element
    group = panel_count(conv.features, tile) * depth * tile.width * element
    b_axes = View(packed.storage, 0, folded.b.shape, tuple(group if s else 0 for s in folded.b.strides))
    table_rows = round_up(tiling.rows, tile.rows)
    if kind == "addressed":
        pitch, copies, addresses = table_rows * 8, round_up(conv.channels * x_itemsize, 64), conv.taps
    else:
        copies, addresses = tiling.rows * pitch + 64, 1
    # Tables are written eight entries at a time.
    table = addresses * table_rows * 8 + 64
    scratch = lay_out_scratch(
        tile, tiling, sums.itemsize, 0, copies, table + 4 * (table_rows * 8 + 64), copies=kind != "addressed"
    )
    axes, records = batch_records((x_axes, folded.a, b_axes, output, *extras))
    size = conv.x.dtype.itemsize
    x_steps = [stride * size for stride in conv.x.strides]
    parameters = [
        folded.rows,
        conv.features,
        depth,
        tiling.row_tiles,
        tiling.column_tiles,
        *tiling.steps,
        batch,
        tiling.batch,
        tiling.depth,
        tiling.depth_blocks,
        depth * row_bytes,
        row_bytes,
        0,
        0,
        scratch.b,
        scratch.a,
        scratch.table,
        axes,
        conv.channels // element if kind == "addressed" else conv.channels,
        conv.taps,
        blocks.taps,
        blocks.channel_blocks,
        blocks.channels,
        *conv.output.shape[1:-1],
        *conv.x.shape[1:-1],
        *conv.kernel,
        *conv.strides,
        *conv.dilations,
        *conv.pads,
        *x_steps[1:-1],
        x_steps[0],
        pitch,
        scratch.table + table,
        scratch.a,
        round_up(conv.channels * x_itemsize, 64),
        *place_words((output, *extras), output.rank - 2, output.rank - 1),
        *records,
    ]
    variant = (
        f"quads_{kind}" if quads else kind,
        conv.x.dtype.label,
        packed.dtype.label,
        (tile.rows, tile.vectors, tile.lanes),
        epilogue.variant,
    )
    bytes_moved = sum(map(distinct_bytes, (conv.x, packed, output, *extras)))
    emit.step(
        KernelSpec(FAMILY, variant),
        (conv.x, packed, output, *extras),
        (2,),
        tuple(parameters),
        tiles=tiling.tiles,
        flops=(2 * conv.taps * conv.channels + epilogue.expression.cost) * output.size,
        bytes_moved=bytes_moved,
        scratch=scratch.size,
        in_place=tuple([(2, 3 + number) for number in shared_with_output(output, extras)]),
        seconds=product_seconds(target, problem, bytes_moved) if quads else None,
    )


def _fold(conv: Convolution, depth: int) -> Matrices:
    """Positions of the output as rows, as many as strides allow, the rest and the groups as batch axes.

    A's strides count positions; the first of the extras says how far a group moves along ``x``'s channels.
    """
    output = grouped(conv, conv.output)
    extras = tuple(grouped(conv, extra) for extra in conv.extras)
    counter = Storage(DType.UINT8, 0, "positions")
    batch = output.shape[:-2]
    steps = [1]
    for extent in reversed(output.shape[2:-1]):
        steps.insert(0, steps[0] * extent)
    positions = View(counter, 0, (*output.shape[:-1], depth), (0, *steps, 0))
    moved = Storage(conv.x.dtype, 0, "groups")
    x_axes = View(moved, 0, output.shape, (conv.channels * conv.x.strides[-1], *(0,) * (output.rank - 1)))
    b = View(counter, 0, (*batch, depth, conv.features), (1, *(0,) * (output.rank - 1)))
    return fold_batch(Matrices(positions, b, output, (x_axes, *extras)))
