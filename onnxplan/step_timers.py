"""What times the steps of a stage, on each kind of device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnxplan.runtime.bound_stage import BoundStage
from onnxplan.runtime.cancellation import CancelFlag
from onnxplan.runtime.ceilings import Ceilings
from onnxplan.runtime.cpu.executor import CpuExecutor
from onnxplan.runtime.cpu.measure_ceilings import stored_ceilings
from onnxplan.runtime.cpu.timed_plan import StepTimer, TileTracer

CPU_PREFIX = "cpu"
CALLER = 0
BYTE_PRODUCTS = 4
"""Of bytes in the time of one of floats, by ``dp4a``."""


class Timer(Protocol):
    """Runs a plan and tells how long its steps took. For one thread at a time."""

    def run(
        self, inputs: Any, outputs: Any, cancel: CancelFlag | None = None
    ) -> tuple[float, npt.NDArray[np.float64]]:
        """The seconds of a run and of each of its steps."""
        ...

    def readings(self) -> npt.NDArray[np.int64]:
        """Nanoseconds of the monotonic clock before each step of the latest run, and twice after the last."""
        ...


class Tracer(Protocol):
    """Runs a plan and tells who computed what when. For one thread at a time."""

    def run(self, inputs: Any, outputs: Any, cancel: CancelFlag | None = None) -> npt.NDArray[np.int64]:
        """A row for each event: worker, step, first and last tile, begin and end in nanoseconds."""
        ...


def timer_of(stage: BoundStage) -> Timer:
    """Raises ``NotImplementedError`` for a device whose steps cannot be timed, naming it."""
    timer, _ = _kinds(stage)
    return timer(stage.executor)


def tracer_of(stage: BoundStage) -> Tracer:
    """Raises as :func:`timer_of` does."""
    _, tracer = _kinds(stage)
    return tracer(stage.executor)


def _kinds(stage: BoundStage) -> tuple[Callable[[Any], Timer], Callable[[Any], Tracer]]:
    if isinstance(stage.executor, CpuExecutor):
        return StepTimer, TileTracer
    _require_events(stage)
    from onnxplan.runtime.cuda.timed_run import EventTimer, EventTracer

    return EventTimer, EventTracer


def ceilings_of(stage: BoundStage, *, remeasure: bool) -> Ceilings:
    """What the stage's device can do at most: measured on the CPU, else what its own properties say."""
    executor: Any = stage.executor
    if isinstance(executor, CpuExecutor):
        return stored_ceilings(executor.store, executor.plan.target.threads, again=remeasure)
    _require_events(stage)
    target = executor.plan.target
    return Ceilings(target.flops, target.bandwidth, BYTE_PRODUCTS * target.flops)


def workers_of(stage: BoundStage) -> int:
    """How many workers share what a step is estimated to take: one device counts as one."""
    target = stage.executor.plan.target
    return target.threads if target.device == CPU_PREFIX else 1


def worker_name(device: str, worker: int) -> str:
    """A row of a timeline, as traces show it."""
    if device.startswith(CPU_PREFIX):
        return f"worker {worker}" if worker else "worker 0 (caller)"
    return "host" if worker == CALLER else f"stream {worker - 1}"


def _require_events(stage: BoundStage) -> None:
    from onnxplan.runtime.cuda.executor import CudaExecutor

    if not isinstance(stage.executor, CudaExecutor):
        raise NotImplementedError(f"steps of {stage.device.name} cannot be timed")
