"""Code that splits float32 into parts of bfloat16, and joins them (:mod:`onnxplan.kernels.cpu.parts`)."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.llvm_types import FLOAT, I16, I32, I64, POINTER
from onnxplan.kernels.cpu.matrix_tiles import BLOCK_BYTES, GROUP_BYTES, SIDE, TILE, TILE_ROW_BYTES
from onnxplan.kernels.cpu.pair_code import round_to_bfloat16
from onnxplan.kernels.cpu.parts import PARTS
from onnxplan.kernels.cpu.registers import local_function

_UPPER = 0xFFFF0000
_INFINITY = 0x7F800000
_HALF = 0x8000
"""Half a unit in the last place of bfloat16."""
_INVALID = 0xFFC0
"""The upper half of what infinity less itself is: the second part of an infinite number."""
_ROW = TILE.width * GROUP_BYTES


def split(emitter: Emitter, numbers: ir.Value, *, guarded: bool) -> list[ir.Value]:
    """The parts of a vector of float32, as float32: the sum of them is the number.

    That of a number too large for the first part, which is rounded, is infinite; ``guarded`` cuts it off
    there, so that only infinite numbers and NaN have parts that are not finite.
    """
    builder, parts = emitter.builder, []
    for guards in (guarded, False):
        bits = builder.bitcast(numbers, emitter.vector(I32))
        rounded = builder.add(bits, emitter.fill(_HALF, I32))
        if guards:
            magnitude = builder.and_(rounded, emitter.fill(0x7FFFFFFF, I32))
            too_large = builder.icmp_unsigned(">=", magnitude, emitter.fill(_INFINITY, I32))
            rounded = builder.select(too_large, bits, rounded)
        part = builder.bitcast(builder.and_(rounded, emitter.fill(_UPPER, I32)), emitter.vector(FLOAT))
        parts.append(part)
        numbers = builder.fsub(numbers, part)
    return [*parts, numbers]


def store_parts(emitter: Emitter, numbers: ir.Value, place: ir.Value, mask: Mask | None = None) -> None:
    """Stores the parts of 32 of float32 as rows of a block's tiles."""
    for number, part in enumerate(split(emitter, numbers, guarded=True)):
        slot = emitter.offset(place, number * BLOCK_BYTES)
        emitter.store_stored(round_to_bfloat16(emitter, part), slot, mask)


def panel_splitter(emitter: Emitter) -> ir.Function:
    """A function ``(target, source, row_step, rows)`` that splits two tiles' width of rows of B.

    ``target`` gets, for each 32 rows, ``PARTS`` times 16 rows of pairs, as tiles are loaded from; the last
    ones are filled up with zeros.
    """
    inner = local_function(emitter, "split_panel", [POINTER, POINTER, I64, I64], TILE.lanes)
    target, source, row_step, rows = inner.function.args
    pairs = inner.divide(rows, 2)
    zero = ir.Constant(inner.vector(FLOAT), None)

    def write(pair: ir.Value, *, both: bool) -> None:
        first = inner.offset(source, inner.mul(row_step, inner.mul(pair, 2)))
        tiles = inner.divide(pair, SIDE)
        place = inner.offset(
            target, inner.add(inner.mul(pair, _ROW), inner.mul(tiles, (PARTS - 1) * SIDE * _ROW))
        )
        for at in range(0, _ROW, TILE_ROW_BYTES):
            low = inner.load(inner.offset(first, at), DType.FLOAT32)
            second = inner.offset(inner.offset(first, row_step), at)
            high = inner.load(second, DType.FLOAT32) if both else zero
            halves = (split(inner, numbers, guarded=False) for numbers in (low, high))
            for number, (below, above) in enumerate(zip(*halves, strict=True)):
                slot = inner.offset(place, number * SIDE * _ROW + at)
                inner.store_stored(_pair(inner, below, above), slot)

    with inner.loop(0, pairs) as pair:
        write(pair, both=True)
    whole = inner.ceil_div(rows, 2)
    with inner.when(inner.less(pairs, whole)):
        write(pairs, both=False)
    with inner.loop(whole, inner.mul(inner.ceil_div(whole, SIDE), SIDE)) as pair:
        last = inner.mul(inner.divide(pair, SIDE), (PARTS - 1) * SIDE * _ROW)
        place = inner.offset(target, inner.add(inner.mul(pair, _ROW), last))
        for number in range(PARTS):
            for at in range(0, _ROW, TILE_ROW_BYTES):
                inner.store_stored(inner.fill(0, I32), inner.offset(place, number * SIDE * _ROW + at))
    inner.builder.ret_void()
    return inner.function


def _pair(inner: Emitter, low: ir.Value, high: ir.Value) -> ir.Value:
    """Upper halves of ``low`` and ``high``, those of ``high`` above; the others are zero."""
    builder, kind = inner.builder, inner.vector(I32)
    below = builder.lshr(builder.bitcast(low, kind), inner.fill(16, I32))
    return builder.or_(below, builder.bitcast(high, kind))


def joined(inner: Emitter, tile: ir.Value, element: ir.Value) -> ir.Value:
    """The number whose parts stand in a row of tiles of A."""
    builder = inner.builder
    parts = []
    for number in range(PARTS):
        place = inner.element(inner.offset(tile, number * BLOCK_BYTES), element, DType.BFLOAT16)
        half = builder.zext(builder.load(place, align=2, typ=I16), I32)
        parts.append(builder.shl(half, I32(16)))
    first, second, third = (builder.bitcast(part, FLOAT) for part in parts)
    infinite = builder.icmp_unsigned("==", parts[1], I32(_INVALID << 16))
    return builder.select(infinite, first, builder.fadd(first, builder.fadd(second, third)))
