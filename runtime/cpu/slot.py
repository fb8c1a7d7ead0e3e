"""A slot: what one run in flight needs for itself, in one block of memory that is allocated once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.runtime.cpu.bound_plan import BoundPlan
from onnxplan.runtime.cpu.layout import LINE, SlotWord, Status
from onnxplan.runtime.cpu.native_executor import Caller, NativeExecutor

Arrays = Sequence[npt.NDArray[Any]]

ALIGNMENT = 8 * LINE


def slot_bytes(bound: BoundPlan) -> int:
    """Bytes that a slot for the plan takes."""
    return _starts(_sizes(bound))[-1]


def _sizes(bound: BoundPlan) -> tuple[int, ...]:
    """Bytes of record, array addresses, operand table, scratch and arena."""
    plan = bound.plan
    arrays = len(plan.inputs) + len(plan.outputs)
    scratch = bound.scratch_stride * (bound.helpers + 1)
    return 8 * SlotWord.WORDS, 8 * arrays, 8 * len(bound.operands), scratch, plan.arena_bytes


def _starts(sizes: Sequence[int]) -> tuple[int, ...]:
    """Where parts of these sizes begin, one after the other, and where the last one ends."""
    return tuple(accumulate((-(-size // ALIGNMENT) * ALIGNMENT for size in sizes), initial=0))


class Slot:
    """Record, array addresses, operand table, scratch of each worker, and arena. Used by one run at a time.

    ``MemoryError`` where the block cannot be allocated.
    """

    def __init__(self, bound: BoundPlan, native: NativeExecutor) -> None:
        sizes = _sizes(bound)
        starts = _starts(sizes)
        self.bytes = starts[-1]
        """Bytes of the block."""
        block = np.empty(self.bytes + ALIGNMENT, np.uint8)
        shift = -block.ctypes.data % ALIGNMENT
        self._block = block[shift : shift + self.bytes]
        self.address = int(self._block.ctypes.data)
        _, addresses, operands, scratch, arena = (self.address + start for start in starts[:-1])
        record = self._block[: sizes[0]].view(np.int64)
        record[SlotWord.PLAN] = bound.address
        record[SlotWord.ADDRESSES] = addresses
        record[SlotWord.OPERANDS] = operands
        record[SlotWord.SCRATCH] = scratch
        table = self._block[starts[2] : starts[2] + sizes[2]].view(np.int64)
        np.add(bound.operands, np.where(bound.arena_operands, arena, 0), out=table)
        self.arena, self.scratch = arena, scratch
        self._addresses = self._block[starts[1] : starts[1] + sizes[1]].view(np.int64)
        self._native = native
        self.call: Caller = native.caller(self.address) or self._call_with_addresses
        """``call(inputs, outputs[, cancel])`` runs the plan on tuples of arrays and gives the status.

        ``cancel`` is the address of a cancellation word; without it the arrays are checked first.
        """

    def _call_with_addresses(self, inputs: Arrays, outputs: Arrays, cancel: int | None = None) -> int:
        """The call where native code cannot look into the interpreter's objects."""
        if cancel is None:
            return Status.BAD_ARGUMENTS
        self._addresses[:] = [array.ctypes.data for array in (*inputs, *outputs)]
        return self._native.run(self.address, cancel)
