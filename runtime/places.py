"""Places for runs in flight: a limit that tasks of all event loops share."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


class Places:
    """``count`` places, taken by tasks in the order in which they come, given back from any thread."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.reset()

    def reset(self) -> None:
        """Frees all places and forgets who waits: for the child of a fork, which has none of the tasks."""
        self._free = self.count
        self._lock = threading.Lock()
        self._waiting: deque[asyncio.Future[None]] = deque()

    def try_take(self) -> bool:
        """Takes a place if one is free."""
        with self._lock:
            if not self._free:
                return False
            self._free -= 1
            return True

    async def take(self) -> None:
        """Waits for a place; a task that is cancelled meanwhile holds none."""
        import asyncio

        with self._lock:
            if self._free:
                self._free -= 1
                return
            granted = asyncio.get_running_loop().create_future()
            self._waiting.append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.give()
            with self._lock:
                if granted in self._waiting:
                    self._waiting.remove(granted)
            raise

    def give(self) -> None:
        """Gives a place back, to the first who waits."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._free += 1
                    return
                granted = self._waiting.popleft()
            try:
                granted.get_loop().call_soon_threadsafe(self._grant, granted)
            except RuntimeError:
                # That event loop was closed with the task in it.
                continue
            return

    def _grant(self, granted: asyncio.Future[None]) -> None:
        if granted.cancelled():
            self.give()
        else:
            granted.set_result(None)
