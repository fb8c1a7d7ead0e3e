"""What a session asks of the event loop.

asyncio takes 20 ms to import, which programs that never use it need not wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


SLICE_SECONDS = 1e-3
"""Runs inside the coroutine yield to the event loop after about so long."""

YIELD_SECONDS = 100e-6
"""One estimated this long yields every time: that costs little of it, and tasks take turns."""

OVERHEAD_SECONDS = 2e-6
"""What a run takes beside its plan."""


class Slice:
    """Time that runs inside coroutines may take before the event loop is to have its turn."""

    def __init__(self) -> None:
        self._left = SLICE_SECONDS

    def ends_with(self, seconds: float) -> bool:
        """Should the coroutine let others run, now that it has run a plan estimated at ``seconds`` itself?"""
        self._left -= seconds + OVERHEAD_SECONDS
        if self._left >= 0 and seconds < YIELD_SECONDS:
            return False
        self._left = SLICE_SECONDS
        return True


async def let_others_run() -> None:
    """Gives the event loop to what else is ready."""
    import asyncio

    await asyncio.sleep(0)


async def off_the_loop(work: Callable[[], _T]) -> _T:
    """The result of ``work`` on another thread."""
    import asyncio

    return await asyncio.to_thread(work)
