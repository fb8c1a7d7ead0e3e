"""How long each step of a CPU plan takes within a run.

The steps run as they always do: in order, in one call, with the team's helpers. Between them the plan's
step table gets rows whose kernel reads the clock, so nothing but a clock reading (about 30 ns, which is
measured in the same run and subtracted) comes between two steps, and caches hold what they hold in any run.
Timing steps by calls of their own from Python would let helpers fall asleep, and the interpreter use the
caches.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

import onnxplan
from onnxplan.compiler.plan import Step
from onnxplan.runtime.cpu.bound_plan import BoundPlan, Words
from onnxplan.runtime.cpu.executor import CpuExecutor
from onnxplan.runtime.cpu.layout import PlanWord, Status, StepMode, StepWord
from onnxplan.runtime.cpu.slot import Slot
from onnxplan.runtime.library import load_object
from onnxplan.runtime.planner import Request

LEAST_ROUNDS = 5
ROUND_LIMIT = 2000


@dataclass(frozen=True, slots=True)
class PlanTimes:
    """Medians in seconds: of each step, of a run, and of a run that reads the clock after each step."""

    plan: onnxplan.ExecutionPlan
    steps: tuple[float, ...]
    run: float
    stamped_run: float

    @property
    def timed_steps(self) -> list[tuple[int, Step, float]]:
        """Number, step and time of each step."""
        return [
            (number, step, seconds)
            for number, (step, seconds) in enumerate(zip(self.plan.steps, self.steps, strict=True))
        ]


class StampedPlan(BoundPlan):
    """A bound plan that reads the clock before each step and twice after the last.

    Row ``i`` of ``stamps`` holds the seconds and nanoseconds read before step ``i``. The interval between the
    last two rows is what a reading costs.
    """

    def __init__(self, bound: BoundPlan, executor: CpuExecutor) -> None:
        plan = bound.plan
        self._clock = load_object(_compile_clock(), "read_clock")
        self.stamps = np.zeros((len(plan.steps) + 2, 2), np.int64)
        addresses = dict(
            zip((step.kernel for step in plan.steps), bound._steps[:, StepWord.KERNEL], strict=True)
        )
        kernels = [int(addresses[kernel]) for kernel in plan.kernels]
        super().__init__(plan, bound.constants, kernels, executor._team)

    def _step_table(self, kernels: Mapping[Any, int], modes: list[int], grains: list[int]) -> Words:
        steps = super()._step_table(kernels, modes, grains)
        table = np.zeros((len(steps) + len(self.stamps), StepWord.WORDS), np.int64)
        places = [*range(0, 2 * len(steps) + 1, 2), 2 * len(steps) + 1]
        table[1 : 2 * len(steps) : 2] = steps
        for place, stamp in zip(places, self.stamps, strict=True):
            table[place, StepWord.KERNEL] = self._clock
            table[place, StepWord.PARAMETERS] = stamp.ctypes.data
            table[place, StepWord.MODE] = StepMode.ALONE
        return table

    def _fill_record(self, team: Any) -> None:
        super()._fill_record(team)
        self._record[PlanWord.STEP_COUNT] = len(self._steps)

    def intervals(self) -> npt.NDArray[np.float64]:
        """Seconds of each step in the latest run, what the reading costs included, and last that cost."""
        nanoseconds = 1_000_000_000 * self.stamps[:, 0] + self.stamps[:, 1]
        return np.diff(nanoseconds) * 1e-9


def _compile_clock() -> bytes:
    """``read_clock``, a kernel that writes the monotonic clock's ``timespec`` to its parameters.

    Source: https://pubs.opengroup.org/onlinepubs/9799919799/functions/clock_getres.html; 64-bit systems only.
    """
    from onnxplan.runtime.cpu.native_builder import NativeFunction, compile_module

    def build(module: Any) -> None:
        clock_gettime = NativeFunction(module, "clock_gettime", 2, body=False)
        f = NativeFunction(module, "read_clock", 5, exported=True)
        f.call(clock_gettime, time.CLOCK_MONOTONIC, f.arguments[1])
        f.give(0)

    return compile_module("bench.step_times", build)


def time_steps(
    session: onnxplan.InferenceSession, feeds: Mapping[str, npt.NDArray[Any]], seconds: float
) -> PlanTimes:
    """Times the plan of a CPU session for ``feeds`` (of several stages the first one's) for ``seconds``.

    Runs with and without stamps alternate, so that the machine's moods meet both.
    """
    names = tuple(name for name in session.input_names if name in feeds)
    stage = session._engine.first_stage(Request(names, tuple(feeds[name].shape for name in names)))
    executor: Any = stage.executor
    if not isinstance(executor, CpuExecutor) or executor._bound is None:
        raise ValueError(f"the session runs on {session.device}, not on the CPU")
    bound = executor._bound
    stamped = StampedPlan(bound, executor)
    executor._team.ensure(bound.helpers)
    slots = [Slot(each, executor._team.native) for each in (bound, stamped)]
    inputs = tuple(np.ascontiguousarray(feeds[name]) for name in stage.input_names)
    outputs = stage.allocate()
    totals, intervals = _run_rounds(slots, stamped, inputs, outputs, seconds)
    found = np.median(intervals, axis=0)
    steps = np.maximum(found[:-1] - found[-1], 0.0)
    run, stamped_run = np.median(totals, axis=0)
    return PlanTimes(bound.plan, tuple(steps.tolist()), float(run), float(stamped_run))


def _run_rounds(
    slots: Sequence[Slot],
    stamped: StampedPlan,
    inputs: tuple[Any, ...],
    outputs: tuple[Any, ...],
    limit: float,
) -> tuple[list[list[float]], list[npt.NDArray[np.float64]]]:
    """Times of each slot's run, and intervals of the stamped one's, for each round after a warm-up."""
    totals: list[list[float]] = []
    intervals: list[npt.NDArray[np.float64]] = []
    warm_up, end = True, time.perf_counter() + limit
    while len(totals) < LEAST_ROUNDS or (time.perf_counter() < end and len(totals) < ROUND_LIMIT):
        taken = []
        for slot in slots:
            start = time.perf_counter()
            status = slot.call(inputs, outputs)
            taken.append(time.perf_counter() - start)
            if status != Status.DONE:
                raise RuntimeError(f"the run ended with status {status}")
        if warm_up:
            warm_up, end = False, time.perf_counter() + limit
            continue
        totals.append(taken)
        intervals.append(stamped.intervals())
    return totals, intervals
