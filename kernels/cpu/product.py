"""What the steps of MatMul and Conv have in common: their parameters and their scratch memory.

No code generation here; :mod:`onnxplan.kernels.cpu.product_code` reads the same tables.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.tiling import Problem, RegisterTile, Tiling, ceil_div, round_up

# The parameter words at the start of every product step; steps and scratch positions in bytes.
WORDS = (
    "rows",
    "columns",
    "depth",
    "row_tiles",
    "column_tiles",
    "row_tile_step",
    "column_tile_step",
    "batch",
    "tile_batch",
    "depth_block",
    "depth_blocks",
    "b_panel",
    "b_row",
    "b_depth",
    "b_column",
    "b_scratch",
    "a_scratch",
    "table",
    "axes",
)


@dataclass(frozen=True, slots=True)
class Scratch:
    """Positions of a thread's memory: accumulator tiles from 0, then packed B, rows of A, row addresses."""

    b: int
    a: int
    table: int
    size: int


def lay_out_scratch(
    tile: RegisterTile,
    tiling: Tiling,
    itemsize: int,
    b: int,
    a: int,
    table: int,
    *,
    copies: bool,
    parts: bool = False,
) -> Scratch:
    """Places ``b``, ``a`` and ``table`` bytes after the accumulators of ``itemsize`` bytes each.

    With ``copies`` rows are copied block by block of the depth, so that all panels' sums are open at once.
    With ``parts`` sums have place for two, and those of all rows of a panel are open.
    """
    blocks = 1 if tiling.depth_blocks == 1 and not parts else ceil_div(tiling.rows, tile.rows)
    if copies and tiling.depth_blocks > 1:
        blocks *= tiling.panels
    accumulators = blocks * tile.rows * tile.width * itemsize * (2 if parts else 1)
    b_at = round_up(accumulators, 64)
    a_at = round_up(b_at + b, 64)
    table_at = round_up(a_at + a, 64)
    return Scratch(b_at, a_at, table_at, table_at + table)


def place_words(views: Sequence[View], row_axis: int, column_axis: int) -> list[int]:
    """Row and column steps of the output and the extras."""
    return [view.strides[axis] * view.dtype.itemsize for view in views for axis in (row_axis, column_axis)]


def product_seconds(target: Target, problem: Problem, bytes_moved: int) -> float:
    """The estimated time of a product whose elements ``target`` multiplies as fast as it says of floats."""
    return target.seconds(problem.flops, bytes_moved)
