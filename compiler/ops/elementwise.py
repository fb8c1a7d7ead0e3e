"""Arithmetic, comparisons, logic and bits: mostly one primitive an operator.

Broadcasting: before version 7 binary operators broadcast only with the attributes ``broadcast`` and ``axis``
(https://github.com/onnx/onnx/blob/main/docs/Changelog.md#Add-1), since then by NumPy's rules
(https://github.com/onnx/onnx/blob/main/docs/Broadcasting.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import choose, float_map, scalar_map, single
from onnxplan.compiler.registry import Rule, operator
from onnxplan.compiler.structures import Lowered
from onnxplan.compiler.trace import Scalar, apply, cast, select
from onnxplan.compiler.view import View

_UNARY = {
    "Abs": "abs",
    "Acos": "acos",
    "Acosh": "acosh",
    "Asin": "asin",
    "Asinh": "asinh",
    "Atan": "atan",
    "Atanh": "atanh",
    "BitwiseNot": "bitwise_not",
    "Ceil": "ceil",
    "Cos": "cos",
    "Cosh": "cosh",
    "Erf": "erf",
    "Exp": "exp",
    "Floor": "floor",
    "IsNaN": "isnan",
    "Log": "log",
    "Neg": "neg",
    "Not": "not",
    "Round": "round",
    "Sigmoid": "sigmoid",
    "Sign": "sign",
    "Sin": "sin",
    "Sinh": "sinh",
    "Sqrt": "sqrt",
    "Tan": "tan",
    "Tanh": "tanh",
}

# Operators that have broadcast by attribute before version 7.
_BINARY = {
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Div": "div",
    "Equal": "equal",
    "Greater": "greater",
    "Less": "less",
    "And": "and",
    "Or": "or",
    "Xor": "xor",
}

_LATER_BINARY = {
    "GreaterOrEqual": "greater_equal",
    "LessOrEqual": "less_equal",
    "BitwiseAnd": "bitwise_and",
    "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
}


def _unary(op: str) -> Rule:
    def rule(b: Builder, node: Node, x: View) -> View:
        return b.scalar(op, x)

    return rule


def _binary(op: str) -> Rule:
    def rule(b: Builder, node: Node, x: View, y: View) -> View:
        return b.scalar(op, x, y)

    return rule


def _legacy(rule: Rule) -> Rule:
    """``rule`` for a second operand that is broadcast by the attributes of opset 1 to 6."""

    def legacy(b: Builder, node: Node, x: View, y: View) -> Lowered | Sequence[Lowered]:
        return rule(b, node, x, _legacy_operand(node, x, y))

    return legacy


def _legacy_operand(node: Node, x: View, y: View) -> View:
    if not node.integer("broadcast", 0):
        if x.shape != y.shape:
            raise ValueError("the shapes differ, and the attribute broadcast is not set")
        return y
    if y.size == 1 and y.rank <= x.rank:
        return y.squeeze(tuple(range(y.rank)))
    axis = node.integer("axis", x.rank - y.rank)
    axis += x.rank if axis < 0 else 0
    if axis < 0 or axis + y.rank > x.rank:
        raise ValueError(f"axis {axis} leaves no room for the second operand")
    return y.unsqueeze(tuple(range(y.rank, x.rank - axis)))


for _op_type, _op in _UNARY.items():
    operator(_op_type)(_unary(_op))
for _op_type, _op in _LATER_BINARY.items():
    operator(_op_type)(_binary(_op))
for _op_type, _op in _BINARY.items():
    operator(_op_type)(_legacy(_binary(_op)))
    operator(_op_type, since=7)(_binary(_op))


@operator("Reciprocal")
def reciprocal(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Reciprocal.html"""
    return scalar_map(b, _reciprocal, x)


def _reciprocal(x: Scalar) -> Scalar:
    return 1 / x


# Powers


@operator("Pow", since=7)
def power(b: Builder, node: Node, x: View, y: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Pow.html

    The result has the type of the base. Integers to fractional powers are computed in float64 and truncated.
    """
    if x.dtype.kind not in "fiu" or y.dtype.kind not in "fiu":
        raise TypeError(f"cannot raise {x.dtype} to a power of type {y.dtype}")
    if y.is_constant and y.size == 1 and y.rank <= x.rank:
        exponent = float(b.value(y).reshape(-1)[0])
        if exponent == 1:
            return x
        body = _POWERS.get(exponent)
        if body is not None and (x.dtype.is_float or body is not _square_root):
            return (float_map if x.dtype.is_float else scalar_map)(b, body, x)
    if x.dtype is y.dtype:
        return b.scalar("pow", x, y)
    dtype = _power_type(x.dtype, y.dtype)
    return b.cast(b.scalar("pow", b.cast(x, dtype), b.cast(y, dtype)), x.dtype)


operator("Pow")(_legacy(power))


def _power_type(base: DType, exponent: DType) -> DType:
    if base.is_float:
        exact = base.itemsize < 8 and not (exponent.is_float and exponent.itemsize == 8)
        return DType.FLOAT32 if exact else DType.FLOAT64
    return DType.FLOAT64 if exponent.is_float else DType.INT64


def _square(x: Scalar) -> Scalar:
    return x * x


def _cube(x: Scalar) -> Scalar:
    return x * x * x


def _square_root(x: Scalar) -> Scalar:
    # Unlike the square root, the power 0.5 takes -0 to 0 and minus infinity to infinity.
    return select(x > float("-inf"), apply("sqrt", x) + 0.0, x * x)


_POWERS: dict[float, Callable[[Scalar], Scalar]] = {2.0: _square, 3.0: _cube, 0.5: _square_root}


# Operators of any number of operands


def _sum(*values: Scalar) -> Scalar:
    return functools.reduce(lambda a, b: a + b, values)


def _mean(*values: Scalar) -> Scalar:
    return _sum(*values) / len(values)


def _minimum(*values: Scalar) -> Scalar:
    return functools.reduce(lambda a, b: apply("min", a, b), values)


def _maximum(*values: Scalar) -> Scalar:
    return functools.reduce(lambda a, b: apply("max", a, b), values)


def _variadic(body: Callable[..., Scalar]) -> Rule:
    def rule(b: Builder, node: Node, *views: View) -> View:
        if not views:
            raise ValueError("at least one operand is needed")
        if len(views) == 1:
            return views[0]
        return (float_map if views[0].dtype.is_float else scalar_map)(b, body, *views)

    return rule


for _op_type, _body in {"Sum": _sum, "Mean": _mean, "Min": _minimum, "Max": _maximum}.items():
    operator(_op_type)(_variadic(_body))


# Remainders and bits


@operator("Mod", since=10)
def modulo(b: Builder, node: Node, x: View, y: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Mod.html"""
    return b.scalar("remainder" if node.integer("fmod", 0) else "mod", x, y)


@operator("BitShift", since=11)
def bit_shift(b: Builder, node: Node, x: View, y: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__BitShift.html"""
    direction = node.string("direction")
    if direction not in ("LEFT", "RIGHT"):
        raise ValueError(f"direction {direction!r} is neither LEFT nor RIGHT")
    op = "shift_left" if direction == "LEFT" else "shift_right"
    if x.dtype.kind != "i":
        return b.scalar(op, x, y)
    return scalar_map(b, _signed_shift, x, y, parameters=(op, _UNSIGNED[x.dtype]))


_UNSIGNED = {
    DType.INT8: DType.UINT8,
    DType.INT16: DType.UINT16,
    DType.INT32: DType.UINT32,
    DType.INT64: DType.UINT64,
}


def _signed_shift(x: Scalar, y: Scalar, op: str, unsigned: DType) -> Scalar:
    # As unsigned numbers negative distances are larger than any width, which shifts all bits out.
    distance = cast(y, unsigned)
    shifted = cast(apply(op, cast(x, unsigned), distance), x.dtype)
    if op == "shift_left":
        return shifted
    inverted = apply(op, cast(apply("bitwise_not", x), unsigned), distance)
    return select(x < 0, apply("bitwise_not", cast(inverted, x.dtype)), shifted)


# Choices and tests


@operator("Where", since=9)
def where(b: Builder, node: Node, condition: View, x: View, y: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Where.html"""
    return choose(b, condition, x, y)


@operator("IsInf", since=10)
def is_infinite(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__IsInf.html"""
    negative, positive = node.integer("detect_negative", 1), node.integer("detect_positive", 1)
    if negative and positive:
        return b.scalar("isinf", x)
    if not negative and not positive:
        return b.constant(False).expand(x.shape)
    return scalar_map(b, _is_positive_infinity if positive else _is_negative_infinity, x)


def _is_positive_infinity(x: Scalar) -> Scalar:
    return apply("and", apply("isinf", x), x > 0)


def _is_negative_infinity(x: Scalar) -> Scalar:
    return apply("and", apply("isinf", x), x < 0)


@operator("Clip")
def clip_by_attributes(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Clip.html, version 1: a missing attribute is no bound."""
    return _clip_to(b, x, node.attributes.get("min"), node.attributes.get("max"))


@operator("Clip", since=6)
def clip_to_finite(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Clip.html, version 6: missing bounds are the largest floats."""
    largest = 3.4028234663852886e38
    return _clip_to(b, x, node.float("min", -largest), node.float("max", largest))


def _clip_to(b: Builder, x: View, low: float | None, high: float | None) -> View:
    if low is None and high is None:
        return x
    return scalar_map(b, _clip, x, parameters=(low, high))


@operator("Clip", since=11)
def clip(b: Builder, node: Node, x: View, low: View | None = None, high: View | None = None) -> View:
    """https://onnx.ai/onnx/operators/onnx__Clip.html"""
    bounds = [None if bound is None else single(b, bound) for bound in (low, high)]
    if all(bound is None or bound.is_constant for bound in bounds):
        numbers = tuple(None if bound is None else bound.numpy().item() for bound in bounds)
        return x if numbers == (None, None) else scalar_map(b, _clip, x, parameters=numbers)
    if bounds[1] is None:
        assert bounds[0] is not None
        return b.scalar("max", x, bounds[0])
    above = x if bounds[0] is None else b.scalar("max", x, bounds[0])
    return b.scalar("min", above, bounds[1])


def _clip(x: Scalar, low: float | None, high: float | None) -> Scalar:
    above = x if low is None else apply("max", x, low)
    return above if high is None else apply("min", above, high)
