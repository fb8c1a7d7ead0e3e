"""Activation functions, of the standard and of onnxruntime's domain.

Formulas are those of https://onnx.ai/onnx/operators/, written so that they neither overflow nor cancel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import float_map, per_channel, scalar_map
from onnxplan.compiler.registry import Rule, operator
from onnxplan.compiler.trace import Scalar, apply, cast, select
from onnxplan.compiler.view import View

MICROSOFT = "com.microsoft"


def softplus(x: Scalar) -> Scalar:
    return apply("max", x, 0) + apply("log1p", apply("exp", -apply("abs", x)))


def hard_sigmoid(x: Scalar, alpha: float, beta: float) -> Scalar:
    return apply("max", apply("min", x * alpha + beta, 1), 0)


def elu(x: Scalar, alpha: float) -> Scalar:
    return select(x < 0, apply("expm1", x) * alpha, x)


def gelu(x: Scalar) -> Scalar:
    return x * 0.5 * (apply("erf", x * math.sqrt(0.5)) + 1)


def gelu_tanh(x: Scalar) -> Scalar:
    return x * 0.5 * (apply("tanh", (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)) + 1)


def swish(x: Scalar, alpha: float) -> Scalar:
    return x * apply("sigmoid", x * alpha)


def _relu(x: Scalar) -> Scalar:
    return apply("max", x, 0)


def _hard_swish(x: Scalar) -> Scalar:
    return x * hard_sigmoid(x, 1 / 6, 0.5)


def _mish(x: Scalar) -> Scalar:
    return x * apply("tanh", softplus(x))


def _softsign(x: Scalar) -> Scalar:
    return x / (apply("abs", x) + 1)


def _leaky_relu(x: Scalar, alpha: float) -> Scalar:
    return select(x < 0, x * alpha, x)


def _selu(x: Scalar, alpha: float, gamma: float) -> Scalar:
    return elu(x, alpha) * gamma


def _celu(x: Scalar, alpha: float) -> Scalar:
    return apply("max", x, 0) + apply("min", apply("expm1", x / alpha) * alpha, 0)


def _thresholded_relu(x: Scalar, alpha: float) -> Scalar:
    return select(x > alpha, x, 0)


def _activation(body: Callable[..., Scalar], **defaults: float) -> Rule:
    """A function of floats whose parameters are the attributes named in ``defaults``."""

    def rule(b: Builder, node: Node, x: View) -> View:
        parameters = tuple(node.float(name, default) for name, default in defaults.items())
        return float_map(b, body, x, parameters=parameters)

    return rule


operator("Softplus")(_activation(softplus))
operator("Softsign")(_activation(_softsign))
operator("HardSwish", since=14)(_activation(_hard_swish))
operator("Mish", since=18)(_activation(_mish))
operator("LeakyRelu")(_activation(_leaky_relu, alpha=0.01))
operator("Elu")(_activation(elu, alpha=1.0))
operator("Celu", since=12)(_activation(_celu, alpha=1.0))
operator("ThresholdedRelu", since=10)(_activation(_thresholded_relu, alpha=1.0))
operator("HardSigmoid")(_activation(hard_sigmoid, alpha=0.2, beta=0.5))
operator("Selu")(_activation(_selu, alpha=1.6732, gamma=1.0507))
operator("Selu", since=6)(
    _activation(_selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875)
)
operator("Swish", since=24)(_activation(swish, alpha=1.0))
operator("Gelu", domain=MICROSOFT)(_activation(gelu))
operator("QuickGelu", domain=MICROSOFT)(_activation(swish, alpha=1.702))


@operator("Relu")
def relu(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Relu.html"""
    return scalar_map(b, _relu, x)


@operator("Gelu", since=20)
def standard_gelu(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Gelu.html"""
    approximate = node.string("approximate", "none")
    if approximate not in ("none", "tanh"):
        raise ValueError(f"approximate {approximate!r} is neither none nor tanh")
    return float_map(b, gelu_tanh if approximate == "tanh" else gelu, x)


def _biased(body: Callable[[Scalar], Scalar]) -> Callable[[Scalar, Scalar], Scalar]:
    def biased(x: Scalar, bias: Scalar) -> Scalar:
        return body(x + bias)

    return biased


_biased_gelu = _biased(gelu)
_biased_gelu_tanh = _biased(gelu_tanh)


@operator("BiasGelu", domain=MICROSOFT)
def bias_gelu(b: Builder, node: Node, x: View, bias: View) -> View:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.BiasGelu"""
    return float_map(b, _biased_gelu, x, bias)


@operator("FastGelu", domain=MICROSOFT)
def fast_gelu(b: Builder, node: Node, x: View, bias: View | None = None) -> View:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.FastGelu"""
    return float_map(b, gelu_tanh, x) if bias is None else float_map(b, _biased_gelu_tanh, x, bias)


# Slopes and thresholds of any numeric type


def _prelu(x: Scalar, slope: Scalar) -> Scalar:
    return select(x < 0, x * slope, x)


@operator("PRelu", since=7)
def prelu(b: Builder, node: Node, x: View, slope: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__PRelu.html"""
    return scalar_map(b, _prelu, x, slope.expand(x.shape))


@operator("PRelu")
def prelu_of_channels(b: Builder, node: Node, x: View, slope: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__PRelu.html before version 7: one slope or one a channel."""
    if slope.size == 1:
        return scalar_map(b, _prelu, x, slope.squeeze(tuple(range(slope.rank))))
    return scalar_map(b, _prelu, x, per_channel(slope, x.rank) if slope.rank == 1 else slope)


@operator("Shrink", since=9)
def shrink(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Shrink.html

    Integers are compared and shifted as real numbers, then truncated.
    """
    parameters = (node.float("lambd", 0.5), node.float("bias", 0.0))
    return scalar_map(b, _shrink, x, parameters=parameters)


def _shrink(x: Scalar, lambd: float, bias: float) -> Scalar:
    dtype = x.dtype
    value = cast(x, DType.FLOAT64 if dtype.is_integer or dtype is DType.FLOAT64 else DType.FLOAT32)
    shrunk = select(value < -lambd, value + bias, select(value > lambd, value - bias, 0))
    return cast(shrunk, dtype)
