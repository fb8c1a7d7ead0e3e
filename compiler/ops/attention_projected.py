"""Attention operators of onnxruntime that project their input to queries, keys and values themselves."""

from __future__ import annotations

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.attention import Scoring, attend, join_heads, split_heads
from onnxplan.compiler.ops.attention_contrib import masked_bias, scale_of, with_bias
from onnxplan.compiler.ops.common import integer
from onnxplan.compiler.ops.products import matrix_product
from onnxplan.compiler.ops.quantized_products import integer_matrix_product_to_float
from onnxplan.compiler.ops.rotary import rotate
from onnxplan.compiler.ops.tensor_scatter import write_rows
from onnxplan.compiler.registry import operator
from onnxplan.compiler.view import View

MICROSOFT = "com.microsoft"
ROTARY_BASE = 10000.0


@operator("Attention", domain=MICROSOFT)
def attention_of_projections(
    b: Builder,
    node: Node,
    x: View,
    weights: View,
    bias: View | None = None,
    mask: View | None = None,
    past: View | None = None,
    added: View | None = None,
    past_length: View | None = None,
) -> list[View]:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.Attention

    ``x (B, S, I)`` by ``weights (I, D + D + E)``, whose parts become queries, keys and values; masks as for
    :func:`~onnxplan.compiler.ops.attention_contrib.masked_bias`.
    """
    _check_projection(x, weights)
    projected = matrix_product(b, node, x, weights)
    if bias is not None:
        projected = b.scalar("add", projected, bias)
    return _attention(b, node, projected, mask, past, added, past_length)


@operator("QAttention", domain=MICROSOFT)
def quantized_attention_of_projections(
    b: Builder,
    node: Node,
    x: View,
    weights: View,
    bias: View,
    x_scale: View,
    w_scale: View,
    mask: View | None = None,
    x_zero: View | None = None,
    w_zero: View | None = None,
    past: View | None = None,
) -> list[View]:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.QAttention"""
    _check_projection(x, weights)
    projected = integer_matrix_product_to_float(b, node, x, weights, x_scale, w_scale, x_zero, w_zero, bias)
    return _attention(b, node, projected, mask, past, None, None)


def _check_projection(x: View, weights: View) -> None:
    if x.rank != 3 or weights.rank != 2 or weights.shape[0] != x.shape[2]:
        raise ValueError(
            f"an input of shape {list(x.shape)} cannot be projected by weights of {list(weights.shape)}"
        )


def _attention(
    b: Builder,
    node: Node,
    projected: View,
    mask: View | None,
    past: View | None,
    added: View | None,
    past_length: View | None,
) -> list[View]:
    """Attention within ``projected (B, S, D + D + E)``; ``past (2, B, H, P, D / H)`` precedes it.

    Returns the result ``(B, S, E)`` and, where it can be stacked, the present, which is like the past.
    """
    query, key, value = _parts(b, node, projected, node.integer("num_heads"))
    start = _past_rows(b, node, past, past_length, key, value)
    if node.integer("do_rotary", 0):
        query, key = (_turned(b, node, view, start) for view in (query, key))
    if past is not None:
        key, value = (
            _behind(b, node, past.slice(0, number, 1).squeeze((0,)), new, start)
            for number, new in enumerate((key, value))
        )
    keys = start + query.shape[2]
    scoring = Scoring(
        scale_of(node, query.shape[3]),
        query.dtype,
        offset=start,
        right=0 if node.integer("unidirectional", 0) else None,
    )
    bias = added
    # A mask of one element a sequence masks all keys or none, which is the same.
    if mask is not None and (mask.rank != 2 or mask.shape[1] != 1):
        bias = with_bias(b, masked_bias(b, node, mask, query, keys), added)
    # All of a shared buffer is returned, what is filled of it is attended to.
    result, _ = attend(b, query, key.slice(2, 0, keys), value.slice(2, 0, keys), scoring, bias=bias)
    outputs = [join_heads(b, result)]
    if len(node.outputs) > 1 and node.outputs[1] is not None:
        if key.shape != value.shape:
            raise ValueError("keys and values of different sizes cannot be stacked as the present")
        outputs.append(b.concat([key.unsqueeze((0,)), value.unsqueeze((0,))], 0))
    return outputs


def _parts(b: Builder, node: Node, projected: View, heads: int) -> tuple[View, View, View]:
    """Query, key and value, each ``(B, heads, S, width)``."""
    total = projected.shape[2]
    sizes = node.integers("qkv_hidden_sizes", ()) or (total // 3,) * 3
    if len(sizes) != 3 or sum(sizes) != total or sizes[0] != sizes[1]:
        raise ValueError(
            f"{total} projected columns are not those of queries, keys and values: {list(sizes)}"
        )
    starts = (0, sizes[0], sizes[0] + sizes[1])
    query, key, value = (
        split_heads(b, projected.slice(2, start, size), heads)
        for start, size in zip(starts, sizes, strict=True)
    )
    return query, key, value


def _past_rows(
    b: Builder, node: Node, past: View | None, past_length: View | None, key: View, value: View
) -> int:
    """How many keys the past holds."""
    if past is None:
        return 0
    batch, heads, rows, width = key.shape
    extent = past.shape[3] if past.rank == 5 else 0
    if past.shape != (2, batch, heads, extent, width) or value.shape != key.shape:
        raise ValueError(f"a past of shape {list(past.shape)} for keys of {list(key.shape)}")
    if not node.integer("past_present_share_buffer", 0):
        return extent
    if past_length is None:
        raise ValueError("past keys in a buffer shared with the present need past_sequence_length")
    start = integer(b, past_length)
    if not 0 <= start <= extent - rows:
        raise ValueError(f"{rows} keys behind {start} do not fit into a buffer of {extent}")
    return start


def _behind(b: Builder, node: Node, past: View, new: View, start: int) -> View:
    """``past`` with ``new`` behind its first ``start`` rows."""
    if not node.integer("past_present_share_buffer", 0):
        return b.concat([past, new], 2)
    starts = b.constant(np.full(past.shape[0], start, np.int64))
    return write_rows(b, past, new, starts, 2, circular=False)


def _turned(b: Builder, node: Node, view: View, start: int) -> View:
    """``view (B, H, S, D)`` rotated by its positions, which begin at ``start``."""
    width = node.integer("rotary_embedding_dim", 0) or view.shape[3]
    frequencies = ROTARY_BASE ** -(np.arange(0, width, 2) / width)
    angles = (start + np.arange(view.shape[2]))[None, :, None] * frequencies
    cosines, sines = (
        b.constant(table.astype(view.dtype.numpy)) for table in (np.cos(angles), np.sin(angles))
    )
    return rotate(b, view, cosines, sines, interleaved=False)
