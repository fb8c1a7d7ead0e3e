"""exp and what is made of it: expm1, tanh, sigmoid, erf, sinh, cosh.

``exp(x) = 2**n * exp(r)`` with ``n`` the nearest integer to ``x / log(2)``; ``exp(r) - 1`` is a polynomial.
"""

from __future__ import annotations

from typing import TypeAlias

from llvmlite import ir

from onnxplan.kernels.cpu import math_coefficients as coefficients
from onnxplan.kernels.cpu.emitter_core import Core, has_fma
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
    through_double,
    with_sign,
)

Value: TypeAlias = ir.Value


def reduce(emitter: Core, x: Value) -> tuple[Value, Value]:
    """``(n, r)`` with ``x = n * log(2) + r`` and ``|r| <= log(2) / 2``; ``n`` is a whole float."""
    form = format_of(x)
    scaled = emitter.builder.fmul(x, emitter.like(x, LOG2_E))
    whole = emitter.elementwise("llvm.nearbyint", scaled)
    exact = has_fma(emitter.target)
    high, low = (form.log_2_high, form.log_2_low) if exact else (form.log_2_short, form.log_2_rest)
    rest = emitter.fma(whole, emitter.like(x, -high), x)
    return whole, emitter.fma(whole, emitter.like(x, -low), rest)


def expm1_reduced(emitter: Core, rest: Value) -> Value:
    """``exp(r) - 1`` for ``|r| <= log(2) / 2``."""
    table = coefficients.EXPM1_FLOAT if format_of(rest) is SINGLE else coefficients.EXPM1_DOUBLE
    square = emitter.builder.fmul(rest, rest)
    return emitter.fma(polynomial(emitter, rest, table), square, rest)


def exp_clamped(emitter: Core, x: Value, shift: float = 0.0) -> Value:
    """``exp(x) * 2**shift`` for ``x`` not far outside of the range where the result is finite and not 0."""
    whole, rest = reduce(emitter, x)
    value = emitter.builder.fadd(expm1_reduced(emitter, rest), emitter.like(x, 1.0))
    if shift:
        whole = emitter.builder.fadd(whole, emitter.like(x, shift))
    return scale(emitter, value, whole)


def exp(emitter: Core, operand: object, result: object, x: Value) -> Value:
    low, high = (-104.0, 89.0) if format_of(x) is SINGLE else (-746.0, 710.0)
    # Nothing may underflow where the result is 0, as it is for all that softmax masks: processors take a
    # hundred times as long for that.
    zero = emitter.like(x, 0.0)
    vanishes = emitter.builder.fcmp_ordered("<", x, emitter.like(x, low))
    power = exp_clamped(emitter, at_most(emitter, emitter.builder.select(vanishes, zero, x), high))
    return emitter.builder.select(vanishes, zero, power)


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
    low = -104.0 if format_of(x) is SINGLE else -746.0
    negative_size = builder.fneg(magnitude(emitter, x))
    power = exp_clamped(emitter, at_least(emitter, negative_size, low))
    above = builder.select(builder.fcmp_ordered("<", x, emitter.like(x, 0.0)), power, one)
    return builder.fdiv(above, builder.fadd(one, power))


def erf(emitter: Core, operand: object, result: object, x: Value) -> Value:
    """A polynomial near 0, else ``1 - exp(log(erfc(|x|)))`` with a polynomial for the logarithm."""
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
    complement = builder.fadd(expm1_reduced(emitter, rest), emitter.like(x, 1.0))
    complement = builder.fmul(complement, power_of_two(emitter, whole))
    far = with_sign(emitter, builder.fsub(emitter.like(x, 1.0), complement), x)
    return builder.select(builder.fcmp_ordered(">", size, emitter.like(x, border)), far, near)


def _half_exp(emitter: Core, size: Value) -> Value:
    """``exp(|x|) / 2``, which overflows where sinh and cosh do."""
    return exp_clamped(emitter, at_most(emitter, size, 711.0), shift=-1.0)


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
