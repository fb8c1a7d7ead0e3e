"""Selects the kernel for products of few rows with columns whose elements along the depth are neighbours.

Each sum is a dot product along the depth, so both operands are read once, in place: attention scores of one
new token against cached keys, or a matrix times a vector.
"""

from __future__ import annotations

import math

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import MatMul
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.epilogue import describe_epilogue, shared_with_output
from onnxplan.kernels.cpu.product import place_words
from onnxplan.kernels.cpu.tiling import LEAST_SECONDS, LEAST_TILES, ceil_div, round_up, sum_dtype
from onnxplan.kernels.matrices import Matrices, batch_records, distinct_bytes

FAMILY = "dot"
MOST_ROWS = 4

# Columns that a register kernel computes at once, and those whose sums are finished together.
COLUMNS = 8
GROUP = 64

WORDS = (
    "rows",
    "columns",
    "depth",
    "tile_columns",
    "column_tiles",
    "tile_batch",
    "batch",
    "a_row",
    "b_column",
    "axes",
)


def prefers_dot(matrices: Matrices) -> bool:
    """Is this kernel the right one?"""
    a, b = matrices.a, matrices.b
    return (
        not b.is_constant
        and matrices.rows <= MOST_ROWS
        and matrices.depth > 1
        and a.strides[-1] == 1
        and b.strides[-2] == 1
        and b.strides[-1] != 1
    )


def emit_dot(emit: StepEmitter, target: Target, matrices: Matrices, primitive: MatMul) -> None:
    """The step that computes ``matrices``."""
    a, b, output, extras = matrices.a, matrices.b, matrices.output, matrices.extras
    rank = output.rank
    epilogue = describe_epilogue(primitive.epilogue, primitive.accumulator, output, extras, rank - 1)
    sums = sum_dtype(primitive.accumulator)
    batch = math.prod(output.shape[:-2])
    column_bytes = matrices.depth * b.dtype.itemsize
    tile_columns, tile_batch = _cut(target, batch, matrices.columns, column_bytes)
    axes, records = batch_records((a, b, output, *extras))
    column_tiles = ceil_div(matrices.columns, tile_columns)
    parameters = [
        matrices.rows,
        matrices.columns,
        matrices.depth,
        tile_columns,
        column_tiles,
        tile_batch,
        batch,
        a.strides[-2] * a.dtype.itemsize,
        b.strides[-1] * b.dtype.itemsize,
        axes,
        *place_words((output, *extras), rank - 2, rank - 1),
        *records,
    ]
    variant = (a.dtype.label, b.dtype.label, target.vector_bytes // sums.itemsize, epilogue.variant)
    emit.step(
        KernelSpec(FAMILY, variant),
        (a, b, output, *extras),
        (2,),
        tuple(parameters),
        tiles=column_tiles * ceil_div(batch, tile_batch),
        flops=(2 * matrices.depth + epilogue.expression.cost) * output.size,
        bytes_moved=sum(distinct_bytes(view) for view in (a, b, output, *extras)),
        scratch=scratch_bytes(sums),
        in_place=tuple((2, 3 + number) for number in shared_with_output(output, extras)),
    )


def scratch_bytes(sums: DType) -> int:
    """Bytes of the sums of a group of columns."""
    return GROUP * sums.itemsize


def _cut(target: Target, batch: int, columns: int, column_bytes: int) -> tuple[int, int]:
    """Columns and batch elements of a tile: enough tiles to share, none too short to be worth it."""
    worth = LEAST_SECONDS * target.bandwidth
    tile_columns = columns
    if batch < LEAST_TILES:
        wanted = ceil_div(LEAST_TILES, batch)
        tile_columns = min(columns, max(ceil_div(columns, wanted), int(worth / column_bytes), 1))
        tile_columns = min(columns, round_up(tile_columns, GROUP))
    if tile_columns < columns:
        return tile_columns, 1
    tile_batch = max(1, min(int(worth / (columns * column_bytes)), batch // LEAST_TILES))
    return tile_columns, tile_batch
