"""Scalar expressions as CUDA C statements."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import LEAVES, Expression, Instruction
from onnxplan.kernels.scalar import cuda_expression
from onnxplan.kernels.scalar_cuda import compute_type

Names = dict[int, str]
"""The C expression (a name or a literal) that holds the value of each instruction computed so far."""


def literal(instruction: Instruction) -> str:
    """A constant instruction as an exact C literal."""
    return literal_of(instruction.number, instruction.dtype)


def literal_of(number: int | float, dtype: DType) -> str:
    """``number`` as an exact C literal of the type that elements of ``dtype`` are computed in."""
    if dtype is DType.FLOAT64:
        bits = struct.unpack("<Q", struct.pack("<d", number))[0]
        return f"__longlong_as_double((long long)0x{bits:x}ull)"
    if dtype.is_float:
        bits = struct.unpack("<I", struct.pack("<f", number))[0]
        return f"__uint_as_float(0x{bits:x}u)"
    if dtype is DType.BOOL:
        return "true" if number else "false"
    unsigned = int(number) & ((1 << 8 * dtype.itemsize) - 1)
    return f"(({compute_type(dtype)})0x{unsigned:x}ull)"


def statements(
    expression: Expression,
    positions: Iterable[int],
    names: Names,
    leaf: Callable[[Instruction], str],
) -> list[str]:
    """Statements that compute the instructions at ``positions`` and what they need, where not in ``names``.

    ``leaf`` gives the C expression of an ``input`` (in its compute type) or ``index`` (``long long``)
    instruction. Reductions must be in ``names`` already. ``names`` gains what is computed.
    """
    lines: list[str] = []
    for position in _needed(expression, positions, names):
        instruction = expression.instructions[position]
        if instruction.op == "constant":
            names[position] = literal(instruction)
            continue
        if instruction.op in LEAVES:
            value = leaf(instruction)
        else:
            operand = expression.instructions[instruction.arguments[-1]].dtype
            value = cuda_expression(
                instruction.op, operand, instruction.dtype, *(names[a] for a in instruction.arguments)
            )
        names[position] = f"v{position}"
        lines.append(f"const {compute_type(instruction.dtype)} v{position} = {value};")
    return lines


def _needed(expression: Expression, positions: Iterable[int], names: Names) -> list[int]:
    found: set[int] = set()
    pending = list(positions)
    while pending:
        position = pending.pop()
        if position not in found and position not in names:
            found.add(position)
            pending.extend(expression.instructions[position].operands)
    return sorted(found)
