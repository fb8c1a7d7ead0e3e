"""Steps of optimizers, ai.onnx.preview.training: elementwise updates of tensors and their moments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import TracedBody, expression, scalar_map, single
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, select
from onnxplan.compiler.view import View

_DOMAIN = "ai.onnx.preview.training"


@operator("Adagrad", domain=_DOMAIN)
def adagrad(b: Builder, node: Node, rate: View, count: View, *tensors: View) -> list[View]:
    """https://onnx.ai/onnx/operators/onnx_aionnxpreviewtraining_Adagrad.html"""
    decay = node.float("decay_factor", 0.0)
    decayed = scalar_map(b, _decayed_rate, single(b, rate), single(b, count), parameters=(decay,))
    settings = (node.float("norm_coefficient", 0.0), node.float("epsilon", 1e-6))
    return _update(b, [decayed], tensors, 3, _adagrad, settings)


def _decayed_rate(*operands: Any) -> Scalar:
    rate, count, decay = operands
    slowed: Scalar = cast(count, DType.FLOAT64) * decay + 1.0
    return cast(rate, DType.FLOAT64) / slowed


def _adagrad(*operands: Any) -> tuple[Scalar, Scalar]:
    rate, x, gradient, squares, norm, epsilon = operands
    regularized = x * norm + gradient
    accumulated = squares + regularized * regularized
    return x - rate * regularized / (apply("sqrt", accumulated) + epsilon), accumulated


@operator("Adam", domain=_DOMAIN)
def adam(b: Builder, node: Node, rate: View, count: View, *tensors: View) -> list[View]:
    """https://onnx.ai/onnx/operators/onnx_aionnxpreviewtraining_Adam.html"""
    decays = (node.float("alpha", 0.9), node.float("beta", 0.999))
    corrected = scalar_map(b, _corrected_rate, single(b, rate), single(b, count), parameters=decays)
    norms = (node.float("norm_coefficient", 0.0), node.float("norm_coefficient_post", 0.0))
    settings = (*decays, *norms, node.float("epsilon", 1e-6))
    return _update(b, [corrected], tensors, 4, _adam, settings)


def _corrected_rate(*operands: Any) -> Scalar:
    """The rate corrected for moments that began at zero; ``1 - beta ** count`` cancels, so in float64."""
    rate, count, alpha, beta = operands
    steps = cast(count, DType.FLOAT64)
    first, second = (1.0 - apply("pow", steps * 0.0 + decay, steps) for decay in (alpha, beta))
    plain = cast(rate, DType.FLOAT64)
    return select(count > 0, plain * apply("sqrt", second) / first, plain)


def _adam(*operands: Any) -> tuple[Scalar, Scalar, Scalar]:
    rate, x, gradient, first, second, alpha, beta, norm, norm_after, epsilon = operands
    regularized = x * norm + gradient
    new_first = first * alpha + regularized * (1.0 - alpha)
    new_second = second * beta + regularized * regularized * (1.0 - beta)
    moved = x - rate * (new_first / (apply("sqrt", new_second) + epsilon))
    return moved * (1.0 - norm_after), new_first, new_second


@operator("Momentum", domain=_DOMAIN)
def momentum(b: Builder, node: Node, rate: View, count: View, *tensors: View) -> list[View]:
    """https://onnx.ai/onnx/operators/onnx_aionnxpreviewtraining_Momentum.html"""
    mode = node.string("mode")
    if mode not in ("standard", "nesterov"):
        raise ValueError(f"mode {mode!r} is not one of standard and nesterov")
    rate = single(b, rate)
    share = scalar_map(b, _gradient_share, rate, single(b, count), parameters=(node.float("beta"),))
    settings = (node.float("norm_coefficient"), node.float("alpha"), mode)
    return _update(b, [rate, share], tensors, 3, _momentum, settings)


def _gradient_share(*operands: Any) -> Scalar:
    """The coefficient of the gradient: 1 in the first step, ``beta`` later."""
    rate, count, beta = operands
    return cast(select(count > 0, cast(count, DType.FLOAT64) * 0.0 + beta, 1.0), rate.dtype)


def _momentum(*operands: Any) -> tuple[Scalar, Scalar]:
    rate, share, x, gradient, velocity, norm, alpha, mode = operands
    regularized = x * norm + gradient
    moved = velocity * alpha + share * regularized
    step = moved if mode == "standard" else regularized + moved * alpha
    return x - rate * step, moved


def _update(
    b: Builder,
    scalars: Sequence[View],
    tensors: Sequence[View],
    kinds: int,
    body: TracedBody,
    settings: tuple[Any, ...],
) -> list[View]:
    """``body(*scalars, *tensors of one parameter, *settings)`` for each optimized parameter.

    ``tensors`` are, for several parameters of any shapes, all of the first of ``kinds`` kinds (the
    parameters), then all of the second (the gradients), and so on; outputs are ordered alike.
    """
    if not tensors or len(tensors) % kinds:
        raise ValueError(f"{len(tensors)} tensors, not {kinds} for each parameter")
    count = len(tensors) // kinds
    results = []
    for number in range(count):
        group = tensors[number::count]
        x = group[0]
        if any(tensor.shape != x.shape or tensor.dtype is not x.dtype for tensor in group):
            kinds_found = ", ".join(f"{tensor.dtype}{list(tensor.shape)}" for tensor in group)
            raise ValueError(f"the tensors of parameter {number} differ: {kinds_found}")
        operands = [*(b.cast(scalar, x.dtype) for scalar in scalars), *group]
        traced = expression(body, (x.dtype,) * len(operands), *settings)
        results.append(b.compute(traced, operands))
    return [view for kind in zip(*results, strict=True) for view in kind]
