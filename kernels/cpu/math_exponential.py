"""exp and what is made of it: expm1, tanh, sigmoid, erf, sinh, cosh.

``exp(x) = 2**n * exp(r)`` with ``n`` the nearest integer to ``x / log(2)``; ``exp(r) - 1`` is a polynomial.
"""

from __future__ import annotations

from typing import TypeAlias

from llvmlite import ir

from onnxplan.kernels.cpu import math_coefficients as coefficients
from onnxplan.kernels.cpu import math_tables
from onnxplan.kernels.cpu.emitter_core import Core, has_fma
from onnxplan.kernels.cpu.math_piecewise import has_tables, piecewise
from onnxplan.kernels.cpu.math_support import (
    LOG2_E,
    SINGLE,
    at_least,
    at_most,
    format_of,
    magnitude,
    polynomial,
    power_of_two,
    scale,
    scale_kept,
    scales_in_hardware,
    through_double,
    with_sign,
)

Value: TypeAlias = ir.Value


def reduce(emitter: Core, x: Value) -> tuple[Value, Value]:
    """``(n, r)`` with ``x = n * log(2) + r`` and ``|r| <= log(2) / 2``; ``n`` is a whole float.

    Where ``|x|`` is 2**20 or more ``r`` may be anything.
    """
    form = format_of(x)
    whole = _powers_of_two(emitter, x)
    exact = has_fma(emitter.target)
    high, low = (form.log_2_high, form.log_2_low) if exact else (form.log_2_short, form.log_2_rest)
    rest = emitter.fma(whole, emitter.like(x, -high), x)
    return whole, emitter.fma(whole, emitter.like(x, -low), rest)


def _powers_of_two(emitter: Core, x: Value) -> Value:
    """The whole number nearest to ``x / log(2)``."""
    rounder = emitter.like(x, format_of(x).rounder)
    return emitter.builder.fsub(emitter.fma(x, emitter.like(x, LOG2_E), rounder), rounder)


def expm1_reduced(emitter: Core, rest: Value) -> Value:
    """``exp(r) - 1`` for ``|r| <= log(2) / 2``."""
    table = coefficients.EXPM1_FLOAT if format_of(rest) is SINGLE else coefficients.EXPM1_DOUBLE
    square = emitter.builder.fmul(rest, rest)
    return emitter.fma(polynomial(emitter, rest, table), square, rest)


def exp_reduced(emitter: Core, rest: Value) -> Value:
    """``exp(r)`` for ``|r| <= log(2) / 2``."""
    one = emitter.like(rest, 1.0)
    if format_of(rest) is not SINGLE:
        return emitter.builder.fadd(expm1_reduced(emitter, rest), one)
    return polynomial(emitter, rest, (1.0, 1.0, *coefficients.EXP_FLOAT))


def exp_below(emitter: Core, x: Value, *, low: Value | None = None, shift: float = 0.0) -> Value:
    """``exp(x + low) * 2**shift`` for ``x`` up to just above where it overflows, and small ``low``.

    Results that round to 0 are not computed but set: underflow makes a vector a hundred times as slow.
    """
    x = _scalable(emitter, x)
    whole, rest = reduce(emitter, x)
    value = exp_reduced(emitter, rest if low is None else emitter.builder.fadd(rest, low))
    if shift:
        whole = emitter.builder.fadd(whole, emitter.like(x, shift))
    return _scaled(emitter, x, value, whole)


def exp_weight(emitter: Core, x: Value, *, rounded: bool = False) -> Value:
    """As :func:`exp_below`, in fewer instructions; in single precision within 2 ulp down to ``x = -16``.

    Smaller weights have errors of up to 4 ulp, far below those that rounding ``x`` brings. Single ones that
    will be ``rounded`` to bfloat16 have errors of up to a thirtieth of what that brings.
    """
    form = format_of(x)
    if form is not SINGLE or not has_fma(emitter.target):
        return exp_below(emitter, x)
    x = _scalable(emitter, x)
    whole = _powers_of_two(emitter, x)
    rest = emitter.fma(whole, emitter.like(x, -form.log_2_high), x)
    table = coefficients.EXP_ROUNDED_FLOAT if rounded else coefficients.EXP_WEIGHT_FLOAT
    value = polynomial(emitter, rest, (1.0, 1.0, *table))
    return _scaled(emitter, x, value, whole)


def _scalable(emitter: Core, x: Value) -> Value:
    """``x``, or where :func:`_scaled` needs it, no less than what vanishes."""
    return x if scales_in_hardware(emitter, x) else at_least(emitter, x, format_of(x).vanishing_log)


def _scaled(emitter: Core, x: Value, value: Value, whole: Value) -> Value:
    """``value * 2**whole``, 0 where it vanishes as ``x`` is so small."""
    if not scales_in_hardware(emitter, x):
        return scale(emitter, value, whole)
    kept = emitter.builder.fcmp_unordered(">=", x, emitter.like(x, format_of(x).smallest_log))
    return scale_kept(emitter, value, whole, kept)


def exp(emitter: Core, operand: object, result: object, x: Value) -> Value:
    if format_of(x) is not SINGLE:
        return exp_below(emitter, at_most(emitter, x, 710.0))
    # The hardware scales anything by infinity to infinity, and a positive number by a large power. Like the
    # series of exp up to an even degree, the polynomial is positive also where rests are not reduced.
    return exp_below(emitter, x if scales_in_hardware(emitter, x) else at_most(emitter, x, 89.0))


def expm1(emitter: Core, operand: object, result: object, x: Value) -> Value:
    builder = emitter.builder
    low, high = (-18.0, 89.0) if format_of(x) is SINGLE else (-38.0, 710.0)
    whole, rest = reduce(emitter, at_most(emitter, at_least(emitter, x, low), high))
    # Half of the result cannot overflow before the result does.
    half = power_of_two(emitter, builder.fsub(whole, emitter.like(x, 1.0)))
    base = builder.fsub(half, emitter.like(x, 0.5))
    value = emitter.fma(half, expm1_reduced(emitter, rest), base)
    value = builder.fadd(value, value)
    return builder.select(builder.fcmp_ordered("==", x, emitter.like(x, 0.0)), x, value)


def tanh(emitter: Core, operand: object, result: object, x: Value) -> Value:
    """``(e - 1) / (e + 1)`` with ``e = exp(2 |x|)``; above 1, ``1 - 2 / (e + 1)``, which rounds less."""
    if has_tables(emitter, x):
        return piecewise(emitter, x, math_tables.TANH)
    builder = emitter.builder
    size = magnitude(emitter, x)
    twice = at_most(emitter, builder.fadd(size, size), 20.0 if format_of(x) is SINGLE else 40.0)
    whole, rest = reduce(emitter, twice)
    small = expm1_reduced(emitter, rest)
    factor = power_of_two(emitter, whole)
    one, zero = emitter.like(x, 1.0), emitter.like(x, 0.0)
    large = builder.fcmp_ordered(">", size, one)
    above = emitter.fma(factor, small, builder.fsub(factor, one))
    above = builder.select(large, emitter.like(x, -2.0), above)
    below = emitter.fma(factor, small, builder.fadd(factor, one))
    value = builder.fadd(builder.select(large, one, zero), builder.fdiv(above, below))
    return with_sign(emitter, value, x)


def sigmoid(emitter: Core, operand: object, result: object, x: Value) -> Value:
    """``1 / (1 + exp(-x))`` by way of ``exp(-|x|)``, which neither overflows nor cancels."""
    builder = emitter.builder
    one = emitter.like(x, 1.0)
    power = exp_below(emitter, builder.fneg(magnitude(emitter, x)))
    above = builder.select(builder.fcmp_ordered("<", x, emitter.like(x, 0.0)), power, one)
    return builder.fdiv(above, builder.fadd(one, power))


def erf(emitter: Core, operand: object, result: object, x: Value) -> Value:
    """A polynomial near 0, else ``1 - exp(log(erfc(|x|)))`` with a polynomial for the logarithm."""
    if has_tables(emitter, x):
        return piecewise(emitter, x, math_tables.ERF)
    builder = emitter.builder
    single = format_of(x) is SINGLE
    border, limit = (475 / 512, 4.0) if single else (1.0, 6.0)
    square = builder.fmul(x, x)
    near_table = coefficients.ERF_SMALL_FLOAT if single else coefficients.ERF_SMALL
    near = emitter.fma(polynomial(emitter, square, near_table), x, x)
    size = magnitude(emitter, x)
    far_size = at_most(emitter, size, limit)
    if single:
        quotient = polynomial(emitter, far_size, coefficients.ERF_LARGE_FLOAT)
        exponent = emitter.fma(quotient, far_size, builder.fneg(far_size))
    else:
        # Below the border the polynomial is not made for, and could exceed the range of the exponential.
        exponent = polynomial(emitter, at_least(emitter, far_size, border), coefficients.ERF_LARGE)
    whole, rest = reduce(emitter, exponent)
    complement = builder.fmul(exp_reduced(emitter, rest), power_of_two(emitter, whole))
    far = with_sign(emitter, builder.fsub(emitter.like(x, 1.0), complement), x)
    return builder.select(builder.fcmp_ordered(">", size, emitter.like(x, border)), far, near)


def _half_exp(emitter: Core, size: Value) -> Value:
    """``exp(|x|) / 2``, which overflows where sinh and cosh do."""
    return exp_below(emitter, at_most(emitter, size, 711.0), shift=-1.0)


def _sinh(emitter: Core, x: Value) -> Value:
    builder = emitter.builder
    size = magnitude(emitter, x)
    square = builder.fmul(size, size)
    product = builder.fmul(polynomial(emitter, square, coefficients.SINH), square)
    near = emitter.fma(product, size, size)
    half = _half_exp(emitter, size)
    far = builder.fsub(half, builder.fdiv(emitter.like(x, 0.25), half))
    chosen = builder.select(builder.fcmp_ordered("<", size, emitter.like(x, 1.0)), near, far)
    return with_sign(emitter, chosen, x)


def _cosh(emitter: Core, x: Value) -> Value:
    half = _half_exp(emitter, magnitude(emitter, x))
    return emitter.builder.fadd(half, emitter.builder.fdiv(emitter.like(x, 0.25), half))


sinh = through_double(_sinh)
cosh = through_double(_cosh)
