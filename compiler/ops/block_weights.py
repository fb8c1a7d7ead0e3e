"""Weights of a few bits, quantised in blocks and packed into bytes: products by them, rows of them."""

from __future__ import annotations

import math

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression, normal_axis, scalar_map, wide
from onnxplan.compiler.ops.quantization import check_zero_point
from onnxplan.compiler.primitives import BlockMatMul, Gather
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, select
from onnxplan.compiler.view import View


@operator("MatMulNBits", domain="com.microsoft")
def few_bits_matrix_product(
    b: Builder,
    node: Node,
    a: View,
    packed: View,
    scales: View,
    zeros: View | None = None,
    groups: View | None = None,
    bias: View | None = None,
) -> View:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits

    ``a (..., K)`` by weights ``(N, K)`` in ``packed (N, blocks, block_size * bits / 8)``. Computed at full
    precision whatever ``accuracy_level`` allows. ``groups (K)`` names the block whose scale and zero point
    each row of the weights has. Empty weights give products of 0.
    """
    if node.integer("weight_prepacked", 0):
        raise TypeError("weights packed for a device of ONNX Runtime are not supported")
    depth, features = node.integer("K"), node.integer("N")
    if a.rank == 0 or a.shape[-1] != depth:
        raise ValueError(f"an operand of shape {list(a.shape)}, where rows of {depth} are expected")
    if packed.size == 0:
        zero = b.constant(0, a.dtype).expand((*a.shape[:-1], features))
        return zero if bias is None else b.scalar("add", zero, bias)
    bits, block = _check_weights(node, packed, depth, features)
    blocks = packed.shape[1]
    weights = packed, b.reshape(scales, (features, blocks)), _zero_points(b, zeros, bits, features, blocks)
    rows = b.reshape(a, (math.prod(a.shape[:-1]), depth))
    dtype = a.dtype if bias is None else wide(a.dtype)
    if groups is None and all(view.is_constant for view in weights) and dtype is not DType.FLOAT64:
        primitive = BlockMatMul(bits, block, DType.FLOAT32)
        product = b.emit(primitive, [rows, *weights], [b.new(dtype, (rows.shape[0], features))])[0]
    else:
        real = real_weights(b, *weights, bits, depth, groups)
        product = b.matmul(rows, real.transpose((1, 0)), dtype)
    if bias is not None:
        product = scalar_map(b, _plus, product, bias)
    return b.reshape(product, (*a.shape[:-1], features))


def _plus(total: Scalar, bias: Scalar) -> Scalar:
    return cast(total + cast(bias, total.dtype), bias.dtype)


def _check_weights(node: Node, packed: View, depth: int, features: int) -> tuple[int, int]:
    """The bits of a weight and the weights of a block."""
    bits, block = node.integer("bits", 4), node.integer("block_size")
    if bits not in (2, 4, 8):
        raise TypeError(f"weights of {bits} bits are not supported")
    if packed.dtype is not DType.UINT8:
        raise TypeError(f"packed weights of type {packed.dtype}, not uint8")
    if block < 1 or block * bits % 8:
        raise ValueError(f"blocks of {block} weights of {bits} bits are no whole bytes")
    if packed.shape != (features, -(-depth // block), block * bits // 8):
        raise ValueError(
            f"packed weights of shape {list(packed.shape)} for K = {depth}, N = {features}, blocks of {block}"
        )
    return bits, block


def real_weights(
    b: Builder, packed: View, scales: View, zeros: View, bits: int, depth: int, groups: View | None = None
) -> View:
    """The weights ``(N, K)`` of :class:`~onnxplan.compiler.primitives.BlockMatMul` in the type of the scales.

    ``groups (K)`` are the blocks that scale and zero point of a row are those of, where it is not its own.
    """
    features, blocks = scales.shape
    values = _unpacked(b, packed, bits)
    if groups is None:
        weights = scalar_map(b, _dequantized, values, scales.unsqueeze((2,)), zeros.unsqueeze((2,)))
        return b.reshape(weights, (features, blocks * values.shape[2])).slice(1, 0, depth)
    rows = b.reshape(values, (features, blocks * values.shape[2])).slice(1, 0, depth)
    if groups.rank != 1 or groups.shape[0] < depth:
        raise ValueError(f"groups of shape {list(groups.shape)} for {depth} rows of weights")
    of_rows = (gathered(b, view, groups.slice(0, 0, depth), 1) for view in (scales, zeros))
    return scalar_map(b, _dequantized, rows, *of_rows)


def _zero_points(b: Builder, zeros: View | None, bits: int, features: int, blocks: int) -> View:
    """The zero points ``(N, blocks)``: packed like the weights, or of the type of the scales."""
    if zeros is None:
        return b.constant(1 << (bits - 1), DType.UINT8).expand((features, blocks))
    if zeros.dtype is not DType.UINT8:
        return b.reshape(zeros, (features, blocks))
    rows = _unpacked(b, b.reshape(zeros, (features, -(-blocks * bits // 8))), bits)
    return rows.slice(1, 0, blocks)


def _unpacked(b: Builder, packed: View, bits: int) -> View:
    """Numbers of ``bits`` bits, the first in the lowest bits of a byte; the last axis grows."""
    if bits == 8:
        return packed
    offsets = b.constant(range(0, 8, bits), DType.UINT8)
    split = b.map(
        expression(_field, (DType.UINT8, DType.UINT8), (1 << bits) - 1),
        packed.unsqueeze((packed.rank,)),
        offsets,
    )
    return b.reshape(split, (*packed.shape[:-1], packed.shape[-1] * (8 // bits)))


def _field(byte: Scalar, offset: Scalar, mask: int) -> Scalar:
    return apply("bitwise_and", apply("shift_right", byte, offset), mask)


@operator("GatherBlockQuantized", domain="com.microsoft")
def gather_block_quantized(
    b: Builder, node: Node, data: View, indices: View, scales: View, zeros: View | None = None
) -> View:
    """https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.GatherBlockQuantized

    Slices at indices out of range are zero. ``data`` of bytes holds numbers of ``bits`` bits along its last
    axis, which is quantised, and is gathered along its first.
    """
    axis = normal_axis(node.integer("gather_axis", 0), data.rank)
    blocked = normal_axis(node.integer("quantize_axis", 1), data.rank)
    if scales.rank != data.rank or (zeros is not None and zeros.rank != data.rank):
        raise ValueError("data, scales and zero points of one rank are expected")
    bits = node.integer("bits", 4) if data.dtype is DType.UINT8 else 8
    if bits not in (2, 4, 8):
        raise TypeError(f"data of {bits} bits is not supported")
    if data.dtype is DType.UINT8 and (axis, blocked) != (0, data.rank - 1):
        raise ValueError("bytes are gathered along their first axis and quantised along their last")
    check_zero_point(zeros, data.dtype)
    extent = data.shape[blocked] * 8 // bits
    block = node.integer("block_size", 128) or max(extent, 1)
    blocks = -(-extent // block)
    count = data.shape[axis]
    expected = tuple(blocks if a == blocked else n for a, n in enumerate(data.shape))
    if any(
        n not in ((m,) if a == blocked else (m, 1))
        for a, (n, m) in enumerate(zip(scales.shape, expected, strict=True))
    ):
        raise ValueError(f"scales of shape {list(scales.shape)}, not {list(expected)}")
    places = scalar_map(b, _from_front, indices, parameters=(count,))
    rows = _unpacked(b, gathered(b, data, places, axis), bits)
    if zeros is None:
        points = None if data.dtype is not DType.UINT8 else b.constant(1 << (bits - 1), DType.UINT8)
    else:
        points = _unpacked(b, zeros, bits).slice(blocked, 0, blocks).expand(expected)
    quantities = [scales.expand(expected)] + ([] if points is None else [points.expand(expected)])
    if axis == blocked:
        own = scalar_map(b, _block_of, places, parameters=(block,))
        parameters = [gathered(b, view, own, axis) for view in quantities]
    else:
        moved = blocked if blocked < axis else blocked + indices.rank - 1
        parameters = [
            _repeated(b, gathered(b, view, places, axis), moved, block, extent) for view in quantities
        ]
    inside = b.reshape(
        scalar_map(b, _is_inside, indices, parameters=(count,)),
        (*indices.shape, *(1,) * (data.rank - 1 - axis)),
    )
    body = _gathered_value if points is not None else _gathered_value_of_zero
    return scalar_map(b, body, inside, rows, *parameters)


def gathered(b: Builder, data: View, indices: View, axis: int) -> View:
    """``data`` at ``indices``, which take the place of ``axis``."""
    shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    return b.emit(Gather(axis), [data, indices], [b.new(data.dtype, shape)])[0]


def _repeated(b: Builder, view: View, axis: int, block: int, extent: int) -> View:
    """``view`` with each of its elements along ``axis`` ``block`` times, ``extent`` of them in all."""
    shape = view.shape
    spread = view.unsqueeze((axis + 1,)).expand((*shape[: axis + 1], block, *shape[axis + 1 :]))
    merged = b.reshape(spread, (*shape[:axis], shape[axis] * block, *shape[axis + 1 :]))
    return merged.slice(axis, 0, extent)


def _from_front(place: Scalar, count: int) -> Scalar:
    return select(place < 0, place + count, place)


def _is_inside(place: Scalar, count: int) -> Scalar:
    return apply("and", place >= -count, place < count)


def _block_of(place: Scalar, block: int) -> Scalar:
    return place / block


def _gathered_value(inside: Scalar, value: Scalar, scale: Scalar, zero: Scalar) -> Scalar:
    return select(inside, _dequantized(value, scale, zero), 0)


def _gathered_value_of_zero(inside: Scalar, value: Scalar, scale: Scalar) -> Scalar:
    real = cast(value, DType.FLOAT32) * cast(scale, DType.FLOAT32)
    return select(inside, cast(real, scale.dtype), 0)


def _dequantized(value: Scalar, scale: Scalar, zero: Scalar) -> Scalar:
    difference = cast(value, DType.FLOAT32) - cast(zero, DType.FLOAT32)
    return cast(difference * cast(scale, DType.FLOAT32), scale.dtype)
