"""sin, cos and tan, in double; float32 is computed through it.

The argument is reduced to ``[-pi/4, pi/4]`` with pi/2 as a sum of three doubles (Cody and Waite), or, beyond
2**30, with as many bits of 2/pi as are needed (Payne and Hanek, ACM SIGNUM 18(1), 1983).
"""

from __future__ import annotations

from typing import TypeAlias

from llvmlite import ir

from onnxplan.kernels.cpu import math_coefficients as coefficients
from onnxplan.kernels.cpu.emitter_core import Core
from onnxplan.kernels.cpu.llvm_types import DOUBLE, I32, I64
from onnxplan.kernels.cpu.math_support import magnitude, polynomial, through_double

Value: TypeAlias = ir.Value
HALF_PI = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33)
TWO_OVER_PI = 0.6366197723675814
LARGE = 2.0**30
# 1280 bits of 2/pi after the point, 64 a word.
TWO_OVER_PI_BITS = (
    0xA2F9836E4E441529, 0xFC2757D1F534DDC0, 0xDB6295993C439041, 0xFE5163ABDEBBC561,
    0xB7246E3A424DD2E0, 0x06492EEA09D1921C, 0xFE1DEB1CB129A73E, 0xE88235F52EBB4484,
    0xE99C7026B45F7E41, 0x3991D639835339F4, 0x9C845F8BBDF9283B, 0x1FF897FFDE05980F,
    0xEF2F118B5A0A6D1F, 0x6D367ECF27CB09B7, 0x4F463F669E5FEA2D, 0x7527BAC7EBE5F17B,
    0x3D0739F78A5292EA, 0x6BFB5FB11F8D5D08, 0x56033046FC7B6BAB, 0xF0CFBC209AF4361D,
)  # fmt: skip


def _reduce(emitter: Core, size: Value) -> tuple[Value, Value]:
    """``(r, q)`` of non-negative numbers: ``size = r + (q + 4 k) pi/2``; ``q`` is an i32 vector."""
    builder, count = emitter.builder, size.type.count
    whole = emitter.elementwise("llvm.nearbyint", builder.fmul(size, emitter.like(size, TWO_OVER_PI)))
    rest = size
    for part in HALF_PI:
        rest = emitter.exact_fma(whole, emitter.like(size, -part), rest)
    quadrant = builder.fptosi(whole, ir.VectorType(I32, count))
    large = builder.and_(
        builder.fcmp_ordered(">=", size, emitter.like(size, LARGE)),
        builder.fcmp_ordered("<", size, emitter.like(size, float("inf"))),
    )
    rests, quadrants = emitter.variable(rest), emitter.variable(quadrant)
    with emitter.when(emitter.horizontal(large, lambda half, a, b: half.builder.or_(a, b))):
        sizes = emitter.stack(size.type)
        reduced, turns = emitter.stack(size.type), emitter.stack(quadrant.type)
        for value, place in ((size, sizes), (rest, reduced), (quadrant, turns)):
            builder.store(value, place, align=64)
        with emitter.loop(0, count) as lane:
            argument = builder.load(builder.gep(sizes, [lane], source_etype=DOUBLE), align=8, typ=DOUBLE)
            is_large = builder.and_(
                builder.fcmp_ordered(">=", argument, DOUBLE(LARGE)),
                builder.fcmp_ordered("<", argument, DOUBLE(float("inf"))),
            )
            with emitter.when(is_large):
                one, turn = _reduce_large(emitter, argument)
                builder.store(one, builder.gep(reduced, [lane], source_etype=DOUBLE), align=8)
                builder.store(turn, builder.gep(turns, [lane], source_etype=I32), align=4)
        rests.value = builder.load(reduced, align=64, typ=size.type)
        quadrants.value = builder.load(turns, align=64, typ=quadrant.type)
    return rests.value, quadrants.value


def _reduce_large(emitter: Core, x: Value) -> tuple[Value, Value]:
    """The same for one finite double of at least 2**30.

    With ``x = m * 2**e`` the 192 bits of 2/pi from position ``p = max(e - 2, 0)`` on decide: higher ones
    contribute multiples of 4 to ``x * 2/pi``. Their product with ``m`` has 245 bits.
    """
    builder = emitter.builder
    wide, medium = ir.IntType(256), ir.IntType(192)
    bits = builder.bitcast(x, I64)
    exponent = builder.sub(builder.lshr(bits, I64(52)), I64(1075))
    mantissa = builder.or_(builder.and_(bits, I64((1 << 52) - 1)), I64(1 << 52))
    position = emitter.maximum(emitter.sub(exponent, 2), 0)
    table = _table(emitter)
    first = builder.lshr(position, I64(6))
    window: Value = wide(0)
    for word in range(4):
        address = builder.gep(table, [builder.add(first, I64(word))], source_etype=I64)
        loaded = builder.zext(builder.load(address, align=8, typ=I64), wide)
        window = builder.or_(window, builder.shl(loaded, wide(64 * (3 - word))))
    offset = builder.zext(builder.and_(position, I64(63)), wide)
    window = builder.lshr(builder.shl(window, offset), wide(64))
    product = builder.mul(window, builder.zext(mantissa, wide))
    surplus = builder.sub(builder.add(position, I64(2)), exponent)
    turns = builder.trunc(builder.lshr(product, builder.zext(surplus, wide)), medium)
    # Units of 2**-190 now; the nearest whole number of quarter turns is split off.
    nearest = builder.lshr(builder.add(turns, medium(1 << 189)), medium(190))
    fraction = builder.sub(turns, builder.shl(nearest, medium(190)))
    negative = builder.icmp_signed("<", fraction, medium(0))
    size = builder.select(negative, builder.sub(medium(0), fraction), fraction)
    total: Value = DOUBLE(0.0)
    for piece in range(6):
        digits = builder.and_(builder.lshr(size, medium(32 * piece)), medium(0xFFFFFFFF))
        value = builder.sitofp(builder.trunc(digits, I64), DOUBLE)
        total = builder.fadd(total, builder.fmul(value, DOUBLE(2.0 ** (32 * piece - 190))))
    angle = builder.fmul(total, DOUBLE(HALF_PI[0]))
    return builder.select(negative, builder.fneg(angle), angle), builder.trunc(nearest, I32)


def _table(emitter: Core) -> Value:
    name = "two_over_pi"
    known = emitter.module.globals.get(name)
    if known is None:
        type_ = ir.ArrayType(I64, len(TWO_OVER_PI_BITS))
        known = ir.GlobalVariable(emitter.module, type_, name)
        known.initializer = ir.Constant(type_, [I64(word) for word in TWO_OVER_PI_BITS])
        known.linkage, known.global_constant = "internal", True
    return emitter.builder.gep(known, [I64(0)], source_etype=I64)


def _sine(emitter: Core, r: Value) -> Value:
    square = emitter.builder.fmul(r, r)
    product = emitter.builder.fmul(polynomial(emitter, square, coefficients.SIN), square)
    return emitter.fma(product, r, r)


def _cosine(emitter: Core, r: Value) -> Value:
    builder = emitter.builder
    square = builder.fmul(r, r)
    half = builder.fmul(square, emitter.like(r, 0.5))
    near = builder.fsub(emitter.like(r, 1.0), half)
    lost = builder.fsub(builder.fsub(emitter.like(r, 1.0), near), half)
    tail = builder.fmul(builder.fmul(square, square), polynomial(emitter, square, coefficients.COS))
    return builder.fadd(near, builder.fadd(tail, lost))


def _has_bit(emitter: Core, quadrant: Value, bit: int) -> Value:
    masked = emitter.builder.and_(quadrant, emitter.like(quadrant, bit))
    return emitter.builder.icmp_signed("!=", masked, emitter.like(quadrant, 0))


def _turned(emitter: Core, r: Value, quadrant: Value) -> Value:
    """sin of ``r + quadrant * pi/2``."""
    builder = emitter.builder
    value = builder.select(_has_bit(emitter, quadrant, 1), _cosine(emitter, r), _sine(emitter, r))
    return builder.select(_has_bit(emitter, quadrant, 2), builder.fneg(value), value)


def _times_sign(emitter: Core, value: Value, sign: Value) -> Value:
    negative = emitter.builder.icmp_signed(
        "<", emitter.builder.bitcast(sign, ir.VectorType(I64, sign.type.count)), emitter.fill(0, I64)
    )
    return emitter.builder.select(negative, emitter.builder.fneg(value), value)


def _sin(emitter: Core, x: Value) -> Value:
    r, quadrant = _reduce(emitter, magnitude(emitter, x))
    return _times_sign(emitter, _turned(emitter, r, quadrant), x)


def _cos(emitter: Core, x: Value) -> Value:
    r, quadrant = _reduce(emitter, magnitude(emitter, x))
    return _turned(emitter, r, emitter.builder.add(quadrant, emitter.like(quadrant, 1)))


def _tan(emitter: Core, x: Value) -> Value:
    builder = emitter.builder
    r, quadrant = _reduce(emitter, magnitude(emitter, x))
    sine, cosine = _sine(emitter, r), _cosine(emitter, r)
    odd = _has_bit(emitter, quadrant, 1)
    above = builder.select(odd, builder.fneg(cosine), sine)
    below = builder.select(odd, sine, cosine)
    return _times_sign(emitter, builder.fdiv(above, below), x)


sin = through_double(_sin)
cos = through_double(_cos)
tan = through_double(_tan)
