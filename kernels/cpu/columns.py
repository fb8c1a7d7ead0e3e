"""Columns: loops that step along one axis and are vectorised over another, several vectors at a time."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.emitter_core import Number

VECTORS = 4


@dataclass(frozen=True, slots=True)
class Group:
    """``count`` vectors of neighbouring positions from ``start`` on, of these the lanes in ``mask``."""

    start: ir.Value
    count: int
    mask: Mask | None


def for_groups(emitter: Emitter, first: Number, last: Number, body: Callable[[Group], None]) -> None:
    """Runs ``body`` for the positions from ``first`` up to ``last``, excluded; single vectors are masked.

    But for those of one lane, which are whole.
    """
    lanes = emitter.lanes
    count = emitter.sub(last, first)
    wide = emitter.add(first, emitter.mul(emitter.divide(count, lanes * VECTORS), lanes * VECTORS))
    with emitter.loop(first, wide, lanes * VECTORS) as start:
        body(Group(start, VECTORS, None))
    with emitter.loop(wide, last, lanes) as start:
        body(Group(start, 1, None if lanes == 1 else emitter.mask(emitter.sub(last, start))))


@dataclass(frozen=True, slots=True)
class Lane:
    """An operand along the vectorised axis: its type, and the bytes between lanes unless they adjoin."""

    dtype: DType
    step: ir.Value | None

    def at(self, emitter: Emitter, pointer: ir.Value, group: Group, vector: int) -> ir.Value:
        """Address of the first lane of a group's ``vector``-th vector, from that of position 0."""
        position = emitter.add(group.start, vector * emitter.lanes)
        return emitter.offset(
            pointer, emitter.mul(position, self.dtype.itemsize if self.step is None else self.step)
        )

    def load(self, emitter: Emitter, pointer: ir.Value, mask: Mask | None) -> ir.Value:
        if self.step is None:
            return emitter.load(pointer, self.dtype, mask)
        return emitter.load_strided(pointer, self.step, self.dtype, mask)

    def store(self, emitter: Emitter, value: ir.Value, pointer: ir.Value, mask: Mask | None) -> None:
        if self.step is None:
            emitter.store(value, pointer, self.dtype, mask)
        else:
            emitter.store_strided(value, pointer, self.step, self.dtype, mask)
