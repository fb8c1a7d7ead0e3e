"""The scalar operations: names, types and meaning. Kernels say the same in machine code (``kernels.scalar``).

The NumPy meaning given here is what plan-time evaluation uses and what kernels are tested against.
Integers wrap; division by zero of integers is left to the hardware's choice without a trap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnxplan.compiler.dtypes import DType

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


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind not in "iu":
        return np.divide(a, b)
    safe = np.where(b == 0, 1, b)
    if a.dtype.kind == "u":
        return np.asarray(a // safe, a.dtype)
    # Python's integer division rounds down; C's, which ONNX means, truncates.
    quotient = np.floor_divide(a, safe)
    inexact = (quotient * safe != a) & ((a < 0) != (safe < 0))
    return np.asarray(quotient + inexact, a.dtype)


def _power(a: Array, b: Array) -> Array:
    if a.dtype.kind == "i":
        # Negative exponents of integers truncate towards zero, as a cast from the real result does.
        negative = b < 0
        positive = np.power(a, np.where(negative, 0, b))
        inverse = np.where(a == 1, 1, np.where(a == -1, np.where(b % 2 == 0, 1, -1), 0))
        return np.asarray(np.where(negative, inverse, positive), a.dtype)
    return np.power(a, b)


def _modulo(a: Array, b: Array) -> Array:
    return np.mod(a, np.where(b == 0, 1, b)) if a.dtype.kind in "iu" else np.mod(a, b)


def _remainder(a: Array, b: Array) -> Array:
    return np.fmod(a, np.where(b == 0, 1, b)) if a.dtype.kind in "iu" else np.fmod(a, b)


def _sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


def _erf(a: Array) -> Array:
    from math import erf

    return np.vectorize(erf, otypes=[np.float64])(a.astype(np.float64)).astype(a.dtype)


def _shift(operation: Callable[..., Array]) -> Callable[[Array, Array], Array]:
    def shift(a: Array, b: Array) -> Array:
        bits = a.dtype.itemsize * 8
        shifted = operation(a, np.minimum(b, bits - 1).astype(a.dtype))
        return np.asarray(np.where(b >= bits, 0, shifted), a.dtype)

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
    "equal": _op(2, "fiub", np.equal, "bool"),
    "not_equal": _op(2, "fiub", np.not_equal, "bool"),
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
    "select": _op(3, "fiub", np.where),
    "cast": _op(1, "fiub", lambda a: a),
    "cast_saturate": _op(1, "fiub", lambda a: a),
}

# The type that an operation is computed in, where that is wider than the operands' own type.
WIDE_FLOATS = {
    dtype: DType.FLOAT32
    for dtype in DType
    if dtype.kind == "f" and dtype not in (DType.FLOAT32, DType.FLOAT64)
}


def evaluate(op: str, dtype: DType, arguments: list[Array]) -> Array:
    """``op`` of NumPy arrays; ``dtype`` is the result's. Small floats are computed in float32 and rounded."""
    if op in ("cast", "cast_saturate"):
        return convert(arguments[0], dtype, saturate=op == "cast_saturate")
    with np.errstate(all="ignore"):
        wide = [a.astype(np.float32) if DType.from_numpy(a.dtype) in WIDE_FLOATS else a for a in arguments]
        return np.asarray(OPERATIONS[op].evaluate(*wide)).astype(dtype.numpy, copy=False)


def convert(array: Array, dtype: DType, *, saturate: bool = False) -> Array:
    """``array`` as ``dtype`` by ONNX's conversion rules (https://onnx.ai/onnx/operators/onnx__Cast.html).

    Floats to integers truncate; out of range they give what the hardware's widest conversion, wrapped to the
    width, gives. Anything but zero is true. ``saturate`` clamps to the range of a float8 or a 4- or 2-bit type.
    """
    source = DType.from_numpy(array.dtype)
    if source is dtype:
        return array
    with np.errstate(all="ignore"):
        if dtype is DType.BOOL:
            return np.asarray(array != 0)
        if source.is_float and dtype.is_integer:
            wide = array.astype(np.float64)
            if dtype is DType.UINT64:
                return wide.astype(np.uint64)
            return wide.astype(np.int64).astype(dtype.numpy)
        if saturate and dtype.itemsize == 1 and dtype.is_float:
            return _saturate(array, dtype)
        if source.is_float and dtype in WIDE_FLOATS and source not in (DType.FLOAT32, DType.FLOAT64):
            array = array.astype(np.float32)
        return array.astype(dtype.numpy)


def _saturate(array: Array, dtype: DType) -> Array:
    import ml_dtypes

    limit = float(ml_dtypes.finfo(dtype.numpy).max)
    wide = array.astype(np.float32)
    return np.where(np.isnan(wide), wide, np.clip(wide, -limit, limit)).astype(dtype.numpy)
