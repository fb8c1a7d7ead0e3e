"""Selects the kernel for attention: one pass over the keys, without scores in memory."""

from __future__ import annotations

import itertools
import math
from dataclasses import astuple

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Attention
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.attention_extents import AttentionExtents
from onnxplan.kernels.cuda.attention_code import FAMILY, WARP_ROWS, Scores, Tile
from onnxplan.kernels.cuda.indexing import axis_words, index_type
from onnxplan.kernels.cuda.score_blocks import score_blocks
from onnxplan.kernels.cuda.source import check_words
from onnxplan.kernels.cuda.tensor_core import (
    CLOCK,
    EXPOSED,
    FETCHED_BYTES,
    MATRIX_PRODUCTS,
    RESERVED_SHARED_BYTES,
    SCALAR_PRODUCTS,
    SHARED_BYTES,
    copies_wide,
    multiplies,
)
from onnxplan.kernels.geometry import axes_of, ceil_div, pad_axes, reach
from onnxplan.kernels.matrices import distinct_bytes

LARGEST_HEAD = 256
MOST_EXTRAS = 8
EXPONENTIAL_FLOPS = 10

MOST_REGISTERS = {("matrix", 2): 170, ("matrix", 4): 144, ("scalar", 4): 160}
"""For scores, results and queries, by form and bytes of an element; with the rest a lane has 255 at most."""

REGISTERS = 1 << 16
"""Of a multiprocessor."""

SCALAR_OPERATIONS = 8
"""Of a score beside its products."""
BLOCK_CLOCKS = 300
"""For the barriers of a block of keys, about."""


def prefers_attention(operation: Operation, target: Target) -> bool:
    """Is the kernel fit for ``operation``, and faster than two products and a softmax?

    With fewer queries than a warp computes most of its work would be for nothing.
    """
    primitive = operation.primitive
    assert isinstance(primitive, Attention)
    q, k, v, *extras = operation.inputs
    shape = AttentionExtents.of(operation)
    return (
        min(shape.batch, shape.keys, shape.depth, shape.width) > 0
        and shape.rows >= WARP_ROWS
        and max(shape.depth, shape.width) <= LARGEST_HEAD
        and primitive.accumulator is DType.FLOAT32
        and q.dtype is k.dtype is v.dtype
        and (q.dtype is DType.FLOAT32 or multiplies(target, q.dtype))
        and len(extras) <= MOST_EXTRAS
        and bool(_tiles(target, shape, q.dtype))
    )


def select_attention(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of an operation that :func:`prefers_attention` accepts."""
    primitive = operation.primitive
    assert isinstance(primitive, Attention)
    q, k, v, *extras = operation.inputs
    output = operation.outputs[0]
    shape = AttentionExtents.of(operation)
    tile = fitting_tile(target, shape, q.dtype)
    keys = View(k.storage, k.offset, (*k.shape[:-2], *k.shape[:-3:-1]), (*k.strides[:-2], *k.strides[:-3:-1]))
    scores, table = _scores(primitive, extras, shape, tile, emit)
    extras = extras[: len(scores.dtypes)]
    row_tiles = ceil_div(shape.rows, tile.rows)
    operands = (q, keys, v, *extras, output)
    batch = pad_axes(axes_of(output.shape[:-2], [view.strides[:-2] for view in operands]), len(operands))
    overshoot = max(tile.rows, tile.keys) * max(abs(s) for view in operands for s in view.strides[-2:])
    largest = max(shape.rows, shape.keys, *map(reach, operands)) + overshoot
    index = index_type(largest, [])
    parameters = [
        shape.rows,
        shape.keys,
        shape.depth,
        shape.width,
        row_tiles,
        *(stride for view in (q, keys, v, output) for stride in view.strides[-2:]),
        *(stride for view in extras for stride in view.strides[-2:]),
        *axis_words(batch),
    ]
    wide = tuple(copies_wide(view) for view in (q, keys, v))
    variant = (
        tile.threads,
        astuple(tile),
        wide,
        table is not None,
        scores.variant,
        q.dtype.label,
        output.dtype.label,
        len(batch),
        index,
    )
    check_words(len(operands), len(parameters))
    # Of all blocks of keys, those that a table leaves.
    share = 1.0
    if table is not None:
        blocks = table.numpy()
        share = float((blocks[:, 3] - blocks[:, 0]).sum()) / (row_tiles * ceil_div(shape.keys, tile.keys))
    cost = scores.expression.cost if scores.expression is not None else 0
    emit.step(
        KernelSpec(FAMILY, variant),
        operands if table is None else (*operands, table),
        (len(operands) - 1,),
        tuple(parameters),
        tiles=shape.batch * row_tiles,
        flops=shape.flops(EXPONENTIAL_FLOPS) + cost * shape.batch * shape.rows * shape.keys,
        bytes_moved=sum(map(distinct_bytes, operands)),
        scratch=tile.shared_bytes,
        seconds=share * _clocks(target, shape, tile) / CLOCK,
    )


def _scores(
    primitive: Attention, extras: list[View], shape: AttentionExtents, tile: Tile, emit: StepEmitter
) -> tuple[Scores, View | None]:
    """How scores are computed, and the table of the blocks of keys that are needed."""
    scale = _scale(primitive.score)
    if scale is not None:
        return Scores(primitive.softmax, scale, None, None, ()), None
    score = primitive.score
    assert score is not None
    dtypes = tuple(view.dtype for view in extras)
    found = score_blocks(score, extras, shape.rows, shape.keys, tile.rows, tile.keys)
    if found is None:
        return Scores(primitive.softmax, 1.0, score, score, dtypes), None
    constants = tuple(view for view in extras if view.is_constant)
    layout = f"attention_blocks_{tile.rows}_{tile.keys}_{score}"
    table = found.table
    storage = emit.constant(constants, layout, lambda: table)
    plain = [instruction.op for instruction in found.inner.instructions] == ["input"]
    inner = None if plain and found.inner.instructions[0].arguments == (0,) else found.inner
    return Scores(primitive.softmax, 1.0, score, inner, dtypes), View.dense(storage, table.shape)


def _scale(score: Expression | None) -> float | None:
    """The positive number that a score is a multiple by, if it is no more than that."""
    if score is None:
        return 1.0
    (output,) = score.outputs
    instruction = score.instructions[output]
    if instruction.op != "mul" or instruction.dtype is not DType.FLOAT32:
        return None
    left, right = (score.instructions[position] for position in instruction.operands)
    if left.op == "constant":
        left, right = right, left
    if (left.op, left.arguments) != ("input", (0,)) or right.op != "constant":
        return None
    number = float(right.number)
    return number if 0 < number < math.inf else None


def fitting_tile(target: Target, shape: AttentionExtents, dtype: DType) -> Tile:
    """The tile that is estimated to be fastest."""
    return min(_tiles(target, shape, dtype), key=lambda tile: _clocks(target, shape, tile))


def _tiles(target: Target, shape: AttentionExtents, dtype: DType) -> list[Tile]:
    """Those that fit the registers and the shared memory."""
    form = "matrix" if multiplies(target, dtype) else "scalar"
    depth, width = (ceil_div(extent, 16) * 16 for extent in (shape.depth, shape.width))
    tiles = [
        Tile(form, warps, groups, keys, depth, width, dtype.itemsize)
        for warps, groups, keys in itertools.product((8, 4, 2, 1), (2, 1), (64, 32, 16))
    ]
    room = target.cache_bytes[0] - RESERVED_SHARED_BYTES
    return [
        tile
        for tile in tiles
        if tile.shared_bytes <= room and tile.registers <= MOST_REGISTERS[form, tile.size]
    ]


def _clocks(target: Target, shape: AttentionExtents, tile: Tile) -> float:
    """Clocks of the busiest multiprocessor, from what its units take for each block of keys."""
    blocks = shape.batch * ceil_div(shape.rows, tile.rows)
    room = target.cache_bytes[0] // (tile.shared_bytes + RESERVED_SHARED_BYTES)
    resident = max(
        1, min(room, REGISTERS // (tile.threads * (tile.registers + 64)), ceil_div(blocks, target.threads))
    )
    heads = tile.depth + tile.width
    rate = MATRIX_PRODUCTS[tile.size] if tile.form == "matrix" else SCALAR_PRODUCTS
    products = tile.rows * tile.keys * heads / rate
    # Each warp reads all keys and values; of scalar products four lanes share what they read.
    read = tile.warps * tile.keys * heads * tile.size / SHARED_BYTES * (1 if tile.form == "matrix" else 2)
    fetched = tile.keys * heads * tile.size / FETCHED_BYTES
    softmax = tile.rows * tile.keys * SCALAR_OPERATIONS / SCALAR_PRODUCTS
    # Units work at the same time as far as there are warps to give them work.
    alone = products + read + fetched + softmax + BLOCK_CLOCKS
    together = max(products + softmax, read, fetched) + EXPOSED * (read + fetched + BLOCK_CLOCKS)
    each = max(alone / max(1.0, resident * tile.warps / 4), together)
    return ceil_div(blocks, target.threads) * ceil_div(shape.keys, tile.keys) * each
