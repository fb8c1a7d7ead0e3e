"""Products by weights of a few bits, quantised in blocks and packed into bytes."""

from __future__ import annotations

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression, scalar_map, wide
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast
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
    precision whatever ``accuracy_level`` allows.
    """
    if groups is not None:
        raise TypeError("the deprecated input g_idx is not supported")
    if node.integer("weight_prepacked", 0):
        raise TypeError("weights packed for a device of ONNX Runtime are not supported")
    depth, features = node.integer("K"), node.integer("N")
    if a.rank == 0 or a.shape[-1] != depth:
        raise ValueError(f"an operand of shape {list(a.shape)}, where rows of {depth} are expected")
    weights = _weights(b, node, packed, scales, zeros, depth, features)
    rows = a if a.rank > 1 else a.unsqueeze((0,))
    if bias is None:
        product = b.matmul(rows, weights.transpose((1, 0)))
    else:
        total = b.matmul(rows, weights.transpose((1, 0)), wide(a.dtype))
        product = scalar_map(b, _plus, total, bias)
    return product if a.rank > 1 else product.squeeze((0,))


def _plus(total: Scalar, bias: Scalar) -> Scalar:
    return cast(total + cast(bias, total.dtype), bias.dtype)


def _weights(
    b: Builder, node: Node, packed: View, scales: View, zeros: View | None, depth: int, features: int
) -> View:
    """The weights ``(N, K)`` in the type of the scales."""
    bits, block = node.integer("bits", 4), node.integer("block_size")
    if bits not in (2, 4, 8):
        raise TypeError(f"weights of {bits} bits are not supported")
    if packed.dtype is not DType.UINT8:
        raise TypeError(f"packed weights of type {packed.dtype}, not uint8")
    if block < 1 or block * bits % 8:
        raise ValueError(f"blocks of {block} weights of {bits} bits are no whole bytes")
    blocks = -(-depth // block)
    if packed.shape != (features, blocks, block * bits // 8):
        raise ValueError(
            f"packed weights of shape {list(packed.shape)} for K = {depth}, N = {features}, blocks of {block}"
        )
    values = _unpacked(b, packed, bits)
    factors = b.reshape(scales, (features, blocks, 1))
    if zeros is None:
        shifts = b.constant(1 << (bits - 1), DType.UINT8)
    elif zeros.dtype is DType.UINT8:
        bytes_of_row = -(-blocks * bits // 8)
        rows = _unpacked(b, b.reshape(zeros, (features, bytes_of_row)), bits)
        shifts = rows.slice(1, 0, blocks).unsqueeze((2,))
    else:
        shifts = b.reshape(zeros, (features, blocks, 1))
    weights = scalar_map(b, _dequantized, values, factors, shifts)
    return b.reshape(weights, (features, blocks * block)).slice(1, 0, depth)


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


def _dequantized(value: Scalar, scale: Scalar, zero: Scalar) -> Scalar:
    difference = cast(value, DType.FLOAT32) - cast(zero, DType.FLOAT32)
    return cast(difference * cast(scale, DType.FLOAT32), scale.dtype)
