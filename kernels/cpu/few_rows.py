"""Steps of products of few rows, whose two kernels walk tiles and operands alike and differ in what they sum.

:mod:`~onnxplan.kernels.cpu.dot` is for columns whose elements along the depth are neighbours,
:mod:`~onnxplan.kernels.cpu.row_sums` for rows of B whose columns are. Both read B once, in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import MatMul
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.epilogue import describe_epilogue, shared_with_output
from onnxplan.kernels.cpu.product import place_words
from onnxplan.kernels.cpu.tiling import LEAST_SECONDS, TILES_A_THREAD, ceil_div, round_up, sum_dtype
from onnxplan.kernels.matrices import Matrices, batch_records, distinct_bytes

MOST_ROWS = 4

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
    "b_column",
    "axes",
)


def emit_few_rows(
    emit: StepEmitter,
    target: Target,
    matrices: Matrices,
    primitive: MatMul,
    family: str,
    rows: int,
    group: Callable[[DType], int],
    scratch: Callable[[DType], int],
) -> None:
    """The step of kernel ``family`` that computes ``matrices``, ``rows`` rows at once.

    Tiles are whole groups of ``group(type of the sums)`` columns; ``scratch`` gives its bytes of memory.
    """
    a, b, output, extras = matrices.a, matrices.b, matrices.output, matrices.extras
    rank = output.rank
    epilogue = describe_epilogue(primitive.epilogue, primitive.accumulator, output, extras, rank - 1)
    sums = sum_dtype(primitive.accumulator)
    batch = math.prod(output.shape[:-2])
    column_bytes = matrices.depth * b.dtype.itemsize
    tile_columns, tile_batch = _cut(target, batch, matrices.columns, column_bytes, group(sums))
    column_tiles = ceil_div(matrices.columns, tile_columns)
    axes, records = batch_records((a, b, output, *extras))
    parameters = [
        matrices.rows,
        matrices.columns,
        matrices.depth,
        tile_columns,
        column_tiles,
        tile_batch,
        batch,
        *(stride * a.dtype.itemsize for stride in a.strides[-2:]),
        *(stride * b.dtype.itemsize for stride in b.strides[-2:]),
        axes,
        *place_words((output, *extras), rank - 2, rank - 1),
        *records,
    ]
    lanes = target.vector_bytes // sums.itemsize
    emit.step(
        KernelSpec(family, (rows, a.dtype.label, b.dtype.label, lanes, epilogue.variant)),
        (a, b, output, *extras),
        (2,),
        tuple(parameters),
        tiles=column_tiles * ceil_div(batch, tile_batch),
        flops=(2 * matrices.depth + epilogue.expression.cost) * output.size,
        bytes_moved=sum(distinct_bytes(view) for view in (a, b, output, *extras)),
        scratch=scratch(sums),
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
    return min(columns, round_up(tile_columns, group)), 1
