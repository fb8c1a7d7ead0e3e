"""Selects kernels for Conv: depthwise, one-by-one as MatMul, Winograd's, or a product that gathers A or B."""

from __future__ import annotations

import math
from dataclasses import replace

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Conv, MatMul
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import Storage, View
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cpu.conv_lines import FEWEST_CHANNELS, has_lines, lines_as_channels
from onnxplan.kernels.cpu.conv_planes import emit_conv_planes, has_conv_planes
from onnxplan.kernels.cpu.depthwise import emit_depthwise
from onnxplan.kernels.cpu.depthwise_rows import emit_depthwise_rows, has_depthwise_rows
from onnxplan.kernels.cpu.epilogue import describe_epilogue, shared_with_output
from onnxplan.kernels.cpu.mapreduce import dense_copy, emit_copy
from onnxplan.kernels.cpu.matmul import emit_matmul, same_bits
from onnxplan.kernels.cpu.pack import pack, panel_count
from onnxplan.kernels.cpu.product import lay_out_scratch, place_words, product_seconds
from onnxplan.kernels.cpu.quads import QUAD, quad_tile, takes_quads
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
from onnxplan.kernels.cpu.winograd import emit_winograd, has_winograd
from onnxplan.kernels.matrices import Matrices, batch_records, distinct_bytes, fold_batch, transposed

FAMILY = "conv"
# Kernels are written for this many spatial axes; missing ones get extent 1.
AXES = 3
# With fewer channels than this the rows of all taps are copied side by side instead of addressed one by one.
CHANNELS_WORTH_ADDRESSING = 12
# With more multiply-adds for each element of the input and the output together than this, the planes of a
# convolution of one tap are gathered in panels instead of read in place.
WORK_WORTH_GATHERING = 48

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


def select_conv(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of a Conv; raises ``NotImplementedError`` for more than three spatial axes.

    Where channels are no neighbours in ``x`` or in the output, there is a copy before or behind.
    """
    primitive = operation.primitive
    assert isinstance(primitive, Conv)
    output = operation.outputs[0]
    if output.size == 0:
        return
    conv = _three_axes(operation, primitive)
    if _is_channels_first(conv, primitive, target):
        _emit_channels_first(emit, target, conv, primitive)
        return
    if _reads_lines(conv, primitive, target):
        conv = lines_as_channels(conv, emit, target)
    elif _channels_apart(conv.x):
        conv = replace(conv, x=dense_copy(conv.x, emit, target, "channels_last"))
    if not _channels_apart(conv.output):
        _emit_channels_last(emit, target, conv, primitive)
        return
    result = View.dense(emit.temporary(output.dtype, output.size, "channels_last"), conv.output.shape)
    _emit_channels_last(emit, target, replace(conv, output=result), primitive)
    emit_copy(result, conv.output, emit, target)


def _reads_lines(conv: Convolution, primitive: Conv, target: Target) -> bool:
    """Are there so few channels that whole lines of taps are addressed?"""
    return (
        conv.channels < CHANNELS_WORTH_ADDRESSING
        and same_bits(conv.x.dtype, sum_dtype(primitive.accumulator))
        and not takes_quads(target, conv.x.dtype, conv.w.dtype, primitive.accumulator)
        and has_lines(conv)
        and not has_winograd(conv, primitive, target)
    )


def _channels_apart(view: View) -> bool:
    return view.strides[-1] != 1 and view.shape[-1] > 1


def prefers_conv(operation: Operation, target: Target) -> bool:
    """Is the convolution as fast with these views as with channels last?"""
    primitive = operation.primitive
    assert isinstance(primitive, Conv)
    if len(primitive.strides) > AXES:
        return False
    return _is_channels_first(_three_axes(operation, primitive), primitive, target)


def _is_channels_first(conv: Convolution, primitive: Conv, target: Target) -> bool:
    """Do rows adjoin in ``x`` and in the output, and is there a kernel for that which is worth it?"""
    if not (_rows_adjoin(conv.x) and _rows_adjoin(conv.output)):
        return False
    if conv.channels == 1 and conv.groups > 1:
        return has_depthwise_rows(conv, primitive, target)
    if _multiplies_planes(conv):
        return True
    return has_conv_planes(conv, primitive, target) and not has_winograd(conv, primitive, target)


def _multiplies_planes(conv: Convolution) -> bool:
    """Is the convolution a product of weights and planes that are read in place?"""
    if not _is_pointwise(conv):
        return False
    work = conv.channels * conv.features
    if work > WORK_WORTH_GATHERING * (conv.channels + conv.features):
        return False
    planes = fold_batch(_pointwise(conv))
    return planes.a.strides[-2] == 1 and planes.output.strides[-2] == 1


def _rows_adjoin(view: View) -> bool:
    """Are positions along x neighbours, and channels, if there are several, not?"""
    return view.strides[-2] == 1 and view.shape[-2] > 1 and (view.shape[-1] == 1 or view.strides[-1] != 1)


def _emit_channels_first(emit: StepEmitter, target: Target, conv: Convolution, primitive: Conv) -> None:
    if conv.channels == 1 and conv.groups > 1:
        emit_depthwise_rows(emit, target, conv, primitive)
    elif _multiplies_planes(conv):
        product = MatMul(primitive.accumulator, primitive.epilogue)
        emit_matmul(emit, target, transposed(fold_batch(_pointwise(conv))), product)
    else:
        emit_conv_planes(emit, target, conv, primitive)


def _emit_channels_last(emit: StepEmitter, target: Target, conv: Convolution, primitive: Conv) -> None:
    if conv.channels == 1 and conv.groups > 1:
        emit_depthwise(emit, target, conv, primitive)
        return
    matrices = fold_batch(_pointwise(conv)) if _is_pointwise(conv) else None
    quads = takes_quads(target, conv.x.dtype, conv.w.dtype, primitive.accumulator)
    if matrices is not None and _rows_follow(matrices, _row_kind(conv, primitive.accumulator, quads=quads)):
        emit_matmul(emit, target, matrices, MatMul(primitive.accumulator, primitive.epilogue))
    elif not emit_winograd(emit, target, conv, primitive):
        _emit_general(emit, target, conv, primitive, quads=quads)


def _three_axes(operation: Operation, primitive: Conv) -> Convolution:
    x, w, *extras = operation.inputs
    missing = AXES - len(primitive.strides)
    if missing < 0:
        raise NotImplementedError(f"no CPU kernel for conv with {len(primitive.strides)} spatial axes")
    new = tuple(range(1, 1 + missing))
    output = operation.outputs[0].unsqueeze(new)
    return Convolution(
        x.unsqueeze(new),
        w.unsqueeze(tuple(range(missing))),
        output,
        tuple(extra.unsqueeze(new) for extra in extras),
        (1,) * missing + primitive.strides,
        (1,) * missing + primitive.dilations,
        (0,) * missing + primitive.pads,
        primitive.groups,
    )


def _grouped(conv: Convolution, view: View) -> View:
    """``(N, z, y, x, channels)`` as ``(groups, N, z, y, x, channels of a group)``."""
    each = view.shape[-1] // conv.groups
    return View(
        view.storage,
        view.offset,
        (conv.groups, *view.shape[:-1], each),
        (each * view.strides[-1], *view.strides),
    )


def _is_pointwise(conv: Convolution) -> bool:
    return conv.taps == 1 and all(
        pad == 0 and (extent - 1) * stride < size
        for pad, extent, stride, size in zip(
            conv.pads, conv.output.shape[1:-1], conv.strides, conv.x.shape[1:-1], strict=True
        )
    )


def _pointwise(conv: Convolution) -> Matrices:
    """A convolution of one tap as products: a row for each position, a batch axis for what cannot follow."""
    x = conv.x
    scaled = (1, *conv.strides, 1)
    shape = (*conv.output.shape[:-1], x.shape[-1])
    strides = tuple([stride * scale for stride, scale in zip(x.strides, scaled, strict=True)])
    a = _grouped(conv, View(x.storage, x.offset, shape, strides))
    weights = _grouped_weights(conv)
    b = View(
        weights.storage,
        weights.offset,
        (*a.shape[:-2], *weights.shape[-2:]),
        (weights.strides[0], *(0,) * (AXES), *weights.strides[-2:]),
    )
    output = _grouped(conv, conv.output)
    return Matrices(a, b, output, tuple([_grouped(conv, extra) for extra in conv.extras]))


def _rows_follow(matrices: Matrices, row_kind: str) -> bool:
    """Do all positions become rows of one product? ``matrices`` are folded.

    With strides they do not, and each line along x would be a product of its own, with few rows to use the
    weights for. Addressed one by one, positions are rows wherever they are.
    """
    return 0 not in matrices.b.strides[:-2] or row_kind != "addressed"


def _grouped_weights(conv: Convolution) -> View:
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


def _row_kind(conv: Convolution, accumulator: DType, *, quads: bool) -> str:
    """How rows are made: ``addressed`` in place tap by tap, or copied by ``lines`` or single ``taps``."""
    x = conv.x
    in_place = conv.channels % QUAD == 0 if quads else same_bits(x.dtype, sum_dtype(accumulator))
    if in_place and conv.channels >= FEWEST_CHANNELS:
        return "addressed"
    contiguous = conv.dilations[2] == 1 and x.strides[-2] == conv.channels and conv.groups == 1
    return "lines" if contiguous or conv.kernel[2] == 1 else "taps"


def _emit_general(
    emit: StepEmitter, target: Target, conv: Convolution, primitive: Conv, *, quads: bool
) -> None:
    sums = sum_dtype(primitive.accumulator)
    tile = quad_tile(target, conv.features) if quads else register_tile(target, sums, conv.features)
    weights = _grouped_weights(conv)
    kind = _row_kind(conv, primitive.accumulator, quads=quads)
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
    packed = pack(emit, weights, tile, depth_axes=weights.rank - 2, element=element)
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
    output = _grouped(conv, conv.output)
    extras = tuple(_grouped(conv, extra) for extra in conv.extras)
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
