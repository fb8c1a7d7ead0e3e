"""Selects the kernel for products of few rows with a fed matrix whose columns are neighbours.

Each row of B is scaled and added to sums that stay in the first cache, so that B is read once, in the order
in which it stands in memory: probabilities of one new token by cached values, or a vector times a matrix.
"""

from __future__ import annotations

import math

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import MatMul
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.epilogue import describe_epilogue, shared_with_output
from onnxplan.kernels.cpu.product import place_words
from onnxplan.kernels.cpu.tiling import LEAST_SECONDS, TILES_A_THREAD, ceil_div, round_up, sum_dtype
from onnxplan.kernels.matrices import Matrices, batch_records, distinct_bytes

FAMILY = "row_sums"
MOST_ROWS = 4

# Bytes of a row's sums that are open at a time: whole pages of B's rows are read one after another.
GROUP_BYTES = 4096
# A narrower matrix has no more than one panel, which is read in order by the micro-kernels as well.
LEAST_COLUMN_BYTES = 512

WORDS = (
    "rows",
    "columns",
    "depth",
    "tile_columns",
    "column_tiles",
    "tile_batch",
    "batch",
    "a_row",
    "a_depth",
    "b_row",
    "axes",
)


def prefers_row_sums(matrices: Matrices) -> bool:
    """Is this kernel the right one?"""
    b = matrices.b
    return (
        not b.is_constant
        and matrices.rows <= MOST_ROWS
        and matrices.depth > 1
        and b.strides[-1] == 1
        and matrices.columns * b.dtype.itemsize >= LEAST_COLUMN_BYTES
        # Bytes are better multiplied as quads.
        and (b.dtype.is_float or b.dtype.itemsize >= 4)
    )


def emit_row_sums(emit: StepEmitter, target: Target, matrices: Matrices, primitive: MatMul) -> None:
    """The step that computes ``matrices``."""
    a, b, output, extras = matrices.a, matrices.b, matrices.output, matrices.extras
    rank = output.rank
    epilogue = describe_epilogue(primitive.epilogue, primitive.accumulator, output, extras, rank - 1)
    sums = sum_dtype(primitive.accumulator)
    batch = math.prod(output.shape[:-2])
    tile_columns, tile_batch = _cut(
        target, batch, matrices.columns, matrices.depth * b.dtype.itemsize, GROUP_BYTES // sums.itemsize
    )
    column_tiles = ceil_div(matrices.columns, tile_columns)
    axes, records = batch_records((a, b, output, *extras))
    # Three rows are computed as four.
    rows = 1 << (matrices.rows - 1).bit_length()
    parameters = [
        matrices.rows,
        matrices.columns,
        matrices.depth,
        tile_columns,
        column_tiles,
        tile_batch,
        batch,
        a.strides[-2] * a.dtype.itemsize,
        a.strides[-1] * a.dtype.itemsize,
        b.strides[-2] * b.dtype.itemsize,
        axes,
        *place_words((output, *extras), rank - 2, rank - 1),
        *records,
    ]
    variant = (rows, a.dtype.label, b.dtype.label, target.vector_bytes // sums.itemsize, epilogue.variant)
    emit.step(
        KernelSpec(FAMILY, variant),
        (a, b, output, *extras),
        (2,),
        tuple(parameters),
        tiles=column_tiles * ceil_div(batch, tile_batch),
        flops=(2 * matrices.depth + epilogue.expression.cost) * output.size,
        bytes_moved=sum(distinct_bytes(view) for view in (a, b, output, *extras)),
        scratch=rows * GROUP_BYTES,
        in_place=tuple((2, 3 + number) for number in shared_with_output(output, extras)),
    )


def _cut(target: Target, batch: int, columns: int, column_bytes: int, group: int) -> tuple[int, int]:
    """Columns and batch elements of a tile: whole matrices where there are enough of them, else groups."""
    wanted = TILES_A_THREAD * target.threads if target.threads > 1 else 1
    worth = LEAST_SECONDS * target.bandwidth
    if batch >= wanted:
        least = ceil_div(int(worth), columns * column_bytes)
        return columns, max(1, min(least, batch // wanted))
    parts = ceil_div(wanted, batch)
    tile_columns = max(ceil_div(columns, parts), int(worth / column_bytes), 1)
    # Half a group is enough to read in order.
    return min(columns, round_up(tile_columns, group // 2)), 1
