"""Conversions between element types, and between how elements stand in memory and how they are computed with.

The meaning is that of ``onnxplan.compiler.scalar.convert``. Formats of small floats:
https://onnx.ai/onnx/technical/float8.html, https://onnx.ai/onnx/technical/float4.html and the OCP
Microscaling Formats specification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.scalar import WIDE_FLOATS
from onnxplan.kernels.cpu.llvm_types import DOUBLE, FLOAT, HALF, I8, I16, I32, I64, type_suffix

if TYPE_CHECKING:
    from onnxplan.kernels.cpu.emitter_core import Core

_NARROW_INTEGERS = {DType.INT4: 4, DType.UINT4: 4, DType.INT2: 2, DType.UINT2: 2}


@dataclass(frozen=True, slots=True)
class SmallFloat:
    """Sign, ``exponent`` bits, ``mantissa`` bits; codes are without the sign.

    ``overflow`` is the code that too large values and infinities get and ``nan`` that of NaN, both possibly
    with the sign bit where the format has one NaN only. ``largest`` is the code of the largest finite value.
    """

    exponent: int
    mantissa: int
    bias: int
    largest: int
    overflow: int
    nan: int
    infinities: bool = False
    unsigned_zero: bool = False

    @property
    def sign(self) -> int:
        return 1 << (self.exponent + self.mantissa)


SMALL_FLOATS = {
    DType.FLOAT16: SmallFloat(5, 10, 15, 0x7BFF, 0x7C00, 0x7E00, infinities=True),
    DType.FLOAT8E4M3FN: SmallFloat(4, 3, 7, 0x7E, 0x7F, 0x7F),
    DType.FLOAT8E5M2: SmallFloat(5, 2, 15, 0x7B, 0x7C, 0x7E, infinities=True),
    DType.FLOAT8E4M3FNUZ: SmallFloat(4, 3, 8, 0x7F, 0x80, 0x80, unsigned_zero=True),
    DType.FLOAT8E5M2FNUZ: SmallFloat(5, 2, 16, 0x7F, 0x80, 0x80, unsigned_zero=True),
    DType.FLOAT4E2M1: SmallFloat(2, 1, 1, 0x7, 0x7, 0x8),
    DType.FLOAT6E2M3: SmallFloat(2, 3, 1, 0x1F, 0x1F, 0x20),
    DType.FLOAT6E3M2: SmallFloat(3, 2, 3, 0x1F, 0x1F, 0x20),
}


def python_constant(value: float | int, dtype: DType) -> float | int:
    """``value`` rounded or wrapped to ``dtype``."""
    if dtype is DType.BOOL:
        return int(bool(value))
    if dtype is DType.FLOAT64:
        return float(value)
    if dtype.is_float:
        import numpy as np

        with np.errstate(all="ignore"):
            return float(np.array(value, np.float64).astype(dtype.numpy).astype(np.float64))
    bits = _NARROW_INTEGERS.get(dtype, 8 * dtype.itemsize)
    wrapped = int(value) & ((1 << bits) - 1)
    return wrapped - (1 << bits) if dtype.kind == "i" and wrapped >> (bits - 1) else wrapped


def widen(emitter: Core, stored: ir.Value, dtype: DType) -> ir.Value:
    """A vector as it stands in memory, in its compute type."""
    builder = emitter.builder
    if dtype is DType.BOOL:
        return builder.icmp_unsigned("!=", stored, emitter.like(stored, 0))
    if dtype in _NARROW_INTEGERS:
        return _wrap_narrow(emitter, stored, dtype)
    if dtype is DType.BFLOAT16:
        wide = builder.shl(builder.zext(stored, emitter.vector(I32)), emitter.fill(16, I32))
        return builder.bitcast(wide, emitter.vector(FLOAT))
    if dtype is DType.FLOAT8E8M0:
        return _decode_e8m0(emitter, stored)
    if dtype is DType.FLOAT16 and _has_half(emitter):
        return builder.fpext(builder.bitcast(stored, emitter.vector(HALF)), emitter.vector(FLOAT))
    if dtype in SMALL_FLOATS:
        return _decode(emitter, stored, SMALL_FLOATS[dtype])
    return stored


def narrow(emitter: Core, value: ir.Value, dtype: DType) -> ir.Value:
    """A vector in the compute type of ``dtype``, as it stands in memory; rounds to nearest even."""
    builder = emitter.builder
    if dtype is DType.BOOL:
        return builder.zext(value, emitter.vector(I8))
    if dtype in _NARROW_INTEGERS:
        return builder.and_(value, emitter.like(value, (1 << _NARROW_INTEGERS[dtype]) - 1))
    if dtype not in WIDE_FLOATS:
        return value
    known = emitter.stored_forms.get(id(value))
    if known is not None and known[1] is dtype:
        return known[2]
    if dtype is DType.BFLOAT16:
        return _encode_bfloat16(emitter, value)
    if dtype is DType.FLOAT8E8M0:
        return _encode_e8m0(emitter, value)
    if dtype is DType.FLOAT16 and _has_half(emitter):
        half = builder.fptrunc(value, emitter.vector(HALF))
        return builder.bitcast(half, emitter.vector(I16))
    return _encode(emitter, value, SMALL_FLOATS[dtype], dtype.itemsize)


def round_to(emitter: Core, value: ir.Value, dtype: DType) -> ir.Value:
    """A ``float`` vector converted to small float ``dtype``."""
    return _remember(emitter, narrow(emitter, value, dtype), dtype)


def _remember(emitter: Core, stored: ir.Value, dtype: DType) -> ir.Value:
    """``stored`` in its compute type; narrowing that again gives ``stored`` without any work."""
    rounded = widen(emitter, stored, dtype)
    emitter.stored_forms[id(rounded)] = (rounded, dtype, stored)
    return rounded


def cast(emitter: Core, source: DType, result: DType, value: ir.Value) -> ir.Value:
    """ONNX's Cast without saturation, between compute types."""
    if source is result:
        return value
    builder = emitter.builder
    if result is DType.BOOL:
        zero = emitter.like(value, 0)
        return (
            builder.fcmp_unordered("!=", value, zero)
            if source.is_float
            else builder.icmp_signed("!=", value, zero)
        )
    if source is DType.BOOL or not source.is_float:
        return _from_integer(emitter, source, result, value)
    if not result.is_float:
        return _float_to_integer(emitter, result, value)
    if source is DType.FLOAT64:
        if result is DType.FLOAT32:
            return builder.fptrunc(value, emitter.vector(FLOAT))
        return round_to(emitter, _round_to_odd(emitter, value), result)
    if result is DType.FLOAT64:
        return builder.fpext(value, emitter.vector(DOUBLE))
    return value if result is DType.FLOAT32 else round_to(emitter, value, result)


def cast_saturate(emitter: Core, source: DType, result: DType, value: ir.Value) -> ir.Value:
    """As :func:`cast`; float8 and smaller results are clamped to the finite range, infinities too."""
    if source is result or not (result.is_float and result.itemsize == 1):
        return cast(emitter, source, result, value)
    if source is DType.FLOAT64:
        value = _round_to_odd(emitter, value)
    elif not source.is_float:
        value = cast(emitter, source, DType.FLOAT32, value)
    if result is DType.FLOAT8E8M0:
        return _remember(emitter, _encode_e8m0(emitter, value, saturate=True), result)
    import ml_dtypes

    builder = emitter.builder
    finfo: Any = ml_dtypes.finfo
    largest = float(finfo(result.numpy).max)
    for limit, relation in ((largest, ">"), (-largest, "<")):
        bound = emitter.like(value, limit)
        value = builder.select(builder.fcmp_ordered(relation, value, bound), bound, value)
    return round_to(emitter, value, result)


def _from_integer(emitter: Core, source: DType, result: DType, value: ir.Value) -> ir.Value:
    builder = emitter.builder
    signed = source.kind == "i"
    if result.is_float:
        element = DOUBLE if result is DType.FLOAT64 else FLOAT
        number = (builder.sitofp if signed else builder.uitofp)(value, emitter.vector(element))
        return round_to(emitter, number, result) if result in WIDE_FLOATS else number
    bits, wanted = value.type.element.width, 8 * result.itemsize
    if wanted > bits:
        value = (builder.sext if signed else builder.zext)(value, emitter.vector(ir.IntType(wanted)))
    elif wanted < bits:
        value = builder.trunc(value, emitter.vector(ir.IntType(wanted)))
    return _wrap_narrow(emitter, value, result) if result in _NARROW_INTEGERS else value


def _wrap_narrow(emitter: Core, value: ir.Value, dtype: DType) -> ir.Value:
    shift = emitter.like(value, 8 - _NARROW_INTEGERS[dtype])
    raised = emitter.builder.shl(value, shift)
    return (emitter.builder.ashr if dtype.kind == "i" else emitter.builder.lshr)(raised, shift)


def _float_to_integer(emitter: Core, result: DType, value: ir.Value) -> ir.Value:
    builder = emitter.builder
    if result is DType.INT64:
        return builder.fptosi(value, emitter.vector(I64))
    if result is DType.UINT64:
        half = emitter.like(value, 2.0**63)
        large = builder.fcmp_ordered(">=", value, half)
        lowered = builder.select(large, builder.fsub(value, half), value)
        integer = builder.fptosi(lowered, emitter.vector(I64))
        flipped = builder.xor(integer, emitter.like(integer, 1 << 63))
        return builder.select(large, flipped, integer)
    wrapped = builder.fptosi(_wrap_to_int32(emitter, value), emitter.vector(I32))
    if result.itemsize == 4:
        return wrapped
    narrowed = builder.trunc(wrapped, emitter.vector(ir.IntType(8 * result.itemsize)))
    return _wrap_narrow(emitter, narrowed, result) if result in _NARROW_INTEGERS else narrowed


def nearest_integer(emitter: Core, result: DType, value: ir.Value) -> ir.Value:
    """``float`` numbers of less than 2**24, rounded half to even, as integers of type ``result``, wrapped."""
    integers = emitter.vector(I32)
    if emitter.target.isa in ("avx512", "avx2"):
        name = f"llvm.lrint.{type_suffix(integers)}.{type_suffix(value.type)}"
        rounded = emitter.intrinsic(name, integers, [value])
    else:
        whole = emitter.elementwise("llvm.nearbyint", value)
        rounded = emitter.builder.fptosi(whole, integers)
    return _from_integer(emitter, DType.INT32, result, rounded)


def _wrap_to_int32(emitter: Core, value: ir.Value) -> ir.Value:
    """The integer part modulo 2**32, in [-2**31, 2**31); 0 where an int64 could not hold it."""
    builder = emitter.builder
    whole = emitter.elementwise("llvm.trunc", value)
    turns = emitter.elementwise("llvm.nearbyint", builder.fmul(whole, emitter.like(value, 2.0**-32)))
    rest = builder.fsub(whole, builder.fmul(turns, emitter.like(value, 2.0**32)))
    edge = emitter.like(value, 2.0**31)
    rest = builder.select(builder.fcmp_ordered("==", rest, edge), emitter.like(value, -(2.0**31)), rest)
    size = emitter.elementwise("llvm.fabs", value)
    fits = builder.fcmp_ordered("<", size, emitter.like(value, 2.0**63))
    return builder.select(fits, rest, emitter.like(value, 0.0))


def _round_to_odd(emitter: Core, value: ir.Value) -> ir.Value:
    """``double`` to ``float`` so that a second rounding to fewer bits gives what one rounding would."""
    builder = emitter.builder
    single = builder.fptrunc(value, emitter.vector(FLOAT))
    back = builder.fpext(single, emitter.vector(DOUBLE))
    bits = builder.bitcast(single, emitter.vector(I32))
    larger = builder.fcmp_ordered(
        ">", emitter.elementwise("llvm.fabs", back), emitter.elementwise("llvm.fabs", value)
    )
    inexact = builder.fcmp_ordered("!=", back, value)
    truncated = builder.sub(bits, builder.zext(larger, bits.type))
    return builder.bitcast(builder.or_(truncated, builder.zext(inexact, bits.type)), single.type)


def _has_half(emitter: Core) -> bool:
    return emitter.target.isa in ("avx512", "avx2", "neon")


def _encode_bfloat16(emitter: Core, value: ir.Value) -> ir.Value:
    builder = emitter.builder
    bits = builder.bitcast(value, emitter.vector(I32))
    sixteen = emitter.like(bits, 16)
    odd = builder.and_(builder.lshr(bits, sixteen), emitter.like(bits, 1))
    rounded = builder.add(builder.add(bits, emitter.like(bits, 0x7FFF)), odd)
    quiet = builder.or_(bits, emitter.like(bits, 0x400000))
    unordered = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(
        builder.lshr(builder.select(unordered, quiet, rounded), sixteen), emitter.vector(I16)
    )


def _decode_e8m0(emitter: Core, stored: ir.Value) -> ir.Value:
    """``2 ** (code - 127)``; code 255 is NaN."""
    builder = emitter.builder
    code = builder.zext(stored, emitter.vector(I32))
    bits = builder.shl(code, emitter.like(code, 23))
    bits = builder.select(
        builder.icmp_unsigned("==", code, emitter.like(code, 0)), emitter.like(code, 0x400000), bits
    )
    bits = builder.select(
        builder.icmp_unsigned("==", code, emitter.like(code, 255)), emitter.like(code, 0x7FC00000), bits
    )
    return builder.bitcast(bits, emitter.vector(FLOAT))


def _encode_e8m0(emitter: Core, value: ir.Value, *, saturate: bool = False) -> ir.Value:
    """The absolute value's next power of two; beyond the largest NaN, or with ``saturate`` the largest."""
    builder = emitter.builder
    bits = builder.bitcast(value, emitter.vector(I32))
    size = builder.and_(bits, emitter.like(bits, 0x7FFFFFFF))
    exponent = builder.lshr(size, emitter.like(bits, 23))
    fraction = builder.and_(size, emitter.like(bits, 0x7FFFFF))
    # The smallest power, 2**-127, is among float's subnormals, and what is below it becomes it.
    subnormal = builder.icmp_unsigned("==", exponent, emitter.like(bits, 0))
    exact = builder.select(subnormal, emitter.like(bits, 0x400000), emitter.like(bits, 0))
    inexact = builder.icmp_unsigned(">", fraction, exact)
    code = builder.add(exponent, builder.zext(inexact, bits.type))
    largest = emitter.like(bits, 0xFE if saturate else 0xFF)
    code = builder.select(builder.icmp_unsigned(">", code, largest), largest, code)
    unordered = builder.icmp_unsigned(">", size, emitter.like(bits, 0x7F800000))
    code = builder.select(unordered, emitter.like(bits, 0xFF), code)
    return builder.trunc(code, emitter.vector(I8))


def _decode(emitter: Core, stored: ir.Value, form: SmallFloat) -> ir.Value:
    builder = emitter.builder
    code = builder.zext(stored, emitter.vector(I32))
    size = builder.and_(code, emitter.like(code, form.sign - 1))
    bits = builder.shl(size, emitter.like(code, 23 - form.mantissa))
    # The multiplication moves the exponent's bias and normalises subnormals.
    scaled = builder.fmul(
        builder.bitcast(bits, emitter.vector(FLOAT)), emitter.fill(2.0 ** (127 - form.bias), FLOAT)
    )
    result = builder.bitcast(scaled, emitter.vector(I32))
    if form.infinities:
        special = builder.icmp_unsigned(">", size, emitter.like(code, form.largest))
        result = builder.select(special, builder.or_(bits, emitter.like(bits, 0x7F800000)), result)
    elif form.nan < form.sign and form.nan > form.largest:
        special = builder.icmp_unsigned("==", size, emitter.like(code, form.nan))
        result = builder.select(special, emitter.like(bits, 0x7FC00000), result)
    if form.unsigned_zero:
        special = builder.icmp_unsigned("==", code, emitter.like(code, form.nan))
        result = builder.select(special, emitter.like(bits, 0x7FC00000), result)
    position = form.exponent + form.mantissa
    sign = builder.shl(builder.and_(code, emitter.like(code, form.sign)), emitter.like(code, 31 - position))
    return builder.bitcast(builder.or_(result, sign), emitter.vector(FLOAT))


def _encode(emitter: Core, value: ir.Value, form: SmallFloat, itemsize: int) -> ir.Value:
    builder = emitter.builder
    integers = emitter.vector(I32)

    def like(number: int) -> ir.Value:
        return emitter.fill(number, I32)

    bits = builder.bitcast(value, integers)
    size = builder.and_(bits, like(0x7FFFFFFF))
    shift = 23 - form.mantissa
    odd = builder.and_(builder.lshr(size, like(shift)), like(1))
    rounded = builder.add(builder.add(size, like((1 << (shift - 1)) - 1)), odd)
    code = builder.sub(builder.lshr(rounded, like(shift)), like((127 - form.bias) << form.mantissa))
    # Adding a power of two whose last bit is the smallest subnormal rounds a subnormal result.
    magic = emitter.fill(2.0 ** (1 - form.bias - form.mantissa + 23), FLOAT)
    shifted = builder.bitcast(builder.fadd(builder.bitcast(size, emitter.vector(FLOAT)), magic), integers)
    subnormal = builder.sub(shifted, builder.bitcast(magic, integers))
    is_subnormal = builder.icmp_unsigned("<", size, like((128 - form.bias) << 23))
    code = builder.select(is_subnormal, subnormal, code)
    too_large = builder.icmp_signed(">", code, like(form.largest))
    code = builder.select(too_large, like(form.overflow), code)
    code = builder.select(builder.icmp_unsigned(">", size, like(0x7F800000)), like(form.nan), code)
    sign = builder.and_(builder.lshr(bits, like(31 - form.exponent - form.mantissa)), like(form.sign))
    if form.unsigned_zero:
        nonzero = builder.icmp_unsigned("!=", code, like(0))
        sign = builder.select(nonzero, sign, like(0))
        code = builder.or_(code, sign)
    else:
        code = builder.xor(code, sign)
    return builder.trunc(code, emitter.vector(ir.IntType(8 * itemsize)))
