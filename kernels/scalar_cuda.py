"""CUDA C for scalar operations: expression texts, and the device functions that they call.

Accuracy: where CUDA's float function exceeds 2 ulp (CUDA C++ Programming Guide, mathematical functions
appendix), the double one is called. float8 and 4-bit types are decoded and encoded by integer arithmetic
like the CPU's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.scalar import WIDE_FLOATS

CudaText = Callable[..., str]

_INTEGERS = {
    1: ("signed char", "unsigned char"),
    2: ("short", "unsigned short"),
    4: ("int", "unsigned int"),
    8: ("long long", "unsigned long long"),
}

NARROW_INTEGERS = {DType.INT4: 4, DType.UINT4: 4, DType.INT2: 2, DType.UINT2: 2}


def compute_type(dtype: DType) -> str:
    """The C type that expressions compute an element in."""
    if dtype is DType.FLOAT64:
        return "double"
    if dtype.is_float:
        return "float"
    if dtype is DType.BOOL:
        return "bool"
    return _INTEGERS[dtype.itemsize][dtype.kind == "u"]


def storage_type(dtype: DType) -> str:
    """The C type that an element is kept as in memory: small floats as their bits, booleans as bytes."""
    if dtype is DType.BOOL:
        return "unsigned char"
    if dtype in WIDE_FLOATS:
        return _INTEGERS[dtype.itemsize][1]
    return compute_type(dtype)


def loaded(dtype: DType, text: str) -> str:
    """A stored element in its compute type; of integers below eight bits the high bits mean nothing."""
    if dtype is DType.BOOL:
        return f"({text} != 0)"
    if dtype in WIDE_FLOATS:
        return f"onnxplan_decode_{dtype.label}({text})"
    return _narrow(dtype, text)


def stored(dtype: DType, text: str) -> str:
    """A value of the compute type as it is stored."""
    if dtype is DType.BOOL:
        return f"(unsigned char)({text} ? 1 : 0)"
    if dtype in WIDE_FLOATS:
        return f"({storage_type(dtype)})onnxplan_encode_{dtype.label}({text})"
    if dtype in NARROW_INTEGERS:
        return f"({storage_type(dtype)})({text} & {(1 << NARROW_INTEGERS[dtype]) - 1})"
    return text


def template(text: str) -> CudaText:
    """The same text for all types, ``{0}``, ``{1}``, ... being the arguments."""
    return lambda operand, result, *arguments: text.format(*arguments)


def narrowing(text: str) -> CudaText:
    """An integer expression, cast back from the type that C promotes small operands to."""
    return lambda operand, result, *arguments: f"(({compute_type(operand)})({text.format(*arguments)}))"


def float_or(floating: str, integer: str) -> CudaText:
    """One text for floats, one for integers."""
    return lambda operand, result, *arguments: (floating if operand.is_float else integer).format(*arguments)


def wrapping(operator: str) -> CudaText:
    """Arithmetic that wraps: in unsigned types, because overflow of signed ones is undefined in C."""

    def text(operand: DType, result: DType, a: str, b: str) -> str:
        if operand.is_float:
            return f"({a} {operator} {b})"
        wide = _INTEGERS[max(operand.itemsize, 4)][1]
        return f"(({compute_type(operand)})(({wide}){a} {operator} ({wide}){b}))"

    return text


def negate(operand: DType, result: DType, a: str) -> str:
    return f"(-{a})" if operand.is_float else wrapping("-")(operand, result, "0", a)


def mathematical(name: str) -> CudaText:
    """A function of CUDA's math library for float and double."""
    return lambda operand, result, a: f"{name}{'' if operand is DType.FLOAT64 else 'f'}({a})"


def through_double(name: str) -> CudaText:
    """As :func:`mathematical`, by the double function for float too."""

    def text(operand: DType, result: DType, a: str) -> str:
        return f"{name}({a})" if operand is DType.FLOAT64 else f"((float){name}((double){a}))"

    return text


def cast(operand: DType, result: DType, a: str) -> str:
    """ONNX's Cast between compute types; small floats are rounded to what they can hold."""
    if operand is result:
        return a
    if result is DType.BOOL:
        return f"({a} != 0)"
    if operand.is_float and result.is_integer:
        wide = "uint64" if result is DType.UINT64 else "int64"
        return _narrow(result, f"(({compute_type(result)})onnxplan_to_{wide}({a}))")
    if result not in WIDE_FLOATS:
        return _narrow(result, f"(({compute_type(result)}){a})")
    single = f"onnxplan_round_to_odd({a})" if operand is DType.FLOAT64 else f"((float){a})"
    return f"onnxplan_round_{result.label}({single})"


def cast_saturate(operand: DType, result: DType, a: str) -> str:
    """As :func:`cast`; results in one-byte floats are clamped to the finite range."""
    if operand is result or not (result.is_float and result.itemsize == 1):
        return cast(operand, result, a)
    single = f"onnxplan_round_to_odd({a})" if operand is DType.FLOAT64 else f"((float){a})"
    if result is DType.FLOAT8E8M0:
        return f"onnxplan_decode_float8e8m0(onnxplan_convert_float8e8m0({single}, 254u))"
    import ml_dtypes

    finfo: Any = ml_dtypes.finfo
    largest = float(finfo(result.numpy).max)
    return f"onnxplan_round_{result.label}(onnxplan_clamp({single}, {largest!r}f))"


def _narrow(result: DType, text: str) -> str:
    bits = NARROW_INTEGERS.get(result)
    if bits is None:
        return text
    return f"(({compute_type(result)})(({compute_type(result)})({text} << {8 - bits}) >> {8 - bits}))"


def _small_float(
    name: str, exponent: int, mantissa: int, bias: int, largest: int, overflow: int, nan: int, flags: str
) -> str:
    """Functions of one format of :data:`onnxplan.kernels.cpu.convert.SMALL_FLOATS`; flags ``i`` and ``z``."""
    codes = ", ".join(f"0x{code:x}u" for code in (1 << (exponent + mantissa), largest, overflow, nan))
    numbers = f"{mantissa}, {bias}, {codes}, {int('i' in flags)}, {int('z' in flags)}"
    encode, decode = f"onnxplan_encode_{name}", f"onnxplan_decode_{name}"
    return f"""
ONNXPLAN_INLINE unsigned {encode}(float a) {{ return onnxplan_encode<{numbers}>(a); }}
ONNXPLAN_INLINE float {decode}(unsigned a) {{ return onnxplan_decode<{numbers}>(a); }}
ONNXPLAN_INLINE float onnxplan_round_{name}(float a) {{ return {decode}({encode}(a)); }}
"""


_GENERIC = r"""
#define ONNXPLAN_INLINE __device__ __forceinline__
#ifndef ONNXPLAN_DYNAMIC_SHARED
#define ONNXPLAN_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif
template <typename T> ONNXPLAN_INLINE T onnxplan_min(T a, T b) { return a != a || a < b ? a : b; }
template <typename T> ONNXPLAN_INLINE T onnxplan_max(T a, T b) { return a != a || a > b ? a : b; }
template <typename T> struct onnxplan_unsigned { typedef T type; };
template <> struct onnxplan_unsigned<signed char> { typedef unsigned char type; };
template <> struct onnxplan_unsigned<short> { typedef unsigned short type; };
template <> struct onnxplan_unsigned<int> { typedef unsigned int type; };
template <> struct onnxplan_unsigned<long long> { typedef unsigned long long type; };
template <typename T> ONNXPLAN_INLINE T onnxplan_negated(T a) {
    typedef typename onnxplan_unsigned<T>::type U;
    return (T)(U)((U)0 - (U)a);
}
template <typename T> ONNXPLAN_INLINE T onnxplan_abs(T a) { return a < (T)0 ? onnxplan_negated(a) : a; }
ONNXPLAN_INLINE float onnxplan_abs(float a) { return fabsf(a); }
ONNXPLAN_INLINE double onnxplan_abs(double a) { return fabs(a); }
template <typename T> ONNXPLAN_INLINE T onnxplan_sign(T a) { return (T)((a > (T)0) - (a < (T)0)); }
ONNXPLAN_INLINE float onnxplan_sign(float a) { return a != a ? a : (float)((a > 0.0f) - (a < 0.0f)); }
ONNXPLAN_INLINE double onnxplan_sign(double a) { return a != a ? a : (double)((a > 0.0) - (a < 0.0)); }
template <typename T> ONNXPLAN_INLINE T onnxplan_div(T a, T b) {
    if (b == (T)0) return a;
    if ((T)-1 < (T)0 && b == (T)-1) return onnxplan_negated(a);
    return (T)(a / b);
}
template <typename T> ONNXPLAN_INLINE T onnxplan_remainder(T a, T b) {
    if (b == (T)0 || ((T)-1 < (T)0 && b == (T)-1)) return (T)0;
    return (T)(a % b);
}
ONNXPLAN_INLINE float onnxplan_remainder(float a, float b) { return fmodf(a, b); }
ONNXPLAN_INLINE double onnxplan_remainder(double a, double b) { return fmod(a, b); }
template <typename T> ONNXPLAN_INLINE T onnxplan_mod(T a, T b) {
    T rest = onnxplan_remainder(a, b);
    if (rest == (T)0) return rest;
    return (rest < (T)0) != (b < (T)0) ? (T)(rest + b) : rest;
}
ONNXPLAN_INLINE float onnxplan_mod(float a, float b) {
    float rest = fmodf(a, b);
    if (rest == 0.0f) return copysignf(0.0f, b);
    return rest == rest && (rest < 0.0f) != (b < 0.0f) ? rest + b : rest;
}
ONNXPLAN_INLINE double onnxplan_mod(double a, double b) {
    double rest = fmod(a, b);
    if (rest == 0.0) return copysign(0.0, b);
    return rest == rest && (rest < 0.0) != (b < 0.0) ? rest + b : rest;
}
template <typename T> ONNXPLAN_INLINE T onnxplan_pow(T a, T b) {
    if (b < (T)0) return a == (T)1 ? (T)1 : (a == (T)-1 ? ((b & (T)1) ? (T)-1 : (T)1) : (T)0);
    unsigned long long power = 1, square = (unsigned long long)a, exponent = (unsigned long long)b;
    for (; exponent; exponent >>= 1, square *= square)
        if (exponent & 1) power *= square;
    return (T)power;
}
ONNXPLAN_INLINE float onnxplan_pow(float a, float b) { return (float)pow((double)a, (double)b); }
ONNXPLAN_INLINE double onnxplan_pow(double a, double b) { return pow(a, b); }
ONNXPLAN_INLINE float onnxplan_sigmoid(float a) {
    float e = expf(-fabsf(a));
    return (a < 0.0f ? e : 1.0f) / (1.0f + e);
}
ONNXPLAN_INLINE double onnxplan_sigmoid(double a) {
    double e = exp(-fabs(a));
    return (a < 0.0 ? e : 1.0) / (1.0 + e);
}
template <typename T> ONNXPLAN_INLINE T onnxplan_shift_left(T a, T b) {
    return b >= (T)(8 * sizeof(T)) ? (T)0 : (T)((unsigned long long)a << b);
}
template <typename T> ONNXPLAN_INLINE T onnxplan_shift_right(T a, T b) {
    return b >= (T)(8 * sizeof(T)) ? (T)0 : (T)(a >> b);
}
ONNXPLAN_INLINE long long onnxplan_to_int64(double a) {
    return fabs(a) < 9223372036854775808.0 ? (long long)a : (long long)0x8000000000000000ull;
}
ONNXPLAN_INLINE unsigned long long onnxplan_to_uint64(double a) {
    bool high = a >= 9223372036854775808.0;
    unsigned long long low = (unsigned long long)onnxplan_to_int64(high ? a - 9223372036854775808.0 : a);
    return high ? low ^ 0x8000000000000000ull : low;
}
ONNXPLAN_INLINE float onnxplan_clamp(float a, float limit) {
    return a > limit ? limit : (a < -limit ? -limit : a);
}
ONNXPLAN_INLINE float onnxplan_round_to_odd(double a) {
    float single = __double2float_rn(a);
    unsigned bits = __float_as_uint(single);
    bits -= fabs((double)single) > fabs(a);
    return __uint_as_float(a == a ? bits | ((double)single != a) : bits);
}
ONNXPLAN_INLINE unsigned onnxplan_encode_bfloat16(float a) {
    unsigned bits = __float_as_uint(a);
    return (a != a ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}
ONNXPLAN_INLINE float onnxplan_decode_bfloat16(unsigned a) { return __uint_as_float(a << 16); }
ONNXPLAN_INLINE float onnxplan_round_bfloat16(float a) {
    return onnxplan_decode_bfloat16(onnxplan_encode_bfloat16(a));
}
ONNXPLAN_INLINE unsigned onnxplan_convert_float8e8m0(float a, unsigned largest) {
    unsigned size = __float_as_uint(a) & 0x7fffffffu, code = size >> 23;
    code += (size & 0x7fffffu) > (code ? 0u : 0x400000u);
    return size > 0x7f800000u ? 255u : (code > largest ? largest : code);
}
ONNXPLAN_INLINE unsigned onnxplan_encode_float8e8m0(float a) {
    return onnxplan_convert_float8e8m0(a, 255u);
}
ONNXPLAN_INLINE float onnxplan_decode_float8e8m0(unsigned a) {
    return __uint_as_float(a == 0u ? 0x400000u : (a == 255u ? 0x7fc00000u : a << 23));
}
ONNXPLAN_INLINE float onnxplan_round_float8e8m0(float a) {
    return onnxplan_decode_float8e8m0(onnxplan_encode_float8e8m0(a));
}
template <int MANTISSA, int BIAS, unsigned SIGN, unsigned LARGEST, unsigned OVERFLOWED, unsigned NOT_A_NUMBER,
          int INFINITIES, int UNSIGNED_ZERO>
ONNXPLAN_INLINE unsigned onnxplan_encode(float a) {
    unsigned bits = __float_as_uint(a), size = bits & 0x7fffffffu, sign = bits >> 31 ? SIGN : 0u, code;
    const int shift = 23 - MANTISSA;
    if (size < (unsigned)(128 - BIAS) << 23) {
        unsigned magic = (unsigned)(128 - BIAS - MANTISSA + 23) << 23;
        code = __float_as_uint(__fadd_rn(__uint_as_float(size), __uint_as_float(magic))) - magic;
    } else {
        unsigned rounded = size + (1u << (shift - 1)) - 1u + ((size >> shift) & 1u);
        code = (rounded >> shift) - ((unsigned)(127 - BIAS) << MANTISSA);
        if (code > LARGEST) code = OVERFLOWED;
    }
    if (size > 0x7f800000u) code = NOT_A_NUMBER;
    if (UNSIGNED_ZERO) return code ? code | sign : 0u;
    return code ^ sign;
}
template <int MANTISSA, int BIAS, unsigned SIGN, unsigned LARGEST, unsigned OVERFLOWED, unsigned NOT_A_NUMBER,
          int INFINITIES, int UNSIGNED_ZERO>
ONNXPLAN_INLINE float onnxplan_decode(unsigned a) {
    unsigned size = a & (SIGN - 1u), bits = size << (23 - MANTISSA), result;
    result = __float_as_uint(__fmul_rn(__uint_as_float(bits), __uint_as_float((unsigned)(254 - BIAS) << 23)));
    if (INFINITIES && size > LARGEST) result = bits | 0x7f800000u;
    const bool nan_of_both_signs = !INFINITIES && NOT_A_NUMBER < SIGN && NOT_A_NUMBER > LARGEST;
    if (nan_of_both_signs && size == NOT_A_NUMBER) result = 0x7fc00000u;
    if (UNSIGNED_ZERO && a == NOT_A_NUMBER) result = 0x7fc00000u;
    return __uint_as_float(result | (a & SIGN ? 0x80000000u : 0u));
}
"""

PRELUDE = _GENERIC + "".join(
    _small_float(*row)
    for row in (
        ("float16", 5, 10, 15, 0x7BFF, 0x7C00, 0x7E00, "i"),
        ("float8e4m3fn", 4, 3, 7, 0x7E, 0x7F, 0x7F, ""),
        ("float8e5m2", 5, 2, 15, 0x7B, 0x7C, 0x7E, "i"),
        ("float8e4m3fnuz", 4, 3, 8, 0x7F, 0x80, 0x80, "z"),
        ("float8e5m2fnuz", 5, 2, 16, 0x7F, 0x80, 0x80, "z"),
        ("float4e2m1", 2, 1, 1, 0x7, 0x7, 0x8, ""),
        ("float6e2m3", 2, 3, 1, 0x1F, 0x1F, 0x20, ""),
        ("float6e3m2", 3, 2, 3, 0x1F, 0x1F, 0x20, ""),
    )
)
