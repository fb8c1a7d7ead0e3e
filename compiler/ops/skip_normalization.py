"""Normalisations of sums, as onnxruntime's optimiser writes them: one primitive each."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression, normal_axis, wide
from onnxplan.compiler.ops.reduction import mean
from onnxplan.compiler.primitives import Gather
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, reduce
from onnxplan.compiler.view import View

MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True)
class _Normalization:
    """Of the sum of ``terms`` operands over ``axes`` of ``count`` elements; the next operand scales.

    ``simplified`` divides by the root mean square and does not centre.
    """

    terms: int
    axes: tuple[int, ...]
    count: int
    epsilon: float
    simplified: bool = False


def _normalized(*parameters: Any) -> list[Scalar]:
    """The result, the mean, the reciprocal deviation and the sum."""
    *values, settings = parameters
    total = cast(values[0], wide(values[0].dtype))
    for term in values[1 : settings.terms]:
        total = total + cast(term, total.dtype)
    center = total if settings.simplified else mean(total, settings.axes, settings.count)
    centered = total if settings.simplified else total - center
    variance = mean(centered * centered, settings.axes, settings.count)
    inverse = 1 / apply("sqrt", variance + settings.epsilon)
    scale, *bias = values[settings.terms :]
    result = centered * inverse * cast(scale, total.dtype)
    for term in bias:
        result = result + cast(term, total.dtype)
    result = cast(result, scale.dtype)
    center = inverse if settings.simplified else center
    return [result, cast(center, DType.FLOAT32), cast(inverse, DType.FLOAT32), cast(total, values[0].dtype)]


def _normalize(
    b: Builder,
    terms: list[View],
    scale: View,
    bias: View | None,
    *,
    axis: int,
    epsilon: float,
    simplified: bool = False,
) -> tuple[View, ...]:
    x = terms[0]
    axes = tuple(range(normal_axis(axis, x.rank), x.rank))
    count = int(np.prod([x.shape[a] for a in axes]))
    operands = [*terms, scale, *([] if bias is None else [bias])]
    expanded = [view.expand(x.shape) for view in operands]
    settings = _Normalization(len(terms), axes, count, epsilon, simplified)
    body = expression(_normalized, tuple(view.dtype for view in operands), settings)
    return b.compute(body, expanded, axes)


@operator("SimplifiedLayerNormalization")
def simplified_layer_normalization(b: Builder, node: Node, x: View, scale: View) -> list[View]:
    """Division by the root mean square, as exporters write it into the standard's domain.

    https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/graph/contrib_ops/contrib_defs.cc
    """
    axis, epsilon = node.integer("axis", -1), node.float("epsilon", 1e-5)
    result, _, inverse, _ = _normalize(b, [x], scale, None, axis=axis, epsilon=epsilon, simplified=True)
    return [result, inverse]


operator("SimplifiedLayerNormalization", domain=MICROSOFT)(simplified_layer_normalization)


@operator("SkipLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(
    b: Builder,
    node: Node,
    x: View,
    skip: View,
    scale: View,
    beta: View | None = None,
    bias: View | None = None,
) -> tuple[View, ...]:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.SkipLayerNormalization"""
    terms = [x, skip, *([] if bias is None else [bias])]
    return _normalize(b, terms, scale, beta, axis=-1, epsilon=node.float("epsilon", 1e-12))


@operator("SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_simplified_layer_normalization(
    b: Builder, node: Node, x: View, skip: View, scale: View, bias: View | None = None
) -> tuple[View, ...]:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.SkipSimplifiedLayerNormalization

    The second output, a mean that nothing computes, is a copy of the third.
    """
    terms = [x, skip, *([] if bias is None else [bias])]
    epsilon = node.float("epsilon", 1e-12)
    return _normalize(b, terms, scale, None, axis=-1, epsilon=epsilon, simplified=True)


@operator("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(
    b: Builder,
    node: Node,
    ids: View,
    segments: View | None,
    words: View,
    positions: View,
    segment_table: View | None,
    scale: View,
    beta: View,
    mask: View | None = None,
    places: View | None = None,
) -> list[View]:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.EmbedLayerNormalization

    The second output counts the ones of each row of ``mask``.
    """
    if ids.rank != 2:
        raise ValueError(f"ids of rank 2 are expected, not {ids.rank}")
    batch, length = ids.shape
    if places is None and length > positions.shape[0]:
        raise ValueError(f"{positions.shape[0]} positions for sequences of {length}")
    terms = [_rows(b, words, ids)]
    terms.append(positions.slice(0, 0, length) if places is None else _rows(b, positions, places))
    if segments is not None and segment_table is not None:
        terms.append(_rows(b, segment_table, segments))
    result, _, _, total = _normalize(b, terms, scale, beta, axis=-1, epsilon=node.float("epsilon", 1e-12))
    if mask is None:
        counts = b.constant(np.zeros(batch, np.int32))
    else:
        counts = b.compute(expression(_ones, (mask.dtype,)), (mask,), (1,))[0].squeeze((1,))
    return [result, counts, total]


def _rows(b: Builder, table: View, ids: View) -> View:
    shape = (*ids.shape, *table.shape[1:])
    return b.emit(Gather(0), [table, ids], [b.new(table.dtype, shape)])[0]


def _ones(mask: Scalar) -> Scalar:
    return reduce("sum", cast(apply("equal", mask, 1), DType.INT32))
