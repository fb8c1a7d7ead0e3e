"""What happens to a finished sum: the epilogue of MatMul and Conv, as selectors see it."""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import TRANSCENDENTAL, Expression, Instruction, identity
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import View, normal_strides

# Arithmetic that is worth repeating for every accumulator, such as a requantisation.
CHEAP = 12


@dataclass(frozen=True, slots=True)
class Epilogue:
    """An expression of the sum and of extra operands, and how those and the output lie along the columns.

    ``accesses`` are those of the output and the extras: ``unit`` (neighbouring columns are neighbours in
    memory), ``same`` (one element for all columns) or ``strided``; ``dtypes`` their element types.
    """

    expression: Expression
    accumulator: DType
    dtypes: tuple[DType, ...]
    accesses: tuple[str, ...]

    @property
    def is_cheap(self) -> bool:
        """Is it worth repeating the code for every accumulator of a register tile?"""
        simple = all(i.op not in TRANSCENDENTAL for i in self.expression.instructions)
        return simple and self.expression.cost <= CHEAP and "strided" not in self.accesses

    @property
    def variant(self) -> Variant:
        dtypes = tuple([dtype.label for dtype in self.dtypes])
        return (self.expression, self.accumulator.label, dtypes, self.accesses)

    @staticmethod
    def from_variant(variant: Variant) -> Epilogue:
        expression, accumulator, dtypes, accesses = variant
        assert isinstance(expression, Expression)
        assert isinstance(accumulator, str)
        assert isinstance(dtypes, tuple)
        assert isinstance(accesses, tuple)
        return Epilogue(
            expression,
            DType.from_label(accumulator),
            tuple(DType.from_label(str(label)) for label in dtypes),
            tuple(str(access) for access in accesses),
        )


def describe_epilogue(
    expression: Expression | None, accumulator: DType, output: View, extras: Sequence[View], column_axis: int
) -> Epilogue:
    """The epilogue of an operation whose columns lie along ``column_axis`` of ``output`` and ``extras``.

    Raises ``NotImplementedError`` for an expression that uses coordinates or reductions.
    """
    if expression is None:
        expression = _cast(accumulator, output.dtype)
    if expression.has_reduction or expression.reads_index:
        raise NotImplementedError(f"no matrix product has the epilogue {expression}")
    views = (output, *extras)
    return Epilogue(
        expression,
        accumulator,
        tuple([view.dtype for view in views]),
        tuple([_access(view, column_axis, is_output=number == 0) for number, view in enumerate(views)]),
    )


def shared_with_output(output: View, extras: Sequence[View]) -> tuple[int, ...]:
    """Positions of the extras that have exactly the output's geometry, so that they may share its memory."""
    if not extras:
        return ()
    wanted = normal_strides(output.shape, output.strides)
    return tuple(
        number
        for number, extra in enumerate(extras)
        if extra.dtype is output.dtype
        and extra.shape == output.shape
        and normal_strides(extra.shape, extra.strides) == wanted
    )


def _access(view: View, axis: int, *, is_output: bool) -> str:
    stride = view.strides[axis]
    if stride == 1 or (is_output and view.shape[axis] == 1):
        return "unit"
    return "same" if stride == 0 or view.shape[axis] == 1 else "strided"


def _cast(source: DType, result: DType) -> Expression:
    if source is result:
        return identity(source)
    return Expression((Instruction("input", (0,), source), Instruction("cast", (0,), result)), (1,))
