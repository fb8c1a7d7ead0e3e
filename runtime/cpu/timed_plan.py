"""Bound plans whose runs tell how long each step took, or which worker computed which tiles when.

The steps run as they always do: in order, in one call, with the team's helpers. Only the step table is
another one, so that other runs pay nothing. Timing steps by calls of their own from Python would let helpers
fall asleep, and the interpreter use the caches.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.runtime.cancellation import CancelFlag
from onnxplan.runtime.cpu.bound_plan import BoundPlan, Words
from onnxplan.runtime.cpu.executor import CpuExecutor
from onnxplan.runtime.cpu.layout import EventWord, PlanWord, StepMode, StepWord, TraceWord
from onnxplan.runtime.cpu.slot import Arrays, Slot
from onnxplan.runtime.library import LOADER, tool_key
from onnxplan.runtime.store import KernelStore, StoredCode, content_key

SOURCES = ("clock_source.py", "layout.py", "native_builder.py")
FUNCTIONS = ("read_clock", "traced_kernel")
LEAST_SCRATCH = 1
"""Workers are told apart by their scratch, so there is some."""


def has_step_clock() -> bool:
    """Does this system have the clock that steps read?"""
    return hasattr(time, "CLOCK_MONOTONIC")


def clock_nanoseconds() -> int:
    """A reading of the clock that the steps read."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@functools.lru_cache(maxsize=1)
def _clock_functions(store: KernelStore) -> Mapping[str, int]:
    """The addresses of :data:`FUNCTIONS`, whose code is kept in ``store``.

    ``NotImplementedError`` on systems without POSIX clocks.
    """
    if not has_step_clock():
        raise NotImplementedError("this system has no clock_gettime, which the steps of a profile read")
    folder = Path(__file__).parent
    key = content_key("clock", tool_key(), *((folder / name).read_bytes() for name in SOURCES))
    entry = store.get(key)
    if entry is None:
        from onnxplan.runtime.cpu.clock_source import compile_clock

        entry = StoredCode("read_clock", compile_clock())
        store.put(key, entry, "cpu")
    return dict(zip(FUNCTIONS, LOADER.load(entry.code, FUNCTIONS), strict=True))


class _OtherTable(BoundPlan):
    """A bound plan of an executor with another step table."""

    def __init__(self, executor: CpuExecutor, *, scratch: int = 0) -> None:
        bound = executor.bound
        self._functions = _clock_functions(executor.store)
        plan = replace(bound.plan, scratch_bytes=max(scratch, bound.plan.scratch_bytes))
        super().__init__(plan, bound.constants, bound.kernel_addresses, executor.team)


class StampedPlan(_OtherTable):
    """A bound plan that reads the clock before each step and twice after the last.

    Row ``i`` of ``stamps`` holds the seconds and nanoseconds read before step ``i``. The interval between the
    last two rows is what a reading costs.
    """

    def __init__(self, executor: CpuExecutor) -> None:
        self.stamps = np.zeros((len(executor.plan.steps) + 2, 2), np.int64)
        super().__init__(executor)

    def _step_table(self, kernels: Mapping[Any, int], modes: list[int], grains: list[int]) -> Words:
        steps = super()._step_table(kernels, modes, grains)
        table = np.zeros((len(steps) + len(self.stamps), StepWord.WORDS), np.int64)
        places = [*range(0, 2 * len(steps) + 1, 2), 2 * len(steps) + 1]
        table[1 : 2 * len(steps) : 2] = steps
        for place, stamp in zip(places, self.stamps, strict=True):
            table[place, StepWord.KERNEL] = self._functions["read_clock"]
            table[place, StepWord.PARAMETERS] = stamp.ctypes.data
            table[place, StepWord.MODE] = StepMode.ALONE
        return table

    def _fill_record(self, team: Any) -> None:
        super()._fill_record(team)
        self._record[PlanWord.STEP_COUNT] = len(self._steps)

    def readings(self) -> Words:
        """The clock in nanoseconds before each step of the latest run, and twice after the last one."""
        return 1_000_000_000 * self.stamps[:, 0] + self.stamps[:, 1]

    def intervals(self) -> npt.NDArray[np.float64]:
        """Seconds of each step in the latest run, what the reading costs included, and last that cost."""
        return np.diff(self.readings()) * 1e-9


class TracedPlan(_OtherTable):
    """A bound plan whose kernels note each of their calls, one run at a time."""

    def __init__(self, executor: CpuExecutor) -> None:
        super().__init__(executor, scratch=LEAST_SCRATCH)

    def _step_table(self, kernels: Mapping[Any, int], modes: list[int], grains: list[int]) -> Words:
        table = super()._step_table(kernels, modes, grains)
        shared = table[:, StepWord.MODE] != StepMode.ALONE
        pieces = -(-table[:, StepWord.TILES] // table[:, StepWord.GRAIN])
        events = int(np.where(shared, pieces, 1).sum())
        self._log = np.zeros(TraceWord.EVENTS + events * EventWord.WORDS, np.int64)
        self._records = np.zeros((len(table), TraceWord.WORDS), np.int64)
        self._records[:, TraceWord.KERNEL] = table[:, StepWord.KERNEL]
        self._records[:, TraceWord.PARAMETERS] = table[:, StepWord.PARAMETERS]
        self._records[:, TraceWord.STEP] = np.arange(len(table))
        self._records[:, TraceWord.LOG] = self._log.ctypes.data
        table[:, StepWord.KERNEL] = self._functions["traced_kernel"]
        table[:, StepWord.PARAMETERS] = [record.ctypes.data for record in self._records]
        return table

    def take_events(self, scratch: int) -> Words:
        """The events of the latest run in the order of their beginning, one a row, and forgets them.

        Columns: worker, step, first and last tile, and when it began and ended by the clock, in nanoseconds.
        ``scratch`` is the address of the first worker's.
        """
        count, self._log[0] = int(self._log[0]), 0
        words = self._log[TraceWord.EVENTS :].reshape(-1, EventWord.WORDS)[:count]
        found = np.empty((count, 6), np.int64)
        found[:, 0] = (words[:, EventWord.SCRATCH] - scratch) // self.scratch_stride
        found[:, 1:4] = words[:, EventWord.STEP : EventWord.LAST + 1]
        for column, word in ((4, EventWord.BEGIN), (5, EventWord.END)):
            found[:, column] = 1_000_000_000 * words[:, word] + words[:, word + 1]
        return found[np.argsort(found[:, 4], kind="stable")]


class StepTimer:
    """Runs the plan of an executor and tells how long its steps took. For one thread at a time."""

    def __init__(self, executor: CpuExecutor) -> None:
        self._executor = executor
        self._stamped = StampedPlan(executor)
        self._slot = Slot(self._stamped, executor.team.native)

    def run(
        self, inputs: Arrays, outputs: Arrays, cancel: CancelFlag | None = None
    ) -> tuple[float, npt.NDArray[np.float64]]:
        """The seconds of a run, what reading the clock costs left out, and those of each of its steps.

        Arguments and errors are those of :meth:`CpuExecutor.run`.
        """
        start = time.perf_counter()
        self._executor.run_slot(self._slot, inputs, outputs, cancel)
        total = time.perf_counter() - start
        intervals = self._stamped.intervals()
        reading = intervals[-1]
        return total - len(self._stamped.stamps) * reading, np.maximum(intervals[:-1] - reading, 0.0)

    def readings(self) -> Words:
        """:meth:`StampedPlan.readings` of the latest run."""
        return self._stamped.readings()


class TileTracer:
    """Runs the plan of an executor and tells who computed what when. For one thread at a time."""

    def __init__(self, executor: CpuExecutor) -> None:
        self._executor = executor
        self._traced = TracedPlan(executor)
        self._slot = Slot(self._traced, executor.team.native)

    def run(self, inputs: Arrays, outputs: Arrays, cancel: CancelFlag | None = None) -> Words:
        """:meth:`TracedPlan.take_events` of a run; arguments and errors as of :meth:`CpuExecutor.run`."""
        try:
            self._executor.run_slot(self._slot, inputs, outputs, cancel)
        finally:
            events = self._traced.take_events(self._slot.scratch)
        return events
