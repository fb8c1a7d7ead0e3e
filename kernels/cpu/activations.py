"""The activation functions of recurrent layers, as vector code.

Source: https://onnx.ai/onnx/operators/onnx__LSTM.html, section "Summary".
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.scalar import cpu_function


class Activations:
    """Emits activations of vectors of ``dtype``, float32 or float64."""

    def __init__(self, emitter: Emitter, dtype: DType) -> None:
        self.emitter, self.dtype = emitter, dtype

    def apply(self, name: str, x: ir.Value, alpha: ir.Value, beta: ir.Value) -> ir.Value:
        """``alpha`` and ``beta`` are vectors. Raises ``KeyError`` for an unknown name."""
        return _FUNCTIONS[name](self, x, alpha, beta)

    def call(self, op: str, *arguments: ir.Value) -> ir.Value:
        value: ir.Value = cpu_function(op)(self.emitter, self.dtype, self.dtype, *arguments)
        return value

    def number(self, value: float) -> ir.Value:
        return self.emitter.constant(value, self.dtype)

    def where_negative(self, x: ir.Value, negative: ir.Value, other: ir.Value) -> ir.Value:
        builder = self.emitter.builder
        return builder.select(builder.fcmp_ordered("<", x, self.number(0.0)), negative, other)


Function = Callable[[Activations, ir.Value, ir.Value, ir.Value], ir.Value]


def _affine(make: Activations, x: ir.Value, alpha: ir.Value, beta: ir.Value) -> ir.Value:
    return make.emitter.fma(alpha, x, beta)


def _leaky_relu(make: Activations, x: ir.Value, alpha: ir.Value, beta: ir.Value) -> ir.Value:
    return make.where_negative(x, make.emitter.builder.fmul(alpha, x), x)


def _thresholded_relu(make: Activations, x: ir.Value, alpha: ir.Value, beta: ir.Value) -> ir.Value:
    builder = make.emitter.builder
    return builder.select(builder.fcmp_ordered("<", x, alpha), make.number(0.0), x)


def _scaled_tanh(make: Activations, x: ir.Value, alpha: ir.Value, beta: ir.Value) -> ir.Value:
    builder = make.emitter.builder
    return builder.fmul(alpha, make.call("tanh", builder.fmul(beta, x)))


def _hard_sigmoid(make: Activations, x: ir.Value, alpha: ir.Value, beta: ir.Value) -> ir.Value:
    line = _affine(make, x, alpha, beta)
    return make.call("max", make.call("min", line, make.number(1.0)), make.number(0.0))


def _elu(make: Activations, x: ir.Value, alpha: ir.Value, beta: ir.Value) -> ir.Value:
    return make.where_negative(x, make.emitter.builder.fmul(alpha, make.call("expm1", x)), x)


def _softsign(make: Activations, x: ir.Value, alpha: ir.Value, beta: ir.Value) -> ir.Value:
    builder = make.emitter.builder
    return builder.fdiv(x, builder.fadd(make.number(1.0), make.call("abs", x)))


def _softplus(make: Activations, x: ir.Value, alpha: ir.Value, beta: ir.Value) -> ir.Value:
    # log(1 + exp(x)) without overflow.
    small = make.call("log1p", make.call("exp", make.call("neg", make.call("abs", x))))
    return make.emitter.builder.fadd(make.call("max", x, make.number(0.0)), small)


_FUNCTIONS: dict[str, Function] = {
    "Relu": lambda make, x, alpha, beta: make.call("max", x, make.number(0.0)),
    "Tanh": lambda make, x, alpha, beta: make.call("tanh", x),
    "Sigmoid": lambda make, x, alpha, beta: make.call("sigmoid", x),
    "Affine": _affine,
    "LeakyRelu": _leaky_relu,
    "ThresholdedRelu": _thresholded_relu,
    "ScaledTanh": _scaled_tanh,
    "HardSigmoid": _hard_sigmoid,
    "Elu": _elu,
    "Softsign": _softsign,
    "Softplus": _softplus,
}
