"""What the plans of a session may take of a device: bytes of memory, and runs in flight."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from onnxplan.compiler.records import dataclass


@dataclass(frozen=True, slots=True)
class SessionMemory:
    """Bytes of the device's memory that the plans of a session hold; tensors of callers are not among them.

    ``constants`` are weights and what was derived from them, each counted once however many plans use it;
    ``slots`` what runs need beside them, kept for later runs; ``peak`` the most of both at once so far.
    ``limit`` is the session's ``memory_limit``. ``results`` is the memory of results that nobody refers to
    any longer, kept for later ones; there is none with a limit.
    """

    constants: int
    slots: int
    peak: int
    limit: int | None
    results: int = 0


class Trimmable(Protocol):
    """Something that holds memory for runs to come."""

    def trim(self) -> int:
        """Gives up what no run uses; the number of bytes."""
        ...


class Member(Trimmable, Protocol):
    """What takes memory from a budget."""

    def after_fork(self) -> None:
        """In the child of a fork: forgets the parent's runs in flight."""
        ...


class ResultHolder(Member, Protocol):
    """What keeps memory of results."""

    @property
    def spare_bytes(self) -> int:
        """Bytes that no result takes."""
        ...


class Budget:
    """Memory that the slots of several plans share, in bytes; ``limit`` is ``None`` where it has no bound.

    ``runs`` bounds the runs in flight of one plan (``None``: the device decides). ``idle_first`` gives the
    plans in the order in which they are asked to give up what they do not use. Plans do not use this class
    themselves but by a :class:`~onnxplan.runtime.slots.SlotPool`. Safe from any number of threads.
    """

    def __init__(
        self,
        limit: int | None = None,
        *,
        runs: int | None = None,
        idle_first: Callable[[], Iterable[Trimmable]] = tuple,
    ) -> None:
        self.limit = limit
        self.runs = runs
        self.condition = threading.Condition()
        """Notified when memory or a slot may have become free; guards all but the taking of idle slots."""
        self.waiting: list[object] = []
        """Not empty where a run waits, so that runs that end must notify the condition."""
        self.queue: list[tuple[object]] = []
        """Who waits for memory: the first one is served first."""
        self._idle_first = idle_first
        self._members: weakref.WeakSet[Member] = weakref.WeakSet()
        self._result_holders: weakref.WeakSet[ResultHolder] = weakref.WeakSet()
        self._fixed = 0
        self._taken = 0
        self._peak = 0
        # Garbage collection gives memory back too, in the middle of anything.
        self._given: deque[int] = deque()
        _budgets.add(self)

    def join(self, member: Member) -> None:
        """Has ``member`` trimmed when memory is short, for as long as it exists."""
        self._members.add(member)

    def keep_results(self, holder: ResultHolder) -> None:
        """:meth:`join`, and has its spare memory counted."""
        self.join(holder)
        self._result_holders.add(holder)

    def set_fixed(self, nbytes: int) -> None:
        """What is held whether there are runs or not: constants."""
        with self.condition:
            self._fixed = nbytes
            self._peak = max(self._peak, nbytes + self.taken)

    @property
    def fixed(self) -> int:
        return self._fixed

    @property
    def taken(self) -> int:
        """Bytes taken now, without what is fixed."""
        with self.condition:
            while self._given:
                self._taken -= self._given.popleft()
            return self._taken

    def memory(self) -> SessionMemory:
        with self.condition:
            results = sum(holder.spare_bytes for holder in self._result_holders)
            return SessionMemory(self._fixed, self.taken, self._peak, self.limit, results)

    def take(self, nbytes: int) -> bool:
        """Takes so many bytes if they are within the limit, after trimming others where that helps."""
        with self.condition:
            if not self._fits(nbytes):
                for member in self._trimmable():
                    member.trim()
                    if self._fits(nbytes):
                        break
                else:
                    return False
            self._taken += nbytes
            self._peak = max(self._peak, self._fixed + self._taken)
            return True

    def give(self, nbytes: int) -> None:
        """Gives back bytes that were taken."""
        self._given.append(nbytes)
        if self.waiting:
            with self.condition:
                self.condition.notify_all()

    def trim(self) -> int:
        """Has all plans give up what they do not use; the number of bytes."""
        with self.condition:
            return sum(member.trim() for member in self._trimmable())

    def _fits(self, nbytes: int) -> bool:
        return self.limit is None or self._fixed + self.taken + nbytes <= self.limit

    def _trimmable(self) -> list[Trimmable]:
        # Plans that were dropped from all caches may still be in use.
        return [*self._idle_first(), *self._members]

    def after_fork(self) -> None:
        """In the child of a fork, where no other thread exists that could hold the lock, wait, or run."""
        self.condition = threading.Condition()
        self.waiting.clear()
        self.queue.clear()
        for member in tuple(self._members):
            member.after_fork()


_budgets: weakref.WeakSet[Budget] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for budget in tuple(_budgets):
        budget.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
