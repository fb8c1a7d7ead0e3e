"""Sums of products of bytes, zero points subtracted, in terms of products of the bytes themselves.

Of ``sum (a - p) (w - q)`` processors compute ``sum a w``, of unsigned ``a`` and signed ``w``; what is
missing, ``-p sum (w - q) - q sum a``, is an addition to the finished sums, and mostly of constants: weights
are constant and symmetric. All is exact modulo 2**32.
"""

from __future__ import annotations

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ops.common import expression, scalar_map
from onnxplan.compiler.ops.quantization import centred, significant
from onnxplan.compiler.trace import Scalar, apply, cast, reduce
from onnxplan.compiler.view import View

SIGN = 128


def as_unsigned(b: Builder, x: View, zero: View | None) -> tuple[View, View | None]:
    """uint8 ``x`` and a zero point with the same differences; ``None`` is a zero point known to be 0."""
    if x.dtype is DType.UINT8:
        return x, significant(zero)
    shifted = b.constant(SIGN, DType.UINT8) if zero is None else scalar_map(b, _unsigned, zero)
    return scalar_map(b, _unsigned, x), significant(shifted)


def as_signed(b: Builder, x: View, zero: View | None) -> tuple[View, View | None]:
    """The same for int8."""
    if x.dtype is DType.INT8:
        return x, significant(zero)
    shifted = b.constant(-SIGN, DType.INT8) if zero is None else scalar_map(b, _signed, zero)
    return scalar_map(b, _signed, x), significant(shifted)


def centred_bytes(b: Builder, w: View, zero: View | None) -> View | None:
    """int8 ``w - zero``, if that is known at plan time to fit; ``zero`` broadcasts to ``w``."""
    w, zero = as_signed(b, w, zero)
    if zero is None:
        return w
    if w.size == 0 or not (w.is_constant and zero.is_constant):
        return None
    views = (w, zero.expand(w.shape))
    dtypes = tuple(view.dtype for view in views)
    (largest,) = b.compute(expression(_largest_difference, dtypes), views, tuple(range(w.rank)))
    if int(b.value(largest).item()) >= SIGN:
        return None
    return scalar_map(b, _difference, w, zero)


def correct_product(
    b: Builder,
    total: View,
    left: View,
    right: View,
    left_zero: View | None,
    right_zero: View | None,
    addend: View | None = None,
) -> View:
    """``total (..., M, N)``, the product of ``left`` and ``right``, as that of their differences.

    ``addend`` is added. Zero points broadcast to ``left`` and ``right``, vary along the rows and the columns
    only, and are 0 where they are ``None``.
    """
    if left_zero is not None:
        sums = _sums(b, right, right.rank - 2)
        if right_zero is not None:
            sums = scalar_map(b, _less_repeated, sums, right_zero, parameters=(right.shape[-2],))
        total, addend = less_product(b, total, left_zero, sums, addend)
    if right_zero is not None:
        total = scalar_map(b, _less_times, total, right_zero, _sums(b, left, left.rank - 1))
    return total if addend is None else b.scalar("add", total, addend)


def less_product(
    b: Builder, total: View, zero: View, sums: View, addend: View | None
) -> tuple[View, View | None]:
    """``total - zero * sums``, or ``total`` and an addend that holds it where that is constant."""
    if zero.size == 1 and zero.is_constant and sums.is_constant:
        shift = scalar_map(b, _negative_product, zero, sums)
        if addend is None:
            return total, shift
        if addend.is_constant:
            return total, b.scalar("add", addend, shift)
    return scalar_map(b, _less_times, total, zero, sums), addend


def weight_sums(b: Builder, w: View) -> View:
    """``(M,)`` int32: the sums of the weights ``(M, ...)`` of each feature."""
    flat = b.reshape(w, (w.shape[0], w.size // w.shape[0])) if w.size else w.reshape((w.shape[0], 0))
    assert flat is not None
    return _sums(b, flat, 1).squeeze((1,))


def _sums(b: Builder, x: View, axis: int) -> View:
    """int32 sums along ``axis``, which stays with extent 1."""
    return b.compute(expression(_sum, (x.dtype,)), (x,), (axis,))[0]


def _sum(x: Scalar) -> Scalar:
    return reduce("sum", cast(x, DType.INT32))


def _unsigned(x: Scalar) -> Scalar:
    return apply("bitwise_xor", cast(x, DType.UINT8), SIGN)


def _signed(x: Scalar) -> Scalar:
    return cast(apply("bitwise_xor", x, SIGN), DType.INT8)


def _largest_difference(x: Scalar, zero: Scalar) -> Scalar:
    """The largest of ``d`` and ``-1 - d``, which is below 128 where all ``d`` fit int8."""
    difference = centred(x, zero)
    return reduce("max", apply("max", difference, -1 - difference))


def _difference(x: Scalar, zero: Scalar) -> Scalar:
    return cast(centred(x, zero), DType.INT8)


def _less_repeated(sums: Scalar, zero: Scalar, count: int) -> Scalar:
    return sums - cast(zero, DType.INT32) * count


def _less_times(total: Scalar, zero: Scalar, sums: Scalar) -> Scalar:
    return total - cast(zero, DType.INT32) * sums


def _negative_product(zero: Scalar, sums: Scalar) -> Scalar:
    return 0 - cast(zero, DType.INT32) * sums
