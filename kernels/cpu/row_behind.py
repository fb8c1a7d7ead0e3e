"""The row that a kernel of rows still has to write while it reduces the next one.

Where results are written past the caches, memory would be written in one pass and read in the others. So the
pass that writes is one row late, beside one that reads.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from onnxplan.compiler.expression import REDUCTIONS, Expression, Instruction
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.llvm_types import compute_type
from onnxplan.kernels.phases import reduction_identity

Values = dict[int, ir.Value]


@dataclass(frozen=True, slots=True)
class Beside:
    """Work that may be done beside the first ``extent`` elements of a pass: ``body``, from ``first`` on."""

    first: ir.Value
    extent: ir.Value
    body: Callable[[list[ir.Value], Mask | None], None]

    def after(
        self, emitter: Emitter, body: Callable[[list[ir.Value], Mask | None], None]
    ) -> Callable[[list[ir.Value]], None]:
        """``body`` for whole vectors, and this work for as many behind it."""

        def both(indices: list[ir.Value]) -> None:
            body(indices, None)
            self.body([emitter.add(self.first, index) for index in indices], None)

        return both


class RowBehind:
    """The row whose results are still to be written: none of them (an extent of 0) at first."""

    def __init__(self, emitter: Emitter, expression: Expression, operands: int) -> None:
        zero = emitter.integer(0)
        self._offsets = [emitter.variable(zero) for _ in range(operands)]
        self._reduced = {
            position: emitter.variable(identity(emitter, instruction))
            for position, instruction in enumerate(expression.instructions)
            if instruction.op in REDUCTIONS
        }
        self.extent = emitter.variable(zero)
        self.half = emitter.variable(zero)
        """Which half of the scratch the row after it uses."""

    def offsets(self) -> list[ir.Value]:
        return [variable.value for variable in self._offsets]

    def reduced(self) -> Values:
        return {position: variable.value for position, variable in self._reduced.items()}

    def keep(self, emitter: Emitter, offsets: list[ir.Value], extent: ir.Value, reduced: Values) -> None:
        """From here on it is the row at ``offsets``."""
        for variable, offset in zip(self._offsets, offsets, strict=True):
            variable.value = offset
        for position, variable in self._reduced.items():
            variable.value = reduced[position]
        self.extent.value = extent
        self.half.value = emitter.sub(1, self.half.value)


def identity(emitter: Emitter, instruction: Instruction) -> ir.Value:
    """What a reduction over nothing gives, in all lanes."""
    value = reduction_identity(instruction.op, instruction.dtype)
    return emitter.fill(value, compute_type(instruction.dtype))
