"""The slots of a plan: made as runs need them, kept for later ones, bounded in number and memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from onnxplan.compiler.errors import OutOfMemoryError, SessionClosedError
from onnxplan.runtime.budget import Budget
from onnxplan.runtime.cancellation import CancelFlag, Cancelled

T = TypeVar("T")

POLL_SECONDS = 0.05
"""How often a run that waits looks whether it was cancelled."""


class SlotPool(Generic[T]):
    """Up to ``limit`` slots of ``nbytes`` bytes each, made by ``make()`` and given up by ``drop(slot)``.

    A run takes a slot by ``take()``, which raises ``IndexError`` where none is idle, and then by
    :meth:`acquire`; afterwards it calls ``give(slot)`` and, ``if waiting``, :meth:`notify`. ``take``,
    ``give`` and ``waiting`` may be kept by those who use them often. Memory comes from ``budget``.
    """

    def __init__(
        self,
        make: Callable[[], T],
        drop: Callable[[T], object],
        nbytes: int,
        limit: int,
        budget: Budget,
    ) -> None:
        self._make: Callable[[], T] | None = make
        self._drop = drop
        self.nbytes = nbytes
        self.limit = min(limit, budget.runs or limit)
        self._room = self.limit
        self.count = 0
        """Slots that there are: idle, in use, or being made."""
        self.peak = 0
        self._idle: deque[T] = deque()
        self.sharing: deque[T] = deque()
        """Slots in use that take one more run. Who has runs that share slots adds and removes them here, and
        calls :meth:`notify` as after ``give``."""
        self.set_aside: list[T] = []
        """Slots from before a fork."""
        self.take: Callable[[], T] = self._idle.pop
        self.give: Callable[[T], None] = self._idle.append
        self.waiting = budget.waiting
        self._budget = budget
        self._closed = False
        budget.join(self)

    @property
    def is_full(self) -> bool:
        """Whether there are as many slots as there may be."""
        return self.count >= self._room

    def acquire(self, cancel: CancelFlag | None = None) -> T:
        """A slot where none is idle: a new one, one of :attr:`sharing`, or one that another run gives back,
        after waiting for it.

        Raises ``SessionClosedError``, ``Cancelled`` where it would have to wait and ``cancel`` is set, and
        ``OutOfMemoryError`` where a single slot is too much.
        """
        while True:
            slot = self._wait(cancel)
            if slot is not None:
                return slot
            assert self._make is not None
            try:
                slot = self._make()
            except BaseException as error:
                if not self._shrink(error):
                    raise
            else:
                return slot

    def _wait(self, cancel: CancelFlag | None) -> T | None:
        """An idle or shared slot, or ``None`` where there is room for a new one, which counts from now on."""
        budget = self._budget
        place: tuple[object] = (self,)
        with budget.condition:
            self.waiting.append(self)
            try:
                while True:
                    if self._closed:
                        raise SessionClosedError("the session is closed")
                    if self.set_aside:
                        return self.set_aside.pop()
                    if self._idle:
                        with suppress(IndexError):
                            return self.take()
                    if self.count < self._room and self._take_memory(place):
                        self.count += 1
                        self.peak = max(self.peak, self.count)
                        return None
                    if self.sharing:
                        with suppress(IndexError):
                            return self.sharing.pop()
                    if cancel is not None and cancel.is_set:
                        raise Cancelled("the run was cancelled while it waited for its place")
                    if not self._idle and not self.sharing:
                        budget.condition.wait(None if cancel is None else POLL_SECONDS)
            finally:
                self.waiting.remove(self)
                if place in budget.queue:
                    budget.queue.remove(place)
                    budget.condition.notify_all()

    def _take_memory(self, place: tuple[object]) -> bool:
        """Memory for one slot, in turn. Raises ``OutOfMemoryError`` where nothing is left to wait for."""
        budget = self._budget
        if budget.limit is None:
            return budget.take(self.nbytes)
        if place not in budget.queue:
            budget.queue.append(place)
        if budget.queue[0] is not place:
            return False
        if budget.take(self.nbytes):
            return True
        if not budget.taken:
            raise OutOfMemoryError(
                f"a run needs {self.nbytes:,} bytes of memory beside {budget.fixed:,} bytes of constants of "
                f"all plans, memory_limit is {budget.limit:,}"
            )
        return False

    def _shrink(self, error: BaseException) -> bool:
        """After a slot could not be made: may the run that needed it go on waiting for another one?"""
        budget = self._budget
        with budget.condition:
            self.count -= 1
            budget.give(self.nbytes)
            if not isinstance(error, MemoryError):
                return False
            if budget.trim():
                return True
            self._room = max(self.count, 1)
            return self.count > 0

    def notify(self) -> None:
        """Has those who wait look again, after a slot was given back."""
        budget = self._budget
        with budget.condition:
            if self._closed or (budget.queue and self not in budget.queue[0]):
                self._drop_idle()
            if all(waiting is self for waiting in self.waiting):
                budget.condition.notify()
            else:
                budget.condition.notify_all()

    def trim(self) -> int:
        """Gives up the memory of slots that no run uses; the number of bytes."""
        with self._budget.condition:
            self._room = self.limit
            return self._drop_idle() * self.nbytes

    def close(self, *, wait: bool = True) -> None:
        """Gives up all slots once the runs in flight are over; :meth:`acquire` raises from now on.

        With ``wait=False`` it raises ``RuntimeError`` and stays open if there are runs in flight.
        """
        condition = self._budget.condition
        with condition:
            if self._closed:
                return
            self._drop_idle()
            if self.count and not wait:
                raise RuntimeError(f"cannot close: {self.count} runs are in flight")
            self._closed = True
            condition.notify_all()
            self.waiting.append(self)
            try:
                self._drop_idle()
                while self.count:
                    condition.wait()
                    self._drop_idle()
            finally:
                self.waiting.remove(self)
            self._make = None

    def abandon(self) -> None:
        """As :meth:`close`, but without waiting: slots in use are given up when they are given back.

        For finalizers: the runs in flight may belong to the same garbage.
        """
        with self._budget.condition:
            if not self._closed:
                self._closed = True
                # Has every run call notify().
                self.waiting.append(self)
            self._drop_idle()

    def _drop_idle(self) -> int:
        dropped = 0
        for source in (self._idle, self.set_aside):
            while True:
                try:
                    slot = source.pop()
                except IndexError:
                    break
                self._drop(slot)
                dropped += 1
        self.count -= dropped
        if dropped:
            self._budget.give(dropped * self.nbytes)
        return dropped

    def after_fork(self) -> None:
        """In the child of a fork, where the parent's runs in flight do not exist.

        Idle slots are set aside, so that the next runs come by :meth:`acquire`; those in use are lost.
        """
        self.set_aside = [*self.set_aside, *self._idle]
        self._idle.clear()
        self.sharing.clear()
        lost = self.count - len(self.set_aside)
        self.count -= lost
        self._budget.give(lost * self.nbytes)

    def __del__(self) -> None:
        if self.count:
            self._budget.give(self.count * self.nbytes)
