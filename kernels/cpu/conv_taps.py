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
from onnxplan.kernels.cpu.conv_lines import FEWEST_CHANNELS, lines_in_place, reads_lines_in_place
from onnxplan.kernels.cpu.epilogue import describe_epilogue, shared_with_output
from onnxplan.kernels.cpu.mapreduce import dense_copy
from onnxplan.kernels.cpu.matmul import same_bits
from onnxplan.kernels.cpu.matrix_tiles import GROUP_BYTES, SIDE, TILE
from onnxplan.kernels.cpu.pack import pack, packed_depth, panel_count
from onnxplan.kernels.cpu.pairs import PAIR_UNIT
from onnxplan.kernels.cpu.part_tiling import cut_parts, depth_of_parts
from onnxplan.kernels.cpu.product import Scratch, lay_out_scratch, place_words, product_seconds
from onnxplan.kernels.cpu.product_form import ProductForm, may_split, may_take_narrow_tiles, product_form
from onnxplan.kernels.cpu.quads import QUAD
from onnxplan.kernels.cpu.tiling import (
    TILES_A_THREAD,
    Extents,
    Problem,
    Tiling,
    caches,
    ceil_div,
    cut,
    depth_block,
    round_up,
    sum_dtype,
)
from onnxplan.kernels.matrices import Matrices, batch_records, distinct_bytes, fold_batch

FAMILY = "conv"

COST_OF_PIECE = 4.5
"""What copying a piece of a tap takes, in products of a quad by a vector, which tiles save."""
BLOCKS_OF_TILES = 8
"""So many blocks of rows use a panel of B well; copies of more would not stay in the nearer caches."""

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


def row_kind(conv: Convolution, target: Target, accumulator: DType) -> str:
    """How rows are made: ``addressed`` in place tap by tap, or copied by ``lines`` or single ``taps``.

    Behind ``quads_`` bytes are read as quads; ``tiles`` are copied for the processor's tile registers.
    """
    return _row_kind(conv, _product_form(conv, target, accumulator), accumulator)


def takes_narrow_tiles(conv: Convolution, target: Target, accumulator: DType) -> bool:
    """Do tile registers multiply elements as they are, or rounded, which is faster than Winograd's form?"""
    if not may_take_narrow_tiles(target, conv.x.dtype, conv.w, accumulator):
        return False
    form = _product_form(conv, target, accumulator)
    return form.tiles and not form.parts


def _row_kind(conv: Convolution, form: ProductForm, accumulator: DType) -> str:
    x = conv.x
    if form.tiles:
        return "tiles"
    prefix = "quads_" if form.quads else ""
    in_place = conv.channels % QUAD == 0 if form.quads else same_bits(x.dtype, sum_dtype(accumulator))
    if in_place and conv.channels >= FEWEST_CHANNELS:
        return f"{prefix}addressed"
    contiguous = conv.dilations[2] == 1 and x.strides[-2] == conv.channels and conv.groups == 1
    return f"{prefix}lines" if contiguous or conv.kernel[2] == 1 else f"{prefix}taps"


def _product_form(conv: Convolution, target: Target, accumulator: DType) -> ProductForm:
    operands = target, conv.x.dtype, conv.w
    # Copied rows are filled up, so that any depth will do for tiles.
    depth = round_up(conv.taps * conv.channels, QUAD)
    splits = may_split(*operands, depth, conv.features, accumulator)
    if splits or may_take_narrow_tiles(*operands, accumulator):
        form = product_form(*operands, Extents(_fold(conv).rows, depth, conv.features), accumulator)
        if form.tiles and _worth_copying_as_tiles(conv, form):
            return form
    return product_form(*operands, Extents(conv.rows, depth, conv.features), accumulator, tiles=False)


def _worth_copying_as_tiles(conv: Convolution, form: ProductForm) -> bool:
    """Do tile registers save more than it takes to copy what each tap reads, which vectors read in place?"""
    conv = _by_lines(conv)
    depth = conv.taps * conv.channels
    if form.parts:
        return conv.channels >= PAIR_UNIT
    # Taps that begin within a tile go on in the next one.
    pieces = conv.taps + depth // (SIDE * form.element)
    return pieces * COST_OF_PIECE < ceil_div(depth, form.element) * ceil_div(conv.features, SIDE)


def _by_lines(conv: Convolution) -> Convolution:
    """Whole lines of taps as one, where ``x`` has them in a piece."""
    return lines_in_place(conv) if reads_lines_in_place(conv) else conv


@dataclass(frozen=True, slots=True)
class _Depth:
    """``blocks`` blocks of the depth of ``elements`` each.

    They are ``taps`` taps by ``channels`` channels (or groups of them) where no block begins within a tap.
    """

    elements: int
    blocks: int = 1
    taps: int = 0
    channels: int = 0
    channel_blocks: int = 1


def _cut_depth(
    target: Target, form: ProductForm, addressed: bool, conv: Convolution, itemsize: int
) -> _Depth:
    """``itemsize`` is that of the sums."""
    tile, channels = form.tile, conv.channels // form.element
    rows = max(conv.rows, tile.rows + 1)
    if form.parts:
        depth = packed_depth(conv.taps * conv.channels, 1, form.row_unit)
        each = depth_of_parts(target, depth)
        return _Depth(each, ceil_div(depth, each))
    if form.tiles:
        return _cut_tiles(target, packed_depth(conv.taps * conv.channels, form.element, form.row_unit))
    if form.quads and not addressed:
        # Quads of copied rows cross the borders of taps.
        elements = ceil_div(conv.taps * conv.channels, form.element)
        return _Depth(elements, taps=conv.taps, channels=conv.channels)
    if not addressed:
        # Copied rows are cut between lines of taps only.
        line = conv.kernel[2] * channels
        lines = conv.taps // conv.kernel[2]
        each = max(1, depth_block(target, tile, lines * line, itemsize, rows) // max(1, line))
        each = ceil_div(lines, ceil_div(lines, each))
        return _Depth(each * line, ceil_div(lines, each), each * conv.kernel[2], channels)
    limit = depth_block(target, tile, 1 << 20, itemsize, rows)
    if channels > limit:
        each = depth_block(target, tile, channels, itemsize, rows)
        blocks = ceil_div(channels, each)
        return _Depth(each, blocks * conv.taps, 1, each, blocks)
    taps = ceil_div(conv.taps, ceil_div(conv.taps, max(1, limit * 5 // 4 // channels)))
    return _Depth(taps * channels, ceil_div(conv.taps, taps), taps, channels)


def _cut_tiles(target: Target, groups: int) -> _Depth:
    """Blocks of whole tiles whose rows of a panel of B stay in the first cache beside those of A."""
    limit = max(SIDE, 3 * caches(target)[0] // 8 // (TILE.width * GROUP_BYTES))
    each = round_up(ceil_div(groups, ceil_div(groups, limit)), SIDE)
    return _Depth(each, ceil_div(groups, each))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Where rows, their addresses and zeros stand in a thread's scratch memory.

    ``pitch`` is the bytes of a copied row, or of the addresses of a tap.
    """

    scratch: Scratch
    pitch: int
    positions: int
    zeros: int
    zero_bytes: int


def _place_rows(
    conv: Convolution, form: ProductForm, addressed: bool, tiling: Tiling, copied_row: int, itemsize: int
) -> _Rows:
    """``itemsize`` is that of the sums."""
    zeros = round_up(conv.channels * (conv.x.dtype.itemsize if form.quads else itemsize), 64)
    entries = 8 * round_up(tiling.rows, form.tile.rows)
    copies, pitch, tables = tiling.rows * copied_row, entries, conv.taps
    if form.tiles:
        tables += 1
    elif not addressed:
        pitch, tables, zeros = copied_row, 1, 64
    # Tables are written eight entries at a time.
    table = tables * entries + 64
    scratch = lay_out_scratch(
        form.tile,
        tiling,
        itemsize,
        form.split_bytes,
        copies + zeros,
        table + 4 * (entries + 64),
        copies=not addressed,
        parts=form.parts,
    )
    return _Rows(scratch, pitch, scratch.table + table, scratch.a + copies, zeros)


def emit_conv_taps(emit: StepEmitter, target: Target, conv: Convolution, primitive: Conv) -> None:
    """The step of a convolution, channels last; weights that are not constant are packed before."""
    sums = sum_dtype(primitive.accumulator)
    form = _product_form(conv, target, primitive.accumulator)
    kind = _row_kind(conv, form, primitive.accumulator)
    addressed, speed = kind.endswith("addressed"), form.speed(target)
    tile, element = form.tile, form.element
    weights = grouped_weights(conv)
    if form.tiles:
        conv = _by_lines(conv)
    depth = conv.taps * conv.channels
    folded = _fold(conv)
    output, (x_axes, *extras) = folded.output, folded.extras
    epilogue = describe_epilogue(primitive.epilogue, primitive.accumulator, output, extras, output.rank - 1)
    blocks = _cut_depth(target, form, addressed, conv, sums.itemsize)
    problem = Problem(
        math.prod(output.shape[:-2]),
        folded.rows,
        conv.features,
        packed_depth(depth, element, form.row_unit),
        sums.itemsize,
        form.element_bytes,
        # Sums of several blocks of the depth are written and read beside the output.
        output.dtype.itemsize + (sums.itemsize if form.tiles and blocks.blocks > 1 else 0),
    )
    block_depth = max(1, problem.depth if blocks.blocks == 1 else blocks.elements)
    copied_row = block_depth * form.copied_bytes
    if not form.tiles:
        copied_row = 0 if addressed else round_up(block_depth * sums.itemsize, 64) + 64
    if form.parts:
        tiling = cut_parts(speed, problem, block_depth)
    else:
        tiling = cut(
            speed,
            tile,
            problem,
            depth=block_depth,
            depth_blocks=max(1, blocks.blocks),
            copied_row=0 if form.tiles else copied_row,
            most_row_blocks=BLOCKS_OF_TILES if form.tiles else None,
            tiles_a_thread=2 if form.tiles else TILES_A_THREAD,
        )
    if form.quads and not weights.is_constant:
        weights = dense_copy(weights, emit, target, "weights")
        weights = View.dense(weights.storage, (conv.groups, depth, conv.features))
    packed = pack(
        emit,
        weights,
        form.panel,
        depth_axes=weights.rank - 2,
        element=element,
        unit=form.unit,
        dtype=form.b_dtype,
    )
    row_bytes = form.panel.width * packed.dtype.itemsize * element
    panel = packed_depth(depth, element, form.unit) * form.panel.width * element
    group = panel_count(conv.features, form.panel) * panel
    b_axes = View(packed.storage, 0, folded.b.shape, tuple(group if s else 0 for s in folded.b.strides))
    rows = _place_rows(conv, form, addressed, tiling, copied_row, sums.itemsize)
    axes, records = batch_records((x_axes, folded.a, b_axes, output, *extras))
    x_steps = [stride * conv.x.dtype.itemsize for stride in conv.x.strides]
    parameters = [
        folded.rows,
        conv.features,
        ceil_div(depth, element),
        tiling.row_tiles,
        tiling.column_tiles,
        *tiling.steps,
        problem.batch,
        tiling.batch,
        tiling.depth,
        tiling.depth_blocks,
        panel * packed.dtype.itemsize,
        row_bytes,
        0,
        0,
        rows.scratch.b,
        rows.scratch.a,
        rows.scratch.table,
        axes,
        conv.channels // element if addressed else conv.channels,
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
        rows.pitch,
        rows.positions,
        rows.zeros,
        rows.zero_bytes,
        *place_words((output, *extras), output.rank - 2, output.rank - 1),
        *records,
    ]
    variant = (
        kind,
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
        flops=(2 * depth + epilogue.expression.cost) * output.size,
        bytes_moved=bytes_moved,
        scratch=rows.scratch.size,
        in_place=tuple([(2, 3 + number) for number in shared_with_output(output, extras)]),
        seconds=product_seconds(speed, problem, bytes_moved) if form.tiles or form.quads else None,
    )


def _fold(conv: Convolution) -> Matrices:
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
    positions = View(counter, 0, (*output.shape[:-1], 1), (0, *steps, 0))
    moved = Storage(conv.x.dtype, 0, "groups")
    x_axes = View(moved, 0, output.shape, (conv.channels * conv.x.strides[-1], *(0,) * (output.rank - 1)))
    b = View(counter, 0, (*batch, 1, conv.features), (1, *(0,) * (output.rank - 1)))
    return fold_batch(Matrices(positions, b, output, (x_axes, *extras)))
