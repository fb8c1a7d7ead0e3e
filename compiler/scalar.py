"""The scalar operations: names, types and meaning. Kernels say the same in machine code (``kernels.scalar``).

The NumPy meaning given here is what plan-time evaluation uses and what kernels are tested against.
Integers wrap. Division of integers by zero is left to the hardware's choice without a trap; here the
divisor is then taken as 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class ScalarOp:
    """``arity`` operands of one common type; ``kinds`` are the type kinds it takes (``f i u b``).

    ``result`` is ``same`` or ``bool``. Exceptions: ``select`` takes a boolean and two of a common type,
    ``cast`` and ``cast_saturate`` take any type and yield the instruction's.
    """

    arity: int
    kinds: str
    result: str
    evaluate: Callable[..., Array]


def _nonzero(divisor: Array) -> Array:
    return divisor if divisor.all() else np.where(divisor == 0, np.ones_like(divisor), divisor)


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    safe = _nonzero(b)
    quotient: Array = np.floor_divide(a, safe)
    if a.dtype.kind == "u":
        return quotient
    # NumPy's integer division rounds down; C's, which ONNX means, truncates.
    inexact = (quotient * safe != a) & ((a < 0) != (safe < 0))
    return np.asarray(quotient + inexact.astype(a.dtype))


def _power(a: Array, b: Array) -> Array:
    if a.dtype.kind == "i":
        # Negative exponents of integers truncate towards zero, as a cast from the real result does.
        negative = b < 0
        positive = np.power(a, np.where(negative, np.zeros_like(b), b))
        inverse = np.where(a == 1, 1, np.where(a == -1, 1 - 2 * (b & 1), 0))
        return np.where(negative, inverse, positive)
    return np.power(a, b)


def _modulo(a: Array, b: Array) -> Array:
    return np.mod(a, _nonzero(b) if a.dtype.kind in "iu" else b)


def _remainder(a: Array, b: Array) -> Array:
    return np.fmod(a, _nonzero(b) if a.dtype.kind in "iu" else b)


def _sigmoid(a: Array) -> Array:
    return np.asarray(np.reciprocal(1 + np.exp(-a)))


def _polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    """Horner's rule; coefficients from the constant term up."""
    result = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result *= x
        result += coefficient
    return result


def _erf(a: Array) -> Array:
    """The error function within 1 ulp of float64, by the rational approximations of fdlibm.

    Source: https://www.netlib.org/fdlibm/s_erf.c. Above 6 the result is 1.
    """
    x = np.asarray(a, np.float64)
    if x.size <= 4:
        values = [math.erf(value) for value in x.ravel().tolist()]
        return np.asarray(np.array(values, np.float64).reshape(x.shape).astype(a.dtype))
    magnitude = np.abs(x)
    result = np.where(np.isnan(x), x, 1.0)

    chosen = magnitude < 0.84375
    part = magnitude[chosen]
    square = part * part
    result[chosen] = part + part * (_polynomial(square, _ERF_P) / _polynomial(square, _ERF_Q))

    chosen = (magnitude >= 0.84375) & (magnitude < 1.25)
    part = magnitude[chosen] - 1
    result[chosen] = 8.45062911510467529297e-01 + _polynomial(part, _ERF_PA) / _polynomial(part, _ERF_QA)

    for lower, upper, numerator, denominator in (
        (1.25, 1 / 0.35, _ERF_RA, _ERF_SA),
        (1 / 0.35, 6.0, _ERF_RB, _ERF_SB),
    ):
        chosen = (magnitude >= lower) & (magnitude < upper)
        part = magnitude[chosen]
        inverse = 1 / (part * part)
        exponent = _polynomial(inverse, numerator) / _polynomial(inverse, denominator) - part * part - 0.5625
        result[chosen] = 1 - np.exp(exponent) / part
    return np.copysign(result, x).astype(a.dtype)


_ERF_P = (
    1.28379167095512558561e-01, -3.25042107247001499370e-01, -2.84817495755985104766e-02,
    -5.77027029648944159157e-03, -2.37630166566501626084e-05,
)  # fmt: skip
_ERF_Q = (
    1.0, 3.97917223959155352819e-01, 6.50222499887672944485e-02, 5.08130628187576562776e-03,
    1.32494738004321644526e-04, -3.96022827877536812320e-06,
)  # fmt: skip
_ERF_PA = (
    -2.36211856075265944077e-03, 4.14856118683748331666e-01, -3.72207876035701323847e-01,
    3.18346619901161753674e-01, -1.10894694282396677476e-01, 3.54783043256182359371e-02,
    -2.16637559486879084300e-03,
)  # fmt: skip
_ERF_QA = (
    1.0, 1.06420880400844228286e-01, 5.40397917702171048937e-01, 7.18286544141962662868e-02,
    1.26171219808761642112e-01, 1.36370839120290507362e-02, 1.19844998467991074170e-02,
)  # fmt: skip
_ERF_RA = (
    -9.86494403484714822705e-03, -6.93858572707181764372e-01, -1.05586262253232909814e+01,
    -6.23753324503260060396e+01, -1.62396669462573470355e+02, -1.84605092906711035994e+02,
    -8.12874355063065934246e+01, -9.81432934416914548592e+00,
)  # fmt: skip
_ERF_SA = (
    1.0, 1.96512716674392571292e+01, 1.37657754143519042600e+02, 4.34565877475229228821e+02,
    6.45387271733267880336e+02, 4.29008140027567833386e+02, 1.08635005541779435134e+02,
    6.57024977031928170135e+00, -6.04244152148580987438e-02,
)  # fmt: skip
_ERF_RB = (
    -9.86494292470009928597e-03, -7.99283237680523006574e-01, -1.77579549177547519889e+01,
    -1.60636384855821916062e+02, -6.37566443368389627722e+02, -1.02509513161107724954e+03,
    -4.83519191608651397019e+02,
)  # fmt: skip
_ERF_SB = (
    1.0, 3.03380607434824582924e+01, 3.25792512996573918826e+02, 1.53672958608443695994e+03,
    3.19985821950859553908e+03, 2.55305040643316442583e+03, 4.74528541206955367215e+02,
    -2.24409524465858183362e+01,
)  # fmt: skip


def _shift(operation: Callable[..., Array]) -> Callable[[Array, Array], Array]:
    def shift(a: Array, b: Array) -> Array:
        bits = a.dtype.itemsize * 8
        shifted = operation(a, np.minimum(b, bits - 1))
        return np.where(b >= bits, np.zeros_like(a), shifted)

    return shift


def _op(arity: int, kinds: str, evaluate: Callable[..., Array], result: str = "same") -> ScalarOp:
    return ScalarOp(arity, kinds, result, evaluate)


# ``min`` and ``max`` pass NaN on. ``mod`` has the sign of the divisor, ``remainder`` that of the dividend.
# ``round`` rounds halves to even. ``shift_*`` by the width or more gives 0.
OPERATIONS: dict[str, ScalarOp] = {
    "add": _op(2, "fiu", np.add),
    "sub": _op(2, "fiu", np.subtract),
    "mul": _op(2, "fiu", np.multiply),
    "div": _op(2, "fiu", _divide),
    "mod": _op(2, "fiu", _modulo),
    "remainder": _op(2, "fiu", _remainder),
    "pow": _op(2, "fiu", _power),
    "min": _op(2, "fiub", np.minimum),
    "max": _op(2, "fiub", np.maximum),
    "neg": _op(1, "fiu", np.negative),
    "abs": _op(1, "fiu", np.abs),
    "sign": _op(1, "fiu", np.sign),
    "sqrt": _op(1, "f", np.sqrt),
    "exp": _op(1, "f", np.exp),
    "expm1": _op(1, "f", np.expm1),
    "log": _op(1, "f", np.log),
    "log1p": _op(1, "f", np.log1p),
    "erf": _op(1, "f", _erf),
    "tanh": _op(1, "f", np.tanh),
    "sigmoid": _op(1, "f", _sigmoid),
    "sin": _op(1, "f", np.sin),
    "cos": _op(1, "f", np.cos),
    "tan": _op(1, "f", np.tan),
    "asin": _op(1, "f", np.arcsin),
    "acos": _op(1, "f", np.arccos),
    "atan": _op(1, "f", np.arctan),
    "sinh": _op(1, "f", np.sinh),
    "cosh": _op(1, "f", np.cosh),
    "asinh": _op(1, "f", np.arcsinh),
    "acosh": _op(1, "f", np.arccosh),
    "atanh": _op(1, "f", np.arctanh),
    "floor": _op(1, "f", np.floor),
    "ceil": _op(1, "f", np.ceil),
    "round": _op(1, "f", np.rint),
    "isnan": _op(1, "f", np.isnan, "bool"),
    "isinf": _op(1, "f", np.isinf, "bool"),
    "equal": _op(2, "fiubs", np.equal, "bool"),
    "not_equal": _op(2, "fiubs", np.not_equal, "bool"),
    "less": _op(2, "fiu", np.less, "bool"),
    "less_equal": _op(2, "fiu", np.less_equal, "bool"),
    "greater": _op(2, "fiu", np.greater, "bool"),
    "greater_equal": _op(2, "fiu", np.greater_equal, "bool"),
    "and": _op(2, "b", np.logical_and),
    "or": _op(2, "b", np.logical_or),
    "xor": _op(2, "b", np.logical_xor),
    "not": _op(1, "b", np.logical_not),
    "bitwise_and": _op(2, "iu", np.bitwise_and),
    "bitwise_or": _op(2, "iu", np.bitwise_or),
    "bitwise_xor": _op(2, "iu", np.bitwise_xor),
    "bitwise_not": _op(1, "iu", np.invert),
    "shift_left": _op(2, "u", _shift(np.left_shift)),
    "shift_right": _op(2, "u", _shift(np.right_shift)),
    "select": _op(3, "fiubs", np.where),
    "cast": _op(1, "fiub", lambda a: a),
    "cast_saturate": _op(1, "fiub", lambda a: a),
}

COMMUTATIVE = frozenset(
    ("add", "mul", "equal", "not_equal", "and", "or", "xor", "bitwise_and", "bitwise_or", "bitwise_xor")
)
"""Operations whose operands may change places; of ``min`` and ``max`` that may change the sign of zero."""

# The type that an operation is computed in, where that is wider than the operands' own type.
WIDE_FLOATS: dict[DType, DType] = {
    dtype: DType.FLOAT32
    for dtype in DType
    if dtype.kind == "f" and dtype not in (DType.FLOAT32, DType.FLOAT64)
}
WIDE_INTEGERS: dict[DType, DType] = {
    DType.INT4: DType.INT8,
    DType.INT2: DType.INT8,
    DType.UINT4: DType.UINT8,
    DType.UINT2: DType.UINT8,
}
WIDE: dict[DType, DType] = {**WIDE_FLOATS, **WIDE_INTEGERS}


def evaluate(op: str, dtype: DType, arguments: Sequence[Array]) -> Array:
    """``op`` of NumPy arrays; ``dtype`` is the result's. Small floats are computed in float32 and rounded,
    integers of less than eight bits in eight bits and wrapped."""
    with np.errstate(all="ignore"):
        return evaluate_quietly(op, dtype, arguments)


def evaluate_quietly(op: str, dtype: DType, arguments: Sequence[Array]) -> Array:
    """:func:`evaluate` for callers that have silenced NumPy's floating-point warnings themselves."""
    if op == "cast" or op == "cast_saturate":
        return convert(arguments[0], dtype, saturate=op == "cast_saturate")
    number = arguments[-1].dtype.num
    if number >= _FIRST_USER_TYPE or number == _HALF:
        wide = WIDE[DType.from_numpy(arguments[-1].dtype)].numpy
        arguments = [a if a.dtype.kind == "b" else a.astype(wide) for a in arguments]
    result = OPERATIONS[op].evaluate(*arguments)
    expected = dtype.numpy
    if type(result) is np.ndarray and result.dtype is expected:
        return result
    return np.asarray(result).astype(expected, copy=False)


_HALF = np.dtype(np.float16).num
# Type numbers from here on are those of extension packages: ``ml_dtypes``.
_FIRST_USER_TYPE = 256


def convert(array: Array, dtype: DType, *, saturate: bool = False) -> Array:
    """``array`` as ``dtype`` by ONNX's conversion rules (https://onnx.ai/onnx/operators/onnx__Cast.html).

    Floats to integers truncate, by way of int64, whose bits are then cut to the width; NaN and what int64
    does not hold give its smallest value (uint64 holds its own range). Anything but zero is true.
    Conversions to floats round to nearest, ties to even, integers to bfloat16 and smaller by way of float32;
    float8e8m0 drops the sign and rounds up. ``saturate`` clamps to the range of a float8, infinities too;
    without it, out of range is NaN or, in float8e5m2, infinite.
    """
    source = DType.from_numpy(array.dtype)
    if source is dtype:
        return array
    with np.errstate(all="ignore"):
        if dtype is DType.BOOL:
            return np.asarray(array != 0) if source not in WIDE else np.asarray(array.astype(np.float32) != 0)
        if source.is_float and dtype.is_integer:
            return _truncate(array.astype(np.float64), dtype)
        if dtype.is_integer and source in WIDE_INTEGERS:
            array = array.astype(WIDE_INTEGERS[source].numpy)
        elif dtype in WIDE_FLOATS and (dtype is not DType.FLOAT16 or source in WIDE):
            array = _round_to_odd(array) if source is DType.FLOAT64 else array.astype(np.float32)
            if dtype is DType.FLOAT8E8M0:
                return _power_of_two_above(array, saturate)
            if saturate and dtype.itemsize == 1:
                limit = _largest(dtype)
                # NaN fails both comparisons of a clip and stays.
                array = np.clip(array, -limit, limit)
        return array.astype(dtype.numpy)


def _truncate(array: Array, dtype: DType) -> Array:
    if dtype is not DType.UINT64:
        return array.astype(np.int64).astype(dtype.numpy)
    # NumPy leaves what is out of uint64's range to the compiler; int64's range is the processor's.
    half = 2.0**63
    high = array >= half
    return np.where(high, array - half, array).astype(np.int64).astype(np.uint64) + (
        high.astype(np.uint64) << np.uint64(63)
    )


def _round_to_odd(array: Array) -> Array:
    """float64 to float32 so that a second rounding to fewer bits gives what one rounding would.

    Source: S. Boldo and G. Melquiond, "When double rounding is odd", 2005. ``ml_dtypes`` rounds twice.
    """
    single = array.astype(np.float32)
    back = single.astype(np.float64)
    truncated = single.view(np.uint32) - (np.abs(back) > np.abs(array))
    odd = truncated | ((back != array) & (array == array))
    return np.asarray(odd, np.uint32).view(np.float32)


def _power_of_two_above(array: Array, saturate: bool) -> Array:
    bits = array.view(np.uint32)
    exponent = (bits >> 23) & 0xFF
    largest = 0xFE if saturate else 0xFF
    # The smallest power, 2**-127, is among float32's subnormals, and what is below it becomes it.
    exact = np.where(exponent == 0, 0x400000, 0)
    rounded = np.minimum(exponent + ((bits & 0x7FFFFF) > exact), largest)
    return np.where(array != array, 0xFF, rounded).astype(np.uint8).view(DType.FLOAT8E8M0.numpy)


@functools.cache
def _largest(dtype: DType) -> np.float32:
    import ml_dtypes

    finfo: Any = ml_dtypes.finfo
    return np.float32(finfo(dtype.numpy).max)
