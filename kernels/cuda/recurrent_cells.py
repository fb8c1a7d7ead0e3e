"""The arithmetic of the gates of LSTM, GRU and simple RNN cells, and of their activations, as CUDA C.

Source: https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html.

The texts use ``total[gate]``, the products of the state, ``given[gate]`` input projections, ``old`` the
state before, and functions ``gate0(x)`` ... that clip and activate. Those of a cell set ``fresh``.
"""

from __future__ import annotations

from collections.abc import Callable

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cuda.expression_code import literal_of
from onnxplan.kernels.scalar import cuda_expression


class _Texts:
    """Scalar operations of one type, as C expressions."""

    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype
        self.fma = "fma" if dtype is DType.FLOAT64 else "fmaf"

    def call(self, op: str, *arguments: str) -> str:
        return cuda_expression(op, self.dtype, self.dtype, *arguments)

    def number(self, value: float) -> str:
        return literal_of(value, self.dtype)

    def where_negative(self, negative: str) -> str:
        return f"(x < {self.number(0.0)} ? {negative} : x)"


def _hard_sigmoid(make: _Texts) -> str:
    line = f"{make.fma}(alpha, x, beta)"
    return make.call("max", make.call("min", line, make.number(1.0)), make.number(0.0))


def _softplus(make: _Texts) -> str:
    # log(1 + exp(x)) without overflow.
    small = make.call("log1p", make.call("exp", make.call("neg", make.call("abs", "x"))))
    return f"({make.call('max', 'x', make.number(0.0))} + {small})"


_ACTIVATIONS: dict[str, Callable[[_Texts], str]] = {
    "Relu": lambda make: make.call("max", "x", make.number(0.0)),
    "Tanh": lambda make: make.call("tanh", "x"),
    "Sigmoid": lambda make: make.call("sigmoid", "x"),
    "Affine": lambda make: f"{make.fma}(alpha, x, beta)",
    "LeakyRelu": lambda make: make.where_negative("alpha * x"),
    "ThresholdedRelu": lambda make: f"(x < alpha ? {make.number(0.0)} : x)",
    "ScaledTanh": lambda make: f"(alpha * {make.call('tanh', '(beta * x)')})",
    "HardSigmoid": _hard_sigmoid,
    "Elu": lambda make: make.where_negative(f"alpha * {make.call('expm1', 'x')}"),
    "Softsign": lambda make: f"(x / ({make.number(1.0)} + {make.call('abs', 'x')}))",
    "Softplus": _softplus,
}


def activation(name: str, dtype: DType) -> str:
    """The activation of ``x`` with its ``alpha`` and ``beta``; raises ``KeyError`` for an unknown name."""
    return _ACTIVATIONS[name](_Texts(dtype))


def clipped(dtype: DType) -> str:
    """``x`` between ``-clip`` and ``clip``."""
    make = _Texts(dtype)
    return make.call("min", make.call("max", "x", "(-clip)"), "clip")


def lstm_cell(dtype: DType, *, input_forget: bool) -> list[str]:
    """Uses ``peephole[gate]`` and the cell's ``memory`` before, which it changes."""
    fma, one = _Texts(dtype).fma, literal_of(1.0, dtype)
    forget = f"{one} - input" if input_forget else f"gate0({fma}(peephole[2], memory, given[2] + total[2]))"
    return [
        f"const value_t input = gate0({fma}(peephole[0], memory, given[0] + total[0]));",
        f"const value_t forget = {forget};",
        "const value_t candidate = gate1(given[3] + total[3]);",
        f"memory = {fma}(forget, memory, input * candidate);",
        f"const value_t output = gate0({fma}(peephole[1], memory, given[1] + total[1]));",
        "fresh = output * activated2(memory);",
    ]


def gru_linear_cell(dtype: DType) -> list[str]:
    """Uses the ``bias`` of the hidden gate."""
    fma = _Texts(dtype).fma
    return [
        "const value_t update = gate0(given[0] + total[0]);",
        "const value_t reset = gate0(given[1] + total[1]);",
        f"const value_t candidate = gate1({fma}(reset, total[2] + bias, given[2]));",
        _blend(dtype),
    ]


def gru_gates() -> list[str]:
    """The update gate, and the state times the reset gate, in ``update`` and ``scaled``."""
    return [
        "const value_t update = gate0(given[0] + total[0]);",
        "const value_t scaled = gate0(given[1] + total[1]) * old;",
    ]


def gru_candidate(dtype: DType) -> list[str]:
    """Uses ``update`` of :func:`gru_gates` and the ``bias`` of the hidden gate."""
    return ["const value_t candidate = gate1(given[2] + total[2] + bias);", _blend(dtype)]


def rnn_cell() -> list[str]:
    return ["fresh = gate0(given[0] + total[0]);"]


def _blend(dtype: DType) -> str:
    return f"fresh = {_Texts(dtype).fma}({literal_of(1.0, dtype)} - update, candidate, update * old);"
