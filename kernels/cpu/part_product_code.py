"""Code of products in parts (:mod:`onnxplan.kernels.cpu.parts`) by tile registers."""

from __future__ import annotations

from contextlib import AbstractContextManager

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import Place, place_values, tile_finisher
from onnxplan.kernels.cpu.fetch_code import LINE_BYTES
from onnxplan.kernels.cpu.llvm_types import I32, I64, POINTER
from onnxplan.kernels.cpu.matrix_tiles import BLOCK_BYTES, SIDE, TILE, TILE_ROW_BYTES
from onnxplan.kernels.cpu.matrix_tiles_code import (
    B_STEP,
    LONE_A,
    LONE_B,
    LONE_SUM,
    SUM_STEP,
    TILE_BYTES,
    configured_tiles,
    move_tile,
    multiply_tiles,
    needs_features,
)
from onnxplan.kernels.cpu.pairs import PAIR_UNIT
from onnxplan.kernels.cpu.part_code import joined, panel_splitter
from onnxplan.kernels.cpu.parts import PARTS, SPLIT_DEPTH, SUM_BYTES, TERMS
from onnxplan.kernels.cpu.registers import local_function

_STEP = PARTS * BLOCK_BYTES
"""Bytes of the parts of a block of A, or of two tiles' columns of B, for a tile's depth."""

_PRODUCTS = SPLIT_DEPTH // PAIR_UNIT * 4
"""Steps of the four tiles of a block of sums."""


@dataclass(frozen=True, slots=True)
class PartBlock:
    """A block of the depth: ``length`` rows of a panel of B from ``b`` on, ``b_step`` bytes apart.

    ``number`` is that of the block; sums of the blocks before it are its own's beginning. The next panel's
    rows begin at ``following``.
    """

    b: ir.Value
    b_step: ir.Value
    length: ir.Value
    number: ir.Value
    following: ir.Value


@dataclass(frozen=True, slots=True)
class PartRows:
    """``count`` rows by ``columns`` columns: copies of them, their sums, and memory for parts of B.

    Blocks of ``TILE.rows`` rows are ``a_step`` bytes apart in ``a``, and have ``2 * SUM_BYTES`` of ``sums``.
    """

    count: ir.Value
    columns: ir.Value
    a: ir.Value
    a_step: ir.Value
    sums: ir.Value
    parts: ir.Value

    def at(
        self, emitter: Emitter, block: PartBlock, row: ir.Value
    ) -> tuple[ir.Value, tuple[ir.Value, ir.Value], ir.Value]:
        """A block of rows: its copy, where old and new sums stand, and the number of rows."""
        number = emitter.divide(row, TILE.rows)
        a = emitter.offset(self.a, emitter.mul(number, self.a_step))
        odd = emitter.modulo(block.number, 2)
        place = emitter.mul(number, 2 * SUM_BYTES)
        before = emitter.offset(self.sums, emitter.add(place, emitter.mul(odd, SUM_BYTES)))
        total = emitter.offset(self.sums, emitter.add(place, emitter.mul(emitter.sub(1, odd), SUM_BYTES)))
        return a, (before, total), emitter.minimum(emitter.sub(self.count, row), TILE.rows)


class PartKernels:
    """The functions of a module that multiply in parts.

    Raises ``ValueError`` where this machine lacks AMX, which the plan's target has.
    """

    def __init__(self, emitter: Emitter, epilogue: Epilogue) -> None:
        needs_features(emitter, ("+amx-tile", "+amx-bf16"))
        self._split = panel_splitter(emitter)
        self._add = _block_adder(emitter)
        self._settle = _settler(emitter)
        self._finish = tile_finisher(emitter, epilogue, TILE.lanes, SUM_STEP)

    def configured(self, emitter: Emitter) -> AbstractContextManager[None]:
        """Sets the registers' sizes for what runs inside."""
        return configured_tiles(emitter)

    def call(
        self, emitter: Emitter, block: PartBlock, rows: PartRows, places: list[Place], last: ir.Value
    ) -> None:
        """Adds a block's products to the sums of ``rows``; if ``last`` holds runs the epilogue on them."""
        self._multiply(emitter, block, rows)
        with emitter.loop(0, rows.count, TILE.rows) as row:
            a, (before, total), count = rows.at(emitter, block, row)
            arguments = [a, block.b, block.b_step, block.length, before, total, block.number, count]
            emitter.builder.call(self._settle, arguments)
            with emitter.when(last):
                own = [place.row(emitter, row) for place in places]
                emitter.builder.call(self._finish, [total, count, rows.columns, *place_values(own)])

    def _multiply(self, emitter: Emitter, block: PartBlock, rows: PartRows) -> None:
        """All rows meet ``SPLIT_DEPTH`` rows of B, whose next ones are fetched meanwhile."""
        column_tiles = emitter.ceil_div(rows.columns, SIDE)
        calls = emitter.mul(emitter.ceil_div(rows.count, TILE.rows), _PRODUCTS)
        fetched = emitter.ceil_div(SPLIT_DEPTH, calls)
        with emitter.loop(0, block.length, SPLIT_DEPTH) as start:
            length = emitter.minimum(SPLIT_DEPTH, emitter.sub(block.length, start))
            b = emitter.offset(block.b, emitter.mul(start, block.b_step))
            emitter.builder.call(self._split, [rows.parts, b, block.b_step, length])
            begins = emitter.builder.icmp_signed("==", start, I64(0))
            resumes = emitter.builder.or_(block.number, start)
            more = emitter.less(emitter.add(start, SPLIT_DEPTH), block.length)
            deeper = emitter.offset(b, emitter.mul(block.b_step, SPLIT_DEPTH))
            ahead = emitter.variable(emitter.builder.select(more, deeper, block.following))
            with emitter.loop(0, rows.count, TILE.rows) as row:
                a, (before, total), count = rows.at(emitter, block, row)
                a = emitter.offset(a, emitter.mul(start, _STEP // PAIR_UNIT))
                before = emitter.builder.select(begins, before, total)
                tiles = [emitter.ceil_div(count, SIDE), column_tiles]
                steps = emitter.ceil_div(length, PAIR_UNIT)
                later = [ahead.value, block.b_step, fetched]
                arguments = [a, rows.parts, steps, before, total, resumes, *tiles, *later]
                ahead.value = emitter.builder.call(self._add, arguments)


def _block_adder(emitter: Emitter) -> ir.Function:
    """A function ``(a, b, steps, before, total, resumes, row_tiles, column_tiles, ahead, step, lines)``.

    It writes the sums of tiles of A by tiles of B to ``total``, which begin with those of ``before`` if
    ``resumes`` is not 0. One tile of sums is open at a time; each product needs one tile more to be loaded.
    For each step of a tile ``lines`` rows from ``ahead`` on are fetched; it returns what comes behind them.
    """
    types = [POINTER, POINTER, I64, POINTER, POINTER, I64, I64, I64, POINTER, I64, I64]
    inner = local_function(emitter, "add_parts", types, TILE.lanes, POINTER)
    a, b, steps, before, total, resumes, row_tiles, column_tiles, *later = inner.function.args
    ahead, (step_ahead, lines) = inner.variable(later[0]), later[1:]
    with inner.loop(0, row_tiles) as i, inner.loop(0, column_tiles) as j:
        place = inner.add(inner.mul(i, SIDE * SUM_STEP), inner.mul(j, TILE_ROW_BYTES))
        with inner.branch(inner.builder.icmp_signed("!=", resumes, I64(0))) as (resume, start):
            with resume:
                move_tile(inner, "tileloadd64", LONE_SUM, inner.offset(before, place), SUM_STEP)
            with start:
                multiply_tiles(inner, "tilezero", LONE_SUM)
        with inner.loop(0, steps) as step:
            with inner.loop(0, lines):
                for line in range(0, TILE.width * 4, LINE_BYTES):
                    inner.prefetch(inner.offset(ahead.value, line), locality=2)
                ahead.value = inner.offset(ahead.value, step_ahead)
            at = inner.mul(step, _STEP)
            left = inner.offset(a, inner.add(at, inner.mul(i, TILE_BYTES)))
            right = inner.offset(b, inner.add(at, inner.mul(j, TILE_ROW_BYTES)))
            in_a = in_b = -1
            for of_a, of_b in TERMS:
                if of_a != in_a:
                    move_tile(
                        inner, "tileloadd64", LONE_A, inner.offset(left, of_a * BLOCK_BYTES), TILE_ROW_BYTES
                    )
                if of_b != in_b:
                    move_tile(inner, "tileloadd64", LONE_B, inner.offset(right, of_b * BLOCK_BYTES), B_STEP)
                multiply_tiles(inner, "tdpbf16ps", LONE_SUM, LONE_A, LONE_B)
                in_a, in_b = of_a, of_b
        move_tile(inner, "tilestored64", LONE_SUM, inner.offset(total, place), SUM_STEP)
    inner.builder.ret(ahead.value)
    return inner.function


def _settler(emitter: Emitter) -> ir.Function:
    """A function ``(a, b, b_step, length, before, total, number, rows)``.

    If not all sums of ``rows`` rows in ``total`` are finite, it computes them by products of float32.
    """
    types = [POINTER, POINTER, I64, I64, POINTER, POINTER, I64, I64]
    inner = local_function(emitter, "settle_sums", types, TILE.lanes)
    a, b, b_step, length, before, total, number, rows = inner.function.args
    highest = inner.variable(inner.fill(0, I32))
    with inner.loop(0, rows) as row:
        for at in range(0, SUM_STEP, TILE_ROW_BYTES):
            place = inner.offset(total, inner.add(inner.mul(row, SUM_STEP), at))
            bits = inner.builder.and_(inner.load_stored(place, I32), inner.fill(0x7FFFFFFF, I32))
            larger = inner.builder.icmp_unsigned(">", bits, highest.value)
            highest.value = inner.builder.select(larger, bits, highest.value)
    worst = inner.intrinsic(f"llvm.vector.reduce.umax.v{inner.lanes}i32", I32, [highest.value])
    finite = inner.builder.icmp_unsigned("<", worst, I32(0x7F800000))
    with inner.when(inner.builder.not_(finite)), inner.loop(0, rows) as row:
        own = inner.offset(a, inner.mul(row, TILE_ROW_BYTES))
        for at in range(0, SUM_STEP, TILE_ROW_BYTES):
            place = inner.add(inner.mul(row, SUM_STEP), at)
            start = inner.load(inner.offset(before, place), DType.FLOAT32)
            resumes = inner.builder.icmp_signed("!=", number, I64(0))
            sums = inner.variable(inner.builder.select(resumes, start, inner.constant(0, DType.FLOAT32)))
            with inner.loop(0, length) as element:
                tile = inner.offset(own, inner.mul(inner.divide(element, PAIR_UNIT), _STEP))
                number_of_a = joined(inner, tile, inner.modulo(element, PAIR_UNIT))
                row_of_b = inner.offset(inner.offset(b, inner.mul(element, b_step)), at)
                of_b = inner.load(row_of_b, DType.FLOAT32)
                sums.value = inner.fma(inner.splat(number_of_a), of_b, sums.value)
            inner.store(sums.value, inner.offset(total, place), DType.FLOAT32)
    inner.builder.ret_void()
    return inner.function
