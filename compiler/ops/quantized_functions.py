"""ONNX Runtime's operators that take and return quantised tensors: sums, activations, softmax, pooling.

Each is its float counterpart between a dequantisation and a quantisation, computed in float32. Missing zero
points are 0. Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

import math

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import TracedBody, expression, normal_axis, scalar_map, single
from onnxplan.compiler.ops.normalization import softmax
from onnxplan.compiler.ops.pooling import average
from onnxplan.compiler.ops.quantization import (
    INTEGER_RANGES,
    centred,
    check_scale,
    check_zero_point,
    dequantized,
    quantized,
)
from onnxplan.compiler.ops.windows import channels_first, channels_last, window_of
from onnxplan.compiler.registry import Rule, operator
from onnxplan.compiler.trace import Scalar, apply, cast, reduce, select
from onnxplan.compiler.view import View

_DOMAIN = "com.microsoft"


def _parameters(b: Builder, dtype: DType, scale: View, zero: View | None) -> tuple[View, View]:
    """Scale and zero point, both scalars, of a tensor of type ``dtype``."""
    if dtype not in INTEGER_RANGES:
        raise TypeError(f"a quantised operand of type {dtype} is not supported")
    check_scale(scale)
    check_zero_point(zero, dtype)
    return single(b, scale), b.constant(0, dtype) if zero is None else single(b, zero)


def _result(y: Scalar, scale: Scalar, zero: Scalar) -> Scalar:
    return quantized(y / cast(scale, DType.FLOAT32), zero, zero.dtype)


# Sums and products


def _binary(body: TracedBody) -> Rule:
    def rule(
        b: Builder,
        node: Node,
        left: View,
        left_scale: View,
        left_zero: View | None,
        right: View,
        right_scale: View,
        right_zero: View | None,
        scale: View,
        zero: View | None = None,
    ) -> View:
        return scalar_map(
            b,
            body,
            left,
            *_parameters(b, left.dtype, left_scale, left_zero),
            right,
            *_parameters(b, right.dtype, right_scale, right_zero),
            *_parameters(b, left.dtype, scale, zero),
        )

    return rule


def _add(
    left: Scalar,
    left_scale: Scalar,
    left_zero: Scalar,
    right: Scalar,
    right_scale: Scalar,
    right_zero: Scalar,
    scale: Scalar,
    zero: Scalar,
) -> Scalar:
    total = dequantized(left, left_scale, left_zero) + dequantized(right, right_scale, right_zero)
    return _result(total, scale, zero)


def _multiply(
    left: Scalar,
    left_scale: Scalar,
    left_zero: Scalar,
    right: Scalar,
    right_scale: Scalar,
    right_zero: Scalar,
    scale: Scalar,
    zero: Scalar,
) -> Scalar:
    product = cast(centred(left, left_zero) * centred(right, right_zero), DType.FLOAT32)
    factor = cast(left_scale, DType.FLOAT32) * cast(right_scale, DType.FLOAT32)
    return _result(product * factor, scale, zero)


operator("QLinearAdd", domain=_DOMAIN)(_binary(_add))
operator("QLinearMul", domain=_DOMAIN)(_binary(_multiply))


# Functions of one tensor


@operator("QLinearSigmoid", domain=_DOMAIN)
def quantized_sigmoid(
    b: Builder,
    node: Node,
    x: View,
    x_scale: View,
    x_zero: View | None,
    y_scale: View,
    y_zero: View | None = None,
) -> View:
    """``1 / (1 + exp(-x))``"""
    parameters = (*_parameters(b, x.dtype, x_scale, x_zero), *_parameters(b, x.dtype, y_scale, y_zero))
    return scalar_map(b, _sigmoid, x, *parameters)


def _sigmoid(x: Scalar, x_scale: Scalar, x_zero: Scalar, y_scale: Scalar, y_zero: Scalar) -> Scalar:
    return _result(apply("sigmoid", dequantized(x, x_scale, x_zero)), y_scale, y_zero)


@operator("QLinearLeakyRelu", domain=_DOMAIN)
def quantized_leaky_relu(
    b: Builder,
    node: Node,
    x: View,
    x_scale: View,
    x_zero: View | None,
    y_scale: View,
    y_zero: View | None = None,
) -> View:
    """``x`` where it is not negative, ``alpha * x`` elsewhere."""
    parameters = (*_parameters(b, x.dtype, x_scale, x_zero), *_parameters(b, x.dtype, y_scale, y_zero))
    return scalar_map(b, _leaky_relu, x, *parameters, parameters=(node.float("alpha", 0.01),))


def _leaky_relu(
    x: Scalar, x_scale: Scalar, x_zero: Scalar, y_scale: Scalar, y_zero: Scalar, alpha: float
) -> Scalar:
    real = dequantized(x, x_scale, x_zero)
    return _result(select(real < 0.0, real * alpha, real), y_scale, y_zero)


@operator("QLinearSoftmax", domain=_DOMAIN)
def quantized_softmax(
    b: Builder, node: Node, x: View, x_scale: View, x_zero: View | None, y_scale: View, y_zero: View
) -> View:
    """Softmax along ``axis``, or, where ``opset`` is below 13, over all axes from there on."""
    if node.integer("opset") >= 13:
        axes: tuple[int, ...] = (normal_axis(node.integer("axis", -1), x.rank),)
    else:
        axis = node.integer("axis", 1)
        axes = tuple(range(axis if axis == x.rank else normal_axis(axis, x.rank), x.rank))
    views = (x, *_parameters(b, x.dtype, x_scale, x_zero), *_parameters(b, x.dtype, y_scale, y_zero))
    return b.compute(expression(_softmax, tuple(view.dtype for view in views), axes), views, axes)[0]


def _softmax(
    x: Scalar, x_scale: Scalar, x_zero: Scalar, y_scale: Scalar, y_zero: Scalar, axes: tuple[int, ...]
) -> Scalar:
    return _result(softmax(dequantized(x, x_scale, x_zero), axes), y_scale, y_zero)


# Concatenation


@operator("QLinearConcat", domain=_DOMAIN)
def quantized_concatenation(b: Builder, node: Node, y_scale: View, y_zero: View, *inputs: View) -> View:
    """Tensors, each followed by its scale and zero point, quantised anew and concatenated along ``axis``."""
    if not inputs or len(inputs) % 3:
        raise ValueError(f"{len(inputs)} inputs are not triples of tensor, scale and zero point")
    result = _parameters(b, y_zero.dtype, y_scale, y_zero)
    parts = []
    for x, scale, zero in zip(inputs[::3], inputs[1::3], inputs[2::3], strict=True):
        source = _parameters(b, x.dtype, scale, zero)
        parts.append(x if _same(source, result) else scalar_map(b, _requantized, x, *source, *result))
    axis = normal_axis(node.integer("axis"), parts[0].rank)
    shapes = {(*part.shape[:axis], *part.shape[axis + 1 :]) for part in parts}
    if len(shapes) > 1 or any(part.rank != parts[0].rank for part in parts):
        raise ValueError(f"shapes {[list(part.shape) for part in parts]} differ beside axis {axis}")
    return b.concat(parts, axis)


def _same(left: tuple[View, View], right: tuple[View, View]) -> bool:
    """Are scale and zero point known to be equal at plan time?"""
    return all(
        a.dtype is b.dtype and a.is_constant and b.is_constant and bool(a.numpy() == b.numpy())
        for a, b in zip(left, right, strict=True)
    )


def _requantized(x: Scalar, x_scale: Scalar, x_zero: Scalar, y_scale: Scalar, y_zero: Scalar) -> Scalar:
    return _result(dequantized(x, x_scale, x_zero), y_scale, y_zero)


# Pooling


@operator("QLinearAveragePool", domain=_DOMAIN)
def quantized_average_pool(
    b: Builder,
    node: Node,
    x: View,
    x_scale: View,
    x_zero: View | None,
    y_scale: View,
    y_zero: View | None = None,
) -> View:
    """Averages of windows; with the attribute ``channels_last`` of ``(N, *spatial, C)``."""
    source = _parameters(b, x.dtype, x_scale, x_zero)
    result = _parameters(b, x.dtype, y_scale, y_zero)
    if x.rank < 3:
        raise ValueError("pooling needs an input of rank 3 at least")
    last = x if node.integer("channels_last", 0) else channels_last(x)
    window = window_of(node, last.shape[1:-1], node.integers("kernel_shape"))
    counted = window.ends if node.integer("count_include_pad", 0) else None
    means = average(b, scalar_map(b, dequantized, last, *source), window, counted)
    y = scalar_map(b, _result, means, *result)
    return y if node.integer("channels_last", 0) else channels_first(y)


def _rescaled(mean: Scalar, x_scale: Scalar, y_scale: Scalar, y_zero: Scalar) -> Scalar:
    return _result(mean * cast(x_scale, DType.FLOAT32), y_scale, y_zero)


@operator("QLinearGlobalAveragePool", domain=_DOMAIN)
def quantized_global_average_pool(
    b: Builder,
    node: Node,
    x: View,
    x_scale: View,
    x_zero: View | None,
    y_scale: View,
    y_zero: View | None = None,
) -> View:
    """Averages over all spatial axes; with the attribute ``channels_last`` of ``(N, *spatial, C)``."""
    source = _parameters(b, x.dtype, x_scale, x_zero)
    result = _parameters(b, x.dtype, y_scale, y_zero)
    if x.rank < 3:
        raise ValueError("pooling needs an input of rank 3 at least")
    axes = tuple(range(1, x.rank - 1)) if node.integer("channels_last", 0) else tuple(range(2, x.rank))
    count = float(math.prod(x.shape[axis] for axis in axes))
    body = expression(_mean, (x.dtype, x.dtype), count)
    means = b.compute(body, (x, source[1]), axes)[0]
    return scalar_map(b, _rescaled, means, source[0], *result)


def _mean(x: Scalar, zero: Scalar, count: float) -> Scalar:
    return cast(reduce("sum", centred(x, zero)), DType.FLOAT32) / count
