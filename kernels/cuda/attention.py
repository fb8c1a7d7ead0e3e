"""Selects the kernel for attention: one pass over the keys, without scores in memory."""

from __future__ import annotations

import itertools
import math
from dataclasses import astuple

import numpy as np

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.plan import KernelSpec, Variant
from onnxplan.compiler.primitives import Attention
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.attention_extents import AttentionExtents
from onnxplan.kernels.cuda.attention_form import FAMILY, WARP_ROWS, Rows, Scores, Tile
from onnxplan.kernels.cuda.attention_parts import Parts, Queries
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

REGISTERS_OF_COPIES = 16
"""What one or two warps take more, which copy all keys and values."""

REGISTERS = 1 << 16
"""Of a multiprocessor."""

SCALAR_OPERATIONS = 8
"""Of a score beside its products."""
BLOCK_CLOCKS = 300
"""For the barriers of a block of keys, about."""
WAIT_CLOCKS = 1400
"""From asking memory for keys and then for values until they begin to come, about. The blocks of a
multiprocessor wait at the same time."""
COMBINE_CLOCKS = 4000
"""For launching the step that combines parts, and its wait for memory, about."""

PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Into how many the keys may be cut."""


def prefers_attention(operation: Operation, target: Target) -> bool:
    """Is the kernel fit for ``operation``? Then it is faster than two products and a softmax.

    Of few queries too, though most of what a warp computes is for nothing then: reading keys and values takes
    longer.
    """
    primitive = operation.primitive
    assert isinstance(primitive, Attention)
    q, k, v, *extras = operation.inputs
    shape = AttentionExtents.of(operation)
    return (
        min(shape.batch, shape.rows, shape.keys, shape.depth, shape.width) > 0
        and max(shape.depth, shape.width) <= LARGEST_HEAD
        and primitive.accumulator is DType.FLOAT32
        and q.dtype is k.dtype is v.dtype
        and (q.dtype is DType.FLOAT32 or multiplies(target, q.dtype))
        and len(extras) <= MOST_EXTRAS
        and bool(_tiles(target, shape, q.dtype))
    )


@dataclass(frozen=True, slots=True)
class LibraryStep:
    """A library's name for a step of ours.

    ``variant`` ends with that of our own kernel, which takes the same operands; ``views`` are how the library
    sees those of the operation.
    """

    family: str
    variant: Variant
    views: tuple[View, ...]


def emit_attention(
    operation: Operation, emit: StepEmitter, target: Target, library: LibraryStep | None = None
) -> None:
    """Emits the step of an operation that :func:`prefers_attention` accepts; for a ``library`` one alone."""
    primitive = operation.primitive
    assert isinstance(primitive, Attention)
    queries = Queries.of(operation)
    q, k, v, *extras, output = queries.views
    shape = queries.extents
    tile = fitting_tile(target, shape, q.dtype)
    row_tiles = ceil_div(shape.rows, tile.rows)
    scores, table = _scores(primitive, operation, queries, tile, emit)
    extras = extras[: len(scores.dtypes)]
    # Of all blocks of keys, those that a table leaves.
    share = 1.0
    if table is not None:
        blocks = table.numpy()
        share = float((blocks[:, 3] - blocks[:, 0]).sum()) / (row_tiles * ceil_div(shape.keys, tile.keys))
    count = 1 if library is not None else fitting_parts(target, shape, tile, share)
    parts = Parts.make(emit, queries, count) if count > 1 else None
    keys = k.transpose((*range(k.rank - 2), k.rank - 1, k.rank - 2))
    inputs = (q, keys, v, *extras)
    operands = (*inputs, output)
    batch = pad_axes(
        axes_of(queries.batch, [queries.batch_strides(view) for view in operands]), len(operands)
    )
    overshoot = max(tile.rows, tile.keys) * max(abs(s) for view in operands for s in view.strides[-2:])
    partial = count * shape.batch * shape.rows * shape.width
    index = index_type(max(shape.keys, partial, *(reach(view) + overshoot for view in operands)), [])
    parameters = [
        shape.rows,
        shape.keys,
        shape.depth,
        shape.width,
        row_tiles,
        shape.batch,
        count,
        shape.rows // queries.heads,
        *(stride for view in (q, keys, v, output) for stride in view.strides[-2:]),
        *(view.strides[-3] for view in (q, *extras, output) if queries.heads > 1),
        *(stride for view in extras for stride in view.strides[-2:]),
        *axis_words(batch),
    ]
    results: tuple[View, ...] = (output,) if parts is None else parts.views
    variant: Variant = (
        tile.threads,
        astuple(tile),
        tuple(copies_wide(view) for view in (q, keys, v)),
        table is not None,
        scores.variant,
        q.dtype.label,
        results[0].dtype.label,
        len(batch),
        index,
        astuple(Rows(queries.heads > 1, parts is not None, operation.outputs[0].shape[-2] < WARP_ROWS)),
    )
    spec = KernelSpec(FAMILY, variant)
    if library is not None:
        spec = KernelSpec(library.family, (*library.variant, variant))
        inputs, results = library.views[: len(inputs)], library.views[-1:]
    written = tuple(range(len(inputs), len(inputs) + len(results)))
    operands = (*inputs, *results)
    check_words(len(operands) + 1, len(parameters))
    cost = scores.expression.cost if scores.expression is not None else 0
    emit.step(
        spec,
        operands if table is None else (*operands, table),
        written,
        tuple(parameters),
        tiles=shape.batch * row_tiles * count,
        flops=shape.flops(EXPONENTIAL_FLOPS) + cost * shape.batch * shape.rows * shape.keys,
        bytes_moved=sum(map(distinct_bytes, operands)),
        scratch=tile.shared_bytes,
        seconds=_clocks(target, shape, tile, count, share) / CLOCK,
    )
    if parts is not None:
        parts.combine(emit, target, queries.output, primitive.softmax, scores.scale)


def _scores(
    primitive: Attention, operation: Operation, queries: Queries, tile: Tile, emit: StepEmitter
) -> tuple[Scores, View | None]:
    """How scores are computed, and the table of the blocks of keys that are needed."""
    scale = _scale(primitive.score)
    if scale is not None:
        return Scores(primitive.softmax, scale, None, None, ()), None
    score = primitive.score
    assert score is not None
    extras, extents = operation.inputs[3:], AttentionExtents.of(operation)
    dtypes = tuple(view.dtype for view in extras)
    # Where rows are those of several heads, each tile needs what all queries of one head need.
    together = queries.extents.rows != extents.rows
    tile_rows = extents.rows if together else tile.rows
    found = score_blocks(score, extras, extents.rows, extents.keys, tile_rows, tile.keys)
    if found is None:
        return Scores(primitive.softmax, 1.0, score, score, dtypes), None
    constants = tuple(view for view in extras if view.is_constant)
    copies = ceil_div(queries.extents.rows, tile.rows) if together else 1
    layout = f"attention_blocks_{tile_rows}_{tile.keys}_{copies}_{score}"
    table = np.tile(found.table, (copies, 1))
    storage = emit.constant(constants, layout, lambda *arrays: table)
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
    """The tile that is estimated to be fastest, the smallest one among equals."""

    def clocks(tile: Tile) -> tuple[float, int, int]:
        clocks = _clocks(target, shape, tile, fitting_parts(target, shape, tile))
        return clocks, tile.threads, tile.rows

    return min(_tiles(target, shape, dtype), key=clocks)


def fitting_parts(target: Target, shape: AttentionExtents, tile: Tile, share: float = 1.0) -> int:
    """How many blocks share the keys of a tile of queries, of which ``share`` is needed."""
    most = max(1, math.ceil(share * ceil_div(shape.keys, tile.keys)))
    counts = (count for count in PARTS if count <= most)
    return min(counts, key=lambda count: _clocks(target, shape, tile, count, share))


def _tiles(target: Target, shape: AttentionExtents, dtype: DType) -> list[Tile]:
    """Those that fit the registers and the shared memory."""
    form = "matrix" if multiplies(target, dtype) else "scalar"
    depth, width = (ceil_div(extent, 16) * 16 for extent in (shape.depth, shape.width))
    tiles = [
        Tile(form, warps, groups, keys, depth, width, dtype.itemsize)
        for warps, groups, keys in itertools.product((8, 4, 2, 1), (2, 1), (64, 32, 16))
    ]
    room = target.cache_bytes[0] - RESERVED_SHARED_BYTES
    most = MOST_REGISTERS[form, dtype.itemsize]
    return [
        tile
        for tile in tiles
        if tile.shared_bytes <= room
        and tile.registers <= most - (REGISTERS_OF_COPIES if tile.warps <= 2 else 0)
    ]


def _clocks(target: Target, shape: AttentionExtents, tile: Tile, parts: int, share: float = 1.0) -> float:
    """Clocks of the busiest multiprocessor, from what its units take for each block of keys, or of memory.

    Results of several ``parts`` take another step.
    """
    blocks = shape.batch * ceil_div(shape.rows, tile.rows) * parts
    key_blocks = math.ceil(share * ceil_div(shape.keys, tile.keys) / parts)
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
    each = max(alone / max(1.0, resident * tile.warps / 4), (WAIT_CLOCKS + fetched) / resident, together)
    clocks = ceil_div(blocks, target.threads) * key_blocks * each
    per_byte = CLOCK / target.bandwidth
    memory = share * shape.batch * shape.keys * heads * tile.size * per_byte
    clocks = max(clocks, memory) + EXPOSED * min(clocks, memory)
    if parts == 1:
        return clocks
    # Partial results are written and read.
    return clocks + COMBINE_CLOCKS + 8 * parts * shape.batch * shape.rows * shape.width * per_byte
