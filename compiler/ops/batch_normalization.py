"""BatchNormalization: one multiplication and one addition an element.

The two factors are computed of the parameters alone, so that constant ones are folded at plan time.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression, per_channel, wide
from onnxplan.compiler.ops.normalization import extent_of
from onnxplan.compiler.ops.reduction import mean
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast
from onnxplan.compiler.view import View


@operator("BatchNormalization")
def batch_normalization(
    b: Builder, node: Node, x: View, scale: View, bias: View, average: View, variance: View
) -> Sequence[View]:
    """https://onnx.ai/onnx/operators/onnx__BatchNormalization.html before version 14.

    Who wants more than one output trains. With ``spatial`` 0 (before version 9) the parameters have one
    element for each element of a sample.
    """
    parameters = (scale, bias, average, variance)
    if all(output is None for output in node.outputs[1:]):
        return [normalize(b, x, parameters, node.float("epsilon", 1e-5))]
    axes = (0, *range(2, x.rank)) if node.integer("spatial", 1) else (0,)
    return _training(b, node, x, parameters, axes)


@operator("BatchNormalization", since=14)
def batch_normalization_in_training(
    b: Builder, node: Node, x: View, scale: View, bias: View, average: View, variance: View
) -> Sequence[View]:
    """https://onnx.ai/onnx/operators/onnx__BatchNormalization.html"""
    parameters = (scale, bias, average, variance)
    if not node.integer("training_mode", 0):
        return [normalize(b, x, parameters, node.float("epsilon", 1e-5))]
    return _training(b, node, x, parameters, (0, *range(2, x.rank)))


def _training(
    b: Builder, node: Node, x: View, parameters: Sequence[View], axes: tuple[int, ...]
) -> Sequence[View]:
    """The result by the statistics of the batch over ``axes``, the running ones, and those of the batch."""
    scale, bias, average, variance = parameters
    current = b.compute(expression(_statistics, (x.dtype,), axes, extent_of(x.shape, axes)), (x,), axes)
    result = normalize(b, x, (scale, bias, *current), node.float("epsilon", 1e-5))
    momentum = node.float("momentum", 0.9)
    found = [new.squeeze(axes) for new in current]
    running = [
        b.map(expression(_update, (old.dtype, new.dtype), momentum), old, new)
        for old, new in zip((average, variance), found, strict=True)
    ]
    saved = [b.cast(new, old.dtype) for old, new in zip((average, variance), found, strict=True)]
    return [result, *running, *saved]


def _per_sample(view: View, rank: int) -> View:
    """Parameters of the channels, or of each element of a sample, made to broadcast to ``rank`` axes."""
    return view if view.rank > 1 else per_channel(view, rank)


def normalize(b: Builder, x: View, parameters: Sequence[View], epsilon: float) -> View:
    """``x`` by scale, bias, average and variance, the ``parameters``."""
    dtype = factors_type(x, *parameters)
    factor, offset = b.derive(factors, parameters, x.rank, dtype, epsilon)
    return b.map(expression(_apply, (x.dtype, dtype, dtype)), x, factor, offset)


def factors_type(*views: View) -> DType:
    """The type in which what consists of ``views`` is computed."""
    return DType.FLOAT64 if any(view.dtype is DType.FLOAT64 for view in views) else DType.FLOAT32


def factors(
    b: Builder,
    scale: View,
    bias: View,
    average: View,
    variance: View,
    rank: int,
    dtype: DType,
    epsilon: float,
) -> tuple[View, ...]:
    """What an element of a tensor of ``rank`` axes is multiplied by, and what is added to it."""
    scale, bias, average, variance = (
        b.cast(_per_sample(view, rank), dtype) for view in (scale, bias, average, variance)
    )
    factor = b.map(expression(_factor, (dtype, dtype), epsilon), scale, variance)
    return factor, b.map(expression(_offset, (dtype,) * 3), bias, average, factor)


def _factor(scale: Scalar, variance: Scalar, epsilon: float) -> Scalar:
    return scale / apply("sqrt", variance + epsilon)


def _offset(bias: Scalar, average: Scalar, factor: Scalar) -> Scalar:
    return bias - average * factor


def _apply(x: Scalar, factor: Scalar, offset: Scalar) -> Scalar:
    return cast(cast(x, factor.dtype) * factor + offset, x.dtype)


def _statistics(x: Scalar, axes: tuple[int, ...], count: int) -> tuple[Scalar, Scalar]:
    value = cast(x, wide(x.dtype))
    center = mean(value, axes, count)
    centered = value - center
    return center, mean(centered * centered, axes, count)


def _update(old: Scalar, new: Scalar, momentum: float) -> Scalar:
    return cast(cast(old, new.dtype) * momentum + new * (1 - momentum), old.dtype)
