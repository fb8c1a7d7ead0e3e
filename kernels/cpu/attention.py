"""Selects the kernel for attention: one pass over the keys, block by block, without scores in memory.

Source: T. Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
https://arxiv.org/abs/2205.14135; the running maximum is M. Milakov and N. Gimelshein's,
https://arxiv.org/abs/1805.02867.
"""

from __future__ import annotations

import itertools

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Attention
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import Storage, View
from onnxplan.kernels.attention_extents import AttentionExtents
from onnxplan.kernels.cpu.axes import Axis, merged, words
from onnxplan.kernels.cpu.epilogue import describe_epilogue
from onnxplan.kernels.cpu.matmul import packed_batch
from onnxplan.kernels.cpu.matrix_tiles import GROUP_BYTES, SIDE, SPEED, TILE
from onnxplan.kernels.cpu.pack import access_kind
from onnxplan.kernels.cpu.pairs import PAIR, PAIR_UNIT, become_pairs
from onnxplan.kernels.cpu.product import place_words
from onnxplan.kernels.cpu.product_form import ProductForm
from onnxplan.kernels.cpu.tiling import (
    LEAST_SECONDS,
    TILES_A_THREAD,
    RegisterTile,
    ceil_div,
    register_tile,
    round_up,
)
from onnxplan.kernels.matrices import distinct_bytes

FAMILY = "attention"
KEY_BLOCK = 256
"""Keys at once, at most: their scores for a group of queries stay in the first cache."""

PAIRED = RegisterTile(TILE.rows, 1, SIDE)
"""Queries of a group, and the width of panels of keys and values, where tile registers multiply them."""

MOST_EXTRAS = 8
EXPONENTIAL_FLOPS = 20

# The parameter words at the start of a step; steps and scratch positions in bytes. Those of the extras (row
# and key step each) follow, then the records of the batch axes: extent, and steps of q, k, v, output, extras.
WORDS = (
    "rows",
    "keys",
    "depth",
    "width",
    "row_tiles",
    "tile_rows",
    "key_block",
    "q_row",
    "q_depth",
    "k_panel",
    "k_depth",
    "k_column",
    "v_row",
    "v_column",
    "v_panel",
    "out_row",
    "panels",
    "result_step",
    "query_pitch",
    "score_pitch",
    "stage_pitch",
    "queries",
    "scores",
    "tops",
    "sums",
    "results",
    "k_panels",
    "v_panels",
    "stage",
    "axes",
)


def prefers_attention(operation: Operation, target: Target) -> bool:
    """Is the kernel fit for ``operation``, and faster than two products and a softmax?

    Few queries leave nothing to share a block of keys among.
    """
    shape = AttentionExtents.of(operation)
    output = operation.outputs[0]
    primitive = operation.primitive
    assert isinstance(primitive, Attention)
    score, _ = _register_tiles(target, primitive.accumulator, shape.width, paired=False)
    return (
        min(shape.batch, shape.keys, shape.depth, shape.width) > 0
        and shape.rows >= score.rows
        and len(operation.inputs) - 3 <= MOST_EXTRAS
        and (output.strides[-1] == 1 or shape.width == 1)
    )


def select_attention(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of an operation that :func:`prefers_attention` accepts."""
    primitive = operation.primitive
    assert isinstance(primitive, Attention)
    q, k, v, *extras = operation.inputs
    output = operation.outputs[0]
    shape, sums = AttentionExtents.of(operation), primitive.accumulator
    paired = _is_paired(target, operation)
    score_tile, value_tile = _register_tiles(target, sums, shape.width, paired=paired)
    tile_rows = _tile_rows(target, shape, value_tile, sums.itemsize, paired=paired)
    row_tiles = ceil_div(shape.rows, tile_rows)
    key_block = _key_block(shape, score_tile, paired=paired)
    k_panel = shape.depth * score_tile.width * k.dtype.itemsize
    v_panel = key_block * value_tile.width * v.dtype.itemsize
    if paired:
        k_panel = round_up(shape.depth, PAIR_UNIT) // PAIR * SIDE * GROUP_BYTES
        v_panel = key_block // PAIR * SIDE * GROUP_BYTES
    keys, key_axes, k_layout = k, k, f"scratch_{access_kind(k.strides[-2], k.strides[-1], shape.keys)}"
    if (k.is_constant or row_tiles > 1) and not paired:
        keys, key_axes = packed_batch(emit, k, ProductForm.single(k.dtype, score_tile))
        k_layout = "packed"
    q_layout = access_kind(q.strides[-2], q.strides[-1], shape.depth)
    if q_layout == "rows" and q.dtype is sums and not paired:
        q_layout = "in_place"
    panels = ceil_div(shape.width, value_tile.width)
    scratch = _Scratch.of(
        shape,
        value_tile,
        (tile_rows, key_block),
        sums.itemsize,
        queries=q_layout != "in_place",
        paired=paired,
        packed=(
            0 if k_layout == "packed" else ceil_div(key_block, score_tile.width) * k_panel,
            panels * v_panel,
        ),
    )
    scores = View.dense(Storage(sums, shape.batch * shape.rows * shape.keys), (*q.shape[:-1], shape.keys))
    epilogue = describe_epilogue(primitive.score, sums, scores, extras, scores.rank - 1)
    axes = merged(
        Axis(
            extent,
            tuple(view.strides[axis] * view.dtype.itemsize for view in (q, key_axes, v, output, *extras)),
        )
        for axis, extent in enumerate(output.shape[:-2])
    )
    parameters = (
        shape.rows,
        shape.keys,
        shape.depth,
        shape.width,
        row_tiles,
        tile_rows,
        key_block,
        q.strides[-2] * q.dtype.itemsize,
        q.strides[-1] * q.dtype.itemsize,
        k_panel,
        k.strides[-2] * k.dtype.itemsize,
        k.strides[-1] * k.dtype.itemsize,
        v.strides[-2] * v.dtype.itemsize,
        v.strides[-1] * v.dtype.itemsize,
        v_panel,
        output.strides[-2] * output.dtype.itemsize,
        panels,
        panels * value_tile.rows * value_tile.width * sums.itemsize,
        q.strides[-2] * q.dtype.itemsize if q_layout == "in_place" else scratch.query_pitch,
        scratch.score_pitch,
        scratch.stage_pitch,
        *scratch.starts,
        len(axes),
        *place_words(extras, scores.rank - 2, scores.rank - 1),
        *words(axes),
    )
    variant = (
        "tiles" if paired else "vectors",
        q.dtype.label,
        q_layout,
        k_layout,
        k.dtype.label,
        v.dtype.label,
        access_kind(v.strides[-2], v.strides[-1], shape.width),
        shape.width % value_tile.width == 0,
        output.dtype.label,
        primitive.softmax,
        (score_tile.rows, score_tile.vectors, score_tile.lanes),
        (value_tile.rows, value_tile.vectors, value_tile.lanes),
        epilogue.variant,
    )
    operands = (q, keys, v, output, *extras)
    emit.step(
        KernelSpec(FAMILY, variant),
        operands,
        (3,),
        parameters,
        tiles=shape.batch * row_tiles,
        flops=shape.flops(EXPONENTIAL_FLOPS)
        + epilogue.expression.cost * shape.batch * shape.rows * shape.keys,
        bytes_moved=sum(distinct_bytes(view) for view in operands),
        scratch=scratch.size,
        seconds=_seconds(target, shape, paired=True) if paired else None,
    )


def _is_paired(target: Target, operation: Operation) -> bool:
    """Do tile registers compute both products, from pairs of bfloat16?

    Groups are full, and there must be enough queries for one. Weights are rounded to bfloat16, also where
    queries, keys and values are of that type.
    """
    primitive = operation.primitive
    assert isinstance(primitive, Attention)
    return (
        become_pairs(target, {view.dtype for view in operation.inputs[:3]})
        and primitive.accumulator is DType.FLOAT32
        and AttentionExtents.of(operation).rows >= PAIRED.rows
    )


def _register_tiles(
    target: Target, sums: DType, width: int, *, paired: bool
) -> tuple[RegisterTile, RegisterTile]:
    """The tiles of the scores and of the result, which have as many rows."""
    if paired:
        return PAIRED, PAIRED
    score = register_tile(target, sums)
    vectors = max(1, ceil_div(width, score.lanes))
    return score, RegisterTile(score.rows, ceil_div(vectors, ceil_div(vectors, score.vectors)), score.lanes)


def _key_block(shape: AttentionExtents, tile: RegisterTile, *, paired: bool) -> int:
    """Keys at once: whole panels (and tiles of bfloat16), blocks of nearly the same length."""
    unit = PAIR_UNIT if paired else tile.width
    panels = ceil_div(shape.keys, unit)
    blocks = ceil_div(panels * unit, max(KEY_BLOCK, unit))
    return ceil_div(panels, blocks) * unit


def _tile_rows(
    target: Target, shape: AttentionExtents, tile: RegisterTile, itemsize: int, *, paired: bool
) -> int:
    """Queries of a tile: what fits a quarter of the second cache, fewer to have enough tiles.

    Each tile packs the values, and one of all queries the keys: as few as threads need.
    """
    second = target.cache_bytes[1] if len(target.cache_bytes) > 1 else 1 << 18
    groups = ceil_div(shape.rows, tile.rows)
    query = DType.BFLOAT16.itemsize if paired else itemsize
    most = max(1, second // 4 // (tile.rows * (shape.depth * query + shape.width * itemsize)))
    size = ceil_div(groups, ceil_div(groups, most))
    seconds = _seconds(target, shape, paired=paired) / shape.batch / groups
    wanted = TILES_A_THREAD * target.threads if target.threads > 1 else 1
    while shape.batch * ceil_div(groups, size) < wanted and size > 1 and size * seconds > 2 * LEAST_SECONDS:
        size = ceil_div(groups, ceil_div(groups, ceil_div(size, 2)))
    return size * tile.rows


def _seconds(target: Target, shape: AttentionExtents, *, paired: bool) -> float:
    """How long one thread takes."""
    if not paired:
        return shape.flops(EXPONENTIAL_FLOPS) / target.flops
    scores = shape.batch * shape.rows * shape.keys
    products = shape.flops(EXPONENTIAL_FLOPS) - scores * EXPONENTIAL_FLOPS
    return (products / SPEED + scores * EXPONENTIAL_FLOPS) / target.flops


@dataclass(frozen=True, slots=True)
class _Scratch:
    """Positions in a thread's memory, in the order of :data:`WORDS`; pitches of rows; its size."""

    query_pitch: int
    score_pitch: int
    stage_pitch: int
    starts: tuple[int, ...]
    size: int

    @staticmethod
    def of(
        shape: AttentionExtents,
        value: RegisterTile,
        block: tuple[int, int],
        size: int,
        *,
        queries: bool,
        paired: bool,
        packed: tuple[int, int],
    ) -> _Scratch:
        """For blocks of rows and keys; ``packed`` are the bytes of a block of keys and values, packed."""
        rows, keys = block
        # Rows that are a power of two apart would fall into the same lines of the cache.
        query_pitch = round_up(shape.depth * size, 64) + 64
        score_pitch = keys * size + 64
        stage_pitch = 0
        if paired:
            half = DType.BFLOAT16.itemsize
            query_pitch = round_up(shape.depth, PAIR_UNIT) * half + 64
            stage_pitch = max(round_up(shape.depth, PAIR_UNIT), keys) * half + 64
        sizes = (
            rows * query_pitch if queries else 0,
            value.rows * score_pitch,
            rows * size,
            rows * value.lanes * size,
            rows * round_up(shape.width, value.width) * size,
            *packed,
            SIDE * stage_pitch,
        )
        starts = list(itertools.accumulate((round_up(part, 64) for part in sizes), initial=0))
        return _Scratch(query_pitch, score_pitch, stage_pitch, tuple(starts[:-1]), starts[-1])
