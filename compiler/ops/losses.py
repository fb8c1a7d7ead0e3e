"""Losses of classification: the class of a sample is found by comparison, within one reduction."""

from __future__ import annotations

from typing import Any

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression, per_channel, wide
from onnxplan.compiler.ops.normalization import log_softmax
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, index, reduce, select
from onnxplan.compiler.view import View


@operator("NegativeLogLikelihoodLoss", since=12)
def negative_log_likelihood_loss(
    b: Builder, node: Node, x: View, labels: View, weights: View | None = None
) -> View:
    """https://onnx.ai/onnx/operators/onnx__NegativeLogLikelihoodLoss.html"""
    return _loss(b, node, x, labels, weights, normalize=False)[0]


@operator("SoftmaxCrossEntropyLoss", since=12)
def softmax_cross_entropy_loss(
    b: Builder, node: Node, x: View, labels: View, weights: View | None = None
) -> list[View]:
    """https://onnx.ai/onnx/operators/onnx__SoftmaxCrossEntropyLoss.html"""
    return _loss(b, node, x, labels, weights, normalize=True)


def _loss(
    b: Builder, node: Node, x: View, labels: View, weights: View | None, *, normalize: bool
) -> list[View]:
    """The loss of ``x (N, C, *D)`` for ``labels (N, *D)``, and the logarithms of probabilities."""
    reduction = node.string("reduction", "mean")
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f"reduction {reduction!r} is not one of none, sum and mean")
    if x.rank < 2 or labels.shape != (x.shape[0], *x.shape[2:]):
        raise ValueError(f"labels of shape {list(labels.shape)} for an input of shape {list(x.shape)}")
    if weights is not None and weights.shape != (x.shape[1],):
        raise ValueError(f"weights of shape {list(weights.shape)} for {x.shape[1]} classes")
    ignored = node.integer("ignore_index") if "ignore_index" in node.attributes else None
    operands = [x, labels.unsqueeze((1,)).expand(x.shape)]
    if weights is not None:
        operands.append(per_channel(weights, x.rank))
    body = expression(_sample_losses, tuple(view.dtype for view in operands), ignored, normalize)
    losses, counts, logarithms = b.compute(body, operands, (1,))
    if reduction == "none":
        return [b.cast(losses.squeeze((1,)), x.dtype), logarithms]
    axes = tuple(range(x.rank))
    total = expression(_total, (losses.dtype, counts.dtype), reduction == "mean", x.dtype)
    return [b.compute(total, (losses, counts), axes)[0].squeeze(axes), logarithms]


def _sample_losses(x: Scalar, label: Scalar, *rest: Any) -> list[Scalar]:
    *weights, ignored, normalize = rest
    value = cast(x, wide(x.dtype))
    if normalize:
        value = log_softmax(value, (1,))
    target = cast(label, DType.INT64)
    chosen = apply("equal", index(x, 1), target)
    if ignored is not None:
        chosen = apply("and", chosen, apply("not_equal", target, ignored))
    if weights:
        weight = cast(weights[0], value.dtype)
        count, loss = select(chosen, weight, 0.0), -value * weight
    else:
        count, loss = cast(chosen, value.dtype), -value
    return [reduce("sum", select(chosen, loss, 0.0)), reduce("sum", count), cast(value, x.dtype)]


def _total(loss: Scalar, count: Scalar, mean: bool, dtype: DType) -> Scalar:
    total = reduce("sum", loss)
    return cast(total / reduce("sum", count) if mean else total, dtype)
