"""The expressions of single operations, made once for each combination of types."""

from __future__ import annotations

import functools

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, Instruction, constant
from onnxplan.compiler.scalar import OPERATIONS


@functools.lru_cache(maxsize=4096)
def scalar_expression(op: str, dtypes: tuple[DType, ...]) -> Expression:
    """The expression of one scalar operation; raises ``TypeError`` for types that it is not defined for."""
    definition = OPERATIONS[op]
    operands = dtypes[1:] if op == "select" else dtypes
    if op == "select" and dtypes[0] is not DType.BOOL:
        raise TypeError(f"a condition is of type bool, not {dtypes[0]}")
    if any(dtype is not operands[0] for dtype in operands):
        raise TypeError(f"{op} of {' and '.join(dtype.label for dtype in operands)}: the types differ")
    if operands[0].kind not in definition.kinds:
        raise TypeError(f"{op} is not defined for {operands[0]}")
    result = DType.BOOL if definition.result == "bool" else operands[0]
    inputs = tuple(Instruction("input", (number,), dtype) for number, dtype in enumerate(dtypes))
    return Expression((*inputs, Instruction(op, tuple(range(len(dtypes))), result)), (len(dtypes),))


@functools.lru_cache(maxsize=256)
def reduce_expression(kind: str, dtype: DType) -> Expression:
    if dtype is DType.STRING:
        raise TypeError(f"{kind} is not defined for strings")
    return Expression((Instruction("input", (0,), dtype), Instruction(f"reduce_{kind}", (0,), dtype)), (1,))


@functools.lru_cache(maxsize=1024)
def cast_expression(source: DType, target: DType, saturate: bool) -> Expression:
    op = "cast_saturate" if saturate else "cast"
    return Expression((Instruction("input", (0,), source), Instruction(op, (0,), target)), (1,))


def constant_expression(value: float | int | bool, dtype: DType) -> Expression:
    return Expression((constant(value, dtype),), (0,))
