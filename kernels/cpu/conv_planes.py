"""Selects the kernel of convolutions whose rows adjoin: a product of weights and gathered panels of planes.

Features are rows and positions are columns, so that the result is channels first like the input. Each tile
gathers what the taps of all channels meet at the positions of a panel, and uses it for all of its features.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cpu.epilogue import describe_epilogue, shared_with_output
from onnxplan.kernels.cpu.mapreduce import dense_copy
from onnxplan.kernels.cpu.product import lay_out_scratch, place_words
from onnxplan.kernels.cpu.tiling import (
    Problem,
    RegisterTile,
    ceil_div,
    cut,
    depth_block,
    register_tile_of_rows,
    round_up,
    sum_dtype,
)
from onnxplan.kernels.matrices import Matrices, batch_records, distinct_bytes, fold_batch

FAMILY = "conv_planes"

MOST_STRIDE = 2
# Gathering a panel should cost little beside the products with it.
LEAST_FEATURES = 16
# The share of the lanes of panels that positions should fill.
LEAST_SHARE = 0.85

# The parameter words after those of every product and of the rows of a matrix.
PLANE_WORDS = (
    "channels",
    "kernel_y",
    "kernel_x",
    "stride_y",
    "dilation_y",
    "dilation_x",
    "pad_y",
    "pad_x",
    "in_y",
    "in_x",
    "out_x",
    "step_c",
    "step_y",
    "outside",
)


def has_conv_planes(conv: Convolution, primitive: Conv, target: Target) -> bool:
    """Is there a kernel for this convolution, if rows adjoin in ``x`` and in the output, that is worth it?"""
    sums = sum_dtype(primitive.accumulator)
    if not (
        conv.x.dtype is sums
        and conv.w.dtype is sums
        and conv.kernel[0] == conv.output.shape[1] == conv.x.shape[1] == 1
        and conv.pads[0] == 0
        and conv.strides[2] <= MOST_STRIDE
        and conv.channels > 0
        and conv.features >= LEAST_FEATURES
        and all(_position_step(view) is not None for view in (conv.output, *conv.extras))
    ):
        return False
    tile = register_tile_of_rows(target, sums, conv.features)
    if _positions(conv) < LEAST_SHARE * round_up(_positions(conv), tile.lanes):
        return False
    second = target.cache_bytes[1] if len(target.cache_bytes) > 1 else 8 * target.cache_bytes[0]
    return conv.taps * conv.channels * tile.width * sums.itemsize <= second // 2


def emit_conv_planes(emit: StepEmitter, target: Target, conv: Convolution, primitive: Conv) -> None:
    """The steps of a convolution of which :func:`has_conv_planes` holds."""
    sums = sum_dtype(primitive.accumulator)
    size = sums.itemsize
    tile = register_tile_of_rows(target, sums, conv.features)
    weights = _weights(emit, target, conv, tile)
    matrices = _matrices(conv, weights)
    output, extras = matrices.output, matrices.extras
    rank, depth = output.rank, matrices.depth
    epilogue = describe_epilogue(primitive.epilogue, primitive.accumulator, output, extras, rank - 1)
    blocks = weights.is_constant
    batch = math.prod(output.shape[:-2])
    problem = Problem(batch, matrices.rows, matrices.columns, depth, size, size, output.dtype.itemsize)
    block = depth_block(target, tile, depth, size, matrices.rows)
    tiling = cut(target, tile, problem, depth=block, depth_blocks=ceil_div(depth, block), columns_first=True)
    row = tile.width * size
    panel = depth * row
    scratch = lay_out_scratch(tile, tiling, size, tiling.panels * panel, 0, 8 * tiling.rows, copies=False)
    axes, records = batch_records((matrices.a, matrices.b, output, *extras))
    operands = (weights, conv.x, output, *extras)
    parameters = [
        matrices.rows,
        matrices.columns,
        depth,
        tiling.row_tiles,
        tiling.column_tiles,
        *tiling.steps,
        batch,
        tiling.batch,
        tiling.depth,
        tiling.depth_blocks,
        panel,
        row,
        0,
        0,
        scratch.b,
        scratch.a,
        scratch.table,
        axes,
        depth * size,
        size * (tile.rows if blocks else 1),
        depth * size * tile.rows,
        *_plane_words(conv),
        *place_words((output, *extras), rank - 2, rank - 1),
        *records,
    ]
    kind = "blocks" if blocks else "in_place"
    variant = (
        kind,
        sums.label,
        (tile.rows, tile.vectors, tile.lanes),
        conv.strides[2],
        conv.taps == 1,
        epilogue.variant,
    )
    emit.step(
        KernelSpec(FAMILY, variant),
        operands,
        (2,),
        tuple(parameters),
        tiles=tiling.tiles,
        flops=(2 * depth + epilogue.expression.cost) * output.size,
        bytes_moved=sum(distinct_bytes(view) for view in operands),
        scratch=scratch.size,
        in_place=tuple((2, 3 + number) for number in shared_with_output(output, extras)),
    )


def _positions(conv: Convolution) -> int:
    return conv.output.shape[2] * conv.output.shape[3]


def _position_step(view: View) -> int | None:
    """How far apart positions ``(y, x)`` of a channels-last view are, all of them in order."""
    (y, x), (step_y, step_x) = view.shape[2:4], view.strides[2:4]
    if y == 1:
        return step_x
    if x == 1:
        return step_y
    return step_x if step_y == x * step_x else None


def _matrices(conv: Convolution, weights: View) -> Matrices:
    """Weights by panels: ``(groups, N, features, depth)`` and ``(groups, N, depth, positions)``."""
    groups, images, positions = conv.groups, conv.output.shape[0], _positions(conv)
    features, depth = conv.features, conv.taps * conv.channels
    a = View(
        weights.storage,
        weights.offset,
        (groups, images, features, depth),
        (weights.size // groups, 0, depth, 1),
    )
    x = conv.x
    # Panels are gathered: only the batch axes of B have strides.
    steps = (conv.channels * x.strides[-1], x.strides[0], 0, 0)
    b = View(x.storage, x.offset, (groups, images, depth, positions), steps)

    def planes(view: View) -> View:
        step = _position_step(view)
        assert step is not None
        channel = view.strides[-1]
        strides = (features * channel, view.strides[0], channel, step)
        return View(view.storage, view.offset, (groups, images, features, positions), strides)

    return fold_batch(Matrices(a, b, planes(conv.output), tuple(map(planes, conv.extras))))


def _plane_words(conv: Convolution) -> list[int]:
    """The values of ``PLANE_WORDS``. Positions that lie in the input as in the output are one long row."""
    x, output = conv.x, conv.output
    (out_y, out_x), (in_y, in_x) = output.shape[2:4], x.shape[2:4]
    step_y = x.strides[2]
    same = conv.taps == 1 and max(conv.strides) == 1 and not any(conv.pads)
    if same and (out_y, out_x) == (in_y, in_x) and (step_y == in_x or in_y == 1):
        in_x = out_x = out_y * out_x
        in_y = out_y = 1
    outside = any(
        pad > 0 or (extent - 1) * stride + (taps - 1) * dilation - pad >= size
        for pad, extent, stride, taps, dilation, size in zip(
            conv.pads[1:],
            (out_y, out_x),
            conv.strides[1:],
            conv.kernel[1:],
            conv.dilations[1:],
            (in_y, in_x),
            strict=True,
        )
    )
    size = x.dtype.itemsize
    return [
        conv.channels,
        *conv.kernel[1:],
        conv.strides[1],
        *conv.dilations[1:],
        *conv.pads[1:],
        in_y,
        in_x,
        out_x,
        x.strides[-1] * size,
        step_y * size,
        int(outside),
    ]


def _weights(emit: StepEmitter, target: Target, conv: Convolution, tile: RegisterTile) -> View:
    """The weights ``(features, channels, taps)`` of all groups, one row after another.

    Of constants the rows of a register tile stand side by side, so that they are read as one stream.
    """
    rows = conv.w.transpose((4, 3, 0, 1, 2))
    if not rows.is_constant:
        return rows if rows.is_dense else dense_copy(rows, emit, target, "weights")
    blocks = ceil_div(conv.features, tile.rows)
    shape = (conv.groups, blocks, conv.taps * conv.channels, tile.rows)

    def make(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        features = array.reshape(conv.groups, conv.features, -1)
        padded = np.zeros((conv.groups, blocks * tile.rows, shape[2]), features.dtype)
        padded[:, : conv.features] = features
        return np.ascontiguousarray(padded.reshape(conv.groups, blocks, tile.rows, -1).swapaxes(2, 3))

    return View.dense(
        emit.constant((rows,), f"blocks of {tile.rows} features, {conv.groups} groups", make), shape
    )
