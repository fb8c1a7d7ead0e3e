"""The scalar operations that need no approximation, on vectors.

Each function takes ``(emitter, operand, result, *values)``: the element type of the operands, that of the
result, and vectors in their compute types. Meaning: ``onnxplan.compiler.scalar``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.emitter_core import Core
from onnxplan.kernels.cpu.llvm_types import DOUBLE, FLOAT, I1

Value: TypeAlias = ir.Value
Function = Callable[..., Value]


def _arithmetic(floating: str, integer: str) -> Function:
    def emit(emitter: Core, operand: DType, result: DType, a: Value, b: Value) -> Value:
        return getattr(emitter.builder, floating if operand.is_float else integer)(a, b)

    return emit


add = _arithmetic("fadd", "add")
sub = _arithmetic("fsub", "sub")
mul = _arithmetic("fmul", "mul")


def div(emitter: Core, operand: DType, result: DType, a: Value, b: Value) -> Value:
    """Integers truncate towards zero; by zero they give the dividend."""
    return emitter.builder.fdiv(a, b) if operand.is_float else integer_quotient(emitter, operand, a, b)


def mod(emitter: Core, operand: DType, result: DType, a: Value, b: Value) -> Value:
    """Remainder with the sign of the divisor."""
    builder = emitter.builder
    if operand.is_float:
        rest = float_remainder(emitter, a, b)
        zero = emitter.like(rest, 0.0)
        opposite = builder.xor(builder.fcmp_ordered("<", rest, zero), builder.fcmp_ordered("<", b, zero))
        wrong = builder.and_(opposite, builder.fcmp_unordered("!=", rest, zero))
        adjusted = builder.select(wrong, builder.fadd(rest, b), rest)
        is_zero = builder.fcmp_ordered("==", rest, zero)
        return builder.select(is_zero, emitter.elementwise("llvm.copysign", zero, b), adjusted)
    rest = remainder(emitter, operand, result, a, b)
    if operand.kind == "u":
        return rest
    zero = emitter.like(rest, 0)
    wrong = builder.and_(
        builder.icmp_signed("!=", rest, zero), builder.icmp_signed("<", builder.xor(rest, b), zero)
    )
    return builder.select(wrong, builder.add(rest, b), rest)


def remainder(emitter: Core, operand: DType, result: DType, a: Value, b: Value) -> Value:
    """Remainder with the sign of the dividend; by zero integers give 0."""
    if operand.is_float:
        return float_remainder(emitter, a, b)
    builder = emitter.builder
    quotient = integer_quotient(emitter, operand, a, b)
    rest = builder.sub(a, builder.mul(quotient, b))
    return builder.select(builder.icmp_signed("==", b, emitter.like(b, 0)), emitter.like(b, 0), rest)


def integer_quotient(emitter: Core, operand: DType, a: Value, b: Value) -> Value:
    """``a / b`` truncated, without a trap: ``a / 0`` is ``a``, the smallest integer over -1 is itself.

    Up to 32 bits it is computed in floating point, where the truncated rounded quotient is exact because the
    significand has more than twice the bits that quotient and divisor need together. So are vectors of 64
    bits whose numbers all lie below 2**52: a quotient that lies below an integer ``n``, by ``1 / b`` or more,
    is rounded to ``n`` only if ``n * b`` is 2**53 or more. Processors divide other vectors lane by lane.
    """
    builder = emitter.builder
    signed = operand.kind == "i"
    minus_one = builder.icmp_signed("==", b, emitter.like(b, -1))
    special = builder.icmp_signed("==", b, emitter.like(b, 0))
    if signed:
        special = builder.or_(special, minus_one)
    divisor = builder.select(special, emitter.like(b, 1), b)
    bits = a.type.element.width
    if bits == 64:
        quotient = _long_quotient(emitter, a, divisor, signed=signed)
    else:
        quotient = _real_quotient(emitter, FLOAT if bits < 32 else DOUBLE, a, divisor, signed=signed)
    if not signed:
        return quotient
    return builder.select(minus_one, builder.sub(emitter.like(a, 0), a), quotient)


def _real_quotient(emitter: Core, element: ir.Type, a: Value, b: Value, *, signed: bool) -> Value:
    """The quotient of integers as floating-point numbers of type ``element``, truncated."""
    builder = emitter.builder
    floats = ir.VectorType(element, a.type.count)
    widen = builder.sitofp if signed else builder.uitofp
    real = builder.fdiv(widen(a, floats), widen(b, floats))
    return (builder.fptosi if signed else builder.fptoui)(real, a.type)


def _long_quotient(emitter: Core, a: Value, b: Value, *, signed: bool) -> Value:
    """The quotient of 64-bit integers, of which ``b`` are not 0."""
    builder = emitter.builder
    small = [
        builder.icmp_unsigned("<", builder.add(value, emitter.like(a, 2**52)), emitter.like(a, 2**53))
        if signed
        else builder.icmp_unsigned("<", value, emitter.like(a, 2**52))
        for value in (a, b)
    ]
    both = builder.and_(*small)
    name = f"llvm.vector.reduce.and.v{a.type.count}i1"
    quotient = emitter.variable(emitter.like(a, 0))
    with emitter.branch(emitter.intrinsic(name, I1, [both])) as (then, otherwise):
        with then:
            # Numbers are signed here in any case: they are small.
            quotient.value = _real_quotient(emitter, DOUBLE, a, b, signed=True)
        with otherwise:
            quotient.value = (builder.sdiv if signed else builder.udiv)(a, b)
    return quotient.value


def float_remainder(emitter: Core, a: Value, b: Value) -> Value:
    """C's fmod, exactly: subtracts ``b * 2**k`` often enough, with quotients of at most as many bits as fit.

    Each pass lowers the exponent of the rest by about the significand's length; most data need one pass.
    """
    builder = emitter.builder
    vector = a.type
    single = vector.element == FLOAT
    width, fraction, bias = (32, 23, 127) if single else (64, 52, 1023)
    integers = ir.VectorType(ir.IntType(width), vector.count)
    digits = fraction - 2

    def magnitude(value: Value) -> Value:
        return emitter.elementwise("llvm.fabs", value)

    def exponent(value: Value) -> Value:
        """Of a positive finite value, also a subnormal one."""
        small = builder.fcmp_ordered("<", value, emitter.like(value, 2.0 ** (1 - bias)))
        scaled = builder.select(small, builder.fmul(value, emitter.like(value, 2.0**fraction)), value)
        bits = builder.lshr(builder.bitcast(scaled, integers), emitter.fill(fraction, integers.element))
        shift = builder.select(
            small, emitter.fill(fraction, bits.type.element), emitter.fill(0, bits.type.element)
        )
        return builder.sub(bits, shift)

    def power_of_two(power: Value) -> Value:
        biased = builder.add(power, emitter.fill(bias, integers.element))
        return builder.bitcast(builder.shl(biased, emitter.fill(fraction, integers.element)), vector)

    divisor = magnitude(b)
    infinity = emitter.like(a, float("inf"))
    defined = builder.and_(
        builder.fcmp_ordered("<", magnitude(a), infinity),
        builder.fcmp_ordered(">", divisor, emitter.like(a, 0.0)),
    )
    divisor = builder.select(defined, divisor, infinity)
    rest = emitter.variable(builder.select(defined, magnitude(a), emitter.like(a, 0.0)))

    def unfinished() -> Value:
        pending = builder.fcmp_ordered(">=", rest.value, divisor)
        return emitter.horizontal(pending, lambda half, x, y: half.builder.or_(x, y))

    with emitter.repeat_while(unfinished):
        current = rest.value
        pending = builder.fcmp_ordered(">=", current, divisor)
        gap = builder.sub(exponent(current), exponent(divisor))
        excess = builder.sub(gap, emitter.fill(digits, integers.element))
        nothing = emitter.fill(0, integers.element)
        positive = builder.and_(builder.icmp_signed(">", excess, nothing), pending)
        excess = builder.select(positive, excess, nothing)
        # One factor could overflow: the powers go up to twice the range of the exponent.
        half = builder.lshr(excess, emitter.fill(1, integers.element))
        step = builder.fmul(divisor, power_of_two(half))
        step = builder.fmul(step, power_of_two(builder.sub(excess, half)))
        quotient = emitter.elementwise("llvm.trunc", builder.fdiv(current, step))
        reduced = emitter.exact_fma(builder.fneg(quotient), step, current)
        negative = builder.fcmp_ordered("<", reduced, emitter.like(a, 0.0))
        reduced = builder.select(negative, builder.fadd(reduced, step), reduced)
        rest.value = builder.select(pending, reduced, current)
    signed = emitter.elementwise("llvm.copysign", rest.value, a)
    undefined = builder.fcmp_unordered("uno", a, b)
    undefined = builder.or_(undefined, builder.fcmp_ordered("==", magnitude(a), infinity))
    undefined = builder.or_(undefined, builder.fcmp_ordered("==", b, emitter.like(b, 0.0)))
    return builder.select(undefined, emitter.like(a, float("nan")), signed)


def integer_power(emitter: Core, operand: DType, a: Value, b: Value) -> Value:
    """By squaring, modulo the width; negative exponents truncate the real result."""
    builder = emitter.builder
    zero, one = emitter.like(a, 0), emitter.like(a, 1)
    negative = builder.icmp_signed("<", b, zero) if operand.kind == "i" else None
    exponent = emitter.variable(b if negative is None else builder.select(negative, zero, b))
    power, square = emitter.variable(one), emitter.variable(a)

    def unfinished() -> Value:
        pending = builder.icmp_unsigned("!=", exponent.value, zero)
        return emitter.horizontal(pending, lambda half, x, y: half.builder.or_(x, y))

    with emitter.repeat_while(unfinished):
        odd = builder.icmp_unsigned("!=", builder.and_(exponent.value, one), zero)
        power.value = builder.select(odd, builder.mul(power.value, square.value), power.value)
        square.value = builder.mul(square.value, square.value)
        exponent.value = builder.lshr(exponent.value, one)
    if negative is None:
        return power.value
    minus_one = emitter.like(a, -1)
    parity = builder.icmp_signed("==", builder.and_(b, one), zero)
    inverse = builder.select(
        builder.icmp_signed("==", a, minus_one), builder.select(parity, one, minus_one), zero
    )
    inverse = builder.select(builder.icmp_signed("==", a, one), one, inverse)
    return builder.select(negative, inverse, power.value)


def _extremum(ordered: str) -> Function:
    def emit(emitter: Core, operand: DType, result: DType, a: Value, b: Value) -> Value:
        builder = emitter.builder
        if operand is DType.BOOL:
            return builder.and_(a, b) if ordered == "<" else builder.or_(a, b)
        if not operand.is_float:
            compare = builder.icmp_signed if operand.kind == "i" else builder.icmp_unsigned
            return builder.select(compare(ordered, a, b), a, b)
        if isinstance(b, ir.Constant):
            a, b = b, a
        chosen = builder.select(builder.fcmp_ordered(ordered, a, b), a, b)
        # The comparison is false for NaN, so a NaN in b is chosen already.
        if isinstance(a, ir.Constant):
            return chosen
        return builder.select(builder.fcmp_unordered("uno", a, a), a, chosen)

    return emit


minimum = _extremum("<")
maximum = _extremum(">")


def neg(emitter: Core, operand: DType, result: DType, a: Value) -> Value:
    return emitter.builder.fneg(a) if operand.is_float else emitter.builder.sub(emitter.like(a, 0), a)


def absolute(emitter: Core, operand: DType, result: DType, a: Value) -> Value:
    if operand.is_float:
        return emitter.elementwise("llvm.fabs", a)
    if operand.kind == "u":
        return a
    negative = emitter.builder.icmp_signed("<", a, emitter.like(a, 0))
    return emitter.builder.select(negative, neg(emitter, operand, result, a), a)


def sign(emitter: Core, operand: DType, result: DType, a: Value) -> Value:
    """-1, 0 or 1; NaN for NaN."""
    builder = emitter.builder
    if operand.is_float:
        zero = emitter.like(a, 0.0)
        one = emitter.like(a, 1.0)
        signed = builder.select(
            builder.fcmp_unordered("!=", a, zero), emitter.elementwise("llvm.copysign", one, a), zero
        )
        return builder.select(builder.fcmp_unordered("uno", a, a), a, signed)
    zero, one = emitter.like(a, 0), emitter.like(a, 1)
    nonzero = builder.select(builder.icmp_signed("!=", a, zero), one, zero)
    if operand.kind == "u":
        return nonzero
    return builder.select(builder.icmp_signed("<", a, zero), emitter.like(a, -1), nonzero)


def _unary(name: str) -> Function:
    def emit(emitter: Core, operand: DType, result: DType, a: Value) -> Value:
        return emitter.elementwise(name, a)

    return emit


sqrt = _unary("llvm.sqrt")
floor = _unary("llvm.floor")
ceil = _unary("llvm.ceil")
round_even = _unary("llvm.nearbyint")


def isnan(emitter: Core, operand: DType, result: DType, a: Value) -> Value:
    return emitter.builder.fcmp_unordered("uno", a, a)


def isinf(emitter: Core, operand: DType, result: DType, a: Value) -> Value:
    size = emitter.elementwise("llvm.fabs", a)
    return emitter.builder.fcmp_ordered("==", size, emitter.like(a, float("inf")))


def _comparison(relation: str) -> Function:
    def emit(emitter: Core, operand: DType, result: DType, a: Value, b: Value) -> Value:
        builder = emitter.builder
        if operand.is_float:
            compare = builder.fcmp_unordered if relation == "!=" else builder.fcmp_ordered
        else:
            compare = builder.icmp_signed if operand.kind == "i" else builder.icmp_unsigned
        return compare(relation, a, b)

    return emit


equal = _comparison("==")
not_equal = _comparison("!=")
less = _comparison("<")
less_equal = _comparison("<=")
greater = _comparison(">")
greater_equal = _comparison(">=")


def _bitwise(method: str) -> Function:
    def emit(emitter: Core, operand: DType, result: DType, a: Value, b: Value) -> Value:
        return getattr(emitter.builder, method)(a, b)

    return emit


bit_and = _bitwise("and_")
bit_or = _bitwise("or_")
bit_xor = _bitwise("xor")


def bit_not(emitter: Core, operand: DType, result: DType, a: Value) -> Value:
    return emitter.builder.xor(a, emitter.like(a, -1))


def _shift(method: str) -> Function:
    def emit(emitter: Core, operand: DType, result: DType, a: Value, b: Value) -> Value:
        """By the width or more gives 0."""
        builder = emitter.builder
        fits = builder.icmp_unsigned("<", b, emitter.like(b, a.type.element.width))
        shifted = getattr(builder, method)(a, builder.select(fits, b, emitter.like(b, 0)))
        return builder.select(fits, shifted, emitter.like(a, 0))

    return emit


shift_left = _shift("shl")
shift_right = _shift("lshr")


def select(emitter: Core, operand: DType, result: DType, condition: Value, a: Value, b: Value) -> Value:
    return emitter.builder.select(condition, a, b)


def cast(emitter: Core, operand: DType, result: DType, a: Value) -> Value:
    return convert.cast(emitter, operand, result, a)


def cast_saturate(emitter: Core, operand: DType, result: DType, a: Value) -> Value:
    return convert.cast_saturate(emitter, operand, result, a)
