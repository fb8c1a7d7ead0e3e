"""What happens to a finished sum: the epilogue of MatMul and Conv, and the part of it that cuBLASLt does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, ExpressionBuilder, Instruction, identity
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.scalar import WIDE_FLOATS
from onnxplan.compiler.view import View, normal_strides


def epilogue_of(expression: Expression | None, accumulator: DType, output: View) -> Expression:
    """The epilogue of an operation: what it says, or the cast of the sum to the output's type.

    Raises ``NotImplementedError`` for an expression that uses coordinates or reductions.
    """
    if expression is None:
        if accumulator is output.dtype:
            return identity(accumulator)
        sum_and_cast = (
            Instruction("input", (0,), accumulator),
            Instruction("cast", (0,), output.dtype),
        )
        return Expression(sum_and_cast, (1,))
    if expression.has_reduction or any(i.op == "index" for i in expression.instructions):
        raise NotImplementedError(f"no matrix product has the epilogue {expression}")
    return expression


def in_place_extras(output: View, extras: Sequence[View], first: int) -> tuple[tuple[int, int], ...]:
    """Pairs of the output and those extras that lie exactly like it; the operands are extras from number
    ``first`` on, then the output."""
    wanted = normal_strides(output.shape, output.strides)
    return tuple(
        (first + len(extras), first + number)
        for number, extra in enumerate(extras)
        if extra.dtype is output.dtype
        and extra.shape == output.shape
        and normal_strides(extra.shape, extra.strides) == wanted
    )


def sum_of_parts(expression: Expression, accumulator: DType, parts: int) -> Expression:
    """``expression`` of the sum of ``parts`` inputs; its other inputs come after these."""
    builder = ExpressionBuilder()
    terms = [builder.add(Instruction("input", (number,), accumulator)) for number in range(parts)]
    while len(terms) > 1:
        pairs = [tuple(terms[at : at + 2]) for at in range(0, len(terms), 2)]
        terms = [
            builder.add(Instruction("add", pair, accumulator)) if len(pair) == 2 else pair[0]
            for pair in pairs
        ]

    def source(number: int, instruction: Instruction) -> int:
        if number == 0:
            return terms[0]
        return builder.add(Instruction("input", (number - 1 + parts,), instruction.dtype))

    return builder.build(builder.inline(expression, source))


@dataclass(frozen=True, slots=True)
class Division:
    """An epilogue in two parts.

    cuBLASLt stores ``dtype``: the sum, plus the extra number ``bias`` if there is one, and of that the
    largest of it and 0 if ``relu``. ``rest`` is the expression of that result (as input 0) and of the
    extras that remains to be done, or ``None``.
    """

    dtype: DType
    bias: int | None
    relu: bool
    rest: Expression | None

    @property
    def label(self) -> str:
        """The name of cuBLASLt's part in a step's variant."""
        return "_".join(["relu"] * self.relu + ["bias"] * (self.bias is not None)) or "none"


@dataclass(frozen=True, slots=True)
class _Value:
    """What an instruction yields: zero, an extra, or the sum with what was done to it."""

    kind: str
    number: int = 0
    bias: int | None = None
    relu: bool = False
    rounded: bool = False


def divide(
    expression: Expression,
    result_types: Sequence[DType],
    is_bias: Callable[[int, DType], bool],
    *,
    fast: bool,
) -> Division:
    """Gives as much of an epilogue to cuBLASLt as it does exactly.

    ``result_types`` are those that it may store, ``is_bias(extra, dtype)`` tells extras that it may add to
    a result of a type. ``fast`` allows it to add a bias to sums that the expression rounds before, and its
    ReLU, of which nothing is known for NaN.
    """
    values = _values(expression, fast=fast)
    for position in reversed(range(len(expression.instructions))):
        value, dtype = values[position], expression.instructions[position].dtype
        if value is None or value.kind != "sum" or dtype not in result_types:
            continue
        if value.bias is not None and not is_bias(value.bias, dtype):
            continue
        if position == expression.outputs[0]:
            return Division(dtype, value.bias, value.relu, None)
        rest = _rest(expression, position)
        if rest is not None:
            return Division(dtype, value.bias, value.relu, rest)
    raise AssertionError("sums themselves can be stored")


def _values(expression: Expression, *, fast: bool) -> list[_Value | None]:
    values: list[_Value | None] = []
    for instruction in expression.instructions:
        value: _Value | None = None
        if instruction.op == "input":
            number = instruction.arguments[0]
            value = _Value("extra", number - 1) if number else _Value("sum")
        elif instruction.op == "constant":
            value = _Value("zero") if instruction.number == 0 else None
        else:
            operands = [values[position] for position in instruction.operands]
            source = expression.instructions[instruction.operands[0]].dtype
            if instruction.op == "cast":
                value = _cast(operands[0], source, instruction.dtype)
            elif instruction.op in ("add", "max"):
                value = _combined(instruction.op, operands, fast=fast)
        values.append(value)
    return values


def _cast(value: _Value | None, source: DType, result: DType) -> _Value | None:
    if value is None or source is result:
        return value
    if value.kind != "sum":
        return value if WIDE_FLOATS.get(source) is result else None
    if not value.rounded:
        return _Value("sum", 0, value.bias, value.relu, rounded=True)
    return None


def _combined(op: str, operands: Sequence[_Value | None], *, fast: bool) -> _Value | None:
    first, second = operands
    if first is None or second is None:
        return None
    if second.kind == "sum":
        first, second = second, first
    if first.kind != "sum":
        return None
    if op == "max" and second.kind == "zero" and fast:
        return _Value("sum", 0, first.bias, True, first.rounded)
    plain = first.bias is None and not first.relu and (fast or not first.rounded)
    if op == "add" and second.kind == "extra" and plain:
        return _Value("sum", 0, second.number, False, first.rounded)
    return None


def _rest(expression: Expression, position: int) -> Expression | None:
    """``expression`` with the value at ``position`` as its input 0, or ``None`` if it also needs the sum."""
    builder = ExpressionBuilder()
    moved: list[int] = []
    for number, instruction in enumerate(expression.instructions):
        if number == position:
            moved.append(builder.add(Instruction("input", (0,), instruction.dtype)))
        elif instruction.op == "input" and instruction.arguments[0] == 0:
            # Marks what still needs the sum: there is no operand with this number.
            moved.append(builder.add(Instruction("input", (-1,), instruction.dtype)))
        else:
            arguments = tuple(moved[a] for a in instruction.operands) or instruction.arguments
            moved.append(
                builder.add(Instruction(instruction.op, arguments, instruction.dtype, instruction.value))
            )
    rest = builder.build(tuple(moved[output] for output in expression.outputs))
    needs_sum = any(i.op == "input" and i.arguments[0] < 0 for i in rest.instructions)
    return None if needs_sum else rest
