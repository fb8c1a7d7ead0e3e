"""Rotary position embeddings: one map, which reads each pair of elements in both orders."""

from __future__ import annotations

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.attention import split_heads
from onnxplan.compiler.ops.common import float_map, scalar_map
from onnxplan.compiler.primitives import Gather
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, index, select
from onnxplan.compiler.view import View


def rotate(b: Builder, x: View, cosines: View, sines: View, *, interleaved: bool) -> View:
    """``x (B, H, S, D)`` with pairs of its elements turned by angles.

    ``cosines`` and ``sines`` are ``(B or 1, S, R / 2)``. The first ``R`` elements are turned, the others
    kept; pairs are neighbours if ``interleaved``, else an element of the first half of ``R`` and one of the
    second. Source: J. Su et al., "RoFormer", https://arxiv.org/abs/2104.09864.
    """
    half = cosines.shape[-1]
    batch, heads, rows, width = x.shape
    if cosines.rank != 3 or sines.shape != cosines.shape or 2 * half > width:
        raise ValueError(
            f"caches of the shapes {list(cosines.shape)} and {list(sines.shape)} for {width} elements"
        )
    pairs = (half, 2) if interleaved else (2, half)
    axis = 4 if interleaved else 3
    turned = b.reshape(x.slice(3, 0, 2 * half), (batch, heads, rows, *pairs))
    others = turned.slice(axis, 1, 2, -1)
    angles = (view.unsqueeze((1,)).unsqueeze((axis,)) for view in (cosines, sines))
    result = float_map(b, _turned, turned, others, *angles, parameters=(axis,))
    result = b.reshape(result, (batch, heads, rows, 2 * half))
    if 2 * half == width:
        return result
    return b.concat([result, x.slice(3, 2 * half, width - 2 * half)], 3)


def _turned(x: Scalar, other: Scalar, cosine: Scalar, sine: Scalar, axis: int) -> Scalar:
    signed = select(apply("equal", index(x, axis), 0), -sine, sine)
    return x * cosine + other * signed


def positions_from(b: Builder, start: View, batch: int, count: int) -> View:
    """``start (1 or B) + 0, 1, ... count - 1`` as positions ``(B, count)``."""
    rows = start.unsqueeze((1,)).expand((batch, count))
    return scalar_map(b, _advanced, rows)


def _advanced(start: Scalar) -> Scalar:
    return cast(start, DType.INT64) + index(start, 1)


def gathered(b: Builder, cache: View, positions: View) -> View:
    """Rows ``(B, S, R / 2)`` of ``cache (M, R / 2)`` at ``positions (B, S)``."""
    if cache.rank != 2 or positions.rank != 2:
        raise ValueError(
            f"caches of shape {list(cache.shape)} do not go with positions of shape {list(positions.shape)}"
        )
    if positions.size and not cache.shape[0]:
        raise ValueError("the caches have no rows")
    shape = (*positions.shape, cache.shape[1])
    return b.emit(Gather(0), [cache, positions], [b.new(cache.dtype, shape)])[0]


def _checked_rotation(node: Node, width: int, cosines: View) -> None:
    wanted = node.integer("rotary_embedding_dim", 0) or width
    if wanted != 2 * cosines.shape[-1]:
        raise ValueError(f"caches of {cosines.shape[-1]} columns turn no {wanted} elements")


@operator("RotaryEmbedding", since=23)
def rotary_embedding(
    b: Builder, node: Node, x: View, cosines: View, sines: View, positions: View | None = None
) -> View:
    """https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html"""
    heads = split_heads(b, x, node.integer("num_heads")) if x.rank == 3 else x
    if heads.rank != 4:
        raise ValueError(f"an input of rank 3 or 4 is expected, not {x.rank}")
    if positions is not None:
        cosines, sines = gathered(b, cosines, positions), gathered(b, sines, positions)
    _checked_rotation(node, heads.shape[3], cosines)
    result = rotate(b, heads, cosines, sines, interleaved=bool(node.integer("interleaved", 0)))
    return _as_given(b, result, x)


@operator("RotaryEmbedding", domain="com.microsoft")
def rotary_embedding_of_caches(
    b: Builder, node: Node, x: View, positions: View, cosines: View, sines: View
) -> View:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.RotaryEmbedding

    ``positions`` are ``(B, S)``, or the position ``(1)`` of the first element of all sequences.
    The attribute ``scale`` has no effect, as in onnxruntime itself.
    """
    if node.integer("is_packed_batching", 0):
        raise ValueError("packed batches are not supported")
    rotated = node.integer("rotary_embedding_dim", 0)
    count = node.integer("num_heads", 0)
    if x.rank == 3:
        if not count and rotated:
            raise ValueError("num_heads is needed where a part of each head is turned")
        heads = split_heads(b, x, count or x.shape[2] // (2 * cosines.shape[-1]))
    else:
        heads = x
    if heads.rank != 4:
        raise ValueError(f"an input of rank 3 or 4 is expected, not {x.rank}")
    batch, _, rows, width = heads.shape
    if positions.rank < 2:
        positions = positions_from(b, b.reshape(positions, (1,)), batch, rows)
    cosines, sines = gathered(b, cosines, positions), gathered(b, sines, positions)
    _checked_rotation(node, width, cosines)
    result = rotate(b, heads, cosines, sines, interleaved=bool(node.integer("interleaved", 0)))
    return _as_given(b, result, x)


def _as_given(b: Builder, result: View, x: View) -> View:
    return b.reshape(result.transpose((0, 2, 1, 3)), x.shape) if x.rank == 3 else result


__all__ = ["gathered", "positions_from", "rotate"]
