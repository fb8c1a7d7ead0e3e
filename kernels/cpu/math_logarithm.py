"""log, log1p and the inverse hyperbolic functions."""

from __future__ import annotations

from typing import TypeAlias

from llvmlite import ir

from onnxplan.kernels.cpu import math_coefficients as coefficients
from onnxplan.kernels.cpu.emitter_core import Core
from onnxplan.kernels.cpu.math_support import (
    SINGLE,
    bits_of,
    format_of,
    from_exponent,
    magnitude,
    polynomial,
    through_double,
    with_sign,
)

Value: TypeAlias = ir.Value
LOG_2 = 0.6931471805599453
# From here on 1 / x is lost beside log(x), and below no square overflows.
LARGE = 2.0**54


def split(emitter: Core, x: Value) -> tuple[Value, Value]:
    """``(m, e)`` with ``x = m * 2**e`` and ``m`` in [sqrt(1/2), sqrt(2)), for positive finite ``x``."""
    form, builder = format_of(x), emitter.builder
    integer = form.integer

    def like(number: int) -> Value:
        return emitter.fill(number, integer)

    smallest = 2.0 ** (1 - form.bias)
    lift = form.fraction + 2
    subnormal = builder.fcmp_ordered("<", x, emitter.like(x, smallest))
    lifted = builder.select(subnormal, builder.fmul(x, emitter.like(x, 2.0**lift)), x)
    root = 0x3F3504F3 if form is SINGLE else 0x3FE6A09E667F3BCD
    bits = bits_of(emitter, lifted)
    offset = builder.sub(bits, like(root))
    exponent = builder.ashr(offset, like(form.fraction))
    kept = builder.and_(offset, like((1 << form.fraction) - 1))
    mantissa = builder.bitcast(builder.add(kept, like(root)), x.type)
    lifted_by = builder.select(subnormal, emitter.like(x, float(lift)), emitter.like(x, 0.0))
    return mantissa, builder.fsub(from_exponent(emitter, exponent, x), lifted_by)


def log_finite(emitter: Core, x: Value, correction: Value | None = None) -> Value:
    """``log(x) + correction`` for positive finite ``x`` and a correction that is small beside it."""
    form, builder = format_of(x), emitter.builder
    mantissa, exponent = split(emitter, x)
    f = builder.fsub(mantissa, emitter.like(x, 1.0))
    square = builder.fmul(f, f)
    low = builder.fmul(exponent, emitter.like(x, form.log_2_rest))
    if correction is not None:
        low = builder.fadd(low, correction)
    if form is SINGLE:
        cube = builder.fmul(square, f)
        low = emitter.fma(cube, polynomial(emitter, f, coefficients.LOG_FLOAT), low)
        low = emitter.fma(square, emitter.like(x, -0.5), low)
    else:
        s = builder.fdiv(f, builder.fadd(f, emitter.like(x, 2.0)))
        z = builder.fmul(s, s)
        rest = builder.fmul(z, polynomial(emitter, z, coefficients.LOG_DOUBLE))
        half = builder.fmul(square, emitter.like(x, 0.5))
        # log(1 + f) = f - f**2/2 + s * (f**2/2 + R): the form of fdlibm, which loses least.
        low = builder.fsub(emitter.fma(s, builder.fadd(half, rest), low), half)
    return emitter.fma(exponent, emitter.like(x, form.log_2_short), builder.fadd(f, low))


def _specials(emitter: Core, x: Value, value: Value, zero: float) -> Value:
    """Repairs log-like ``value``: minus infinity at ``zero``, NaN below it, infinity and NaN stay."""
    builder = emitter.builder
    infinity = emitter.like(x, float("inf"))
    pole = emitter.like(x, zero)
    value = builder.select(builder.fcmp_unordered("<", x, infinity), value, x)
    value = builder.select(builder.fcmp_ordered("==", x, pole), emitter.like(x, float("-inf")), value)
    return builder.select(builder.fcmp_ordered("<", x, pole), emitter.like(x, float("nan")), value)


def _log(emitter: Core, x: Value) -> Value:
    value = _specials(emitter, x, log_finite(emitter, x), 0.0)
    return emitter.builder.select(emitter.builder.fcmp_unordered("uno", x, x), x, value)


def _log1p(emitter: Core, x: Value) -> Value:
    builder = emitter.builder
    one = emitter.like(x, 1.0)
    total = builder.fadd(one, x)
    # What the addition lost (Knuth's two-sum), to first order.
    shown = builder.fsub(total, one)
    lost = builder.fadd(builder.fsub(x, shown), builder.fsub(one, builder.fsub(total, shown)))
    value = log_finite(emitter, total, builder.fdiv(lost, total))
    value = _specials(emitter, x, value, -1.0)
    kept = builder.fcmp_unordered("ueq", x, emitter.like(x, 0.0))
    return builder.select(kept, x, value)


def log(emitter: Core, operand: object, result: object, x: Value) -> Value:
    return _log(emitter, x)


def log1p(emitter: Core, operand: object, result: object, x: Value) -> Value:
    return _log1p(emitter, x)


def _asinh(emitter: Core, x: Value) -> Value:
    builder = emitter.builder
    size, one = magnitude(emitter, x), emitter.like(x, 1.0)
    square = builder.fmul(size, size)
    root = emitter.elementwise("llvm.sqrt", builder.fadd(square, one))
    argument = builder.fadd(size, builder.fdiv(square, builder.fadd(one, root)))
    return with_sign(emitter, _log1p_or_double(emitter, size, argument), x)


def _acosh(emitter: Core, x: Value) -> Value:
    builder = emitter.builder
    above = builder.fsub(x, emitter.like(x, 1.0))
    root = emitter.elementwise("llvm.sqrt", emitter.fma(above, above, builder.fadd(above, above)))
    value = _log1p_or_double(emitter, x, builder.fadd(above, root))
    outside = builder.fcmp_ordered("<", x, emitter.like(x, 1.0))
    return builder.select(outside, emitter.like(x, float("nan")), value)


def _log1p_or_double(emitter: Core, x: Value, argument: Value) -> Value:
    """``log1p(argument)``, or ``log(2 x)`` for large ``x``."""
    builder = emitter.builder
    large = builder.fcmp_ordered(">", x, emitter.like(x, LARGE))
    value = _log1p(emitter, builder.select(large, x, argument))
    return builder.select(large, builder.fadd(value, emitter.like(x, LOG_2)), value)


def _atanh(emitter: Core, x: Value) -> Value:
    builder = emitter.builder
    size = magnitude(emitter, x)
    argument = builder.fdiv(builder.fadd(size, size), builder.fsub(emitter.like(x, 1.0), size))
    half = builder.fmul(_log1p(emitter, argument), emitter.like(x, 0.5))
    return with_sign(emitter, half, x)


asinh = through_double(_asinh)
acosh = through_double(_acosh)
atanh = through_double(_atanh)
