"""asin, acos and atan, in double; float32 is computed through it."""

from __future__ import annotations

from typing import TypeAlias

from llvmlite import ir

from onnxplan.kernels.cpu import math_coefficients as coefficients
from onnxplan.kernels.cpu.emitter_core import Core
from onnxplan.kernels.cpu.math_support import magnitude, polynomial, through_double, with_sign

Value: TypeAlias = ir.Value
HALF_PI = (1.5707963267948966, 6.123233995736766e-17)
QUARTER_PI = (0.7853981633974483, 3.061616997868383e-17)


def _arc_sine(emitter: Core, size: Value) -> tuple[Value, Value]:
    """``(large, p)``: asin of ``size`` is ``p``, or ``pi/2 - 2 p`` where ``size`` is above 1/2."""
    builder = emitter.builder
    large = builder.fcmp_ordered(">", size, emitter.like(size, 0.5))
    half = emitter.like(size, 0.5)
    folded = emitter.fma(size, emitter.like(size, -0.5), half)
    square = builder.select(large, folded, builder.fmul(size, size))
    root = builder.select(large, emitter.elementwise("llvm.sqrt", folded), size)
    cube = builder.fmul(builder.fmul(square, root), polynomial(emitter, square, coefficients.ASIN))
    return large, builder.fadd(root, cube)


def _asin(emitter: Core, x: Value) -> Value:
    builder = emitter.builder
    large, p = _arc_sine(emitter, magnitude(emitter, x))
    twice = builder.fsub(builder.fadd(p, p), emitter.like(x, HALF_PI[1]))
    mirrored = builder.fsub(emitter.like(x, HALF_PI[0]), twice)
    return with_sign(emitter, builder.select(large, mirrored, p), x)


def _acos(emitter: Core, x: Value) -> Value:
    builder = emitter.builder
    large, p = _arc_sine(emitter, magnitude(emitter, x))
    negative = builder.fcmp_ordered("<", x, emitter.like(x, 0.0))
    twice = builder.fadd(p, p)
    from_pi = builder.fsub(
        emitter.like(x, 2 * HALF_PI[0]), builder.fsub(twice, emitter.like(x, 2 * HALF_PI[1]))
    )
    far = builder.select(negative, from_pi, twice)
    signed = with_sign(emitter, p, x)
    near = builder.fsub(emitter.like(x, HALF_PI[0]), builder.fsub(signed, emitter.like(x, HALF_PI[1])))
    return builder.select(large, far, near)


def _atan(emitter: Core, x: Value) -> Value:
    """Folded at tan(pi/8) and tan(3 pi/8) by the addition theorem."""
    builder = emitter.builder
    size, one = magnitude(emitter, x), emitter.like(x, 1.0)
    high = builder.fcmp_ordered(">", size, emitter.like(x, 2.414213562373095))
    middle = builder.fcmp_ordered(">", size, emitter.like(x, 0.41421356237309503))

    def choose(above: Value, between: Value, below: Value) -> Value:
        return builder.select(high, above, builder.select(middle, between, below))

    numerator = choose(emitter.like(x, -1.0), builder.fsub(size, one), size)
    denominator = choose(size, builder.fadd(size, one), one)
    t = builder.fdiv(numerator, denominator)
    square = builder.fmul(t, t)
    cube = builder.fmul(builder.fmul(square, t), polynomial(emitter, square, coefficients.ATAN))
    zero = emitter.like(x, 0.0)
    low = choose(emitter.like(x, HALF_PI[1]), emitter.like(x, QUARTER_PI[1]), zero)
    base = choose(emitter.like(x, HALF_PI[0]), emitter.like(x, QUARTER_PI[0]), zero)
    return with_sign(emitter, builder.fadd(base, builder.fadd(t, builder.fadd(cube, low))), x)


asin = through_double(_asin)
acos = through_double(_acos)
atan = through_double(_atan)
