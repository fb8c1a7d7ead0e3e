"""Selects kernels for Conv: depthwise, one-by-one as MatMul, Winograd's, or a product with gathered rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Conv, MatMul
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import Storage, View
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cpu.depthwise import emit_depthwise
from onnxplan.kernels.cpu.depthwise_rows import emit_depthwise_rows, has_depthwise_rows
from onnxplan.kernels.cpu.epilogue import describe_epilogue, shared_with_output
from onnxplan.kernels.cpu.mapreduce import dense_copy, emit_copy
from onnxplan.kernels.cpu.matmul import emit_matmul, same_bits
from onnxplan.kernels.cpu.pack import pack, panel_count
from onnxplan.kernels.cpu.product import lay_out_scratch, place_words
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
from onnxplan.kernels.cpu.winograd import emit_winograd
from onnxplan.kernels.matrices import Matrices, batch_records, distinct_bytes, fold_batch, transposed

FAMILY = "conv"
# Kernels are written for this many spatial axes; missing ones get extent 1.
AXES = 3
# With fewer channels than this the rows of all taps are copied side by side instead of addressed one by one.
CHANNELS_WORTH_ADDRESSING = 12
# With more multiply-adds for each element of the input and the output together than this, a convolution of
# one tap is faster channels last, with a copy before and one behind.
WORK_WORTH_COPYING = 64

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
    if _channels_apart(conv.x):
        conv = replace(conv, x=dense_copy(conv.x, emit, target, "channels_last"))
    if not _channels_apart(conv.output):
        _emit_channels_last(emit, target, conv, primitive)
        return
    result = View.dense(emit.temporary(output.dtype, output.size, "channels_last"), conv.output.shape)
    _emit_channels_last(emit, target, replace(conv, output=result), primitive)
    emit_copy(result, conv.output, emit, target)


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
    if not all(_rows_adjoin(view) for view in (conv.x, conv.output)):
        return False
    if conv.channels == 1 and conv.groups > 1:
        return has_depthwise_rows(conv, primitive, target)
    work = conv.channels * conv.features
    if not _is_pointwise(conv) or work > WORK_WORTH_COPYING * (conv.channels + conv.features):
        return False
    planes = fold_batch(_pointwise(conv))
    return planes.a.strides[-2] == 1 and planes.output.strides[-2] == 1


def _rows_adjoin(view: View) -> bool:
    """Are positions along x neighbours, and channels not?"""
    return view.strides[-2] == 1 and view.shape[-2] > 1 and _channels_apart(view)


def _emit_channels_first(emit: StepEmitter, target: Target, conv: Convolution, primitive: Conv) -> None:
    """A depthwise convolution, or one of one tap, which is the product of weights and planes."""
    if conv.channels == 1 and conv.groups > 1:
        emit_depthwise_rows(emit, target, conv, primitive)
        return
    product = MatMul(primitive.accumulator, primitive.epilogue)
    emit_matmul(emit, target, transposed(fold_batch(_pointwise(conv))), product)


def _emit_channels_last(emit: StepEmitter, target: Target, conv: Convolution, primitive: Conv) -> None:
    if conv.channels == 1 and conv.groups > 1:
        emit_depthwise(emit, target, conv, primitive)
        return
    matrices = _pointwise(conv) if _is_pointwise(conv) else None
    if matrices is not None and _rows_follow(matrices, conv, sum_dtype(primitive.accumulator)):
        emit_matmul(emit, target, matrices, MatMul(primitive.accumulator, primitive.epilogue))
    elif not emit_winograd(emit, target, conv, primitive):
        _emit_general(emit, target, conv, primitive)


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
    inside = all(
        pad == 0 and (extent - 1) * stride < size
        for pad, extent, stride, size in zip(
            conv.pads, conv.output.shape[1:-1], conv.strides, conv.x.shape[1:-1], strict=True
        )
    )
    return conv.taps == 1 and inside


def _pointwise(conv: Convolution) -> Matrices:
    """A convolution of one tap as products: a row for each position, a batch axis for what cannot follow."""
    x = conv.x
    scaled = (1, *conv.strides, 1)
    shape = (*conv.output.shape[:-1], x.shape[-1])
    strides = tuple(stride * scale for stride, scale in zip(x.strides, scaled, strict=True))
    a = _grouped(conv, View(x.storage, x.offset, shape, strides))
    weights = _grouped_weights(conv)
    b = View(
        weights.storage,
        weights.offset,
        (*a.shape[:-2], *weights.shape[-2:]),
        (weights.strides[0], *(0,) * (AXES), *weights.strides[-2:]),
    )
    output = _grouped(conv, conv.output)
    return Matrices(a, b, output, tuple(_grouped(conv, extra) for extra in conv.extras))


def _rows_follow(matrices: Matrices, conv: Convolution, sums: DType) -> bool:
    """Do all positions become rows of one product?

    With strides they do not, and each line along x would be a product of its own, with few rows to use the
    weights for. Addressed one by one, positions are rows wherever they are.
    """
    return 0 not in fold_batch(matrices).b.strides[:-2] or _row_kind(conv, sums) != "addressed"


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
    """Blocks of the depth: ``taps`` taps by ``channels`` channels, ``blocks`` of them."""

    taps: int
    channels: int
    channel_blocks: int
    blocks: int


def _cut_depth(target: Target, tile: RegisterTile, conv: Convolution, itemsize: int, kind: str) -> _Depth:
    if kind != "addressed":
        # Copied rows are cut between lines of taps only.
        line = conv.kernel[2] * conv.channels
        lines = conv.taps // conv.kernel[2]
        each = max(1, depth_block(target, tile, lines * line, itemsize, tile.rows + 1) // max(1, line))
        each = ceil_div(lines, ceil_div(lines, each))
        return _Depth(each * conv.kernel[2], conv.channels, 1, ceil_div(lines, each))
    limit = depth_block(target, tile, 1 << 20, itemsize, tile.rows + 1)
    if conv.channels > limit:
        channels = depth_block(target, tile, conv.channels, itemsize, tile.rows + 1)
        blocks = ceil_div(conv.channels, channels)
        return _Depth(1, channels, blocks, blocks * conv.taps)
    taps = max(1, limit * 5 // 4 // conv.channels)
    taps = ceil_div(conv.taps, ceil_div(conv.taps, taps))
    return _Depth(taps, conv.channels, 1, ceil_div(conv.taps, taps))


def _row_kind(conv: Convolution, sums: DType) -> str:
    """How rows are made: ``addressed`` in place tap by tap, or copied by ``lines`` or single ``taps``."""
    x = conv.x
    if same_bits(x.dtype, sums) and conv.channels >= CHANNELS_WORTH_ADDRESSING:
        return "addressed"
    contiguous = conv.dilations[2] == 1 and x.strides[-2] == conv.channels and conv.groups == 1
    return "lines" if contiguous or conv.kernel[2] == 1 else "taps"


def _emit_general(emit: StepEmitter, target: Target, conv: Convolution, primitive: Conv) -> None:
    sums = sum_dtype(primitive.accumulator)
    tile = register_tile(target, sums, conv.features)
    weights = _grouped_weights(conv)
    depth = conv.taps * conv.channels
    kind = _row_kind(conv, sums)
    blocks = _cut_depth(target, tile, conv, sums.itemsize, kind)
    folded = _fold(conv, depth)
    output, (x_axes, *extras) = folded.output, folded.extras
    epilogue = describe_epilogue(primitive.epilogue, primitive.accumulator, output, extras, output.rank - 1)
    batch = math.prod(output.shape[:-2])
    problem = Problem(
        batch, folded.rows, conv.features, depth, sums.itemsize, weights.dtype.itemsize, output.dtype.itemsize
    )
    block_depth = max(1, blocks.taps * blocks.channels)
    pitch = 0 if kind == "addressed" else round_up(block_depth * sums.itemsize, 64) + 64
    tiling = cut(
        target, tile, problem, depth=block_depth, depth_blocks=max(1, blocks.blocks), copied_row=pitch
    )
    packed = pack(emit, weights, tile, depth_axes=AXES + 1)
    row_bytes = tile.width * packed.dtype.itemsize
    b_axes = View(
        packed.storage,
        0,
        folded.b.shape,
        tuple(panel_count(conv.features, tile) * depth * tile.width if s else 0 for s in folded.b.strides),
    )
    table_rows = round_up(tiling.rows, tile.rows)
    if kind == "addressed":
        pitch, copies, addresses = table_rows * 8, round_up(conv.channels * sums.itemsize, 64), conv.taps
    else:
        copies, addresses = tiling.rows * pitch + 64, 1
    table = addresses * table_rows * 8
    scratch = lay_out_scratch(
        tile, tiling, sums.itemsize, 0, copies, table + tiling.rows * 32, copies=kind != "addressed"
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
        tiling.rows,
        tiling.panels,
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
        conv.channels,
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
        round_up(conv.channels * sums.itemsize, 64),
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
    emit.step(
        KernelSpec(FAMILY, variant),
        (conv.x, packed, output, *extras),
        (2,),
        tuple(parameters),
        tiles=tiling.tiles,
        flops=problem.flops + epilogue.expression.cost * output.size,
        bytes_moved=sum(distinct_bytes(view) for view in (conv.x, packed, output, *extras)),
        scratch=scratch.size,
        in_place=tuple((2, 3 + number) for number in shared_with_output(output, extras)),
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
