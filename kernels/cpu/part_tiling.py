"""How products in parts are cut (:mod:`onnxplan.kernels.cpu.parts`). Knows nothing of code generation.

A tile splits its rows of A and its columns of B, so that few large tiles are best. Its rows stay in the
second cache; a panel of B is split before the rows meet it, a block of the depth at a time.
"""

from __future__ import annotations

import functools
import itertools

from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.matrix_tiles import TILE
from onnxplan.kernels.cpu.pairs import PAIR_UNIT
from onnxplan.kernels.cpu.parts import BYTES, SPLIT_DEPTH
from onnxplan.kernels.cpu.tiling import LEAST_SECONDS, Problem, Tiling, caches, ceil_div, round_up

PRODUCT, SPLIT_A, SPLIT_B = 500, 320, 270
"""Cycles of a block's product for a tile's depth, and of splitting its rows of A or columns of B."""
MOST_TILES_A_THREAD = 8


def depth_of_parts(target: Target, depth: int) -> int:
    """Depth of a block: the parts of six blocks of rows take half of the second cache."""
    limit = max(SPLIT_DEPTH, caches(target)[1] // 2 // (6 * TILE.rows * BYTES))
    return round_up(ceil_div(depth, ceil_div(depth, limit)), PAIR_UNIT)


@functools.lru_cache(maxsize=1024)
def cut_parts(target: Target, problem: Problem, depth: int) -> Tiling:
    """Cuts a problem whose blocks of the depth have ``depth`` elements; none is computed in parts of it."""
    row_blocks, panels = ceil_div(problem.rows, TILE.rows), ceil_div(problem.columns, TILE.width)
    most_blocks = max(1, caches(target)[1] // 2 // (TILE.rows * depth * BYTES))
    least = ceil_div(row_blocks, most_blocks)

    def cycles(row_tiles: int, column_tiles: int) -> float:
        """Of the thread that has most to do, with all tiles of a problem."""
        rows, columns = ceil_div(row_blocks, row_tiles), ceil_div(panels, column_tiles)
        tile = rows * columns * PRODUCT + rows * SPLIT_A + columns * SPLIT_B
        tiles = row_tiles * column_tiles * problem.batch
        return ceil_div(tiles, target.threads) * tile if tiles >= target.threads else tile

    seconds = problem.flops / target.flops
    alone = target.threads == 1 or seconds < 2 * LEAST_SECONDS
    most = 1 if alone else MOST_TILES_A_THREAD * target.threads
    row_choices = sorted({min(row_blocks, least * count) for count in range(1, most + 1)})
    column_choices = range(1, min(panels, most) + 1)
    row_tiles, column_tiles = min(
        itertools.product(row_choices, column_choices), key=lambda choice: cycles(*choice)
    )
    each = seconds / (row_tiles * column_tiles * problem.batch)
    batch = max(1, min(int(LEAST_SECONDS / max(each, 1e-9)), ceil_div(problem.batch, 2 * target.threads)))
    return Tiling.of(
        TILE,
        problem,
        (row_tiles, column_tiles),
        batch,
        depth=depth,
        depth_blocks=ceil_div(problem.depth, depth),
    )
