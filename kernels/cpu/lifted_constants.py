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

    Plain numbers stay, those of other types than float32 and float64, those that anything but arithmetic
    reads, whose code may be made for them, and powers of two that vectors are divided by: that is a product.
    """
    instructions, words = list(expression.instructions), list[int]()
    kept = _kept(expression)
    for position, instruction in enumerate(instructions):
        if (
            instruction.op == "constant"
            and instruction.dtype in (DType.FLOAT32, DType.FLOAT64)
            and position not in kept
            and not instruction.is_plain
        ):
            instructions[position] = Instruction("parameter", (len(words),), instruction.dtype)
            words.append(float_word(instruction.number))
    if not words:
        return expression, ()
    return Expression(tuple(instructions), expression.outputs), tuple(words)


def _kept(expression: Expression) -> set[int]:
    """The positions that are read by more than arithmetic."""
    kept, reduced = set(expression.outputs), expression.reduced()
    for position, instruction in enumerate(expression.instructions):
        if instruction.op not in ARITHMETIC:
            kept.update(instruction.operands)
        elif instruction.op == "div" and not reduced[position]:
            divisor = expression.instructions[instruction.arguments[1]]
            if divisor.op == "constant" and abs(math.frexp(divisor.number)[0]) == 0.5:
                kept.add(instruction.arguments[1])
    return kept
