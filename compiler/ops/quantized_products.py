"""Matrix products and convolutions of quantised operands: sums of bytes are int32, exact modulo 2**32."""

from __future__ import annotations

from dataclasses import replace

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import scalar_map, single
from onnxplan.compiler.ops.convolution import convolution_window, convolve
from onnxplan.compiler.ops.integer_sums import (
    as_signed,
    as_unsigned,
    centred_bytes,
    correct_product,
    less_product,
    weight_sums,
)
from onnxplan.compiler.ops.padding import pad_with
from onnxplan.compiler.ops.products import as_matrices, drop_added_axes
from onnxplan.compiler.ops.quantization import (
    FLOAT8,
    centred,
    check_scale,
    check_zero_point,
    dynamically_quantized,
    quantized,
    significant,
)
from onnxplan.compiler.ops.windows import Window, channels_first, channels_last
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, cast
from onnxplan.compiler.view import View

BYTES = (DType.INT8, DType.UINT8)


# Operands


def _centred(b: Builder, x: View, zero: View | None) -> View:
    """``x`` minus its zero point, without loss, or ``x`` as it is where that is known to be zero."""
    return x if zero is None else scalar_map(b, centred, x, zero)


def _check_bytes(*views: View) -> None:
    _check_types(BYTES, *views)


def _check_types(types: tuple[DType, ...], *views: View) -> None:
    for view in views:
        if view.dtype not in types:
            raise TypeError(f"a quantised operand of type {view.dtype} is not supported")


def _for_rows(b: Builder, parameter: View) -> View:
    """A scale or zero point of the left operand ``(..., M, K)``: of the tensor or of each row."""
    if parameter.size == 1:
        return single(b, parameter)
    return parameter.unsqueeze((1,)) if parameter.rank == 1 else parameter


def _for_columns(b: Builder, parameter: View) -> View:
    """A scale or zero point of the right operand ``(..., K, N)``: of the tensor or of each column."""
    return single(b, parameter) if parameter.size == 1 else parameter


def _for_features(b: Builder, parameter: View, features: int) -> View:
    """A scale or zero point of convolution weights: of the tensor or of each of their ``features``."""
    if parameter.size == 1:
        return single(b, parameter)
    if parameter.shape != (features,):
        raise ValueError(f"a parameter of shape {list(parameter.shape)} for {features} features")
    return parameter


def _integer_product(
    b: Builder,
    left: View,
    right: View,
    left_zero: View | None,
    right_zero: View | None,
    addend: View | None = None,
) -> View:
    """The product of matrices in int32, zero points subtracted, plus ``addend`` (int32)."""
    _check_bytes(left, right)
    left_zero, right_zero = _matrix_zeros(b, left, right, left_zero, right_zero)
    left, left_zero = as_unsigned(b, left, left_zero)
    weights = centred_bytes(b, right, right_zero)
    right, right_zero = as_signed(b, right, right_zero) if weights is None else (weights, None)
    total = b.matmul(left, right, DType.INT32)
    return correct_product(b, total, left, right, left_zero, right_zero, addend)


def _matrix_zeros(
    b: Builder, left: View, right: View, left_zero: View | None, right_zero: View | None
) -> tuple[View | None, View | None]:
    """The zero points of matrices, made to broadcast to them; ``None`` for those known to be zero."""
    check_zero_point(left_zero, left.dtype)
    check_zero_point(right_zero, right.dtype)
    left_zero, right_zero = significant(left_zero), significant(right_zero)
    return (
        None if left_zero is None else _for_rows(b, left_zero),
        None if right_zero is None else _for_columns(b, right_zero),
    )


def _integer_convolution(
    b: Builder,
    node: Node,
    x: View,
    w: View,
    x_zero: View | None,
    w_zero: View | None,
    addend: View | None = None,
) -> View:
    """The convolution ``(N, *out, M)`` in int32, channels last, zero points subtracted, plus ``addend``.

    ``addend`` is int32 and broadcasts to the result. Padding is zero, that is, x's zero point.
    """
    _check_bytes(x, w)
    check_zero_point(x_zero, x.dtype)
    check_zero_point(w_zero, w.dtype)
    window, groups = convolution_window(node, x, w), node.integer("group", 1)
    x_zero, w_zero = significant(x_zero), significant(w_zero)
    x_zero = x_zero if x_zero is None else single(b, x_zero)
    if w_zero is not None:
        w_zero = _for_features(b, w_zero, w.shape[0])
        w_zero = w_zero.unsqueeze(tuple(range(1, w.rank))) if w_zero.rank else w_zero
    weights = centred_bytes(b, w, w_zero)
    if weights is None:
        # Differences of nine bits, or weights that only a run computes.
        total = convolve(b, _centred(b, x, x_zero), _centred(b, w, w_zero), window, groups, DType.INT32)
        return total if addend is None else b.scalar("add", total, addend)
    if groups == 1 or w.shape[1] > 1:
        x, x_zero = as_unsigned(b, x, x_zero)
    if x_zero is None:
        total = convolve(b, x, weights, window, groups, DType.INT32)
    else:
        x, window = _padded(b, x, x_zero, window)
        total = convolve(b, x, weights, window, groups, DType.INT32)
        total, addend = less_product(b, total, x_zero, weight_sums(b, weights), addend)
    return total if addend is None else b.scalar("add", total, addend)


def _padded(b: Builder, x: View, value: View, window: Window) -> tuple[View, Window]:
    """``x (N, C, *spatial)`` with ``value`` wherever the window reads outside, and the window on it."""
    pads = [(0, 0)]
    for extent, before, stride, dilation, kernel, output in zip(
        x.shape[2:], window.pads, window.strides, window.dilations, window.kernel, window.outputs, strict=True
    ):
        reach = (output - 1) * stride - before + (kernel - 1) * dilation + 1
        pads.append((max(before, 0), max(reach - extent, 0)))
    pads.append((0, 0))
    if not any(before or after for before, after in pads):
        return x, window
    padded = pad_with(b, channels_last(x), pads, value, dense=True)
    inside = tuple(min(before, 0) for before in window.pads)
    return channels_first(padded), replace(window, pads=inside)


# Results


def _multiplier(b: Builder, a_scale: View, b_scale: View, y_scale: View) -> View:
    """``a_scale * b_scale / y_scale`` in float32, in this order, as ONNX Runtime computes it."""
    for scale in (a_scale, b_scale, y_scale):
        check_scale(scale)
    return scalar_map(b, _ratio, a_scale, b_scale, y_scale)


def _ratio(a_scale: Scalar, b_scale: Scalar, y_scale: Scalar) -> Scalar:
    product = cast(a_scale, DType.FLOAT32) * cast(b_scale, DType.FLOAT32)
    return product / cast(y_scale, DType.FLOAT32)


def _requantized(b: Builder, total: View, multiplier: View, zero: View | None, dtype: DType) -> View:
    """Sums times ``multiplier``, quantised."""
    check_zero_point(zero, dtype)
    zero = significant(zero)
    if zero is None:
        return scalar_map(b, _times, total, multiplier, parameters=(dtype,))
    return scalar_map(b, _shifted_times, total, multiplier, single(b, zero), parameters=(dtype,))


def _times(total: Scalar, multiplier: Scalar, dtype: DType) -> Scalar:
    return quantized(cast(total, DType.FLOAT32) * multiplier, None, dtype)


def _shifted_times(total: Scalar, multiplier: Scalar, zero: Scalar, dtype: DType) -> Scalar:
    return quantized(cast(total, DType.FLOAT32) * multiplier, zero, dtype)


def _real(b: Builder, total: View, multiplier: View, bias: View | None, dtype: DType) -> View:
    """Sums times ``multiplier`` plus ``bias`` as floats of type ``dtype``, rounded once."""
    if bias is None:
        return scalar_map(b, _real_times, total, multiplier, parameters=(dtype,))
    return scalar_map(b, _real_times_plus, total, multiplier, bias, parameters=(dtype,))


def _real_times(total: Scalar, multiplier: Scalar, dtype: DType) -> Scalar:
    return cast(cast(total, DType.FLOAT32) * multiplier, dtype)


def _real_times_plus(total: Scalar, multiplier: Scalar, bias: Scalar, dtype: DType) -> Scalar:
    return cast(cast(total, DType.FLOAT32) * multiplier + cast(bias, DType.FLOAT32), dtype)


# Operators


@operator("MatMulInteger", since=10)
def integer_matrix_product(
    b: Builder,
    node: Node,
    left: View,
    right: View,
    left_zero: View | None = None,
    right_zero: View | None = None,
) -> View:
    """https://onnx.ai/onnx/operators/onnx__MatMulInteger.html"""
    total = _integer_product(b, *as_matrices(left, right), left_zero, right_zero)
    return drop_added_axes(total, left, right)


@operator("ConvInteger", since=10)
def integer_convolution(
    b: Builder, node: Node, x: View, w: View, x_zero: View | None = None, w_zero: View | None = None
) -> View:
    """https://onnx.ai/onnx/operators/onnx__ConvInteger.html"""
    return channels_first(_integer_convolution(b, node, x, w, x_zero, w_zero))


@operator("QLinearMatMul", since=10)
def quantized_matrix_product(
    b: Builder,
    node: Node,
    left: View,
    left_scale: View,
    left_zero: View,
    right: View,
    right_scale: View,
    right_zero: View,
    y_scale: View,
    y_zero: View,
) -> View:
    """https://onnx.ai/onnx/operators/onnx__QLinearMatMul.html

    Bytes are summed in int32, float8 in float32.
    """
    rows, columns = as_matrices(left, right)
    if left.dtype in FLOAT8 or right.dtype in FLOAT8:
        _check_types((*BYTES, *FLOAT8), left, right)
        zeros = _matrix_zeros(b, rows, columns, left_zero, right_zero)
        rows, columns = (_centred(b, x, zero) for x, zero in zip((rows, columns), zeros, strict=True))
        total = b.matmul(b.cast(rows, DType.FLOAT32), b.cast(columns, DType.FLOAT32))
    else:
        total = _integer_product(b, rows, columns, left_zero, right_zero)
    multiplier = _multiplier(b, _for_rows(b, left_scale), _for_columns(b, right_scale), single(b, y_scale))
    _check_types((*BYTES, *FLOAT8), y_zero)
    return drop_added_axes(_requantized(b, total, multiplier, y_zero, y_zero.dtype), left, right)


@operator("QLinearConv", since=10)
def quantized_convolution(
    b: Builder,
    node: Node,
    x: View,
    x_scale: View,
    x_zero: View,
    w: View,
    w_scale: View,
    w_zero: View,
    y_scale: View,
    y_zero: View,
    bias: View | None = None,
) -> View:
    """https://onnx.ai/onnx/operators/onnx__QLinearConv.html"""
    if bias is not None and bias.dtype is not DType.INT32:
        raise TypeError(f"a bias of type int32 is expected, not {bias.dtype}")
    total = _integer_convolution(b, node, x, w, x_zero, w_zero, bias)
    multiplier = _multiplier(b, single(b, x_scale), _for_features(b, w_scale, w.shape[0]), single(b, y_scale))
    _check_bytes(y_zero)
    return channels_first(_requantized(b, total, multiplier, y_zero, y_zero.dtype))


@operator("MatMulIntegerToFloat", domain="com.microsoft")
def integer_matrix_product_to_float(
    b: Builder,
    node: Node,
    left: View,
    right: View,
    left_scale: View,
    right_scale: View,
    left_zero: View | None = None,
    right_zero: View | None = None,
    bias: View | None = None,
) -> View:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulIntegerToFloat"""
    return _product_to_float(b, left, right, left_scale, right_scale, left_zero, right_zero, bias)


def _product_to_float(
    b: Builder,
    left: View,
    right: View,
    left_scale: View,
    right_scale: View,
    left_zero: View | None,
    right_zero: View | None,
    bias: View | None,
) -> View:
    total = _integer_product(b, *as_matrices(left, right), left_zero, right_zero)
    multiplier = _multiplier(
        b, _for_rows(b, left_scale), _for_columns(b, right_scale), b.constant(1, DType.FLOAT32)
    )
    return drop_added_axes(_real(b, total, multiplier, bias, left_scale.dtype), left, right)


@operator("DynamicQuantizeMatMul", domain="com.microsoft")
def dynamically_quantized_matrix_product(
    b: Builder,
    node: Node,
    left: View,
    right: View,
    right_scale: View,
    right_zero: View | None = None,
    bias: View | None = None,
) -> View:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.DynamicQuantizeMatMul"""
    quantized_left, scale, zero = dynamically_quantized(b, left)
    return _product_to_float(b, quantized_left, right, scale, right_scale, zero, right_zero, bias)


@operator("QGemm", domain="com.microsoft")
def quantized_general_matrix_product(
    b: Builder,
    node: Node,
    a: View,
    a_scale: View,
    a_zero: View,
    w: View,
    w_scale: View,
    w_zero: View,
    c: View | None = None,
    y_scale: View | None = None,
    y_zero: View | None = None,
) -> View:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.QGemm

    ``c`` (int32) has the scale ``a_scale * w_scale``, so it is added before the factor ``alpha``.
    """
    if a.rank != 2 or w.rank != 2:
        raise ValueError("operands of rank 2 are expected")
    left = a.transpose((1, 0)) if node.integer("transA", 0) else a
    right = w.transpose((1, 0)) if node.integer("transB", 0) else w
    total = _integer_product(b, left, right, a_zero, w_zero, c)
    scale = b.scalar("mul", b.constant(node.float("alpha", 1.0), DType.FLOAT32), single(b, a_scale))
    divisor = b.constant(1, DType.FLOAT32) if y_scale is None else single(b, y_scale)
    multiplier = _multiplier(b, scale, _for_columns(b, w_scale), divisor)
    if y_scale is None:
        return _real(b, total, multiplier, None, DType.FLOAT32)
    return _requantized(b, total, multiplier, y_zero, a.dtype if y_zero is None else y_zero.dtype)
