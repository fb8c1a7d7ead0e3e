"""Computes what arrives at once as one batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class OverloadedError(RuntimeError):
    """As many items wait as may."""


class Batcher(Generic[Item, Result]):
    """Gathers items that tasks submit while earlier ones are computed, and computes them together.

    ``compute`` takes up to ``max_batch`` items and returns their results in the same order. Nobody waits for
    a batch to fill: an item that arrives while fewer than ``in_flight`` batches are computed goes at once,
    so that batches grow only under load. ``max_waiting`` items may wait. An asynchronous context manager;
    leaving it computes what waits first.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        max_batch: int,
        in_flight: int = 1,
        max_waiting: int = 1024,
    ) -> None:
        self._compute = compute
        self._max_batch = max_batch
        self._in_flight = in_flight
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    async def submit(self, item: Item) -> Result:
        """The result for ``item``; cancelling the task withdraws it while it waits.

        Raises what ``compute`` raised for its batch, :class:`OverloadedError`, and ``RuntimeError`` once
        the batcher is closed.
        """
        if self._closed:
            raise RuntimeError("the batcher is closed")
        if len(self._waiting) >= self._max_waiting:
            raise OverloadedError(f"{self._max_waiting} items are waiting already")
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        place = item, future
        self._waiting.append(place)
        self._start()
        try:
            return await future
        except asyncio.CancelledError:
            if place in self._waiting:
                self._waiting.remove(place)
            raise

    def _start(self) -> None:
        while self._waiting and len(self._running) < self._in_flight:
            # Tasks of this turn of the event loop may add to the batch: it takes its items when it begins.
            task = asyncio.create_task(self._run_batch())
            self._running.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start()

    async def _run_batch(self) -> None:
        count = min(self._max_batch, len(self._waiting))
        batch = [self._waiting.popleft() for _ in range(count)]
        if not batch:
            return
        try:
            results = await self._compute([item for item, _ in batch])
            outcomes = list(zip(batch, results, strict=True))
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in outcomes:
            if not future.done():
                future.set_result(result)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        while self._running:
            await asyncio.gather(*self._running)
            # Lets the callbacks of finished tasks start what waits.
            await asyncio.sleep(0)
