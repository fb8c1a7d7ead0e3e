"""Where a run may be queued: in an idle slot, a new one, or behind the run that is in flight in one."""

from __future__ import annotations

import threading
from collections import deque

from onnxplan.runtime.cancellation import CancelFlag
from onnxplan.runtime.cuda.lane import Lane
from onnxplan.runtime.cuda.slot import Slot
from onnxplan.runtime.slots import SlotPool


class Turns:
    """Hands out slots of a pool with a lane each. Safe from threads, and :meth:`give` from finalizers.

    Who took a slot is the only one to queue there until :meth:`queued`. A slot in use with a free lane stands
    among those that the pool shares (``offered``); who takes it out of there may queue next.
    """

    def __init__(self, slots: SlotPool[Slot]) -> None:
        self._slots = slots
        self._lock = threading.Lock()
        self._given: deque[tuple[Slot, Lane]] = deque()

    def take(self, cancel: CancelFlag | None) -> tuple[Slot, Lane]:
        """An idle slot, else a new one, else one with a run in flight; raises as :meth:`SlotPool.acquire`."""
        slots = self._slots
        try:
            # Who waits already is served first.
            slot = slots.acquire(cancel) if slots.waiting else slots.take()
        except IndexError:
            slot = slots.acquire(cancel)
        with self._lock:
            lane = self._claim(slot)
        self._take_back()
        return slot, lane

    def take_ready(self) -> tuple[Slot, Lane] | None:
        """:meth:`take` where that waits for nothing and the run is a launch of a graph, else None."""
        # Under the lock no slot is on its way from those that are shared to the idle ones.
        with self._lock:
            slot = self._at_once()
            taken = None if slot is None else (slot, self._claim(slot))
        self._take_back()
        if taken is None:
            return None
        slot, lane = taken
        if slot.graph and not lane.pending:
            return taken
        self.queued(slot)
        self.give(slot, lane)
        return None

    def _at_once(self) -> Slot | None:
        slots = self._slots
        if slots.waiting:
            return None
        try:
            return slots.take()
        except IndexError:
            if not slots.is_full:
                return None
        try:
            return slots.sharing.pop()
        except IndexError:
            return None

    def _claim(self, slot: Slot) -> Lane:
        if not slot.offered:
            slot.lock.acquire()
        slot.offered, slot.queues = False, True
        return slot.take_lane()

    def queued(self, slot: Slot) -> None:
        """The caller's run is queued, or cannot be: others may queue behind it."""
        with self._lock:
            slot.queues = False
            self._offer(slot)
        self._take_back()
        self._tell()

    def give(self, slot: Slot, lane: Lane) -> None:
        """A run is over, or nobody waits for its end any more."""
        self._given.append((slot, lane))
        self._take_back()
        self._tell()

    def _take_back(self) -> None:
        # A finalizer may interrupt whoever holds the lock, who then looks again when it is free.
        while self._given and self._lock.acquire(blocking=False):
            try:
                while self._given:
                    self._free(*self._given.popleft())
            finally:
                self._lock.release()

    def _free(self, slot: Slot, lane: Lane) -> None:
        lane.taken = False
        if not lane.pending:
            slot.settle_before(lane)
        if slot.queues:
            return
        if slot.offered:
            try:
                self._slots.sharing.remove(slot)
            except ValueError:
                # Someone has taken it meanwhile.
                return
            slot.offered = False
        self._offer(slot)

    def _offer(self, slot: Slot) -> None:
        runs = slot.runs
        if not runs:
            slot.lock.release()
            self._slots.give(slot)
        elif runs < len(slot.lanes):
            slot.offered = True
            self._slots.sharing.append(slot)

    def _tell(self) -> None:
        if self._slots.waiting:
            self._slots.notify()
