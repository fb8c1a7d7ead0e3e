"""Runs that tell how long the device took for each step: launched one by one, with events in between.

The steps of a graph cannot be told apart, so they run without it, on one stream. What a launch costs the host
(some microseconds) is a lower limit of such times; graphs do not pay it, nor do they run branches in turn.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import numpy.typing as npt

from onnxplan.runtime.cancellation import CancelFlag
from onnxplan.runtime.cuda.executor import CudaExecutor
from onnxplan.runtime.device import AnyArray

STREAM = 1
"""The row of the stream in a timeline; that of the host is 0."""


class EventTimer:
    """Runs the plan of an executor and tells how long its steps took. For one thread at a time."""

    def __init__(self, executor: CudaExecutor) -> None:
        self._executor = executor
        self._readings = np.zeros(len(executor.plan.steps) + 2, np.int64)

    def run(
        self, inputs: Sequence[AnyArray], outputs: Sequence[AnyArray], cancel: CancelFlag | None = None
    ) -> tuple[float, npt.NDArray[np.float64]]:
        """The seconds of a run as the host sees it, and on the device those of each step.

        0 for steps that launch nothing. Arguments and errors are those of :meth:`CudaExecutor.run`.
        """
        executor = self._executor
        runtime = executor.context.api.runtime
        launched = executor.launched_steps
        with ExitStack() as stack:
            events = []
            with executor.context.active("timing steps"):
                for _ in range(len(launched) + 2):
                    events.append(int(runtime.eventCreateWithFlags(runtime.eventDefault)))
                    stack.callback(executor.context.dispose, partial(runtime.eventDestroy, events[-1]))
            begin, start = time.monotonic_ns(), time.perf_counter()
            executor.launch(inputs, outputs, cancel, stamps=events).wait(cancel)
            total = time.perf_counter() - start
            with executor.context.active("timing steps"):
                elapsed = [
                    1e-3 * float(runtime.eventElapsedTime(*pair)) for pair in itertools.pairwise(events)
                ]
        seconds = np.zeros(len(executor.plan.steps))
        seconds[list(launched)] = elapsed[1:]
        ends = np.rint(1e9 * (elapsed[0] + np.cumsum(seconds))).astype(np.int64)
        self._readings[0] = begin + round(1e9 * elapsed[0])
        self._readings[1:-1] = begin + ends
        self._readings[-1] = self._readings[-2]
        return total, seconds

    def readings(self) -> npt.NDArray[np.int64]:
        """When each step of the latest run began, and twice when the last one ended, in nanoseconds.

        By the system's monotonic clock, if the device began to copy inputs when the host queued that.
        """
        return self._readings


class EventTracer:
    """Runs the plan of an executor and tells what its stream computed when. For one thread at a time."""

    def __init__(self, executor: CudaExecutor) -> None:
        self._timer = EventTimer(executor)
        self._tiles = [step.tiles for step in executor.plan.steps]
        self._launched = list(executor.launched_steps)

    def run(
        self, inputs: Sequence[AnyArray], outputs: Sequence[AnyArray], cancel: CancelFlag | None = None
    ) -> npt.NDArray[np.int64]:
        """The steps of a run that launched anything, in order, one a row; columns as of
        :meth:`onnxplan.runtime.cpu.timed_plan.TracedPlan.take_events`, the worker :data:`STREAM`."""
        self._timer.run(inputs, outputs, cancel)
        readings = self._timer.readings()
        rows = [(STREAM, n, 0, self._tiles[n], readings[n], readings[n + 1]) for n in self._launched]
        return np.array(rows, np.int64).reshape(-1, 6)
