"""Scaled dot-product attention: two matrix products around one softmax that holds scale, cap and masks.

What is masked is chosen away, not added: a masked key never counts, whatever its score, and a row without any
key left has no weights, and so a result of 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import element_type, expression, wide
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, index, reduce, select
from onnxplan.compiler.view import View

RAW, CAPPED, BIASED, WEIGHTS = range(4)
"""What ``qk_matmul_output_mode`` shows of the scores."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How scores ``(B, H, S, T)`` become weights.

    A query ``i`` stands at the position ``i + offset``; ``offset`` is counted from the end of a sequence's
    keys if ``from_end`` (and ``lengths`` are given). ``left`` and ``right`` bound the distance of keys from
    it, ``None`` for no bound. ``softcap`` 0 is none. ``precision`` is the type of the softmax. ``shown`` is a
    stage of the scores to return, too. ``smooth`` adds one more key of score 0 and value 0.
    """

    scale: float
    dtype: DType
    softcap: float = 0.0
    offset: int = 0
    from_end: bool = False
    left: int | None = None
    right: int | None = None
    precision: DType | None = None
    shown: int | None = None
    smooth: bool = False


@dataclass(frozen=True, slots=True)
class _Given:
    """Which operands follow the scores, in this order; ``masks`` is how many there are."""

    masks: int
    bias: bool
    lengths: bool
    sinks: bool


def attend(
    b: Builder,
    query: View,
    key: View,
    value: View,
    scoring: Scoring,
    *,
    allowed: Sequence[View] = (),
    bias: View | None = None,
    lengths: View | None = None,
    sinks: View | None = None,
) -> tuple[View, View | None]:
    """Attention of ``query (B, H, S, D)`` to ``key (B, G, T, D)`` and ``value (B, G, T, E)``.

    ``H`` is a multiple of ``G``. ``allowed`` are boolean masks, ``bias`` is added to the scores; they
    broadcast to ``(B, H, S, T)``. Keys at ``lengths (B)`` and beyond are padding. ``sinks (H)`` are scores of
    one more key of value 0 in each head. Returns the result ``(B, H, S, E)`` and the scores that
    ``scoring.shown`` names.
    """
    check_heads(query, key, value)
    scores = grouped_product(b, query, key.transpose((0, 1, 3, 2)), wide(query.dtype))
    operands = [scores, *(mask.expand(scores.shape) for mask in allowed)]
    if bias is not None:
        operands.append(bias.expand(scores.shape))
    if lengths is not None:
        operands.append(b.reshape(b.cast(lengths, DType.INT64), (scores.shape[0], 1, 1, 1)))
    if sinks is not None:
        operands.append(b.reshape(sinks, (scores.shape[1], 1, 1)).expand(scores.shape))
    given = _Given(len(allowed), bias is not None, lengths is not None, sinks is not None)
    body = expression(_weights, tuple(view.dtype for view in operands), scoring, given, scores.shape[2])
    weights, *shown = b.compute(body, operands, (3,))
    return grouped_product(b, weights, value, query.dtype), shown[0] if shown else None


def check_heads(query: View, key: View, value: View) -> None:
    if any(view.rank != 4 for view in (query, key, value)):
        raise ValueError("query, key and value of one rank are expected")
    shapes = " and ".join(str(list(view.shape)) for view in (query, key, value))
    heads, groups = query.shape[1], key.shape[1]
    if value.shape[1] != groups or not groups or heads % groups:
        raise ValueError(f"the heads of {shapes} do not fit each other")
    if key.shape[3] != query.shape[3] or key.shape[2] != value.shape[2]:
        raise ValueError(f"query, key and value of the shapes {shapes} do not fit each other")


def grouped_product(b: Builder, left: View, right: View, out: DType) -> View:
    """``left (B, H, S, K) @ right (B, G, K, N)``: each of ``G`` matrices serves ``H / G`` heads in a row."""
    batch, heads, rows, inner = left.shape
    groups, columns = right.shape[1], right.shape[3]
    if heads == groups:
        return b.matmul(left, right, out)
    each = heads // groups
    stacked = left.reshape((batch, groups, each * rows, inner))
    if stacked is not None:
        product = b.matmul(stacked, right, out)
    else:
        product = b.matmul(b.reshape(left, (batch, groups, each, rows, inner)), right.unsqueeze((2,)), out)
    return b.reshape(product, (batch, heads, rows, columns))


def _weights(*parameters: Any) -> list[Scalar]:
    *values, scoring, given, queries = parameters
    operands = iter(values)
    score = next(operands) * scoring.scale
    stages = {RAW: score}
    if scoring.softcap > 0:
        score = apply("tanh", score / scoring.softcap) * scoring.softcap
    stages[CAPPED] = score
    conditions = [next(operands) for _ in range(given.masks)]
    if given.bias:
        bias = cast(next(operands), score.dtype)
        score = select(apply("equal", bias, -math.inf), -math.inf, score + bias)
    conditions += _visible(scoring, score, next(operands) if given.lengths else None, queries)
    if conditions:
        allowed = conditions[0]
        for condition in conditions[1:]:
            allowed = apply("and", allowed, condition)
        score = select(allowed, score, -math.inf)
    stages[BIASED] = score
    if scoring.precision is not None:
        score = cast(cast(score, scoring.precision), wide(scoring.precision))
    if given.sinks:
        # Softmax does not change with a shift: one more key of the sink's score is one of score 0.
        score = score - cast(next(operands), score.dtype)
    weights = softmax_weights(
        score, masked=bool(given.bias or conditions), smooth=scoring.smooth or given.sinks
    )
    if scoring.precision is not None:
        weights = cast(weights, scoring.precision)
    stages[WEIGHTS] = weights
    shown = [] if scoring.shown is None else [cast(stages[scoring.shown], scoring.dtype)]
    return [cast(weights, scoring.dtype), *shown]


def _visible(scoring: Scoring, score: Scalar, length: Scalar | None, queries: int) -> list[Scalar]:
    """What positions alone say about which keys a query may see."""
    key = index(score, 3)
    conditions = []
    if scoring.left is not None or scoring.right is not None:
        place = index(score, 2) + scoring.offset
        if scoring.from_end:
            assert length is not None
            place = place + (length - queries)
        if scoring.right is not None:
            conditions.append(key <= place + scoring.right)
        if scoring.left is not None:
            conditions.append(key >= place - scoring.left)
    if length is not None:
        conditions.append(key < length)
    return conditions


def softmax_weights(score: Scalar, *, masked: bool, smooth: bool) -> Scalar:
    top = reduce("max", score)
    if smooth:
        top = apply("max", top, 0.0)
        powers = apply("exp", score - top)
        return powers / (reduce("sum", powers) + apply("exp", -top))
    if not masked:
        powers = apply("exp", score - top)
        return powers * (1 / reduce("sum", powers))
    nothing = apply("equal", top, -math.inf)
    powers = apply("exp", score - select(nothing, 0.0, top))
    return powers * (1 / select(nothing, 1.0, reduce("sum", powers)))


def split_heads(b: Builder, view: View, heads: int) -> View:
    """``(B, S, heads * D)`` as ``(B, heads, S, D)``."""
    if view.rank != 3 or heads < 1 or view.shape[2] % heads:
        raise ValueError(f"a tensor of shape {list(view.shape)} cannot be split into {heads} heads")
    batch, rows, width = view.shape
    return b.reshape(view, (batch, rows, heads, width // heads)).transpose((0, 2, 1, 3))


def join_heads(b: Builder, view: View) -> View:
    """``(B, H, S, D)`` as ``(B, S, H * D)``."""
    batch, heads, rows, width = view.shape
    return b.reshape(view.transpose((0, 2, 1, 3)), (batch, rows, heads * width))


@operator("Attention", since=23)
def attention(
    b: Builder,
    node: Node,
    query: View,
    key: View,
    value: View,
    mask: View | None = None,
    past_key: View | None = None,
    past_value: View | None = None,
    lengths: View | None = None,
) -> list[View]:
    """https://onnx.ai/onnx/operators/onnx__Attention.html"""
    flat = query.rank == 3
    if flat:
        query = split_heads(b, query, node.integer("q_num_heads"))
        key = split_heads(b, key, node.integer("kv_num_heads"))
        value = split_heads(b, value, node.integer("kv_num_heads"))
    check_heads(query, key, value)
    if (past_key is None) != (past_value is None):
        raise ValueError("past_key and past_value belong together")
    past = 0
    if past_key is not None and past_value is not None:
        if lengths is not None:
            raise ValueError("nonpad_kv_seqlen excludes past keys and values")
        past = past_key.shape[2]
        key, value = b.concat([past_key, key], 2), b.concat([past_value, value], 2)
    if mask is not None:
        mask = _padded_mask(b, mask, key.shape[2])
    boolean = mask is not None and mask.dtype is DType.BOOL
    result, shown = attend(
        b,
        query,
        key,
        value,
        _scoring(node, query, past, lengths is not None),
        allowed=[mask] if mask is not None and boolean else [],
        bias=None if boolean else mask,
        lengths=lengths,
    )
    outputs = [join_heads(b, result) if flat else result, key, value]
    return outputs if shown is None else [*outputs, shown]


def _scoring(node: Node, query: View, past: int, from_end: bool) -> Scoring:
    left, right = node.integer("left_window_size", -1), node.integer("right_window_size", -1)
    if min(left, right) < -1:
        raise ValueError(f"window sizes {left} and {right} are neither -1 nor counts")
    if node.integer("is_causal", 0):
        right = 0
    mode = node.integer("qk_matmul_output_mode", 0)
    if mode not in (RAW, CAPPED, BIASED, WEIGHTS):
        raise ValueError(f"qk_matmul_output_mode is {mode}, not between 0 and 3")
    width = query.shape[3]
    scale = node.float("scale") if "scale" in node.attributes else 1 / math.sqrt(width) if width else 1.0
    precision = node.integer("softmax_precision", 0)
    return Scoring(
        scale,
        query.dtype,
        softcap=node.float("softcap", 0.0),
        offset=past,
        from_end=from_end,
        left=None if left < 0 else left,
        right=None if right < 0 else right,
        precision=element_type(precision) if precision else None,
        shown=mode if len(node.outputs) > 3 and node.outputs[3] is not None else None,
    )


def _padded_mask(b: Builder, mask: View, keys: int) -> View:
    """``mask`` with keys beyond its last column masked."""
    missing = keys - mask.shape[-1] if mask.rank else 0
    if missing < 0:
        raise ValueError(f"a mask of shape {list(mask.shape)} for {keys} keys")
    if not missing:
        return mask
    fill = False if mask.dtype is DType.BOOL else -math.inf
    padding = np.full((*mask.shape[:-1], missing), fill, mask.dtype.numpy)
    return b.concat([mask, b.constant(padding)], mask.rank - 1)
