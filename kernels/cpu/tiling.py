"""Tile sizes of matrix products: registers, caches and shares of work. Knows nothing of code generation."""

from __future__ import annotations

from dataclasses import dataclass

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.target import Target

LEAST_TILES = 24
LEAST_SECONDS = 8e-6


def sum_dtype(accumulator: DType) -> DType:
    """The type that sums of ``accumulator`` are kept in: integers modulo 2**32 or 2**64."""
    if accumulator.is_float:
        return DType.FLOAT64 if accumulator is DType.FLOAT64 else DType.FLOAT32
    return DType.INT64 if accumulator.itemsize == 8 else DType.INT32


@dataclass(frozen=True, slots=True)
class RegisterTile:
    """``rows`` rows of ``vectors`` vectors of ``lanes`` accumulators."""

    rows: int
    vectors: int
    lanes: int

    @property
    def width(self) -> int:
        """Columns, also of a panel of packed B."""
        return self.vectors * self.lanes


def register_tile(target: Target, dtype: DType) -> RegisterTile:
    """The tile for sums of type ``dtype`` (see :func:`sum_dtype`): rows * vectors + vectors + 1 registers."""
    vectors = 4 if target.vector_registers >= 32 else 2
    return RegisterTile(6, vectors, target.vector_bytes // dtype.itemsize)


@dataclass(frozen=True, slots=True)
class Problem:
    """``batch`` products of (rows x depth) and (depth x columns); item sizes in bytes."""

    batch: int
    rows: int
    columns: int
    depth: int
    a_itemsize: int
    b_itemsize: int
    out_itemsize: int

    @property
    def flops(self) -> int:
        return 2 * self.batch * self.rows * self.columns * self.depth


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a problem is cut: ``rows`` and ``panels`` of a tile, ``batch`` problems in it, a block's ``depth``.

    ``row_tiles``, ``column_tiles``, ``batch_tiles`` and ``depth_blocks`` are the counts.
    """

    rows: int
    panels: int
    batch: int
    depth: int
    row_tiles: int
    column_tiles: int
    batch_tiles: int
    depth_blocks: int

    @property
    def tiles(self) -> int:
        return self.row_tiles * self.column_tiles * self.batch_tiles


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def round_up(a: int, b: int) -> int:
    return ceil_div(a, b) * b


def depth_block(target: Target, tile: RegisterTile, depth: int, itemsize: int, rows: int) -> int:
    """Depth of a block: the rows of a register tile take half of the first cache.

    A block that is not the whole depth is a multiple of 8.
    """
    limit = max(64, _caches(target)[0] // 2 // (tile.rows * itemsize))
    if rows <= tile.rows or depth <= limit * 5 // 4:
        return max(depth, 1)
    return round_up(ceil_div(depth, ceil_div(depth, limit)), 8)


def cut(
    target: Target,
    tile: RegisterTile,
    problem: Problem,
    *,
    depth: int,
    depth_blocks: int,
    columns_first: bool = False,
) -> Tiling:
    """Cuts a problem into tiles, the same for any number of threads.

    A tile's block of B takes at most half of the second cache and its block of A a quarter; beyond that tiles
    are halved until there are enough of them to balance threads or they get too short to be worth sharing.
    ``columns_first`` leaves the rows whole as long as columns can be halved: tiles that pack their part of B
    then pack nothing twice.
    """
    second = _caches(target)[1]
    row_blocks = max(1, ceil_div(problem.rows, tile.rows))
    panels = max(1, ceil_div(problem.columns, tile.width))
    panel_bytes = max(1, depth * tile.width * problem.b_itemsize)
    row_bytes = max(1, tile.rows * depth * problem.a_itemsize)
    most_rows = max(4, second // 4 // row_bytes)
    tile_rows = _even(row_blocks, most_rows)
    tile_panels = _even(panels, max(1, second // 2 // panel_bytes) if row_blocks > 1 else panels)
    full_panel = tile.width * problem.depth * problem.b_itemsize
    full_row = tile.rows * problem.depth * problem.a_itemsize

    def tiles() -> int:
        return ceil_div(row_blocks, tile_rows) * ceil_div(panels, tile_panels) * problem.batch

    def seconds() -> float:
        return _seconds(target, tile, problem, tile_rows, tile_panels)

    while tiles() < LEAST_TILES and seconds() > 2 * LEAST_SECONDS:
        halve_rows = not columns_first and tile_rows * full_row >= tile_panels * full_panel
        if tile_rows > 1 and (tile_panels == 1 or halve_rows):
            tile_rows = _even(row_blocks, ceil_div(tile_rows, 2))
        elif tile_panels > 1:
            tile_panels = _even(panels, ceil_div(tile_panels, 2))
        else:
            break
    batch = 1
    if problem.batch > 1:
        batch = max(1, min(int(LEAST_SECONDS / max(seconds(), 1e-9)), tiles() // LEAST_TILES, problem.batch))
    return Tiling(
        rows=tile_rows * tile.rows,
        panels=tile_panels,
        batch=batch,
        depth=depth,
        row_tiles=ceil_div(row_blocks, tile_rows),
        column_tiles=ceil_div(panels, tile_panels),
        batch_tiles=ceil_div(problem.batch, batch),
        depth_blocks=depth_blocks,
    )


def _seconds(target: Target, tile: RegisterTile, problem: Problem, tile_rows: int, tile_panels: int) -> float:
    """Estimated time of a tile: arithmetic, or reading B if there are few rows to use it for."""
    rows = min(problem.rows, tile_rows * tile.rows)
    columns = min(problem.columns, tile_panels * tile.width)
    arithmetic = 2 * rows * columns * problem.depth / target.flops
    reading = columns * problem.depth * problem.b_itemsize / target.bandwidth
    return max(arithmetic, reading if rows <= tile.rows else 0.0)


def _even(count: int, most: int) -> int:
    """The size of parts when ``count`` things are cut evenly into parts of at most ``most``."""
    return ceil_div(count, ceil_div(count, max(1, most)))


def _caches(target: Target) -> tuple[int, int]:
    first = target.cache_bytes[0] if target.cache_bytes else 32768
    second = target.cache_bytes[1] if len(target.cache_bytes) > 1 else 8 * first
    return first, second
