"""What the vector functions of mathematics share: number formats, polynomials, powers of two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from llvmlite import ir

from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu.emitter_core import Core
from onnxplan.kernels.cpu.llvm_types import DOUBLE, FLOAT, I8, I16, I32, I64, size_of

Value: TypeAlias = ir.Value
LOG2_E = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class Format:
    """A binary floating-point format; ``log_2_*`` sum to log(2).

    ``log_2_high`` is log(2) rounded, for use with fma; ``log_2_short`` has enough trailing zeros for its
    product with any exponent to be exact. Adding and subtracting ``rounder`` rounds to a whole number.
    ``smallest_log`` is below the logarithm of all numbers that do not round to 0, ``vanishing_log`` that of a
    power of two whose two halves are no normal numbers.
    """

    element: ir.Type
    integer: ir.Type
    fraction: int
    bias: int
    log_2_high: float
    log_2_low: float
    log_2_short: float
    log_2_rest: float
    rounder: float
    smallest_log: float
    vanishing_log: float


SINGLE = Format(
    FLOAT,
    I32,
    23,
    127,
    0.693147182464599609375,
    -1.904654299957768e-09,
    0.693359375,
    -2.12194440e-4,
    1.5 * 2.0**23,
    -104.0,
    -176.0,
)
PAIRED = Format(
    DOUBLE,
    I64,
    52,
    1023,
    0.693147180559945286226764,
    2.319046813846299558e-17,
    6.93147180369123816490e-01,
    1.90821492927058770002e-10,
    1.5 * 2.0**52,
    -746.0,
    -1418.0,
)


def format_of(value: Value) -> Format:
    return SINGLE if value.type.element == FLOAT else PAIRED


def integers(value: Value) -> ir.VectorType:
    """The vector type of the bits of ``value``."""
    return ir.VectorType(format_of(value).integer, value.type.count)


def bits_of(emitter: Core, value: Value) -> Value:
    return emitter.builder.bitcast(value, integers(value))


def polynomial(emitter: Core, x: Value, coefficients: Sequence[float]) -> Value:
    """Horner's scheme with fma; coefficients from the lowest degree."""
    result: Value = emitter.like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = emitter.fma(result, x, emitter.like(x, coefficient))
    return result


def at_most(emitter: Core, value: Value, limit: float) -> Value:
    """The smaller one; NaN passes."""
    bound = emitter.like(value, limit)
    return emitter.builder.select(emitter.builder.fcmp_ordered("<", bound, value), bound, value)


def at_least(emitter: Core, value: Value, limit: float) -> Value:
    """The larger one; NaN passes."""
    bound = emitter.like(value, limit)
    return emitter.builder.select(emitter.builder.fcmp_ordered(">", bound, value), bound, value)


def magnitude(emitter: Core, value: Value) -> Value:
    return emitter.elementwise("llvm.fabs", value)


def with_sign(emitter: Core, value: Value, sign: Value) -> Value:
    return emitter.elementwise("llvm.copysign", value, sign)


def to_exponent(emitter: Core, whole: Value) -> Value:
    """A whole number below 2**31 as an integer vector of the format's width."""
    narrow = emitter.builder.fptosi(whole, ir.VectorType(I32, whole.type.count))
    return narrow if whole.type.element == FLOAT else emitter.builder.sext(narrow, integers(whole))


def from_exponent(emitter: Core, exponent: Value, like: Value) -> Value:
    """A small integer vector as floats of ``like``'s type. By way of 32 bits: AVX2 converts no others."""
    narrow = exponent
    if exponent.type.element != I32:
        narrow = emitter.builder.trunc(exponent, ir.VectorType(I32, exponent.type.count))
    return emitter.builder.sitofp(narrow, like.type)


def power_of_two(emitter: Core, whole: Value) -> Value:
    """``2 ** whole`` for whole numbers in the range of normal exponents."""
    form = format_of(whole)
    builder = emitter.builder
    biased = builder.add(to_exponent(emitter, whole), emitter.fill(form.bias, form.integer))
    return builder.bitcast(builder.shl(biased, emitter.fill(form.fraction, form.integer)), whole.type)


def scale(emitter: Core, value: Value, whole: Value) -> Value:
    """``value * 2 ** whole``, rounded once, for whole numbers up to twice the range of exponents.

    Two powers below the normal range, as for ``whole`` near ``vanishing_log``, give 0 without underflow.
    """
    form = format_of(value)
    builder = emitter.builder
    exponent = to_exponent(emitter, whole)
    half = builder.ashr(exponent, emitter.fill(1, form.integer))
    for part in (half, builder.sub(exponent, half)):
        biased = builder.add(part, emitter.fill(form.bias, form.integer))
        factor = builder.shl(biased, emitter.fill(form.fraction, form.integer))
        value = builder.fmul(value, builder.bitcast(factor, value.type))
    return value


def scales_in_hardware(emitter: Core, value: Value) -> bool:
    """Does :func:`scale_kept` exist for vectors like ``value``?"""
    hardware = 64 // size_of(value.type.element)
    return emitter.target.isa == "avx512" and value.type.count % hardware == 0


def scale_kept(emitter: Core, value: Value, whole: Value, kept: Value) -> Value:
    """``value * 2 ** whole``, rounded once, for any whole number; 0 outside of ``kept``."""
    return in_parts(emitter, 64 // size_of(value.type.element), _scale_kept, value, whole, kept)


def _scale_kept(emitter: Core, value: Value, whole: Value, kept: Value) -> Value:
    single = value.type.element == FLOAT
    name = f"llvm.x86.avx512.mask.scalef.{'ps' if single else 'pd'}.512"
    mask = emitter.builder.bitcast(kept, I16 if single else I8)
    current_rounding = I32(4)
    zero = emitter.like(value, 0.0)
    return emitter.intrinsic(name, value.type, [value, whole, zero, mask, current_rounding])


def in_parts(emitter: Core, lanes: int, function: Callable[..., Value], *values: Value) -> Value:
    """Applies a function that exists for ``lanes`` lanes only to vectors of a multiple of them."""
    count = values[0].type.count
    if count == lanes:
        return function(emitter, *values)
    half = emitter.with_lanes(count // 2)
    parts = list(zip(*(emitter.halves(value) for value in values), strict=True))
    low, high = (in_parts(half, lanes, function, *part) for part in parts)
    return emitter.join(low, high)


def through_double(function: Callable[[Core, Value], Value]) -> Callable[..., Value]:
    """Makes a table function of one that takes doubles only: float is computed in double and rounded."""

    def emit(emitter: Core, operand: object, result: object, a: Value) -> Value:
        if a.type.element == DOUBLE:
            return function(emitter, a)
        wide = emitter.builder.fpext(a, ir.VectorType(DOUBLE, a.type.count))
        return emitter.builder.fptrunc(function(emitter, wide), a.type)

    return emit
