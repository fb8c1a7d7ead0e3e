"""Odd functions of float32 that level off at 1, by table look-ups in registers: half the instructions."""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

from llvmlite import ir

from onnxplan.kernels.cpu.emitter_core import Core
from onnxplan.kernels.cpu.llvm_types import FLOAT, I32
from onnxplan.kernels.cpu.math_support import at_most, in_parts, magnitude, with_sign
from onnxplan.kernels.cpu.math_tables import Table

Value: TypeAlias = ir.Value
LANES = 16
"""Lanes of the vectors that are permuted, and entries of a table."""
ROUNDER = 1.5 * 2.0**23
"""Adding it leaves the nearest whole number in the lowest bits."""


def has_tables(emitter: Core, value: Value) -> bool:
    """Does :func:`piecewise` exist for vectors like ``value``?"""
    single = value.type.element == FLOAT
    return single and emitter.target.isa == "avx512" and value.type.count % LANES == 0


def piecewise(emitter: Core, x: Value, table: Table) -> Value:
    """The function of ``table``, within 2 units in the last place; NaN gives NaN."""
    return in_parts(emitter, LANES, partial(_piecewise, table=table), x)


def _piecewise(emitter: Core, x: Value, *, table: Table) -> Value:
    builder = emitter.builder
    size = at_most(emitter, magnitude(emitter, x), table.limit)
    scale = emitter.like(x, table.scale)
    rounder = emitter.like(x, ROUNDER)
    rounded = emitter.fma(size, scale, rounder)
    rest = emitter.fma(size, scale, builder.fneg(builder.fsub(rounded, rounder)))
    # Only the lowest four bits of a place are looked at.
    place = builder.bitcast(rounded, ir.VectorType(I32, LANES))

    def look_up(row: tuple[float, ...]) -> Value:
        entries = ir.Constant(x.type, [FLOAT(entry) for entry in row])
        return emitter.intrinsic("llvm.x86.avx512.permvar.sf.512", x.type, [entries, place])

    constant, *others = table.rows
    value = look_up(others[-1])
    for row in reversed(others[:-1]):
        value = emitter.fma(value, rest, look_up(row))
    # The constant is multiplied last and rounded with the sum: its error alone would be a unit.
    small = builder.fmul(size, builder.fmul(rest, value))
    return with_sign(emitter, emitter.fma(size, look_up(constant), small), x)
