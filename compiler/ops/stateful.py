"""Operators of recurrent language models that carry a state from call to call."""

from __future__ import annotations

import math

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.attention import grouped_product, join_heads, split_heads
from onnxplan.compiler.ops.common import float_map, scalar_map, wide
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply
from onnxplan.compiler.view import View

_RULES = {
    "linear": (False, False),
    "gated": (True, False),
    "delta": (False, True),
    "gated_delta": (True, True),
}


@operator("CausalConvWithState", since=27)
def causal_convolution(
    b: Builder, node: Node, x: View, weight: View, bias: View | None = None, past: View | None = None
) -> list[View]:
    """https://onnx.ai/onnx/operators/onnx__CausalConvWithState.html"""
    activation = node.string("activation", "none")
    if activation not in ("none", "silu", "swish"):
        raise ValueError(f"activation {activation!r} is not one of none, silu and swish")
    if x.rank != 3 or weight.rank != 3 or weight.shape[:2] != (x.shape[1], 1) or not weight.shape[2]:
        raise ValueError(f"weights of shape {list(weight.shape)} for an input of shape {list(x.shape)}")
    batch, channels, length = x.shape
    before = weight.shape[2] - 1
    if past is None:
        past = b.constant(np.zeros((batch, channels, before), x.dtype.numpy))
    if past.shape != (batch, channels, before):
        raise ValueError(f"a state of shape {list(past.shape)}, not {[batch, channels, before]}")
    padded = b.concat([past, x], 2)
    computed = wide(x.dtype)
    primitive = Conv((1,), (1,), (0,), channels, computed)
    operands = [padded.transpose((0, 2, 1)), weight.transpose((2, 1, 0))]
    result = b.emit(primitive, operands, [b.new(computed, (batch, length, channels))])[0].transpose((0, 2, 1))
    if bias is not None:
        result = b.scalar("add", result, b.cast(bias, computed).unsqueeze((1,)))
    if activation != "none":
        result = float_map(b, _silu, result)
    return [b.cast(result, x.dtype), padded.slice(2, length, before)]


def _silu(x: Scalar) -> Scalar:
    return x * apply("sigmoid", x)


@operator("LinearAttention", since=27)
def linear_attention(
    b: Builder,
    node: Node,
    query: View,
    key: View,
    value: View,
    past: View | None = None,
    decay: View | None = None,
    beta: View | None = None,
) -> list[View]:
    """https://onnx.ai/onnx/operators/onnx__LinearAttention.html: token by token, in float32 at least."""
    rule = node.string("update_rule", "gated_delta")
    if rule not in _RULES:
        raise ValueError(f"update rule {rule!r} is not one of {', '.join(_RULES)}")
    if _RULES[rule] != (decay is not None, beta is not None):
        raise ValueError(
            f"the update rule {rule!r} does not go with the inputs decay and beta as they are given"
        )
    heads, groups = node.integer("q_num_heads"), node.integer("kv_num_heads")
    computed = wide(query.dtype)
    queries = split_heads(b, b.cast(query, computed), heads)
    keys, values = (split_heads(b, b.cast(view, computed), groups) for view in (key, value))
    batch, _, tokens, width = queries.shape
    scale = node.float("scale", 0.0) or 1 / math.sqrt(width)
    shape = (batch, groups, width, values.shape[3])
    kept = query.dtype if past is None else past.dtype
    state = b.constant(np.zeros(shape, computed.numpy)) if past is None else b.cast(past, computed)
    if (
        heads % groups
        or state.shape != shape
        or keys.shape != (batch, groups, tokens, width)
        or values.shape[2] != tokens
    ):
        raise ValueError("query, key, value and state do not fit each other")
    gates = None if decay is None else _by_head(b, decay, groups, computed)
    rates = None if beta is None else _by_head(b, beta, min(groups, beta.shape[-1]), computed)
    results = []
    for token in range(tokens):
        column, row = _token(keys, token).transpose((0, 1, 3, 2)), _token(values, token)
        if gates is not None:
            state = float_map(b, _decayed, state, _token(gates, token).transpose((0, 1, 3, 2)))
        if rates is not None:
            held = b.matmul(column.transpose((0, 1, 3, 2)), state)
            row = scalar_map(b, _correction, row, held, _token(rates, token))
        state = scalar_map(b, _written, state, column, row)
        results.append(grouped_product(b, _token(queries, token), state, computed))
    if not results:
        return [b.constant(np.zeros((batch, 0, heads * shape[3]), query.dtype.numpy)), b.cast(state, kept)]
    product = b.concat(results, 2)
    result = b.cast(scalar_map(b, _scaled, product, parameters=(scale,)), query.dtype)
    return [join_heads(b, result), b.cast(state, kept)]


def _by_head(b: Builder, view: View, heads: int, computed: DType) -> View:
    return split_heads(b, b.cast(view, computed), heads)


def _token(view: View, token: int) -> View:
    return view.slice(2, token, 1)


def _decayed(state: Scalar, gate: Scalar) -> Scalar:
    return state * apply("exp", gate)


def _correction(value: Scalar, held: Scalar, rate: Scalar) -> Scalar:
    return rate * (value - held)


def _written(state: Scalar, key: Scalar, value: Scalar) -> Scalar:
    return state + key * value


def _scaled(x: Scalar, scale: float) -> Scalar:
    return x * scale
