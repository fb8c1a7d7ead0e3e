"""Tile sizes of matrix products: registers, caches and shares of work. Knows nothing of code generation."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target

LEAST_TILES = 24
TILES_A_THREAD = 6
# Fewer blocks of rows than this do not make up for reading B once more.
ROW_BLOCKS_WORTH_SPLITTING = 12
# So many blocks of rows or less do not make up for waiting for a whole panel of B.
FEW_ROW_BLOCKS = 12
# Neither do so many register tiles or less in all.
FEW_REGISTER_TILES = 100
# While so many blocks of rows meet a panel of B, the next one arrives; fewer fetch only a part of it.
ROW_BLOCKS_THAT_FETCH = 4
LEAST_SECONDS = 8e-6


def sum_dtype(accumulator: DType) -> DType:
    """The type that sums of ``accumulator`` are kept in: integers modulo 2**32 or 2**64."""
    if accumulator.is_float:
        return DType.FLOAT64 if accumulator is DType.FLOAT64 else DType.FLOAT32
    return DType.INT64 if accumulator.itemsize == 8 else DType.INT32


@dataclass(frozen=True, slots=True)
class Extents:
    """Of a product: A is ``(rows, depth)``, B ``(depth, columns)``."""

    rows: int
    depth: int
    columns: int


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

    @property
    def widths(self) -> tuple[int, ...]:
        """The numbers of vectors that there are micro-kernels of all rows for: full, half and single."""
        return tuple(sorted({1, ceil_div(self.vectors, 2), self.vectors}))

    @property
    def heights(self) -> tuple[int, ...]:
        """The same for rows, of all vectors."""
        return tuple(sorted({1, ceil_div(self.rows, 2), self.rows}))

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Rows and vectors of all micro-kernels, the first that fits first.

        Tails of rows that are tails of columns too are few, and kernels for them take long to compile.
        """
        tails = tuple((rows, self.vectors) for rows in self.heights[:-1])
        return tails + tuple((self.rows, vectors) for vectors in self.widths)


def register_tile(
    target: Target, dtype: DType, columns: int | None = None, *, even: bool = False
) -> RegisterTile:
    """The tile for sums of type ``dtype`` (see :func:`sum_dtype`): rows * vectors + vectors + 1 registers.

    With ``columns`` the one that wastes least on the last panel; it must not depend on the rows, because
    packed constants are shared by plans for different numbers of them. With ``even`` wide ones have an even
    number of vectors.
    """
    lanes = target.vector_bytes // dtype.itemsize
    return _register_tile(target.vector_registers, lanes, columns, even)


@functools.lru_cache(maxsize=1024)
def _register_tile(registers: int, lanes: int, columns: int | None, even: bool) -> RegisterTile:
    tiles = _register_tiles(registers, lanes)
    if even:
        tiles = [tile for tile in tiles if tile.vectors % 2 == 0]
    if columns is None:
        return tiles[0]
    if registers >= 32 and 0 < columns <= 2 * lanes:
        # As much arithmetic, but more rows for the time that a call takes.
        return RegisterTile(12, ceil_div(columns, lanes), lanes)
    return best_tile(tiles, columns)


def register_tile_of_rows(target: Target, dtype: DType, rows: int) -> RegisterTile:
    """As :func:`register_tile`, but of the largest tiles the one that wastes least on the last rows."""
    tiles = _register_tiles(target.vector_registers, target.vector_bytes // dtype.itemsize)
    most = max(tile.rows * tile.vectors for tile in tiles)
    largest = [tile for tile in tiles if tile.rows * tile.vectors == most]
    return min(largest, key=lambda tile: round_up(rows, tile.rows))


def _register_tiles(registers: int, lanes: int) -> list[RegisterTile]:
    shapes = ((6, 4), (8, 3), (8, 2)) if registers >= 32 else ((6, 2), (4, 3))
    return [RegisterTile(*shape, lanes) for shape in shapes]


def best_tile(tiles: Sequence[RegisterTile], columns: int) -> RegisterTile:
    """The one of ``tiles`` that wastes least on ``columns`` columns."""
    costs = [_cost_of_row(tile, columns) for tile in tiles]
    # The first tile is the largest, whose calls cost least: others must be clearly better.
    return next(tile for tile, cost in zip(tiles, costs, strict=True) if cost <= 1.02 * min(costs))


def _cost_of_row(tile: RegisterTile, columns: int) -> float:
    """Cycles of a row of A by one row of B, at two multiply-adds or loads a cycle with a latency of 4."""

    def panel(vectors: int) -> float:
        return max(tile.rows * vectors / 2, 4.0, (tile.rows + vectors) / 2) / tile.rows

    panels, rest = divmod(ceil_div(columns, tile.lanes), tile.vectors)
    last = next(width for width in tile.widths if width >= rest) if rest else 0
    return panels * panel(tile.vectors) + (panel(last) if last else 0.0)


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
    """How a problem is cut: most ``rows`` and ``panels`` of a tile, ``batch`` problems, a block's ``depth``.

    Blocks of rows and panels are shared out evenly, so that tiles differ by one at most. ``row_tiles``,
    ``column_tiles``, ``batch_tiles`` and ``depth_blocks`` are the counts. Tiles are numbered
    along the rows first, or along the columns if ``along_columns``.
    """

    rows: int
    panels: int
    batch: int
    depth: int
    row_tiles: int
    column_tiles: int
    batch_tiles: int
    depth_blocks: int
    along_columns: bool

    @staticmethod
    def of(
        tile: RegisterTile,
        problem: Problem,
        tiles: tuple[int, int],
        batch: int,
        *,
        depth: int,
        depth_blocks: int,
        along_columns: bool = False,
    ) -> Tiling:
        """``problem`` in ``tiles`` tiles along the rows and the columns, ``batch`` problems in each."""
        row_tiles, column_tiles = tiles
        return Tiling(
            rows=ceil_div(max(1, ceil_div(problem.rows, tile.rows)), row_tiles) * tile.rows,
            panels=ceil_div(max(1, ceil_div(problem.columns, tile.width)), column_tiles),
            batch=batch,
            depth=depth,
            row_tiles=row_tiles,
            column_tiles=column_tiles,
            batch_tiles=ceil_div(problem.batch, batch),
            depth_blocks=depth_blocks,
            along_columns=along_columns,
        )

    @property
    def tiles(self) -> int:
        return self.row_tiles * self.column_tiles * self.batch_tiles

    @property
    def steps(self) -> tuple[int, int]:
        """How far apart the numbers of tiles are that are neighbours along the rows, and the columns."""
        return (self.column_tiles, 1) if self.along_columns else (1, self.row_tiles)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def round_up(a: int, b: int) -> int:
    return ceil_div(a, b) * b


def depth_block(
    target: Target, tile: RegisterTile, depth: int, itemsize: int, rows: int, columns: int | None = None
) -> int:
    """Depth of a block: the rows of a register tile take half of the first cache.

    The first rows that meet a panel wait for it, as nothing fetched it before the step. Where no more than
    ``FEW_ROW_BLOCKS`` follow them, or ``FEW_REGISTER_TILES`` if ``columns`` are known, B's block is small
    enough to stay in the first cache, and all of them meet it while the next one is fetched. A block that is
    not the whole depth is a multiple of 8.
    """
    if rows <= tile.rows:
        return max(depth, 1)
    first = caches(target)[0]
    limit = first // 2 // (tile.rows * itemsize)
    row_blocks = ceil_div(rows, tile.rows)
    panels = FEW_REGISTER_TILES if columns is None else ceil_div(columns, tile.width)
    if row_blocks <= FEW_ROW_BLOCKS or row_blocks * panels <= FEW_REGISTER_TILES:
        limit = min(limit, first * 2 // 3 // (tile.width * itemsize))
    limit = max(64, limit)
    if depth <= limit * 5 // 4:
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
    copied_row: int = 0,
    rereads: bool = False,
    most_row_blocks: int | None = None,
    tiles_a_thread: int = TILES_A_THREAD,
) -> Tiling:
    """Cuts a problem into tiles. Sums do not depend on the cut: no element is computed in parts.

    A tile's block of B takes at most half of the second cache, its rows of A and the output three eighths;
    beyond that tiles are halved until there are enough of them to balance threads or they get too short to be
    worth sharing. Few rows stay together where they can: each tile of them reads all of B. Many rows are
    halved first where the cache holds all of B. Where threads get more even shares of rows than of columns,
    each gets one (see :func:`_shares_rows`).
    ``columns_first`` leaves the rows whole as long as columns can be halved: tiles that pack their part of B
    then pack nothing twice. ``copied_row`` is the size of a row that tiles copy: the copies should stay in
    the first cache, unless B is so large that reading it again costs more, or ``rereads`` says that it never
    does. Tiles have ``most_row_blocks`` blocks of rows at most. Threads get ``tiles_a_thread`` tiles each
    where there are enough.
    """
    first, second = caches(target)
    row_blocks = max(1, ceil_div(problem.rows, tile.rows))
    panels = max(1, ceil_div(problem.columns, tile.width))
    panel_bytes = max(1, depth * tile.width * problem.b_itemsize)
    column_tiles = ceil_div(panels, max(1, second // 2 // panel_bytes)) if row_blocks > 1 else 1
    tile_columns = min(problem.columns, ceil_div(panels, column_tiles) * tile.width)
    row_bytes = tile.rows * (depth * problem.a_itemsize + tile_columns * problem.out_itemsize)
    most_rows = max(4, 3 * second // 8 // max(1, row_bytes))
    b_bytes = problem.depth * problem.columns * problem.b_itemsize
    if copied_row:
        room = first if rereads else max(first, b_bytes // 4)
        most_rows = min(most_rows, max(1, room // (tile.rows * copied_row)))
    row_tiles = ceil_div(row_blocks, min(most_rows, most_row_blocks or most_rows))
    full_panel = tile.width * problem.depth * problem.b_itemsize
    full_row = tile.rows * problem.depth * problem.a_itemsize

    def tiles() -> int:
        return row_tiles * column_tiles * problem.batch

    def seconds() -> float:
        return _seconds(
            target, tile, problem, ceil_div(row_blocks, row_tiles), ceil_div(panels, column_tiles)
        )

    shares_rows = (
        not columns_first and seconds() > 2 * LEAST_SECONDS and _shares_rows(target, tile, problem, b_bytes)
    )
    if shares_rows:
        row_tiles = max(row_tiles, target.threads)
    wanted = tiles_a_thread * target.threads if target.threads > 1 else 1
    while tiles() < wanted and seconds() > 2 * LEAST_SECONDS:
        tile_rows, tile_panels = ceil_div(row_blocks, row_tiles), ceil_div(panels, column_tiles)
        few_tiles = tiles() < 4 * target.threads and not shares_rows
        splits_rows = tile_rows >= ROW_BLOCKS_WORTH_SPLITTING or few_tiles
        whole_rows = b_bytes <= second // 4 and tile_rows >= ROW_BLOCKS_WORTH_SPLITTING
        halve_rows = not columns_first and (whole_rows or tile_rows * full_row >= tile_panels * full_panel)
        if tile_rows > 1 and splits_rows and (tile_panels == 1 or halve_rows):
            row_tiles = min(2 * row_tiles, row_blocks)
        elif tile_panels > 1:
            column_tiles = min(2 * column_tiles, panels)
        else:
            break
    batch = 1
    if problem.batch > 1:
        batch = max(1, min(int(LEAST_SECONDS / max(seconds(), 1e-9)), tiles() // LEAST_TILES, problem.batch))
    return Tiling.of(
        tile,
        problem,
        (row_tiles, column_tiles),
        batch,
        depth=depth,
        depth_blocks=depth_blocks,
        # Threads walk tiles by number. Where the cache holds all of B, each had better compute whole rows,
        # which are what it reads in the next step.
        along_columns=shares_rows or (row_tiles >= 2 * target.threads and b_bytes <= second // 4),
    )


def _shares_rows(target: Target, tile: RegisterTile, problem: Problem, b_bytes: int) -> bool:
    """Does each thread take a part of the rows by all columns, as those parts are more even?

    A thread then finds more of its rows in its own cache, and leaves more there of what it reads in the next
    step. But all threads read all of B, which must be worth it: B is small, and each thread's rows are enough
    for the next panel to arrive meanwhile. Many rows are cut anyway.
    """
    threads, blocks = target.threads, ceil_div(problem.rows, tile.rows)
    return (
        threads > 1
        and problem.batch == 1
        and ROW_BLOCKS_THAT_FETCH <= blocks // threads < ROW_BLOCKS_WORTH_SPLITTING
        and b_bytes <= caches(target)[1] // 2
        and _largest_share(problem.rows, tile.rows, threads)
        < _largest_share(problem.columns, tile.width, threads)
    )


def _largest_share(size: int, part: int, threads: int) -> float:
    """The largest of the shares of ``size`` that end where parts do, beside an equal one."""
    parts = ceil_div(size, part)
    cuts = [min(size, parts * number // threads * part) for number in range(threads + 1)]
    return max(stop - start for start, stop in itertools.pairwise(cuts)) * threads / size


def _seconds(target: Target, tile: RegisterTile, problem: Problem, tile_rows: int, tile_panels: int) -> float:
    """Estimated time of a tile: arithmetic, or reading B if there are few rows to use it for."""
    rows = min(problem.rows, tile_rows * tile.rows)
    columns = min(problem.columns, tile_panels * tile.width)
    arithmetic = 2 * rows * columns * problem.depth / target.flops
    reading = columns * problem.depth * problem.b_itemsize / target.bandwidth
    return max(arithmetic, reading if rows <= tile.rows else 0.0)


def caches(target: Target) -> tuple[int, int]:
    """Bytes of the first and the second cache of a core, supposed where they are not known."""
    first = target.cache_bytes[0] if target.cache_bytes else 32768
    second = target.cache_bytes[1] if len(target.cache_bytes) > 1 else 8 * first
    return first, second
