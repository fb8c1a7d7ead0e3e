"""Recurrent layers in NumPy, step by step in float64.

Source: https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.primitives import Recurrent

Array = npt.NDArray[Any]

ACTIVATIONS: dict[str, Callable[[Array, float, float], Array]] = {
    "Relu": lambda x, alpha, beta: np.maximum(x, 0),
    "Tanh": lambda x, alpha, beta: np.tanh(x),
    "Sigmoid": lambda x, alpha, beta: np.reciprocal(1 + np.exp(-x)),
    "Affine": lambda x, alpha, beta: alpha * x + beta,
    "LeakyRelu": lambda x, alpha, beta: np.where(x < 0, alpha * x, x),
    "ThresholdedRelu": lambda x, alpha, beta: np.where(x < alpha, np.zeros_like(x), x),
    "ScaledTanh": lambda x, alpha, beta: alpha * np.tanh(beta * x),
    "HardSigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "Elu": lambda x, alpha, beta: np.where(x < 0, alpha * np.expm1(x), x),
    "Softsign": lambda x, alpha, beta: x / (1 + np.abs(x)),
    "Softplus": lambda x, alpha, beta: np.logaddexp(x, 0),
}


def evaluate_recurrent(primitive: Recurrent, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """``y (T, N, H)``, ``y_h (N, H)`` and, for ``lstm``, ``y_c (N, H)``."""
    gates, r, initial_h = (array.astype(np.float64) for array in inputs[:3])
    lengths = inputs[3]
    extra = [array.astype(np.float64) for array in inputs[4:]]
    steps, rows, _ = gates.shape
    y = np.zeros((steps, rows, initial_h.shape[1]))
    hidden = initial_h.copy()
    cell = extra[0].copy() if primitive.kind == "lstm" else None
    advance = _CELLS[primitive.kind]
    for step in reversed(range(steps)) if primitive.reverse else range(steps):
        active = step < lengths
        if not active.any():
            continue
        old_cell = None if cell is None else cell[active]
        new_hidden, new_cell = advance(primitive, gates[step, active], r, hidden[active], old_cell, extra)
        hidden[active] = new_hidden
        y[step, active] = new_hidden
        if cell is not None:
            cell[active] = new_cell
    dtype = inputs[0].dtype
    results = (y, hidden) if cell is None else (y, hidden, cell)
    return tuple(array.astype(dtype) for array in results)


def _activate(primitive: Recurrent, which: int, x: Array) -> Array:
    """The activation numbered ``which`` of ``x`` clipped: what every gate does with its sum."""
    name, alpha, beta = primitive.activations[which]
    if primitive.clip is not None:
        x = np.clip(x, -primitive.clip, primitive.clip)
    return ACTIVATIONS[name](x, alpha, beta)


def _lstm(
    primitive: Recurrent, gates: Array, r: Array, h: Array, c: Array | None, extra: list[Array]
) -> tuple[Array, Array | None]:
    assert c is not None
    peepholes = extra[1]
    size = h.shape[1]
    total = gates + h @ r
    i = _activate(primitive, 0, total[:, :size] + peepholes[0] * c)
    if primitive.input_forget:
        f = 1 - i
    else:
        f = _activate(primitive, 0, total[:, 2 * size : 3 * size] + peepholes[2] * c)
    c = f * c + i * _activate(primitive, 1, total[:, 3 * size :])
    o = _activate(primitive, 0, total[:, size : 2 * size] + peepholes[1] * c)
    name, alpha, beta = primitive.activations[2]
    return o * ACTIVATIONS[name](c, alpha, beta), c


def _gru(
    primitive: Recurrent, gates: Array, r: Array, h: Array, c: Array | None, extra: list[Array]
) -> tuple[Array, Array | None]:
    bias = extra[0]
    size = h.shape[1]
    update_reset = gates[:, : 2 * size] + h @ r[:, : 2 * size]
    z = _activate(primitive, 0, update_reset[:, :size])
    reset = _activate(primitive, 0, update_reset[:, size:])
    hidden_r = r[:, 2 * size :]
    if primitive.linear_before_reset:
        recurrent = reset * (h @ hidden_r + bias)
    else:
        recurrent = (reset * h) @ hidden_r + bias
    candidate = _activate(primitive, 1, gates[:, 2 * size :] + recurrent)
    return (1 - z) * candidate + z * h, None


def _rnn(
    primitive: Recurrent, gates: Array, r: Array, h: Array, c: Array | None, extra: list[Array]
) -> tuple[Array, Array | None]:
    return _activate(primitive, 0, gates + h @ r), None


_CELLS: dict[str, Callable[..., tuple[Array, Array | None]]] = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}
