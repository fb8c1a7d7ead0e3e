"""Reverse-mode derivatives of scalar expressions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, ExpressionBuilder, Instruction
from onnxplan.compiler.trace import Scalar, apply, cast, reduce, select

Rule = Callable[[Scalar, Scalar, Sequence[Scalar]], Sequence[Scalar]]
"""``rule(g, r, arguments)``: from the adjoint of a result ``r`` those of the arguments."""


@functools.lru_cache(maxsize=1024)
def adjoint_expression(
    expression: Expression, outputs: tuple[int, ...], wanted: tuple[int, ...]
) -> tuple[Expression, tuple[int, ...], dict[int, int]]:
    """The adjoints of the inputs ``wanted`` of ``expression`` from those of its ``outputs`` (numbers).

    Also the operands that the result reads: inputs of ``expression``, and from ``input_count`` on the
    adjoints of the outputs in their order; and which of its outputs is the adjoint of which input. Inputs
    that the outputs do not depend on have none. Raises ``ValueError`` for operations without a derivative.
    """
    builder = ExpressionBuilder()
    count = expression.input_count
    values: list[Scalar] = []
    for instruction in expression.instructions:
        moved = instruction
        if instruction.operands:
            arguments = tuple(values[operand].position for operand in instruction.operands)
            moved = Instruction(instruction.op, arguments, instruction.dtype, instruction.value)
        values.append(Scalar(builder, builder.add(moved)))
    reduced = expression.reduced()
    adjoints: dict[int, Scalar] = {}

    def contribute(position: int, adjoint: Scalar, *, spread: bool) -> None:
        if not values[position].dtype.is_float or expression.instructions[position].op == "constant":
            return
        if spread and reduced[position]:
            adjoint = reduce("sum", adjoint)
        known = adjoints.get(position)
        adjoints[position] = adjoint if known is None else known + adjoint

    for place, number in enumerate(outputs):
        position = expression.outputs[number]
        given = Instruction("input", (count + place,), values[position].dtype)
        contribute(position, Scalar(builder, builder.add(given)), spread=False)
    for position in reversed(range(len(values))):
        if position not in adjoints:
            continue
        instruction = expression.instructions[position]
        if instruction.op == "input":
            continue
        operands = [values[operand] for operand in instruction.operands]
        parts = _parts(instruction.op, adjoints[position], values[position], operands)
        for operand, part in zip(instruction.operands, parts, strict=False):
            contribute(operand, part, spread=not reduced[position])
    found: dict[int, Scalar] = {}
    for position, adjoint in adjoints.items():
        instruction = expression.instructions[position]
        if instruction.op == "input" and instruction.arguments[0] in wanted:
            found[instruction.arguments[0]] = adjoint
    distinct = list(dict.fromkeys(adjoint.position for adjoint in found.values()))
    places = {number: distinct.index(adjoint.position) for number, adjoint in found.items()}
    built = builder.build(tuple(distinct))
    reads = sorted({i.arguments[0] for i in built.instructions if i.op == "input"})
    instructions = tuple(
        Instruction("input", (reads.index(i.arguments[0]),), i.dtype) if i.op == "input" else i
        for i in built.instructions
    )
    return Expression(instructions, built.outputs), tuple(reads), places


def _parts(op: str, g: Scalar, r: Scalar, arguments: Sequence[Scalar]) -> Sequence[Scalar]:
    if op in _FLAT:
        return ()
    if op == "cast":
        source: DType = arguments[0].dtype
        return (cast(g, source),) if source.is_float else ()
    rule = _RULES.get(op)
    if rule is None:
        raise ValueError(f"there is no derivative of {op}")
    return rule(g, r, arguments)


_FLAT = frozenset(["sign", "floor", "ceil", "round"])


def _smaller_or_larger(g: Scalar, r: Scalar, arguments: Sequence[Scalar]) -> Sequence[Scalar]:
    # Of equal arguments each gets half.
    a, b = arguments
    share = select(apply("equal", a, b), g * 0.5, g)
    return [select(apply("equal", argument, r), share, 0.0) for argument in (a, b)]


def _power(g: Scalar, r: Scalar, arguments: Sequence[Scalar]) -> Sequence[Scalar]:
    base, exponent = arguments
    logarithm = apply("log", select(base > 0.0, base, 1.0))
    return [g * exponent * apply("pow", base, exponent - 1.0), g * r * logarithm]


def _quotient_times(g: Scalar, r: Scalar, arguments: Sequence[Scalar]) -> Sequence[Scalar]:
    a, b = arguments
    return [g, -g * apply("round", (a - r) / b)]


def _extreme(g: Scalar, r: Scalar, arguments: Sequence[Scalar]) -> Sequence[Scalar]:
    # Equal extremes share.
    chosen = select(apply("equal", arguments[0], r), g * 0.0 + 1.0, 0.0)
    return [g * chosen / reduce("sum", chosen)]


def _of_one(derivative: Callable[[Scalar, Scalar], Scalar]) -> Rule:
    """The rule of a function of one argument; ``derivative(argument, result)``."""
    return lambda g, r, arguments: [g * derivative(arguments[0], r)]


_RULES: dict[str, Rule] = {
    "add": lambda g, r, arguments: [g, g],
    "sub": lambda g, r, arguments: [g, -g],
    "mul": lambda g, r, arguments: [g * arguments[1], g * arguments[0]],
    "div": lambda g, r, arguments: [g / arguments[1], -g * r / arguments[1]],
    "mod": _quotient_times,
    "remainder": _quotient_times,
    "pow": _power,
    "min": _smaller_or_larger,
    "max": _smaller_or_larger,
    "neg": lambda g, r, arguments: [-g],
    "abs": _of_one(lambda a, r: apply("sign", a)),
    "sqrt": _of_one(lambda a, r: 0.5 / r),
    "exp": _of_one(lambda a, r: r),
    "expm1": _of_one(lambda a, r: r + 1.0),
    "log": _of_one(lambda a, r: 1.0 / a),
    "log1p": _of_one(lambda a, r: 1.0 / (a + 1.0)),
    "erf": _of_one(lambda a, r: apply("exp", -(a * a)) * (2 / math.sqrt(math.pi))),
    "tanh": _of_one(lambda a, r: 1.0 - r * r),
    "sigmoid": _of_one(lambda a, r: r * (1.0 - r)),
    "sin": _of_one(lambda a, r: apply("cos", a)),
    "cos": _of_one(lambda a, r: -apply("sin", a)),
    "tan": _of_one(lambda a, r: r * r + 1.0),
    "asin": _of_one(lambda a, r: 1.0 / apply("sqrt", 1.0 - a * a)),
    "acos": _of_one(lambda a, r: -1.0 / apply("sqrt", 1.0 - a * a)),
    "atan": _of_one(lambda a, r: 1.0 / (a * a + 1.0)),
    "sinh": _of_one(lambda a, r: apply("cosh", a)),
    "cosh": _of_one(lambda a, r: apply("sinh", a)),
    "asinh": _of_one(lambda a, r: 1.0 / apply("sqrt", a * a + 1.0)),
    "acosh": _of_one(lambda a, r: 1.0 / apply("sqrt", a * a - 1.0)),
    "atanh": _of_one(lambda a, r: 1.0 / (1.0 - a * a)),
    "select": lambda g, r, arguments: [g, select(arguments[0], g, 0.0), select(arguments[0], 0.0, g)],
    "reduce_sum": lambda g, r, arguments: [g],
    "reduce_max": _extreme,
    "reduce_min": _extreme,
}
