"""pow: the logarithm as an unevaluated sum of two doubles, times the exponent, then exp.

Special cases as in C99, annex F.9.4.4. float32 is computed in double, where a plain logarithm is enough.
"""

from __future__ import annotations

from typing import TypeAlias

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cpu import math_coefficients as coefficients
from onnxplan.kernels.cpu.arithmetic import integer_power
from onnxplan.kernels.cpu.emitter_core import Core
from onnxplan.kernels.cpu.llvm_types import DOUBLE, FLOAT, I1
from onnxplan.kernels.cpu.math_exponential import exp_below
from onnxplan.kernels.cpu.math_logarithm import log_finite, split
from onnxplan.kernels.cpu.math_support import PAIRED, at_least, at_most, magnitude, polynomial

Value: TypeAlias = ir.Value
Pair: TypeAlias = tuple[Value, Value]
TWO_THIRDS = (0.6666666666666666, 3.700743415417188e-17)


def power(emitter: Core, operand: DType, result: DType, x: Value, y: Value) -> Value:
    """``x ** y``."""
    if not operand.is_float:
        return integer_power(emitter, operand, x, y)
    constant = _constant_exponent(y)
    if constant in (1.0, 2.0, 3.0, -1.0):
        return _small_power(emitter, x, constant)
    if x.type.element == DOUBLE:
        return _repair(emitter, x, y, _positive_power(emitter, magnitude(emitter, x), y))
    wide = ir.VectorType(DOUBLE, x.type.count)
    x, y = emitter.builder.fpext(x, wide), emitter.builder.fpext(y, wide)
    value = _repair(emitter, x, y, _positive_power_short(emitter, magnitude(emitter, x), y))
    return emitter.builder.fptrunc(value, ir.VectorType(FLOAT, x.type.count))


def _constant_exponent(y: Value) -> float | None:
    """The value that all lanes of a constant have."""
    if not isinstance(y, ir.Constant) or not isinstance(y.constant, (list, tuple)):
        return None
    values = {lane.constant for lane in y.constant}
    return float(values.pop()) if len(values) == 1 else None


def _small_power(emitter: Core, x: Value, exponent: float) -> Value:
    if exponent == 1.0:
        return x
    if exponent == -1.0:
        return emitter.builder.fdiv(emitter.like(x, 1.0), x)
    square = emitter.builder.fmul(x, x)
    return square if exponent == 2.0 else emitter.builder.fmul(square, x)


def _add(emitter: Core, large: Value, small: Value) -> Pair:
    """Sum and error of two numbers of which the first is larger or zero (Dekker)."""
    total = emitter.builder.fadd(large, small)
    return total, emitter.builder.fsub(small, emitter.builder.fsub(total, large))


def _multiply(emitter: Core, a: Pair, b: Pair) -> Pair:
    high = emitter.builder.fmul(a[0], b[0])
    low = emitter.exact_fma(a[0], b[0], emitter.builder.fneg(high))
    low = emitter.fma(a[0], b[1], low)
    return high, emitter.fma(a[1], b[0], low)


def _log_pair(emitter: Core, x: Value) -> Pair:
    """log of positive finite doubles with a relative error below 2**-62, as a sum."""
    builder = emitter.builder
    mantissa, exponent = split(emitter, x)
    one = emitter.like(x, 1.0)
    f = builder.fsub(mantissa, one)
    divisor = builder.fadd(mantissa, one)
    divisor_low = builder.fsub(mantissa, builder.fsub(divisor, one))
    s = builder.fdiv(f, divisor)
    error = emitter.exact_fma(builder.fneg(s), divisor, f)
    error = emitter.fma(builder.fneg(s), divisor_low, error)
    quotient = (s, builder.fdiv(error, divisor))
    square = _multiply(emitter, quotient, quotient)
    third = emitter.like(x, TWO_THIRDS[0])
    tail = builder.fmul(square[0], polynomial(emitter, square[0], coefficients.LOG_PAIR))
    series = _add(emitter, third, tail)
    series = (series[0], builder.fadd(series[1], emitter.like(x, TWO_THIRDS[1])))
    cubic = _multiply(emitter, quotient, _multiply(emitter, square, series))
    twice = (builder.fadd(s, s), builder.fadd(quotient[1], quotient[1]))
    high, low = _add(emitter, twice[0], cubic[0])
    low = builder.fadd(low, builder.fadd(twice[1], cubic[1]))
    shift = builder.fmul(exponent, emitter.like(x, PAIRED.log_2_short))
    shift_low = builder.fmul(exponent, emitter.like(x, PAIRED.log_2_rest))
    total, error = _add(emitter, shift, high)
    return _add(emitter, total, builder.fadd(error, builder.fadd(low, shift_low)))


def _finite_log(emitter: Core, x: Value, pair: Pair) -> Pair:
    """The logarithm at 0 and infinity put right."""
    builder = emitter.builder
    zero, infinity = emitter.like(x, 0.0), emitter.like(x, float("inf"))
    high, low = pair
    at_zero, at_infinity = builder.fcmp_ordered("==", x, zero), builder.fcmp_unordered("ueq", x, infinity)
    high = builder.select(at_zero, emitter.like(x, float("-inf")), builder.select(at_infinity, x, high))
    return high, builder.select(builder.or_(at_zero, at_infinity), zero, low)


def _exp_pair(emitter: Core, high: Value, low: Value) -> Value:
    """``exp(high + low)`` for a ``low`` small beside ``high`` (ignored where ``high`` is out of range)."""
    builder = emitter.builder
    inside = builder.fcmp_ordered("<", magnitude(emitter, high), emitter.like(high, 800.0))
    low = builder.select(inside, low, emitter.like(high, 0.0))
    return exp_below(emitter, at_most(emitter, high, 710.0), low=low)


def _positive_power(emitter: Core, x: Value, y: Value) -> Value:
    high, low = _finite_log(emitter, x, _log_pair(emitter, x))
    # Larger exponents over- or underflow as these do, and could not be split into parts.
    y = at_most(emitter, at_least(emitter, y, -(2.0**80)), 2.0**80)
    product = emitter.builder.fmul(y, high)
    error = emitter.exact_fma(y, high, emitter.builder.fneg(product))
    return _exp_pair(emitter, product, emitter.fma(y, low, error))


def _positive_power_short(emitter: Core, x: Value, y: Value) -> Value:
    """With a relative error of about 2**-45 in the range of float32."""
    zero = emitter.like(x, 0.0)
    high, _ = _finite_log(emitter, x, (log_finite(emitter, x), zero))
    return _exp_pair(emitter, emitter.builder.fmul(y, high), zero)


def _repair(emitter: Core, x: Value, y: Value, value: Value) -> Value:
    """Sign, NaN and ones of ``x ** y`` from ``value``, which is ``|x| ** y``."""
    builder = emitter.builder
    zero, one = emitter.like(x, 0.0), emitter.like(x, 1.0)
    nan = emitter.like(x, float("nan"))
    infinity = emitter.like(x, float("inf"))
    size = magnitude(emitter, x)
    whole = builder.fcmp_ordered("==", emitter.elementwise("llvm.trunc", y), y)
    half = builder.fmul(y, emitter.like(y, 0.5))
    even = builder.fcmp_ordered("==", emitter.elementwise("llvm.trunc", half), half)
    odd = builder.select(even, emitter.fill(0, I1), whole)
    signed = emitter.elementwise("llvm.copysign", value, x)
    value = builder.select(odd, signed, value)
    undefined = builder.and_(builder.fcmp_ordered("<", x, zero), builder.fcmp_ordered("<", size, infinity))
    undefined = builder.and_(undefined, builder.fcmp_unordered("!=", emitter.elementwise("llvm.trunc", y), y))
    undefined = builder.or_(undefined, builder.fcmp_unordered("uno", x, y))
    value = builder.select(undefined, nan, value)
    unit = builder.and_(
        builder.fcmp_ordered("==", size, one),
        builder.fcmp_ordered("==", magnitude(emitter, y), infinity),
    )
    unit = builder.or_(unit, builder.fcmp_ordered("==", x, one))
    unit = builder.or_(unit, builder.fcmp_ordered("==", y, zero))
    return builder.select(unit, one, value)
