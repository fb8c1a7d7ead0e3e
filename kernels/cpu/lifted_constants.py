"""Numbers of expressions as parameters of kernels, so that models that differ in them share kernels.

Lengths of rows, epsilons and scales differ between models; the code that reads them does not.
"""

from __future__ import annotations

import functools
import math

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, Instruction
from onnxplan.kernels.float_words import float_word

ARITHMETIC = frozenset(("add", "sub", "mul", "div"))


@functools.lru_cache(maxsize=4096)
def lift_constants(expression: Expression) -> tuple[Expression, tuple[int, ...]]:
    """The expression with ``parameter`` instructions for numbers, at the same positions, and their words.

    Numbers of other types than float32 and float64 stay, plain ones, and those that code may be made for:
    what anything but arithmetic reads, and powers of two that vectors are divided by, which is a product.
    """
    instructions, words = list(expression.instructions), list[int]()
    kept = _kept(expression)
    for position, instruction in enumerate(instructions):
        if (
            instruction.op == "constant"
            and instruction.dtype in (DType.FLOAT32, DType.FLOAT64)
            and position not in kept
        ):
            instructions[position] = Instruction("parameter", (len(words),), instruction.dtype)
            words.append(float_word(instruction.number))
    if not words:
        return expression, ()
    return Expression(tuple(instructions), expression.outputs), tuple(words)


def _kept(expression: Expression) -> set[int]:
    """The positions of constants that stay."""
    instructions, reduced = expression.instructions, expression.reduced()
    kept = set(expression.outputs)
    for position, instruction in enumerate(instructions):
        operands = [operand for operand in instruction.operands if instructions[operand].op == "constant"]
        if instruction.op not in ARITHMETIC:
            kept.update(operands)
        elif reduced[position]:
            # Once for all points: whatever the number is, there is nothing to gain.
            kept.update(operand for operand in operands if abs(instructions[operand].number) in (0.0, 1.0))
        else:
            divisor = instruction.arguments[1] if instruction.op == "div" else -1
            for operand in operands:
                constant = instructions[operand]
                if constant.is_plain or (operand == divisor and _is_power_of_two(constant.number)):
                    kept.add(operand)
    return kept


def _is_power_of_two(number: float) -> bool:
    return abs(math.frexp(number)[0]) == 0.5
