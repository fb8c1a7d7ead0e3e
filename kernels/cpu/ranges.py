"""Between which numbers the values of an expression lie, so far as it is written in the expression."""

from __future__ import annotations

import math

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression

Range = tuple[float, float]

_BYTES = {
    DType.INT8: (-128.0, 127.0),
    DType.UINT8: (0.0, 255.0),
    DType.INT16: (-32768.0, 32767.0),
    DType.UINT16: (0.0, 65535.0),
}


def bounds(expression: Expression, position: int) -> Range | None:
    """The least and the largest value of an instruction, maybe infinite; ``None`` where it may be NaN or is
    not known at all.

    Knows what saturation is written with: constants, small integers, their sums, ``min``, ``round``, casts to
    wider types and ``select(x > lowest, x, lowest)``, which is never NaN.
    """
    instruction = expression.instructions[position]
    op, dtype, arguments = instruction.op, instruction.dtype, instruction.arguments
    if op == "constant":
        number = float(instruction.number)
        return None if math.isnan(number) else (number, number)
    if op == "input":
        return _BYTES.get(dtype)
    if op == "select":
        return _raised(expression, arguments)
    if op in ("round", "cast") and (dtype in (DType.FLOAT32, DType.FLOAT64, DType.INT32) or op == "round"):
        return bounds(expression, arguments[0])
    if op not in ("min", "add", "sub"):
        return None
    first, second = (bounds(expression, argument) for argument in arguments)
    if first is None or second is None:
        return None
    if op == "min":
        return min(first[0], second[0]), min(first[1], second[1])
    if any(map(math.isinf, (*first, *second))):
        return None
    if op == "add":
        return first[0] + second[0], first[1] + second[1]
    return first[0] - second[1], first[1] - second[0]


def _raised(expression: Expression, arguments: tuple[int, ...]) -> Range | None:
    condition, chosen, lowest = arguments
    comparison = expression.instructions[condition]
    if comparison.op != "greater" or comparison.arguments != (chosen, lowest):
        return None
    least = bounds(expression, lowest)
    return None if least is None else (least[0], math.inf)
