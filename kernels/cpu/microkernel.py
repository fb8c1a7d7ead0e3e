"""The register-tiled matrix product that MatMul and Conv share, as LLVM functions inside a kernel's module.

A micro-kernel computes a tile of ``rows x vectors`` vector accumulators. It reads A through a table of row
addresses, one set of rows a tap, so the same code serves matrices in place, packed blocks and the taps of a
convolution; it reads B row by row, packed or in place. Accumulators go to a tile in memory; the epilogue runs
over that tile, or in registers where the tile is full and the expression cheap.

Source of the scheme: K. Goto and R. van de Geijn, "Anatomy of High-Performance Matrix Multiplication",
ACM TOMS 34(3), 2008; the row addresses of taps are M. Dukhan's indirect convolution,
https://arxiv.org/abs/1907.02129.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import (
    PLACE_TYPES,
    Place,
    emit_epilogue,
    place_values,
    places_of,
    tile_finisher,
)
from onnxplan.kernels.cpu.fetch_code import UNROLL, fetch_ahead, fetch_later
from onnxplan.kernels.cpu.llvm_types import I1, I32, I64, POINTER, compute_type
from onnxplan.kernels.cpu.quad_code import QuadProduct
from onnxplan.kernels.cpu.registers import Grid, carry_loop, local_function, multiply_add, zeros
from onnxplan.kernels.cpu.tiling import RegisterTile, ceil_div, sum_dtype


@dataclass(frozen=True, slots=True)
class MicroKernel:
    """What the micro-kernels of one kernel have in common.

    ``tile`` is the largest tile. ``masked`` says that B is read in place and must not be read beyond its
    columns. ``taps`` says that A has several sets of rows. ``a_step`` and ``b_step`` are those of all
    sources in bytes where they are known. ``ahead`` says that sources name memory to fetch meanwhile, and
    ``fetches_b`` that they may name none, because it is B, of a known step, that comes from memory. With
    ``quads`` an element of A or B is four bytes along the depth, which is counted in such elements.
    """

    target: Target
    b_dtype: DType
    tile: RegisterTile
    masked: bool
    taps: bool
    epilogue: Epilogue
    a_step: int | None = None
    b_step: int | None = None
    ahead: bool = False
    fetches_b: bool = False
    quads: QuadProduct | None = None

    @property
    def dtype(self) -> DType:
        """The type that sums are kept in."""
        return sum_dtype(self.epilogue.accumulator)

    @property
    def lanes(self) -> int:
        return self.tile.lanes

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of the accumulator tile."""
        return self.tile.width * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Source:
    """Operands of a micro-kernel call, in the order of its arguments.

    ``table`` holds the addresses of A's rows, ``tap_step`` bytes from one tap's to the next; element ``k`` of
    a row stands at its address plus ``a_offset + k * a_step`` bytes. ``b`` is the first row of B, whose rows
    are ``b_step`` bytes apart and number ``taps * length``. ``accumulate`` (i64) is 0 if the sum starts here.
    ``columns`` is how many columns of B may be read. ``ahead`` is memory that the caller is going to read, of
    which ``ahead_step`` bytes are fetched into the second cache for each row of B; 0 if B itself is to be.
    """

    table: ir.Value
    tap_step: ir.Value
    taps: ir.Value
    a_offset: ir.Value
    a_step: ir.Value
    b: ir.Value
    b_step: ir.Value
    length: ir.Value
    tile: ir.Value
    accumulate: ir.Value
    columns: ir.Value
    ahead: ir.Value | None = None
    ahead_step: ir.Value | None = None

    @property
    def values(self) -> list[ir.Value]:
        values = [getattr(self, name) for name in self.__slots__]
        return [value for value in values if value is not None]


_SOURCE_TYPES = [POINTER, I64, I64, I64, I64, POINTER, I64, I64, POINTER, I64, I64]
_AHEAD_TYPES = [POINTER, I64]
Step = Callable[[ir.Value, list[ir.Value], Grid], tuple[list[ir.Value], Grid]]


class MicroKernels:
    """The micro-kernels of a module and the code that picks one of them.

    There are those of :attr:`.tiling.RegisterTile.sizes`; what is between them computes some more than it
    needs, so the row table has valid addresses for a whole tile, and packed B is filled up with zeros. Those
    of full rows and at least half of the vectors can run a cheap epilogue in registers. Without ``fuses``
    none does, for users of :meth:`sum` alone.
    """

    def __init__(self, emitter: Emitter, micro: MicroKernel, *, fuses: bool = True) -> None:
        self.micro = micro
        tile = micro.tile
        finishing = {ceil_div(tile.vectors, 2), tile.vectors} if fuses and micro.epilogue.is_cheap else set()
        self._cores = {
            (rows, vectors): _core(
                emitter, micro, rows, vectors, finishes=rows == tile.rows and vectors in finishing
            )
            for rows, vectors in tile.sizes
        }
        self._finishing = sorted(finishing, reverse=True)
        self._finish = tile_finisher(emitter, micro.epilogue, micro.lanes, micro.row_bytes)

    def configured(self, emitter: Emitter) -> AbstractContextManager[None]:
        """What :meth:`call` runs inside of: nothing, as the processor's state stays as it is."""
        return nullcontext()

    def call(
        self, emitter: Emitter, source: Source, rows: ir.Value, places: list[Place], last: ir.Value
    ) -> None:
        """Computes ``rows`` rows and ``source.columns`` columns; runs the epilogue if ``last`` holds."""
        micro, builder = self.micro, emitter.builder
        after = emitter.function.append_basic_block("product.end")
        whole = builder.icmp_signed("==", rows, I64(micro.tile.rows))
        for vectors in self._finishing:
            width = I64(vectors * micro.lanes)
            full = builder.and_(whole, builder.icmp_signed("==", source.columns, width))
            with emitter.when(full):
                core = self._cores[micro.tile.rows, vectors]
                builder.call(core, [*source.values, last, *place_values(places)])
                builder.branch(after)
        self.sum(emitter, source, rows)
        with emitter.when(last):
            self.finish(emitter, source.tile, rows, source.columns, places)
        builder.branch(after)
        builder.position_at_end(after)

    def finish(
        self, emitter: Emitter, tile: ir.Value, rows: ir.Value, columns: ir.Value, places: list[Place]
    ) -> None:
        """Runs the epilogue over sums in memory."""
        emitter.builder.call(self._finish, [tile, rows, columns, *place_values(places)])

    def sum(self, emitter: Emitter, source: Source, rows: ir.Value) -> None:
        """Leaves the sums of ``rows`` rows and ``source.columns`` columns, maybe of more, in the tile."""
        micro, builder = self.micro, emitter.builder
        vectors = emitter.ceil_div(source.columns, micro.lanes)
        after = emitter.function.append_basic_block("core.end")
        for (row_count, vector_count), core in self._cores.items():
            fits = builder.and_(
                builder.icmp_signed("<=", rows, I64(row_count)),
                builder.icmp_signed("<=", vectors, I64(vector_count)),
            )
            with emitter.when(fits):
                unread = core.function_type.args[len(source.values) :]
                builder.call(core, source.values + [ir.Constant(kind, None) for kind in unread])
                builder.branch(after)
        builder.unreachable()
        builder.position_at_end(after)


def _core(emitter: Emitter, micro: MicroKernel, rows: int, vectors: int, *, finishes: bool) -> ir.Function:
    """The micro-kernel for one tile size.

    One that ``finishes`` has further arguments: an ``i1`` that says whether it runs the epilogue instead of
    storing the tile, and the places of the output and the extras.
    """
    types = _SOURCE_TYPES + (_AHEAD_TYPES if micro.ahead else [])
    further = [I1, *PLACE_TYPES * len(micro.epilogue.dtypes)] if finishes else []
    inner = local_function(emitter, f"core_{rows}x{vectors}", types + further, micro.lanes)
    arguments = list(inner.function.args)
    source = Source(*arguments[: len(types)])
    if not finishes:
        _store_tile(inner, micro, source, _sums(inner, micro, source, rows, vectors))
        inner.builder.ret_void()
        return inner.function
    last, places = arguments[len(types)], places_of(arguments[len(types) + 1 :])
    with inner.when(last):
        _prefetch(inner, places[0], rows, vectors * micro.lanes * micro.epilogue.dtypes[0].itemsize)
    sums = _sums(inner, micro, source, rows, vectors)
    with inner.branch(last) as (finish, store):
        with finish:
            for i, row in enumerate(sums):
                at = [place.row(inner, I64(i)) for place in places]
                for j, total in enumerate(row):
                    emit_epilogue(inner, micro.epilogue, total, at, I64(j * micro.lanes), None)
        with store:
            _store_tile(inner, micro, source, sums)
    inner.builder.ret_void()
    return inner.function


def _store_tile(inner: Emitter, micro: MicroKernel, source: Source, sums: Grid) -> None:
    for i, row in enumerate(sums):
        for j, total in enumerate(row):
            inner.store(total, _tile_slot(inner, micro, source.tile, i, j), micro.dtype)


def _prefetch(inner: Emitter, output: Place, rows: int, row_bytes: int) -> None:
    """Asks for the lines that the tile will be written to: they arrive while the sums are computed."""
    for row in range(rows):
        pointer = output.row(inner, I64(row)).pointer
        for offset in range(0, row_bytes, 64):
            inner.prefetch(inner.offset(pointer, offset), write=True)


def _tile_slot(inner: Emitter, micro: MicroKernel, tile: ir.Value, row: int, vector: int) -> ir.Value:
    return inner.offset(tile, row * micro.row_bytes + vector * micro.target.vector_bytes)


def _sums(inner: Emitter, micro: MicroKernel, source: Source, rows: int, vectors: int) -> Grid:
    """Emits the loops over taps and over the length; returns the accumulators after them."""
    start = _resume(inner, micro, source, zeros(inner, micro.dtype, rows, vectors))
    limits: list[Mask | None] = [None] * vectors
    if micro.masked:
        limits = [inner.mask(inner.sub(source.columns, j * micro.lanes)) for j in range(vectors)]

    unroll = UNROLL if rows == micro.tile.rows else 1

    def tap(number: ir.Value, values: list[ir.Value], sums: Grid) -> tuple[list[ir.Value], Grid]:
        table = inner.offset(source.table, inner.mul(number, source.tap_step))
        addresses = [
            inner.offset(
                inner.builder.load(inner.offset(table, 8 * row), align=8, typ=POINTER), source.a_offset
            )
            for row in range(rows)
        ]
        return _dot(inner, micro, source, addresses, values, sums, limits, unroll)

    first = [source.b] if source.ahead is None else [source.b, source.ahead]
    if micro.taps:
        return carry_loop(inner, source.taps, first, start, tap)[1]
    return tap(I64(0), first, start)[1]


def _resume(inner: Emitter, micro: MicroKernel, source: Source, start: Grid) -> Grid:
    """``start``, or what an earlier call left in the tile."""
    builder = inner.builder
    before = builder.block
    load, after = (inner.function.append_basic_block(name) for name in ("resume", "start"))
    builder.cbranch(builder.icmp_signed("!=", source.accumulate, I64(0)), load, after)
    builder.position_at_end(load)
    loaded = [
        [inner.load(_tile_slot(inner, micro, source.tile, i, j), micro.dtype) for j in range(len(row))]
        for i, row in enumerate(start)
    ]
    builder.branch(after)
    builder.position_at_end(after)
    grid: Grid = []
    for row, loaded_row in zip(start, loaded, strict=True):
        grid.append([])
        for zero, value in zip(row, loaded_row, strict=True):
            phi = builder.phi(value.type)
            phi.add_incoming(zero, before)
            phi.add_incoming(value, load)
            grid[-1].append(phi)
    return grid


def _dot(
    inner: Emitter,
    micro: MicroKernel,
    source: Source,
    addresses: list[ir.Value],
    first: list[ir.Value],
    start: Grid,
    limits: list[Mask | None],
    unroll: int,
) -> tuple[list[ir.Value], Grid]:
    """The loop over the length of one tap, ``unroll`` rows of B at a time.

    ``first`` is where B begins, and what to fetch ahead. Returns where both go on, and the accumulators.
    """
    a_step = source.a_step if micro.a_step is None else I64(micro.a_step)
    b_step = source.b_step if micro.b_step is None else I64(micro.b_step)

    def several(count: int) -> Step:
        def step(_: ir.Value, values: list[ir.Value], sums: Grid) -> tuple[list[ir.Value], Grid]:
            a_at, b, *ahead = values
            ahead = [
                _fetch_ahead(inner, micro, source, b, place, count, whole=count == unroll) for place in ahead
            ]
            for _ in range(count):
                sums = _multiply_row(inner, micro, addresses, a_at, b, sums, limits)
                a_at, b = inner.add(a_at, a_step), inner.offset(b, b_step)
            return [a_at, b, *ahead], sums

        return step

    values, sums = [I64(0), *first], start
    rest = source.length
    if unroll > 1:
        passes = inner.builder.lshr(source.length, I64(unroll.bit_length() - 1))
        values, sums = carry_loop(inner, passes, values, sums, several(unroll))
        rest = inner.builder.and_(source.length, I64(unroll - 1))
    values, sums = carry_loop(inner, rest, values, sums, several(1))
    return values[1:], sums


def _multiply_row(
    inner: Emitter,
    micro: MicroKernel,
    addresses: list[ir.Value],
    a_at: ir.Value,
    b: ir.Value,
    sums: Grid,
    limits: list[Mask | None],
) -> Grid:
    """Adds the products of a column of A and a row of B."""
    if micro.quads is not None:
        return _multiply_quads(inner, micro.quads, addresses, a_at, b, sums)
    columns = []
    for j, limit in enumerate(limits):
        pointer = inner.offset(b, j * micro.lanes * micro.b_dtype.itemsize)
        value = inner.load(pointer, micro.b_dtype, limit)
        columns.append(convert.cast(inner, micro.b_dtype, micro.dtype, value))
    element, result = compute_type(micro.dtype), []
    for address, row in zip(addresses, sums, strict=True):
        at = inner.offset(address, a_at)
        a = inner.splat(inner.builder.load(at, align=micro.dtype.itemsize, typ=element))
        result.append(
            [
                multiply_add(inner, micro.dtype, a, column, total)
                for column, total in zip(columns, row, strict=True)
            ]
        )
    return result


def _multiply_quads(
    inner: Emitter,
    product: QuadProduct,
    addresses: list[ir.Value],
    a_at: ir.Value,
    b: ir.Value,
    sums: Grid,
) -> Grid:
    """The same for quads of bytes; rows of A may begin at any address."""
    columns = []
    for j in range(len(sums[0])):
        quads = inner.load(inner.offset(b, j * inner.target.vector_bytes), DType.INT32)
        columns.append(product.factors(inner, quads, left=False))
    result = []
    for address, row in zip(addresses, sums, strict=True):
        quad = inner.builder.load(inner.offset(address, a_at), align=1, typ=I32)
        a = product.factors(inner, inner.splat(quad), left=True)
        result.append(
            [product.add(inner, a, column, total) for column, total in zip(columns, row, strict=True)]
        )
    return result


def row_blocks(emitter: Emitter, rows: ir.Value, tile: RegisterTile) -> ir.Value:
    """How many register tiles ``rows`` rows take."""
    return emitter.ceil_div(rows, tile.rows)


def round_up_rows(emitter: Emitter, rows: ir.Value, tile: RegisterTile) -> ir.Value:
    """``rows`` rounded up to whole register tiles."""
    return emitter.mul(row_blocks(emitter, rows, tile), tile.rows)


def _fetch_ahead(
    inner: Emitter,
    micro: MicroKernel,
    source: Source,
    b: ir.Value,
    place: ir.Value,
    rows: int,
    *,
    whole: bool,
) -> ir.Value:
    """Fetches what goes with ``rows`` rows of B from ``b`` on; returns where that of the next rows begins.

    B itself is fetched by whole passes of a loop: the few rows that are left are not worth the code.
    """
    step = source.ahead_step
    assert step is not None
    if micro.fetches_b and whole:
        assert micro.b_step is not None
        fetch_ahead(inner, b, micro.b_step, place, step, rows)
    else:
        fetch_later(inner, place, step, rows)
    return inner.offset(place, inner.mul(step, rows))
