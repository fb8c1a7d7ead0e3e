"""Scalar expressions: what a generated kernel computes at each point of its iteration space.

An expression is a list of instructions in static single assignment form. It is a value: hashable,
comparable, printable, and exact (floats are kept as hexadecimal strings, so ``-0.0`` is not ``0.0`` and
NaN equals itself), because it is also the name of the kernel that is generated from it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from functools import cached_property

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass

REDUCTIONS = ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min")
LEAVES = ("input", "constant", "parameter", "index")
UNIFORM = ("constant", "parameter")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One scalar operation.

    ``op`` is a name of :mod:`onnxplan.compiler.scalar`, a leaf or a reduction:

    * ``input``: ``arguments`` is ``(number of the operand,)``;
    * ``constant``: ``value`` is an int (also for booleans) or a float as ``float.hex`` gives it;
    * ``parameter``: ``arguments`` is ``(number,)``; a number that a kernel is told, only in names of kernels;
    * ``index``: ``arguments`` is ``(axis,)``, the coordinate along that axis, ``int64``;
    * ``reduce_*``: combines its argument over the reduced axes of the operation; the result is the same
      at all points that differ only in those axes.

    For all others ``arguments`` are positions of earlier instructions. ``dtype`` is the result's.
    """

    op: str
    arguments: tuple[int, ...]
    dtype: DType
    value: int | str | None = None

    @property
    def operands(self) -> tuple[int, ...]:
        """Positions of the instructions that this one reads."""
        return () if self.op in LEAVES else self.arguments

    @property
    def number(self) -> int | float:
        """The constant's value as a Python number."""
        assert self.value is not None
        return float.fromhex(self.value) if isinstance(self.value, str) else self.value

    @property
    def is_plain(self) -> bool:
        """Is the constant a small multiple of a half, infinite, or no number: one that many models share?"""
        value = self.number
        return not math.isfinite(value) or (abs(value) <= 256 and value * 2 == int(value * 2))


@dataclass(frozen=True)
class Expression:
    """Instructions in order of evaluation, and the positions of the results.

    What follows from them is computed once: passes ask for it again and again.
    """

    instructions: tuple[Instruction, ...]
    outputs: tuple[int, ...]

    @cached_property
    def _hash(self) -> int:
        return hash((self.instructions, self.outputs))

    def __hash__(self) -> int:
        return self._hash

    @property
    def dtypes(self) -> tuple[DType, ...]:
        """Element types of the results."""
        return tuple(self.instructions[position].dtype for position in self.outputs)

    @cached_property
    def input_count(self) -> int:
        """One more than the largest operand number read."""
        return max((i.arguments[0] + 1 for i in self.instructions if i.op == "input"), default=0)

    @cached_property
    def has_reduction(self) -> bool:
        return any(i.op in REDUCTIONS for i in self.instructions)

    @cached_property
    def reads_index(self) -> bool:
        """Does it hang on coordinates?"""
        return any(instruction.op == "index" for instruction in self.instructions)

    @cached_property
    def cost(self) -> int:
        """Number of arithmetic instructions; transcendental ones count as 10, those of constants as none."""
        total = 0
        fixed: list[bool] = []
        for instruction in self.instructions:
            fixed.append(
                instruction.op in UNIFORM
                or (instruction.op not in LEAVES and all(fixed[a] for a in instruction.arguments))
            )
            if instruction.op not in LEAVES and not fixed[-1]:
                total += 10 if instruction.op in TRANSCENDENTAL else 1
        return total

    def reduced(self) -> tuple[bool, ...]:
        """For each instruction: is it constant along the reduced axes because it hangs on reductions only?

        Constants and parameters count as reduced; inputs and indices do not.
        """
        return self._reduced

    @cached_property
    def _reduced(self) -> tuple[bool, ...]:
        flags: list[bool] = []
        for instruction in self.instructions:
            if instruction.op in REDUCTIONS or instruction.op in UNIFORM:
                flags.append(True)
            elif instruction.op in LEAVES:
                flags.append(False)
            else:
                flags.append(all(flags[a] for a in instruction.arguments))
        return tuple(flags)

    def __str__(self) -> str:
        """Nested calls; what is used repeatedly gets a name: ``t3 = exp(x0); div(t3, reduce_sum(t3))``."""
        uses = [0] * len(self.instructions)
        for instruction in self.instructions:
            for operand in instruction.operands:
                uses[operand] += 1
        text: list[str] = []
        definitions: list[str] = []
        for position, instruction in enumerate(self.instructions):
            rendered = _render(instruction, text)
            if uses[position] > 1 and instruction.op not in LEAVES:
                definitions.append(f"t{position} = {rendered}")
                rendered = f"t{position}"
            text.append(rendered)
        return "; ".join([*definitions, ", ".join(text[output] for output in self.outputs)])

    def to_json(self) -> list[object]:
        return [
            [[i.op, list(i.arguments), i.dtype.label, i.value] for i in self.instructions],
            list(self.outputs),
        ]

    @staticmethod
    def from_json(data: list[object]) -> Expression:
        instructions, outputs = data
        assert isinstance(instructions, list)
        assert isinstance(outputs, list)
        return Expression(
            tuple(
                Instruction(op, tuple(arguments), DType.from_label(label), value)
                for op, arguments, label, value in instructions
            ),
            tuple(outputs),
        )


TRANSCENDENTAL = frozenset(
    [
        "exp",
        "log",
        "log1p",
        "expm1",
        "pow",
        "erf",
        "tanh",
        "sigmoid",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "asinh",
        "acosh",
        "atanh",
    ]
)


def _render(instruction: Instruction, text: list[str]) -> str:
    if instruction.op == "input":
        return f"x{instruction.arguments[0]}"
    if instruction.op == "parameter":
        return f"p{instruction.arguments[0]}"
    if instruction.op == "index":
        return f"i{instruction.arguments[0]}"
    if instruction.op == "constant":
        return f"{instruction.number:.9g}" if isinstance(instruction.value, str) else str(instruction.value)
    name = f"cast<{instruction.dtype}>" if instruction.op.startswith("cast") else instruction.op
    return f"{name}({', '.join(text[argument] for argument in instruction.arguments)})"


def constant(value: float | int | bool, dtype: DType) -> Instruction:
    """The instruction that yields ``value`` of type ``dtype``."""
    exact = float(value).hex() if dtype.is_float else int(value)
    return Instruction("constant", (), dtype, exact)


class ExpressionBuilder:
    """Collects instructions; equal ones are kept once."""

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []
        self._positions: dict[Instruction, int] = {}

    def add(self, instruction: Instruction) -> int:
        """Position of ``instruction``, appended if it is new."""
        position = self._positions.get(instruction)
        if position is None:
            position = self._positions[instruction] = len(self.instructions)
            self.instructions.append(instruction)
        return position

    def inline(
        self,
        expression: Expression,
        inputs: Callable[[int, Instruction], int],
        index: Callable[[Instruction], int] | None = None,
    ) -> tuple[int, ...]:
        """Appends ``expression``; ``inputs(number, instruction)`` says which position replaces an input.

        ``index`` does the same for ``index`` instructions (kept as they are without it). Returns the
        positions of the expression's outputs.
        """
        positions: list[int] = []
        for instruction in expression.instructions:
            if instruction.op == "input":
                positions.append(inputs(instruction.arguments[0], instruction))
            elif instruction.op == "index" and index is not None:
                positions.append(index(instruction))
            elif instruction.op in LEAVES:
                positions.append(self.add(instruction))
            else:
                arguments = tuple(positions[a] for a in instruction.arguments)
                positions.append(
                    self.add(Instruction(instruction.op, arguments, instruction.dtype, instruction.value))
                )
        return tuple(positions[output] for output in expression.outputs)

    def build(self, outputs: tuple[int, ...]) -> Expression:
        """The expression of ``outputs``, without instructions that they do not need."""
        needed: set[int] = set()
        pending = list(outputs)
        while pending:
            position = pending.pop()
            if position not in needed:
                needed.add(position)
                pending.extend(self.instructions[position].operands)
        moved: dict[int, int] = {}
        kept: list[Instruction] = []
        for position in sorted(needed):
            instruction = self.instructions[position]
            moved[position] = len(kept)
            if instruction.op in LEAVES:
                kept.append(instruction)
            else:
                arguments = tuple(moved[a] for a in instruction.arguments)
                kept.append(Instruction(instruction.op, arguments, instruction.dtype, instruction.value))
        return Expression(tuple(kept), tuple(moved[output] for output in outputs))


@functools.cache
def identity(dtype: DType) -> Expression:
    """The expression that returns its only input: a copy."""
    return Expression((Instruction("input", (0,), dtype),), (0,))
