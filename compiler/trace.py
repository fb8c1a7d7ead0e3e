"""Writing scalar expressions as Python: ``trace(lambda x: x / (apply("exp", -x) + 1), (DType.FLOAT32,))``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, ExpressionBuilder, Instruction, constant
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.scalar import OPERATIONS

Number = int | float | bool


@dataclass(frozen=True, slots=True, eq=False)
class Scalar:
    """A traced value: a position in an expression under construction. Arithmetic appends instructions.

    Python numbers take the other operand's type. Comparisons yield booleans (``equal`` and ``not_equal``
    are functions: ``==`` compares the trace itself).
    """

    builder: ExpressionBuilder
    position: int

    @property
    def dtype(self) -> DType:
        return self.builder.instructions[self.position].dtype

    def __add__(self, other: Scalar | Number) -> Scalar:
        return apply("add", self, other)

    def __radd__(self, other: Number) -> Scalar:
        return apply("add", other, self)

    def __sub__(self, other: Scalar | Number) -> Scalar:
        return apply("sub", self, other)

    def __rsub__(self, other: Number) -> Scalar:
        return apply("sub", other, self)

    def __mul__(self, other: Scalar | Number) -> Scalar:
        return apply("mul", self, other)

    def __rmul__(self, other: Number) -> Scalar:
        return apply("mul", other, self)

    def __truediv__(self, other: Scalar | Number) -> Scalar:
        return apply("div", self, other)

    def __rtruediv__(self, other: Number) -> Scalar:
        return apply("div", other, self)

    def __neg__(self) -> Scalar:
        return apply("neg", self)

    def __lt__(self, other: Scalar | Number) -> Scalar:
        return apply("less", self, other)

    def __le__(self, other: Scalar | Number) -> Scalar:
        return apply("less_equal", self, other)

    def __gt__(self, other: Scalar | Number) -> Scalar:
        return apply("greater", self, other)

    def __ge__(self, other: Scalar | Number) -> Scalar:
        return apply("greater_equal", self, other)


def apply(op: str, *arguments: Scalar | Number) -> Scalar:
    """``op`` of traced values and numbers, at least one of them traced."""
    traced = [a for a in arguments if isinstance(a, Scalar)]
    builder = traced[0].builder
    typed = traced if op != "select" else [a for a in arguments[1:] if isinstance(a, Scalar)]
    if not typed:
        raise TypeError("select needs a traced value among its choices")
    condition = arguments[0]
    if op == "select" and isinstance(condition, Scalar) and condition.dtype is not DType.BOOL:
        raise TypeError(f"a condition is of type bool, not {condition.dtype}")
    dtype = typed[0].dtype
    if any(value.dtype is not dtype for value in typed):
        raise TypeError(f"{op} of {' and '.join(value.dtype.label for value in typed)}: the types differ")
    if dtype.kind not in OPERATIONS[op].kinds:
        raise TypeError(f"{op} is not defined for {dtype}")
    positions = tuple(
        a.position if isinstance(a, Scalar) else builder.add(constant(a, dtype)) for a in arguments
    )
    result = DType.BOOL if OPERATIONS[op].result == "bool" else dtype
    return Scalar(builder, builder.add(Instruction(op, positions, result)))


def select(condition: Scalar, if_true: Scalar | Number, if_false: Scalar | Number) -> Scalar:
    return apply("select", condition, if_true, if_false)


def cast(value: Scalar, dtype: DType, *, saturate: bool = False) -> Scalar:
    """``value`` converted to ``dtype``; the same value if it has that type."""
    if value.dtype is dtype:
        return value
    name = "cast_saturate" if saturate else "cast"
    return Scalar(value.builder, value.builder.add(Instruction(name, (value.position,), dtype)))


def reduce(kind: str, value: Scalar) -> Scalar:
    """``sum``, ``prod``, ``max`` or ``min`` of ``value`` over the reduced axes."""
    if value.dtype is DType.STRING:
        raise TypeError(f"{kind} is not defined for strings")
    instruction = Instruction(f"reduce_{kind}", (value.position,), value.dtype)
    return Scalar(value.builder, value.builder.add(instruction))


def index(value: Scalar, axis: int) -> Scalar:
    """The coordinate along ``axis`` of the iteration space; ``value`` is any value of the same trace."""
    return Scalar(value.builder, value.builder.add(Instruction("index", (axis,), DType.INT64)))


Body = Callable[..., "Scalar | Sequence[Scalar]"]


def trace(body: Body, dtypes: Sequence[DType]) -> Expression:
    """The expression that ``body`` computes of inputs of the types ``dtypes``; one output or several."""
    builder = ExpressionBuilder()
    inputs = [
        Scalar(builder, builder.add(Instruction("input", (number,), dtype)))
        for number, dtype in enumerate(dtypes)
    ]
    result = body(*inputs)
    outputs = [result] if isinstance(result, Scalar) else list(result)
    return builder.build(tuple(output.position for output in outputs))
