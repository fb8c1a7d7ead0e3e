"""The attention operators of onnxruntime's own domain, on :func:`attention.attend`."""

from __future__ import annotations

import math

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.attention import BIASED, WEIGHTS, Scoring, attend, join_heads, split_heads
from onnxplan.compiler.ops.common import integer, scalar_map
from onnxplan.compiler.ops.rotary import gathered, positions_from, rotate
from onnxplan.compiler.ops.tensor_scatter import write_rows
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, index, select
from onnxplan.compiler.view import View

MICROSOFT = "com.microsoft"


def scale_of(node: Node, width: int) -> float:
    """The attribute, where 0 stands for the default."""
    return node.float("scale", 0.0) or 1 / math.sqrt(width)


@operator("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(
    b: Builder,
    node: Node,
    query: View,
    key: View | None = None,
    value: View | None = None,
    bias: View | None = None,
    padding: View | None = None,
    added: View | None = None,
    past_key: View | None = None,
    past_value: View | None = None,
    past_length: View | None = None,
    indirection: View | None = None,
) -> list[View]:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MultiHeadAttention

    ``query (B, S, H * D)`` with keys and values alike or ``(B, H, T, D)``, or packed as ``(B, S, H, 3, D)``,
    or as ``key (B, T, H, 2, D)``. ``padding`` is ``(B)`` lengths, ``(B, T)`` or ``(B, S, T)``.
    """
    if past_length is not None or indirection is not None:
        raise ValueError("past keys in a buffer shared with the present are not supported")
    heads = node.integer("num_heads")
    if query.rank == 5:
        query, key, value = (query.slice(3, n, 1).squeeze((3,)).transpose((0, 2, 1, 3)) for n in range(3))
    else:
        query, key, value = _separate(b, heads, query, key, value, bias)
    if past_key is not None and past_value is not None:
        key, value = b.concat([past_key, key], 2), b.concat([past_value, value], 2)
    keys = key.shape[2]
    scoring = Scoring(
        scale_of(node, query.shape[3]),
        query.dtype,
        offset=keys - query.shape[2],
        right=0 if node.integer("unidirectional", 0) else None,
        shown=BIASED if _wanted(node, 3) else None,
    )
    total = added
    if padding is not None:
        total = with_bias(b, masked_bias(b, node, padding, query, keys), added)
    result, scores = attend(b, query, key, value, scoring, bias=total)
    outputs = [join_heads(b, result), key, value]
    return outputs if scores is None else [*outputs, scores]


def _wanted(node: Node, output: int) -> bool:
    return len(node.outputs) > output and node.outputs[output] is not None


def _separate(
    b: Builder, heads: int, query: View, key: View | None, value: View | None, bias: View | None
) -> tuple[View, View, View]:
    """Query, key and value as ``(B, H, S, D)``, with their parts of ``bias`` added."""
    if key is None:
        raise ValueError("a key is needed where the query is not packed with it")
    if key.rank == 5:
        key, value = (key.slice(3, n, 1).squeeze((3,)).transpose((0, 2, 1, 3)) for n in range(2))
    if value is None:
        raise ValueError("a value is needed where the key is not packed with it")
    parts = [query, key, value]
    if bias is not None:
        widths = [part.shape[-1] if part.rank == 3 else part.shape[1] * part.shape[3] for part in parts]
        starts = (0, widths[0], widths[0] + widths[1])
        # Keys and values that come split into heads are finished: they belong to an earlier projection.
        parts = [
            b.scalar("add", part, bias.slice(0, start, width)) if part.rank == 3 else part
            for part, start, width in zip(parts, starts, widths, strict=True)
        ]
    split = [split_heads(b, part, heads) if part.rank == 3 else part for part in parts]
    return split[0], split[1], split[2]


# Masks, which these operators add: a masked key gets a large negative number. Where all are masked all count.


def masked_bias(b: Builder, node: Node, mask: View, query: View, keys: int) -> View:
    """``mask`` of ``keys`` keys for ``query (B, H, S, D)`` as a bias of its type.

    It is 0 where a key is masked: of all queries ``(B, T)``, of each ``(B, S, T)``, or a part of
    ``(B, 1, M, M)`` for the last queries of up to ``M`` keys; or it holds where the keys of a sequence end
    ``(B)``, and after that where they begin ``(2 * B)``.
    """
    batch, _, rows, _ = query.shape
    settings = (node.float("mask_filter_value", -10000.0), query.dtype)
    if mask.rank == 1 and mask.size in (batch, 2 * batch):
        bounds = [
            b.reshape(mask.slice(0, start, batch), (batch, 1, 1, 1)).expand((batch, 1, 1, keys))
            for start in range(0, mask.size, batch)
        ]
        return scalar_map(b, _outside if len(bounds) == 2 else _beyond, *bounds, parameters=settings)
    if mask.rank == 4 and mask.shape == (batch, 1, mask.shape[3], mask.shape[3]) and mask.shape[3] >= keys:
        mask = mask.slice(2, keys - rows, rows).slice(3, 0, keys)
    elif mask.shape == (batch, keys):
        mask = mask.unsqueeze((1, 2))
    elif mask.shape == (batch, rows, keys):
        mask = mask.unsqueeze((1,))
    else:
        raise ValueError(
            f"a mask of shape {list(mask.shape)} for {batch} sequences of {rows} queries and {keys} keys"
        )
    return scalar_map(b, _filter, mask, parameters=settings)


def with_bias(b: Builder, bias: View, added: View | None) -> View:
    """The sum of two biases."""
    return bias if added is None else b.scalar("add", bias, added)


def _filter(mask: Scalar, lowest: float, dtype: DType) -> Scalar:
    return _lowered(mask <= 0, lowest, dtype)


def _beyond(end: Scalar, lowest: float, dtype: DType) -> Scalar:
    return _lowered(index(end, 3) >= cast(end, DType.INT64), lowest, dtype)


def _outside(end: Scalar, begin: Scalar, lowest: float, dtype: DType) -> Scalar:
    place = index(end, 3)
    masked = apply("or", place >= cast(end, DType.INT64), place < cast(begin, DType.INT64))
    return _lowered(masked, lowest, dtype)


def _lowered(masked: Scalar, lowest: float, dtype: DType) -> Scalar:
    return cast(cast(masked, DType.FLOAT32) * lowest, dtype)


@operator("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(
    b: Builder,
    node: Node,
    query: View,
    key: View | None,
    value: View | None,
    past_key: View | None,
    past_value: View | None,
    last: View,
    total: View,
    cosines: View | None = None,
    sines: View | None = None,
    positions: View | None = None,
    bias: View | None = None,
    sinks: View | None = None,
) -> list[View]:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.GroupQueryAttention

    ``last (B)`` holds each sequence's length less one, ``total`` the greatest length. The keys of a sequence
    are written behind those that its past holds already; of a prompt, whose past is empty, to the beginning.
    ``sinks (heads)`` are scores of one more key without a value.
    """
    if node.string("k_quant_type", "NONE") != "NONE" or node.string("v_quant_type", "NONE") != "NONE":
        raise ValueError("quantised keys and values are not supported")
    if node.integer("sliding_window_cache", 0):
        raise ValueError("a cache of the size of the window is not supported")
    heads, groups = node.integer("num_heads"), node.integer("kv_num_heads")
    query, key, value = _grouped_heads(b, query, key, value, heads, groups)
    batch, _, rows, width = query.shape
    length = integer(b, total)
    prompt = rows == length
    lengths = scalar_map(b, _successor, b.reshape(last, (batch,)))
    starts = (
        b.constant(np.zeros(batch, np.int64))
        if prompt
        else scalar_map(b, _before, lengths, parameters=(rows,))
    )
    if node.integer("do_rotary", 0):
        if cosines is None or sines is None:
            raise ValueError("a rotation needs its caches")
        places = positions_from(b, starts, batch, rows) if positions is None else positions
        angles = gathered(b, cosines, places), gathered(b, sines, places)
        interleaved = bool(node.integer("rotary_interleaved", 0))
        query, key = (rotate(b, view, *angles, interleaved=interleaved) for view in (query, key))
    present_key = _present(b, past_key, key, starts, length)
    present_value = _present(b, past_value, value, starts, length)
    window, mode = node.integer("local_window_size", -1), node.integer("qk_output", 0)
    if mode not in _SHOWN:
        raise ValueError(f"qk_output is {mode}, not 0, 1 or 2")
    scoring = Scoring(
        scale_of(node, width),
        query.dtype,
        softcap=node.float("softcap", 0.0),
        from_end=not prompt,
        left=window - 1 if window > 0 else None,
        right=0 if node.integer("causal", 1) else None,
        shown=_SHOWN[mode] if _wanted(node, 3) else None,
        smooth=node.integer("smooth_softmax", 0) > 0,
    )
    result, scores = attend(
        b,
        query,
        present_key.slice(2, 0, length),
        present_value.slice(2, 0, length),
        scoring,
        bias=bias,
        lengths=None if prompt else lengths,
        sinks=sinks,
    )
    outputs = [join_heads(b, result), present_key, present_value]
    if scores is not None:
        outputs.append(scalar_map(b, _seen, scores) if mode == 1 else scores)
    return outputs


_SHOWN = {0: None, 1: BIASED, 2: WEIGHTS}
"""The stage of the scores for each ``qk_output``."""


def _grouped_heads(
    b: Builder, query: View, key: View | None, value: View | None, heads: int, groups: int
) -> tuple[View, View, View]:
    """Query ``(B, heads, S, D)``, key and value ``(B, groups, S, D)``, from separate or packed inputs."""
    if key is None or value is None:
        packed = split_heads(b, query, heads + 2 * groups)
        return (
            packed.slice(1, 0, heads),
            packed.slice(1, heads, groups),
            packed.slice(1, heads + groups, groups),
        )
    return split_heads(b, query, heads), split_heads(b, key, groups), split_heads(b, value, groups)


def _present(b: Builder, past: View | None, new: View, starts: View, length: int) -> View:
    """``past`` with ``new`` written to it from ``starts`` on, of ``length`` rows at least."""
    batch, groups, rows, width = new.shape
    held = past.shape[2] if past is not None else 0
    if rows == length and held <= length:
        return new
    buffer = [] if past is None else [past]
    if held < length:
        buffer.append(b.constant(np.zeros((batch, groups, length - held, width), new.dtype.numpy)))
    return write_rows(b, b.concat(buffer, 2), new, starts, 2, circular=False)


def _seen(score: Scalar) -> Scalar:
    """A score, 0 where the key is hidden, as onnxruntime shows it."""
    return select(apply("equal", score, -math.inf), 0, score)


def _successor(value: Scalar) -> Scalar:
    return cast(value, DType.INT64) + 1


def _before(length: Scalar, rows: int) -> Scalar:
    return length - rows
