"""Softmax and its kin, and the normalisations: one primitive each, reductions and elementwise work together.

Statistics of floats below float32 are computed in float32, and results are rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxplan.compiler.arrangement import layout_order
from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import (
    TracedBody,
    element_type,
    expression,
    float_expression,
    normal_axes,
    normal_axis,
    per_channel,
    wide,
)
from onnxplan.compiler.ops.reduction import mean, position_of, reduced
from onnxplan.compiler.primitives import Pool
from onnxplan.compiler.registry import Rule, operator
from onnxplan.compiler.trace import Scalar, apply, cast, index, select
from onnxplan.compiler.view import Shape, View

Axes = tuple[int, ...]


def extent_of(shape: Shape, axes: Axes) -> int:
    return math.prod(shape[axis] for axis in axes)


# Softmax, LogSoftmax, Hardmax. Before version 13 they flatten the input to two axes at ``axis``, which is to
# say that they work over all axes from there on (https://onnx.ai/onnx/operators/text_diff_Softmax_11_13.html).


def softmax(x: Scalar, axes: Axes) -> Scalar:
    weights = apply("exp", x - reduced("max", x, axes))
    return weights * (1 / reduced("sum", weights, axes))


def log_softmax(x: Scalar, axes: Axes) -> Scalar:
    shifted = x - reduced("max", x, axes)
    return shifted - apply("log", reduced("sum", apply("exp", shifted), axes))


def _flattened_axes(node: Node, rank: int) -> Axes:
    axis = node.integer("axis", 1)
    return tuple(range(axis if axis == rank else normal_axis(axis, rank), rank))


def _softmax_over(b: Builder, body: TracedBody, x: View, axes: Axes) -> View:
    return b.compute(float_expression(body, (x.dtype,), axes), (x,), axes)[0]


def _flattened(body: TracedBody) -> Rule:
    def rule(b: Builder, node: Node, x: View) -> View:
        return _softmax_over(b, body, x, _flattened_axes(node, x.rank))

    return rule


def _along_axis(body: TracedBody) -> Rule:
    def rule(b: Builder, node: Node, x: View) -> View:
        return _softmax_over(b, body, x, (normal_axis(node.integer("axis", -1), x.rank),))

    return rule


operator("Softmax")(_flattened(softmax))
operator("Softmax", since=13)(_along_axis(softmax))
operator("LogSoftmax")(_flattened(log_softmax))
operator("LogSoftmax", since=13)(_along_axis(log_softmax))


@operator("Hardmax")
def hardmax_flattened(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Hardmax.html before version 13"""
    axes = _flattened_axes(node, x.rank)
    rows = math.prod(x.shape[: x.rank - len(axes)])
    flat = b.reshape(x, (rows, extent_of(x.shape, axes)))
    return b.reshape(_hardmax_along(b, flat, 1), x.shape)


@operator("Hardmax", since=13)
def hardmax(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Hardmax.html"""
    return _hardmax_along(b, x, normal_axis(node.integer("axis", -1), x.rank))


def _hardmax_along(b: Builder, x: View, axis: int) -> View:
    if x.size == 0:
        return x
    position = position_of(b, "max", x, axis)
    body = expression(_is_position, (DType.INT64,), axis, x.dtype)
    return b.compute(body, (position,), shape=x.shape)[0]


def _is_position(position: Scalar, axis: int, dtype: DType) -> Scalar:
    return cast(apply("equal", index(position, axis), position), dtype)


# Normalisations


def _standardize(x: Scalar, axes: Axes, count: int, epsilon: float) -> tuple[Scalar, Scalar, Scalar]:
    """``x`` with mean 0 and variance 1, its mean, and the reciprocal of its standard deviation."""
    center = mean(x, axes, count)
    centered = x - center
    variance = mean(centered * centered, axes, count)
    inverse = 1 / apply("sqrt", variance + epsilon)
    return centered * inverse, center, inverse


def _computed(x: Scalar) -> Scalar:
    return cast(x, wide(x.dtype))


def _affine_norm(
    x: Scalar, scale: Scalar, *bias: Scalar, axes: Axes, count: int, epsilon: float, stash: DType | None
) -> list[Scalar]:
    normal, center, inverse = _standardize(_computed(x), axes, count, epsilon)
    result = normal * cast(scale, normal.dtype)
    for term in bias:
        result = result + cast(term, normal.dtype)
    outputs = [cast(result, x.dtype)]
    if stash is not None:
        outputs += [cast(center, stash), cast(inverse, stash)]
    return outputs


def _norm_with_bias(
    x: Scalar, scale: Scalar, bias: Scalar, axes: Axes, count: int, epsilon: float, stash: DType | None
) -> list[Scalar]:
    return _affine_norm(x, scale, bias, axes=axes, count=count, epsilon=epsilon, stash=stash)


def _norm_without_bias(
    x: Scalar, scale: Scalar, axes: Axes, count: int, epsilon: float, stash: DType | None
) -> list[Scalar]:
    return _affine_norm(x, scale, axes=axes, count=count, epsilon=epsilon, stash=stash)


def _emit_norm(
    b: Builder,
    x: View,
    scale: View,
    bias: View | None,
    axes: Axes,
    epsilon: float,
    stash: DType | None = None,
) -> tuple[View, ...]:
    parameters = (axes, extent_of(x.shape, axes), epsilon, stash)
    if bias is None:
        return b.compute(
            expression(_norm_without_bias, (x.dtype, scale.dtype), *parameters),
            (x, scale.expand(x.shape)),
            axes,
        )
    body = expression(_norm_with_bias, (x.dtype, scale.dtype, bias.dtype), *parameters)
    return b.compute(body, (x, scale.expand(x.shape), bias.expand(x.shape)), axes)


def _last_axes(node: Node, x: View) -> Axes:
    return tuple(range(normal_axis(node.integer("axis", -1), x.rank), x.rank))


@operator("LayerNormalization", since=17)
def layer_normalization(
    b: Builder, node: Node, x: View, scale: View, bias: View | None = None
) -> Sequence[View]:
    """https://onnx.ai/onnx/operators/onnx__LayerNormalization.html

    ``stash_type`` is the type of the mean and of the reciprocal deviation; the computation is never narrower
    than the input.
    """
    wanted = any(output is not None for output in node.outputs[1:])
    stash = element_type(node.integer("stash_type", 1)) if wanted else None
    return _emit_norm(b, x, scale, bias, _last_axes(node, x), node.float("epsilon", 1e-5), stash)


@operator("RMSNormalization", since=23)
def rms_normalization(b: Builder, node: Node, x: View, scale: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__RMSNormalization.html"""
    axes = _last_axes(node, x)
    body = expression(
        _rms_norm, (x.dtype, scale.dtype), axes, extent_of(x.shape, axes), node.float("epsilon", 1e-5)
    )
    return b.compute(body, (x, scale.expand(x.shape)), axes)[0]


def _rms_norm(x: Scalar, scale: Scalar, axes: Axes, count: int, epsilon: float) -> Scalar:
    value = _computed(x)
    inverse = 1 / apply("sqrt", mean(value * value, axes, count) + epsilon)
    return cast(value * inverse * cast(scale, value.dtype), scale.dtype)


@operator("InstanceNormalization")
def instance_normalization(b: Builder, node: Node, x: View, scale: View, bias: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__InstanceNormalization.html"""
    scale, bias = per_channel(scale, x.rank), per_channel(bias, x.rank)
    return _emit_norm(b, x, scale, bias, tuple(range(2, x.rank)), node.float("epsilon", 1e-5))[0]


@operator("GroupNormalization", since=18)
def group_normalization_by_group(b: Builder, node: Node, x: View, scale: View, bias: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__GroupNormalization.html, version 18: parameters for each group."""
    return _group_normalization(b, node, x, scale, bias, for_channels=False)


@operator("GroupNormalization", since=21)
def group_normalization(b: Builder, node: Node, x: View, scale: View, bias: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__GroupNormalization.html: parameters for each channel."""
    return _group_normalization(b, node, x, scale, bias, for_channels=True)


def _group_normalization(
    b: Builder, node: Node, x: View, scale: View, bias: View, *, for_channels: bool
) -> View:
    groups = node.integer("num_groups")
    if x.rank < 2 or groups < 1 or x.shape[1] % groups:
        raise ValueError(f"the channels of shape {list(x.shape)} do not make {groups} equal groups")
    shape = (groups, x.shape[1] // groups if for_channels else 1)
    scale, bias = b.reshape(scale, shape), b.reshape(bias, shape)
    grouped = b.reshape(x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    trailing = tuple(range(2, grouped.rank - 1))
    result = _emit_norm(
        b,
        grouped,
        scale.unsqueeze(trailing),
        bias.unsqueeze(trailing),
        tuple(range(2, grouped.rank)),
        node.float("epsilon", 1e-5),
    )[0]
    return b.reshape(result, x.shape)


@operator("MeanVarianceNormalization", since=9)
def mean_variance_normalization(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__MeanVarianceNormalization.html"""
    axes = tuple(sorted(normal_axes(node.integers("axes", (0, 2, 3)), x.rank)))
    body = float_expression(_mean_variance_norm, (x.dtype,), axes, extent_of(x.shape, axes))
    return b.compute(body, (x,), axes)[0]


def _mean_variance_norm(x: Scalar, axes: Axes, count: int) -> Scalar:
    centered = x - mean(x, axes, count)
    deviation = apply("sqrt", mean(centered * centered, axes, count))
    # The standard's function body adds this to the deviation.
    return centered * (1 / (deviation + 1e-9))


@operator("LpNormalization")
def lp_normalization(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__LpNormalization.html: where the norm is 0, so is the result."""
    power = node.integer("p", 2)
    if power not in (1, 2):
        raise ValueError(f"p is {power}, neither 1 nor 2")
    axes = (normal_axis(node.integer("axis", -1), x.rank),)
    return b.compute(float_expression(_lp_norm, (x.dtype,), axes, power), (x,), axes)[0]


def _lp_norm(x: Scalar, axes: Axes, power: int) -> Scalar:
    total = reduced("sum", apply("abs", x) if power == 1 else x * x, axes)
    norm = total if power == 1 else apply("sqrt", total)
    return x / select(apply("equal", norm, 0), 1, norm)


@operator("LRN")
def local_response_normalization(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__LRN.html: an average pooling of the squares over the channels."""
    size = node.integer("size")
    if x.rank < 2:
        raise ValueError(f"an input of rank 2 at least is expected, not {x.rank}")
    if x.size == 0:
        return x
    squares = b.map(expression(_wide_square, (x.dtype,)), x)
    lines = b.reshape(squares, (*x.shape[:2], math.prod(x.shape[2:])))
    before, after = (size - 1) // 2, size // 2
    pool = Pool("average", (size,), (1,), (1,), (before,), count_padding=(after,))
    target = b.new(lines.dtype, lines.shape, layout_order(lines.shape, [lines]))
    average = b.reshape(b.emit(pool, [lines], [target])[0], x.shape)
    parameters = (node.float("alpha", 1e-4), node.float("beta", 0.75), node.float("bias", 1.0))
    return b.map(expression(_local_response, (x.dtype, average.dtype), *parameters), x, average)


def _wide_square(x: Scalar) -> Scalar:
    return _computed(x) * _computed(x)


def _local_response(x: Scalar, average: Scalar, alpha: float, beta: float, bias: float) -> Scalar:
    return cast(_computed(x) / apply("pow", average * alpha + bias, beta), x.dtype)
