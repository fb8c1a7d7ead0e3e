"""Runs of a plan that is known: started on a device by the event loop's own thread, or a worker thread's."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from onnxplan.compiler.errors import OutOfMemoryError, SessionClosedError
from onnxplan.event_loop import Slice, let_others_run
from onnxplan.runtime.device import AnyArray, Array, Device, StartedRun
from onnxplan.tensor import Tensor, unwrap, wrap

if TYPE_CHECKING:
    from onnxplan.runtime.bound_stage import BoundStage
    from onnxplan.runtime.cancellation import CancelFlag
    from onnxplan.runtime.engine import Engine
    from onnxplan.runtime.places import Places

POLL_SECONDS = 50e-6
"""How long the event loop's thread asks whether a run is over: handing it to another thread and back takes as
long."""


class RunStarter:
    """What a session does to run its latest plan again, small ones on a device without a worker thread."""

    _device: Device
    _engine: Engine
    _names: tuple[str, ...]
    _unwraps: bool
    _running: deque[None]
    _drained: threading.Event
    _closed: bool
    _places: Places | None
    _slice: Slice

    def _leave(self) -> None:
        """A run of the session is over."""
        self._running.pop()
        if self._closed:
            self._drained.set()

    def _fitting(self, stage: BoundStage, feeds: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The feeds as the plan's inputs, if they are as many; whether they are arrays is not looked at."""
        if type(feeds) is not dict or len(feeds) != len(self._names) or stage.pick is None:
            return None
        try:
            arrays: tuple[Any, ...] = stage.pick(feeds)
        except KeyError:
            return None
        if self._unwraps:
            arrays = tuple([unwrap(array) if type(array) is Tensor else array for array in arrays])
        return arrays

    def _run_fitting(
        self, stage: BoundStage, inputs: tuple[Array, ...], on_device: bool, cancel: CancelFlag
    ) -> dict[str, Any]:
        """On a worker thread: a run with what :meth:`BoundStage.fitting` gave."""
        self._running.append(None)
        try:
            if self._closed:
                raise SessionClosedError("the session was closed before the run began")
            return wrapped(stage, self._engine.run_fitting(stage, inputs, cancel, on_device=on_device))
        finally:
            self._leave()

    def _start(
        self, stage: BoundStage, arrays: tuple[Any, ...], *, on_device: bool
    ) -> tuple[StartedRun, tuple[AnyArray, ...]] | None:
        """A run that this thread starts, and the arrays that it fills; None where another thread must."""
        assert stage.starter is not None
        places = self._places
        if places is not None and not places.try_take():
            return None
        over = self._leave if places is None else self._leave_place
        self._running.append(None)
        run: StartedRun | None = None
        try:
            if self._closed:
                raise SessionClosedError("the session is closed")
            try:
                results = stage.allocate_on_device() if on_device else stage.allocate()
            except OutOfMemoryError:
                # A worker's path makes room first.
                return None
            run = stage.starter.try_start(arrays, results, over)
        finally:
            if run is None:
                over()
        if run is None:
            return None
        stage.used = True
        return run, results

    def _leave_place(self) -> None:
        self._leave()
        assert self._places is not None
        self._places.give()

    async def _follow(
        self, stage: BoundStage, run: StartedRun, results: tuple[AnyArray, ...]
    ) -> dict[str, Any]:
        """The results of a run that was started, once it is over. Raises what ``run.wait`` raises.

        Where it is the session's only one, the thread is kept busy for :data:`POLL_SECONDS` first. Otherwise
        one thread for each device sleeps until the run is over, and tells the loop then.
        """
        began = time.perf_counter()
        if run.finish_within(POLL_SECONDS if len(self._running) == 1 else 0.0):
            if self._slice.ends_with(time.perf_counter() - began):
                await let_others_run()
        else:
            import asyncio

            from onnxplan.runtime.workers import workers_for

            # Whoever is cancelled leaves the wait to the thread, which gives the run's memory back.
            await asyncio.shield(workers_for(f"{self._device.name}-waiter", 1).submit(run.wait))
        return wrapped(stage, results)


def wrapped(stage: BoundStage, results: tuple[AnyArray, ...]) -> dict[str, Any]:
    """The outputs of a stage by name."""
    names = stage.output_names
    if len(names) == 1:
        return {names[0]: wrap(results[0])}
    return dict(zip(names, map(wrap, results), strict=True))
