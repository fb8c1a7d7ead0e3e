"""A run that was started on a CUDA device."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from onnxplan.runtime.cancellation import CancelFlag, Cancelled
from onnxplan.runtime.cuda.transfers import Array

if TYPE_CHECKING:
    from onnxplan.runtime.cuda.executor import CudaExecutor, Plan
    from onnxplan.runtime.cuda.lane import Lane
    from onnxplan.runtime.cuda.slot import Slot

POLL_SECONDS = 100e-6
"""How long a caller asks whether its run is over before it sleeps."""
RUNNING = "running a plan"


def _nothing() -> None:
    pass


class Completion:
    """A run that was started. Dropping it lets the run go on, whose outputs are then not to be used.

    ``over()`` is called once, when the run's lane is given back.
    """

    __slots__ = ("__weakref__", "_executor", "_lane", "_outputs", "_over", "_plan", "_polls", "_slot")

    def __init__(
        self,
        executor: CudaExecutor,
        plan: Plan,
        slot: Slot,
        lane: Lane,
        outputs: Sequence[Array],
        over: Callable[[], None] = _nothing,
    ) -> None:
        self._executor = executor
        self._plan = plan
        self._slot = slot
        self._lane: Lane | None = lane
        self._outputs = outputs
        self._over = over
        self._polls = True

    def done(self) -> bool:
        """Whether :meth:`wait` would return at once. Raises what it would raise for a run that failed."""
        if self._lane is None:
            return True
        with self._plan.context.active(RUNNING):
            return self._plan.context.finished(self._lane.done, RUNNING)

    def finish_within(self, seconds: float) -> bool:
        """Asks for ``seconds`` whether the run is over, keeping the thread busy; then fills its outputs.

        Where it returns False, :meth:`wait` is for another thread, which sleeps until the run is over. Raises
        what :meth:`wait` raises.
        """
        lane, self._polls = self._lane, False
        if lane is None:
            return True
        context = self._plan.context
        deadline = time.perf_counter() + seconds
        try:
            with context.active(RUNNING):
                while not context.finished(lane.done, RUNNING):
                    if time.perf_counter() >= deadline:
                        return False
        except BaseException:
            self._end()
            raise
        self.wait()
        return True

    def wait(self, cancel: CancelFlag | None = None) -> None:
        """Waits until the run is over and its outputs are filled.

        Raises ``Cancelled`` where ``cancel`` is set before: the run goes on without anybody, and what it
        reads is kept until it is over. Raises :class:`DeviceUnavailableError` where the device failed.
        """
        lane = self._lane
        if lane is None:
            return
        try:
            with self._plan.context.active(RUNNING):
                self._await(lane, cancel)
                lane.finish(self._outputs)
        finally:
            self._end()

    def _await(self, lane: Lane, cancel: CancelFlag | None) -> None:
        context = self._plan.context

        def cancelled() -> None:
            if cancel is not None and cancel.is_set:
                raise Cancelled("the run was cancelled")

        lane.transfers.take(self._outputs, cancelled)
        deadline = time.perf_counter() + (POLL_SECONDS if self._polls else 0.0)
        while not context.finished(lane.done, RUNNING):
            cancelled()
            if time.perf_counter() >= deadline:
                context.api.runtime.eventSynchronize(lane.done)
                return

    def _end(self) -> None:
        """Gives the lane back, once."""
        lane, self._lane = self._lane, None
        if lane is not None:
            self._plan.give(self._slot, lane)
            self._over()

    def __del__(self) -> None:
        if getattr(self, "_lane", None) is not None and not self._plan.context.forked:
            self._end()
