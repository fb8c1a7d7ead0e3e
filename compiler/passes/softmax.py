"""Recognises softmax in an expression, in the forms that exporters and lowering rules give it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, ExpressionBuilder
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.trace import Scalar, apply, reduce, select, trace

COMMUTATIVE = frozenset(["add", "mul", "max", "equal"])


@dataclass(frozen=True, slots=True)
class Softmax:
    """``score`` is what it is taken of, ``kind`` as in :class:`onnxplan.compiler.primitives.Attention`."""

    kind: str
    score: Expression


@functools.lru_cache(maxsize=1024)
def find_softmax(expression: Expression) -> Softmax | None:
    """The softmax that ``expression`` is, maybe with its result cast to another type of floats."""
    if len(expression.outputs) != 1:
        return None
    instructions = expression.instructions
    result = expression.outputs[0]
    while instructions[result].op == "cast" and instructions[result].dtype.is_float:
        (result,) = instructions[result].arguments
    tops = [i.arguments[0] for i in instructions if i.op == "reduce_max"]
    for score in dict.fromkeys(tops):
        part = _part(expression, score)
        if part.has_reduction:
            continue
        for kind, template in _templates(instructions[score].dtype):
            if _matches(template, expression, result, score):
                return Softmax(kind, part)
    return None


def _part(expression: Expression, position: int) -> Expression:
    """What ``expression`` computes up to ``position``."""
    builder = ExpressionBuilder()
    part = Expression(expression.instructions, (position,))
    return builder.build(builder.inline(part, lambda _, instruction: builder.add(instruction)))


def _matches(template: Expression, expression: Expression, result: int, score: int) -> bool:
    """Is ``result`` computed like the template, with ``score`` as its input?"""
    known: dict[tuple[int, int], bool] = {}

    def same(own: int, other: int) -> bool:
        if (own, other) not in known:
            known[own, other] = compare(own, other)
        return known[own, other]

    def compare(own: int, other: int) -> bool:
        a, b = template.instructions[own], expression.instructions[other]
        if a.op == "input":
            return other == score
        if (a.op, a.dtype, a.value) != (b.op, b.dtype, b.value):
            return False
        orders = [b.arguments, b.arguments[::-1]] if a.op in COMMUTATIVE else [b.arguments]
        return any(all(map(same, a.arguments, order)) for order in orders)

    return same(template.outputs[0], result)


@functools.cache
def _templates(dtype: DType) -> tuple[tuple[str, Expression], ...]:
    if dtype not in (DType.FLOAT32, DType.FLOAT64):
        return ()
    return tuple((kind, trace(form, (dtype,))) for kind, forms in _FORMS.items() for form in forms)


def _divided(powers: Scalar, total: Scalar) -> Scalar:
    return powers / total


def _multiplied(powers: Scalar, total: Scalar) -> Scalar:
    return powers * (1 / total)


Normalise = Callable[[Scalar, Scalar], Scalar]


def _plain(score: Scalar, normalise: Normalise) -> Scalar:
    powers = apply("exp", score - reduce("max", score))
    return normalise(powers, reduce("sum", powers))


def _guarded(score: Scalar, normalise: Normalise) -> Scalar:
    weights = _plain(score, normalise)
    return select(apply("isnan", weights), 0.0, weights)


def _masked(score: Scalar, normalise: Normalise) -> Scalar:
    top = reduce("max", score)
    nothing = apply("equal", top, -math.inf)
    powers = apply("exp", score - select(nothing, 0.0, top))
    return normalise(powers, select(nothing, 1.0, reduce("sum", powers)))


def _smooth(score: Scalar, normalise: Normalise) -> Scalar:
    top = apply("max", reduce("max", score), 0.0)
    powers = apply("exp", score - top)
    return normalise(powers, reduce("sum", powers) + apply("exp", -top))


_FORMS: dict[str, tuple[Callable[[Scalar], Scalar], ...]] = {
    kind: tuple(functools.partial(rule, normalise=way) for way in (_multiplied, _divided))
    for kind, rule in (("plain", _plain), ("guarded", _guarded), ("masked", _masked), ("smooth", _smooth))
}
