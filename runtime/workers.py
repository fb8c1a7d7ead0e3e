"""Worker threads for asynchronous runs, some for each device: a callable in, an ``asyncio`` future out."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from onnxplan.runtime.cancellation import CancelFlag

logger = logging.getLogger("onnxplan.workers")
run_logger = logging.getLogger("onnxplan.run")

T = TypeVar("T")
STOP_SECONDS = 5.0


class Job(asyncio.Future[T], Generic[T]):
    """The result of work on another thread, to be awaited on the event loop where it was submitted.

    Cancelling it takes effect at once: work that waits is dropped with all it refers to, and work that has
    begun finds its cancel flag set.
    """

    def __init__(self, function: Callable[[CancelFlag], T], *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._function: Callable[[CancelFlag], T] | None = function
        self._flag = CancelFlag()

    def cancel(self, msg: Any | None = None) -> bool:
        if not super().cancel(msg):
            return False
        begun = self._function is None
        run_logger.info("a run was cancelled %s", "on its way" if begun else "before it began")
        self._function = None
        self._flag.set()
        return True

    def stop(self) -> None:
        """Asks work that has begun to end early; for other threads than the event loop's."""
        self._flag.set()

    def execute(self) -> None:
        """On a worker thread: does the work and has the event loop deliver the outcome."""
        function, self._function = self._function, None
        if function is None:
            return
        result, failure = None, None
        try:
            result = function(self._flag)
        except BaseException as error:
            failure = error
        del function
        try:
            self.get_loop().call_soon_threadsafe(self._deliver, result, failure)
        except RuntimeError:
            logger.debug("the event loop was closed before its work was done; the result is dropped")
        # The exception's traceback refers to this frame.
        del failure

    def _deliver(self, result: Any, failure: BaseException | None) -> None:
        if self.done():
            return
        if isinstance(failure, StopIteration):
            # A future must not carry it: it would end the coroutine that awaits it.
            wrapped = RuntimeError("the work raised StopIteration")
            wrapped.__cause__ = failure
            failure = wrapped
        if failure is None:
            self.set_result(result)
        else:
            self.set_exception(failure)


class Workers:
    """Up to ``limit`` daemon threads, started when work finds none idle; ``name`` begins their names.

    ``announce`` is told how many have work whenever that changes, on one of these threads.
    """

    def __init__(
        self, limit: int, name: str = "onnxplan-worker", announce: Callable[[int], None] = lambda _: None
    ) -> None:
        self.limit = limit
        self.name = name
        self._announce = announce
        self._reset()

    def _reset(self) -> None:
        self._queue: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._idle: deque[None] = deque()
        self._threads: list[threading.Thread] = []
        self._running: set[Job[Any]] = set()
        self._lock = threading.Lock()
        self._active = 0
        self._stopped = False

    @property
    def threads(self) -> int:
        """Threads that were started."""
        return len(self._threads)

    def submit(self, function: Callable[[CancelFlag], T]) -> Job[T]:
        """Runs ``function(cancel_flag)`` on a worker thread. Called on a running event loop.

        The flag is set when the job is cancelled and when the interpreter exits: the function should then
        return soon. ``RuntimeError`` once the interpreter exits, and where no thread can be started.
        """
        if self._stopped:
            raise RuntimeError("cannot start work while the interpreter exits")
        work = Job(function, loop=asyncio.get_running_loop())
        self._queue.put(work)
        try:
            self._idle.pop()
        except IndexError:
            if len(self._threads) < self.limit:
                try:
                    self._start_thread()
                except RuntimeError:
                    work.cancel()
                    raise
        return work

    def _start_thread(self) -> None:
        with self._lock:
            if len(self._threads) < self.limit:
                number = len(self._threads) + 1
                thread = threading.Thread(target=self._work, name=f"{self.name}-{number}", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    if not self._threads:
                        raise
                    logger.warning("cannot start a worker thread, fewer runs are under way: %s", error)
                    return
                self._threads.append(thread)

    def _work(self) -> None:
        queue, running = self._queue, self._running
        self._count(1)
        while True:
            try:
                work = queue.get_nowait()
            except Empty:
                self._count(-1)
                self._idle.append(None)
                work = queue.get()
                self._count(1)
            if work is None:
                return
            running.add(work)
            work.execute()
            running.discard(work)
            # While this thread sleeps it must not keep the result alive.
            del work

    def _count(self, change: int) -> None:
        with self._lock:
            self._active += change
            self._announce(self._active)

    def stop(self) -> None:
        """Drops work that waits, asks work that runs to end early, and waits a while for it."""
        self._stopped = True
        while True:
            try:
                self._queue.get_nowait()
            except Empty:
                break
        for work in tuple(self._running):
            work.stop()
        for _ in self._threads:
            self._queue.put(None)
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def after_fork(self) -> None:
        """In the child of a fork, where none of the parent's threads exist."""
        self._reset()


_pools: dict[str, Workers] = {}
_making = threading.Lock()


def workers_for(device: str, limit: int, announce: Callable[[int], None] = lambda _: None) -> Workers:
    """The process's workers for runs on the device of that name, at most ``limit`` threads.

    ``announce`` is that of :class:`Workers`. They are made on first use. Runs on different devices do not
    wait for each other.
    """
    with _making:
        if device not in _pools:
            _pools[device] = Workers(limit, f"onnxplan-{device}", announce)
            atexit.register(_pools[device].stop)
        return _pools[device]


def _after_fork_in_child() -> None:
    global _making
    _making = threading.Lock()
    for workers in _pools.values():
        workers.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
