"""Code of :mod:`onnxplan.kernels.cpu.matrix_tiles`: sums of products in AMX's tile registers.

All registers have 16 rows of 64 bytes: 0 to 3 hold sums, row by row of tiles, 4 a tile of A and 5 one of B.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.emitter_core import Number
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import Place, place_values, tile_finisher
from onnxplan.kernels.cpu.fetch_code import fetch_ahead
from onnxplan.kernels.cpu.llvm_types import I8, I64, POINTER, storage_type
from onnxplan.kernels.cpu.matrix_tiles import BLOCK_BYTES, GROUP_BYTES, SIDE, TILE, TILE_ROW_BYTES
from onnxplan.kernels.cpu.microkernel import Source
from onnxplan.kernels.cpu.objects import machine_description
from onnxplan.kernels.cpu.pair_code import round_to_bfloat16
from onnxplan.kernels.cpu.pairs import PAIR_UNIT
from onnxplan.kernels.cpu.part_code import store_parts
from onnxplan.kernels.cpu.parts import PARTS
from onnxplan.kernels.cpu.registers import local_function

TILE_BYTES = SIDE * TILE_ROW_BYTES
B_STEP = TILE.width * GROUP_BYTES
SUM_STEP = TILE.width * DType.INT32.itemsize
_REGISTERS = 8
LONE_SUM, LONE_A, LONE_B = range(3)
"""Registers where one tile of sums is open at a time: fewest are in use."""
_A, _B = 4, 5
"""The other two stay empty: where two threads share a core, each register in use makes both wait longer."""


@dataclass(frozen=True, slots=True)
class TileProduct:
    """Multiplies tiles of B's type ``b`` by tiles of rows of type ``a``: of bytes, or of bfloat16.

    Rows of float32 are rounded to bfloat16 as they are copied, or split into parts where B is of float32.
    """

    a: DType
    b: DType

    @property
    def parts(self) -> int:
        return PARTS if self.b is DType.FLOAT32 else 1

    @property
    def unit(self) -> int:
        """Elements of the product along the depth of a tile."""
        return PAIR_UNIT if self.parts > 1 else SIDE

    @property
    def step(self) -> int:
        """Bytes of a block of rows for a tile's depth."""
        return self.parts * BLOCK_BYTES

    @property
    def stored(self) -> DType:
        """The type of elements of a tile of A."""
        return self.a if self.b.itemsize == 1 else DType.BFLOAT16

    @property
    def instruction(self) -> str:
        """LLVM's intrinsic; that for bytes names A's and B's signedness, in this order."""
        if self.b is DType.BFLOAT16:
            return "tdpbf16ps"
        signs = "".join("s" if dtype is DType.INT8 else "u" for dtype in (self.a, self.b))
        return f"tdpb{signs}d"

    @property
    def features(self) -> tuple[str, ...]:
        """What the processor must have, as LLVM names it."""
        return ("+amx-tile", "+amx-bf16" if self.b is DType.BFLOAT16 else "+amx-int8")

    def wide(self, emitter: Emitter) -> Emitter:
        """With lanes for the elements of a row of a tile."""
        return emitter.with_lanes(TILE_ROW_BYTES // self.stored.itemsize)

    def store(self, wide: Emitter, elements: ir.Value, place: ir.Value, mask: Mask | None = None) -> None:
        """Writes elements of A, as they stand in memory, into the row of a tile at ``place``."""
        if self.parts > 1:
            store_parts(wide, elements, place, mask)
        elif self.a is self.stored:
            wide.store_stored(elements, place, mask)
        else:
            wide.store_stored(round_to_bfloat16(wide, elements), place, mask)


def copy_tiles(
    emitter: Emitter,
    product: TileProduct,
    source: ir.Value,
    row_step: ir.Value,
    target: ir.Value,
    block_step: ir.Value,
    rows: ir.Value,
    length: ir.Value,
) -> None:
    """Copies ``rows`` rows of ``length`` elements of the product from ``source`` on as tiles.

    Blocks of ``TILE.rows`` rows are ``block_step`` bytes apart, and in a block so many rows of the first 64
    bytes of the depth come first, of one part after another. The last tiles of a row are filled up with
    zeros, blocks are not.
    """
    wide = product.wide(emitter)
    group = wide.lanes // product.unit
    whole = emitter.builder.and_(length, I64(-product.unit))
    rest = emitter.sub(length, whole)
    with emitter.loop(0, rows, TILE.rows) as first:
        count = emitter.minimum(emitter.sub(rows, first), TILE.rows)
        begin = emitter.offset(source, emitter.mul(first, row_step))
        block = emitter.offset(target, emitter.mul(emitter.divide(first, TILE.rows), block_step))

        def copy(
            element: ir.Value,
            filled: ir.Value | None,
            count: ir.Value = count,
            begin: ir.Value = begin,
            block: ir.Value = block,
        ) -> None:
            tiles = emitter.offset(block, emitter.mul(element, product.step // product.unit))
            limit = None if filled is None else wide.mask(emitter.mul(filled, group))
            with emitter.loop(0, count) as row:
                at = emitter.offset(begin, emitter.mul(row, row_step))
                at = emitter.element(at, emitter.mul(element, group), product.a)
                place = emitter.offset(tiles, emitter.mul(row, TILE_ROW_BYTES))
                product.store(wide, wide.load_stored(at, storage_type(product.a), limit), place)

        with emitter.loop(0, whole, product.unit) as element:
            copy(element, None)
        with emitter.when(emitter.less(0, rest)):
            copy(whole, rest)


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of A by a panel of B: both begin at the same depth, of which there are ``length`` groups."""

    a: ir.Value
    b: ir.Value
    length: ir.Value
    sums: ir.Value
    accumulate: ir.Value
    ahead: ir.Value
    ahead_step: ir.Value

    @property
    def values(self) -> list[ir.Value]:
        return [getattr(self, name) for name in self.__slots__]


class TileKernels:
    """As :class:`~.microkernel.MicroKernels`, for rows of A that :func:`copy_tiles` copied.

    Raises ``ValueError`` where this machine lacks AMX, which the plan's target has.
    """

    def __init__(self, emitter: Emitter, product: TileProduct, epilogue: Epilogue) -> None:
        needs_features(emitter, product.features)
        self._multiply = product.instruction
        self._cores = {
            (rows, columns): self._core(emitter, rows, columns) for rows in (1, 2) for columns in (1, 2)
        }
        self._finish = tile_finisher(emitter, epilogue, TILE.lanes, SUM_STEP)

    def configured(self, emitter: Emitter) -> AbstractContextManager[None]:
        """Sets the registers' sizes for what runs inside."""
        return configured_tiles(emitter)

    def call(
        self, emitter: Emitter, source: Source, rows: ir.Value, places: list[Place], last: ir.Value
    ) -> None:
        """Computes ``rows`` rows and ``source.columns`` columns; runs the epilogue if ``last`` holds."""
        a = emitter.offset(emitter.builder.load(source.table, align=8, typ=POINTER), source.a_offset)
        assert source.ahead is not None
        assert source.ahead_step is not None
        block = _Block(
            a, source.b, source.length, source.tile, source.accumulate, source.ahead, source.ahead_step
        )

        def pick(row_tiles: int) -> None:
            with emitter.branch(emitter.less(SIDE, source.columns)) as (two, one):
                for branch, column_tiles in ((two, 2), (one, 1)):
                    with branch:
                        emitter.builder.call(self._cores[row_tiles, column_tiles], block.values)

        with emitter.branch(emitter.less(SIDE, rows)) as (two, one):
            with two:
                pick(2)
            with one:
                pick(1)
        with emitter.when(last):
            arguments = [source.tile, rows, source.columns, *place_values(places)]
            emitter.builder.call(self._finish, arguments)

    def _core(self, emitter: Emitter, row_tiles: int, column_tiles: int) -> ir.Function:
        """The function that sums a block of so many tiles; what rows or columns are too many mean nothing."""
        types = [POINTER, POINTER, I64, POINTER, I64, POINTER, I64]
        inner = local_function(emitter, f"tiles_{row_tiles}x{column_tiles}", types, TILE.lanes)
        block = _Block(*inner.function.args)
        sums = [
            (2 * i + j, inner.offset(block.sums, SIDE * (i * SUM_STEP + j * DType.INT32.itemsize)))
            for i in range(row_tiles)
            for j in range(column_tiles)
        ]
        with inner.branch(inner.builder.icmp_signed("!=", block.accumulate, I64(0))) as (resume, start):
            with resume:
                for register, place in sums:
                    move_tile(inner, "tileloadd64", register, place, SUM_STEP)
            with start:
                for register, _ in sums:
                    multiply_tiles(inner, "tilezero", register)
        with inner.loop(0, inner.ceil_div(block.length, SIDE)) as number:
            a = inner.offset(block.a, inner.mul(number, BLOCK_BYTES))
            b = inner.offset(block.b, inner.mul(number, SIDE * B_STEP))
            later = inner.offset(block.ahead, inner.mul(number, inner.mul(block.ahead_step, SIDE)))
            fetch_ahead(inner, b, B_STEP, later, block.ahead_step, SIDE)
            in_b = -1
            for i in range(row_tiles):
                move_tile(inner, "tileloadd64", _A, inner.offset(a, i * TILE_BYTES), TILE_ROW_BYTES)
                # The second row of tiles begins with the tile of B that the first one ends with.
                for j in range(column_tiles)[:: 1 - 2 * i]:
                    if j != in_b:
                        move_tile(inner, "tileloadd64", _B, inner.offset(b, j * TILE_ROW_BYTES), B_STEP)
                    multiply_tiles(inner, self._multiply, 2 * i + j, _A, _B)
                    in_b = j
        for register, place in sums:
            move_tile(inner, "tilestored64", register, place, SUM_STEP)
        inner.builder.ret_void()
        return inner.function


def needs_features(emitter: Emitter, features: tuple[str, ...]) -> None:
    """Raises ``ValueError`` if this machine lacks one of ``features``, as LLVM names them."""
    present = machine_description(emitter.target.isa)[2].split(",")
    for needed in features:
        if needed not in present:
            raise ValueError(f"this processor lacks {needed[1:]}, which the plan's target has")


@contextmanager
def configured_tiles(emitter: Emitter) -> Iterator[None]:
    """Sets the registers' sizes for what runs inside; then the system need not keep them any more.

    The record has the palette first, widths of 16 bits from byte 16 on, and rows from byte 48 on.
    """
    record = bytearray(64)
    record[0] = 1
    for register in range(_REGISTERS):
        record[16 + 2 * register] = TILE_ROW_BYTES
        record[48 + register] = SIDE
    kind = ir.VectorType(I8, len(record))
    place = emitter.stack(kind)
    emitter.builder.store(ir.Constant(kind, list(record)), place, align=64)
    emitter.intrinsic("llvm.x86.ldtilecfg", ir.VoidType(), [place])
    yield
    emitter.intrinsic("llvm.x86.tilerelease", ir.VoidType(), [])


def move_tile(inner: Emitter, instruction: str, register: int, place: ir.Value, row_step: Number) -> None:
    """Loads or stores a tile whose rows are ``row_step`` bytes apart."""
    arguments = [I8(register), place, inner.number(row_step)]
    inner.intrinsic(f"llvm.x86.{instruction}", ir.VoidType(), arguments)


def multiply_tiles(inner: Emitter, instruction: str, *registers: int) -> None:
    """An instruction of registers alone: the first gets the result."""
    inner.intrinsic(f"llvm.x86.{instruction}", ir.VoidType(), [I8(register) for register in registers])
