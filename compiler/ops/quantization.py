"""Quantisation and its inverse, and the bodies that other quantised operators share.

Quotients are rounded half to even, then the zero point is added, then the sum is saturated: this is what the
standard says, and what saturating first by shifted bounds gives as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import element_type, expression, normal_axis, scalar_map, single, wide
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, reduce, select
from onnxplan.compiler.view import View

INTEGER_RANGES = {
    DType.UINT8: (0, 255),
    DType.INT8: (-128, 127),
    DType.UINT16: (0, 65535),
    DType.INT16: (-32768, 32767),
    DType.UINT4: (0, 15),
    DType.INT4: (-8, 7),
    DType.UINT2: (0, 3),
    DType.INT2: (-2, 1),
}
FLOAT8 = (DType.FLOAT8E4M3FN, DType.FLOAT8E4M3FNUZ, DType.FLOAT8E5M2, DType.FLOAT8E5M2FNUZ)
_QUANTIZED = (*INTEGER_RANGES, *FLOAT8, DType.FLOAT4E2M1, DType.FLOAT6E2M3, DType.FLOAT6E3M2)
_REAL = (DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16)


# Bodies


def quantized(quotient: Scalar, zero: Scalar | None, dtype: DType, saturate: bool = True) -> Scalar:
    """A quotient by the scale as ``dtype``; NaN becomes the smallest integer, as in ONNX Runtime.

    ``saturate`` says whether a float8 is clamped to its range; integers always are.
    """
    if dtype.is_float:
        shifted = quotient if zero is None else quotient + cast(zero, quotient.dtype)
        return cast(shifted, dtype, saturate=saturate and dtype in FLOAT8)
    # Saturated before it is rounded, by integers, so that the rounded number is one of few.
    lowest: Scalar | float
    highest: Scalar | float
    lowest, highest = map(float, INTEGER_RANGES[dtype])
    if zero is not None:
        shift = cast(zero, quotient.dtype)
        lowest, highest = lowest - shift, highest - shift
    # A comparison with NaN is false.
    raised = select(quotient > lowest, quotient, lowest)
    rounded = cast(apply("round", apply("min", raised, highest)), DType.INT32)
    return cast(rounded if zero is None else rounded + cast(zero, DType.INT32), dtype)


def centred(x: Scalar, zero: Scalar | None) -> Scalar:
    """``x - zero`` without loss: int32 for integers, float32 for floats."""
    computed = DType.FLOAT32 if x.dtype.is_float else DType.INT32
    wide = cast(x, computed)
    return wide if zero is None else wide - cast(zero, computed)


def dequantized(x: Scalar, scale: Scalar, zero: Scalar | None) -> Scalar:
    """``(x - zero) * scale`` in float32."""
    return cast(centred(x, zero), DType.FLOAT32) * cast(scale, DType.FLOAT32)


def _quotient(x: Scalar, scale: Scalar, computed: DType, dtype: DType, saturate: bool) -> Scalar:
    return quantized(_divided(x, scale, computed), None, dtype, saturate)


def _shifted_quotient(
    x: Scalar, scale: Scalar, zero: Scalar, computed: DType, dtype: DType, saturate: bool
) -> Scalar:
    return quantized(_divided(x, scale, computed), zero, dtype, saturate)


def _divided(x: Scalar, scale: Scalar, computed: DType) -> Scalar:
    """The quotient, rounded as a division of type ``computed`` rounds it, in float32 at least.

    Casts round; operations on small floats may stay in float32 where a kernel computes several of them.
    """
    operands = [cast(cast(value, computed), wide(computed)) for value in (x, scale)]
    return cast(cast(operands[0] / operands[1], computed), wide(computed))


def _scaled(x: Scalar, scale: Scalar, dtype: DType) -> Scalar:
    return cast(dequantized(x, scale, None), dtype)


def _scaled_difference(x: Scalar, scale: Scalar, zero: Scalar, dtype: DType) -> Scalar:
    return cast(dequantized(x, scale, zero), dtype)


# Operands


def significant(zero: View | None) -> View | None:
    """``zero``, or ``None`` where it is known to be zero at plan time."""
    if zero is None or (zero.is_constant and not zero.numpy().astype("float32").any()):
        return None
    return zero


def check_scale(scale: View, *types: DType) -> None:
    """Raises ``TypeError`` unless ``scale`` is of one of ``types``, by default of a real type."""
    if scale.dtype not in (types or _REAL):
        raise TypeError(f"a scale of type {scale.dtype} is not supported")


def check_zero_point(zero: View | None, dtype: DType) -> None:
    """Raises ``TypeError`` unless ``zero`` is missing or of type ``dtype``."""
    if zero is not None and zero.dtype is not dtype:
        raise TypeError(f"a zero point of type {zero.dtype}, where {dtype} is expected")


def _granules(
    b: Builder, node: Node, x: View, scale: View, zero: View | None
) -> tuple[View, View, View | None]:
    """``x``, its scale and zero point, made to broadcast: for the tensor, along an axis, or in blocks.

    Blocks that divide the axis split it, so that nothing is copied; ``x`` then has one axis more.
    """
    if zero is not None and zero.shape != scale.shape and (zero.size, scale.size) != (1, 1):
        raise ValueError(f"a scale of shape {list(scale.shape)}, a zero point of {list(zero.shape)}")
    parameters = [scale] if zero is None else [scale, zero]
    if scale.size == 1:
        parameters = [single(b, view) for view in parameters]
    elif (block := node.integer("block_size", 0)) == 0:
        axis = 0 if x.rank == 1 else normal_axis(node.integer("axis", 1), x.rank)
        if scale.shape != (x.shape[axis],):
            raise ValueError(
                f"a scale of shape {list(scale.shape)} for {x.shape[axis]} elements along axis {axis}"
            )
        trailing = tuple(range(1, x.rank - axis))
        parameters = [view.unsqueeze(trailing) for view in parameters]
    else:
        axis = normal_axis(node.integer("axis", 1), x.rank)
        x, parameters = _blocks(b, x, parameters, axis, block)
    return x, parameters[0], parameters[1] if len(parameters) > 1 else None


def _blocks(b: Builder, x: View, parameters: list[View], axis: int, block: int) -> tuple[View, list[View]]:
    if block < 1:
        raise ValueError(f"block_size {block} is not positive")
    extent = x.shape[axis]
    count = -(-extent // block)
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    if parameters[0].shape != (*before, count, *after):
        raise ValueError(
            f"a scale of shape {list(parameters[0].shape)} for blocks of {block} along axis {axis} of "
            f"{list(x.shape)}"
        )
    split = [view.unsqueeze((axis + 1,)) for view in parameters]
    if extent % block == 0:
        return b.reshape(x, (*before, count, block, *after)), split
    repeated = [view.expand((*before, count, block, *after)) for view in split]
    merged = [b.reshape(view, (*before, count * block, *after)) for view in repeated]
    return x, [view.slice(axis, 0, extent) for view in merged]


# Operators


@operator("QuantizeLinear", domain="com.microsoft")
@operator("QuantizeLinear", since=10)
def quantize_linear(b: Builder, node: Node, x: View, scale: View, zero: View | None = None) -> View:
    """https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html

    The type of the scale is the precision of the division; integer scales divide in float64, which holds
    their quotients to well below a half.
    """
    dtype = _quantized_type(node, zero)
    check_scale(scale, *_REAL, DType.INT32, DType.FLOAT8E8M0)
    if x.dtype not in (*_REAL, DType.INT32):
        raise TypeError(f"quantisation of {x.dtype} is not supported")
    computed = _precision(node, scale)
    saturate = bool(node.integer("saturate", 1))
    source, scale, zero = _granules(b, node, x, scale, significant(zero))
    if zero is None:
        result = scalar_map(b, _quotient, source, scale, parameters=(computed, dtype, saturate))
    else:
        parameters = (computed, dtype, saturate)
        result = scalar_map(b, _shifted_quotient, source, scale, zero, parameters=parameters)
    return b.reshape(result, x.shape)


def _quantized_type(node: Node, zero: View | None) -> DType:
    code = node.integer("output_dtype", 0)
    dtype = element_type(code) if code else DType.UINT8 if zero is None else zero.dtype
    check_zero_point(zero, dtype)
    if dtype not in _QUANTIZED:
        raise TypeError(f"quantisation to {dtype} is not supported")
    return dtype


def _precision(node: Node, scale: View) -> DType:
    code = node.integer("precision", 0)
    if code:
        computed = element_type(code)
        if not computed.is_float:
            raise TypeError(f"precision {computed} is not that of a float")
        return computed
    if scale.dtype is DType.INT32:
        return DType.FLOAT64
    # Division by a power of two is exact in float32.
    return DType.FLOAT32 if scale.dtype is DType.FLOAT8E8M0 else scale.dtype


@operator("DequantizeLinear", domain="com.microsoft")
@operator("DequantizeLinear", since=10)
def dequantize_linear(b: Builder, node: Node, x: View, scale: View, zero: View | None = None) -> View:
    """https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html

    The product is computed in float32 and rounded once.
    """
    code = node.integer("output_dtype", 0)
    dtype = element_type(code) if code else scale.dtype
    check_scale(scale, *_REAL, DType.FLOAT8E8M0)
    check_zero_point(zero, x.dtype)
    if dtype not in _REAL:
        raise TypeError(f"dequantisation to {dtype} is not supported")
    if x.dtype not in (*_QUANTIZED, DType.INT32):
        raise TypeError(f"dequantisation of {x.dtype} is not supported")
    source, scale, zero = _granules(b, node, x, scale, significant(zero))
    if zero is None:
        result = scalar_map(b, _scaled, source, scale, parameters=(dtype,))
    else:
        result = scalar_map(b, _scaled_difference, source, scale, zero, parameters=(dtype,))
    return b.reshape(result, x.shape)


@operator("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(b: Builder, node: Node, x: View) -> Sequence[View]:
    """https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html"""
    return dynamically_quantized(b, x)


def dynamically_quantized(b: Builder, x: View) -> tuple[View, View, View]:
    """``x`` (float32) as uint8 with scale and zero point (scalars) that cover its range and 0.

    The scale of zeros is 1, as in ONNX Runtime; the formula of the standard would divide 0 by 0.
    """
    if x.dtype is not DType.FLOAT32:
        raise TypeError(f"dynamic quantisation of {x.dtype} is not supported")
    if x.size == 0:
        scale, zero = b.constant(1, DType.FLOAT32), b.constant(0, DType.UINT8)
        return b.constant(0, DType.UINT8).expand(x.shape), scale, zero
    source = x if x.rank else x.unsqueeze((0,))
    found = b.compute(expression(_range, (x.dtype,)), (source,), tuple(range(source.rank)))
    scale, zero = (view.squeeze(tuple(range(source.rank))) for view in found)
    parameters = (DType.FLOAT32, DType.UINT8, True)
    return scalar_map(b, _shifted_quotient, x, scale, zero, parameters=parameters), scale, zero


def _range(x: Scalar) -> tuple[Scalar, Scalar]:
    highest = apply("max", reduce("max", x), 0.0)
    lowest = apply("min", reduce("min", x), 0.0)
    extent = highest - lowest
    scale = select(extent > 0.0, extent / 255.0, 1.0)
    # The quotient lies between 0 and 255, so that the order of rounding and saturation does not matter.
    return scale, quantized(0.0 - lowest / scale, None, DType.UINT8)
