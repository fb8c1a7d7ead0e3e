"""Conversions between element types, and operators that pass their input on."""

from __future__ import annotations

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import element_type, float_map
from onnxplan.compiler.ops.text_numbers import numbers_of, texts_of
from onnxplan.compiler.registry import operator
from onnxplan.compiler.structures import Lowered
from onnxplan.compiler.trace import Scalar, apply, cast, select
from onnxplan.compiler.view import View

# The types of which the standard says what saturation means.
_SATURATING = (
    DType.FLOAT8E4M3FN,
    DType.FLOAT8E4M3FNUZ,
    DType.FLOAT8E5M2,
    DType.FLOAT8E5M2FNUZ,
    DType.FLOAT8E8M0,
)


@operator("Cast")
def convert(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Cast.html

    Numbers that become texts are asked for, which ends a stage: strings have no kernels.
    """
    return _convert(b, node, x, element_type(node.attributes.get("to")))


@operator("CastLike", since=15)
def convert_like(b: Builder, node: Node, x: View, like: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__CastLike.html"""
    return _convert(b, node, x, like.dtype)


def _convert(b: Builder, node: Node, x: View, dtype: DType) -> View:
    if x.dtype is dtype:
        return x
    if "c" in (x.dtype.kind, dtype.kind):
        raise TypeError(f"conversion from {x.dtype} to {dtype} is not supported")
    if dtype is DType.STRING:
        return b.constant(texts_of(b.value(x)))
    if x.dtype is DType.STRING:
        x = b.constant(numbers_of(b.value(x), dtype))
    saturate = dtype in _SATURATING and bool(node.integer("saturate", 1))
    rounding = node.string("round_mode", "up")
    if dtype is DType.FLOAT8E8M0 and rounding != "up":
        if rounding not in ("down", "nearest"):
            raise ValueError(f"round_mode {rounding!r} is not one of up, down and nearest")
        x = float_map(b, _power_of_two, b.cast(x, DType.FLOAT32), parameters=(rounding, saturate))
    return b.cast(x, dtype, saturate=saturate)


def _power_of_two(x: Scalar, rounding: str, saturate: bool) -> Scalar:
    """``|x|`` rounded to a power of two, for the conversion to float8e8m0, which only rounds up."""
    x = apply("abs", x)
    above = cast(cast(x, DType.FLOAT8E8M0, saturate=True), DType.FLOAT32)
    below = select(above > x, above * 0.5, above)
    if rounding == "nearest":
        below = select(x >= above * 0.75, above, below)
    # The conversion up was clamped to the largest power; what rounds to more than that is out of range.
    limit = float("inf") if rounding == "down" else 1.5 * 2.0**127
    if saturate:
        return below
    if rounding == "nearest":
        # The standard's table of special values has zero and what is below the smallest power as NaN.
        below = select(x < 2.0**-127, float("inf"), below)
    return select(x >= limit, float("inf"), below)


@operator("Identity")
def identity(b: Builder, node: Node, x: Lowered) -> Lowered:
    """https://onnx.ai/onnx/operators/onnx__Identity.html"""
    return x
