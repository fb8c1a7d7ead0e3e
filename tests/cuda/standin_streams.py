"""Streams of the stand-in: queues whose operations run as late as they may."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from standin_memory import MemoryMap
from standin_order import Access, Clock, Ordering, join

Run = Callable[[], None]
Busy = Callable[[int, int, tuple[str, ...]], bool]


class Work(Protocol):
    """What a stream does: a copy, a kernel, a graph."""

    @property
    def label(self) -> str: ...

    @property
    def accesses(self) -> tuple[Access, ...]: ...

    def issue(self, busy: Busy) -> Run:
        """What is to run later. ``busy(address, nbytes, modes)``: whether unfinished work touches a range."""
        ...


class Operation:
    """Something a stream will do, after what stands before it and after ``waits`` of other streams."""

    __slots__ = ("clock", "done", "label", "run", "stream", "waits")

    def __init__(self, stream: Stream, label: str, run: Run | None, waits: tuple[Operation, ...]) -> None:
        self.stream = stream
        self.label = label
        self.run = run
        self.waits = waits
        self.clock: Clock = {}
        self.done = False


class Stream:
    """A queue. ``blocking`` ones order themselves with the legacy stream."""

    def __init__(self, handle: int, device: int, timeline: int, *, blocking: bool, flags: int = 0) -> None:
        self.handle = handle
        self.device = device
        self.timeline = timeline
        self.blocking = blocking
        self.flags = flags
        self.legacy = False
        self.position = 0
        self.clock: Clock = {}
        self.pending: deque[Operation] = deque()
        self.last: Operation | None = None
        self.capture = None

    def __str__(self) -> str:
        return f"stream {self.handle:#x}"


class Event:
    """``operation`` is its last record; ``captured`` the capture and the nodes of one in a capture."""

    def __init__(self, handle: int, device: int, flags: int) -> None:
        self.handle = handle
        self.device = device
        self.flags = flags
        self.operation: Operation | None = None
        self.captured = None
        self.time = 0.0

    def stamp(self, time: float) -> None:
        """The device reaches the record."""
        self.time = time

    def __str__(self) -> str:
        return f"event {self.handle:#x}"


class Scheduler:
    """Runs the operations of all streams. Not safe from threads: the stand-in calls it under its lock.

    Without ``chance`` only what is waited for runs, in the order of its needs. With it, operations of any
    stream that may run do so in between, as a device would.
    """

    def __init__(self, ordering: Ordering, memory: MemoryMap, chance: random.Random | None) -> None:
        self._ordering = ordering
        self._memory = memory
        self._chance = chance
        self.streams: dict[int, Stream] = {}
        self.on_failure: Callable[[Operation, BaseException], None] = lambda operation, error: None

    def enqueue(
        self,
        stream: Stream,
        label: str,
        accesses: Iterable[Access] = (),
        issue: Callable[[Busy], Run] | None = None,
        waits: tuple[Operation, ...] = (),
    ) -> Operation:
        """Append an operation; raises :class:`StrictError` where its accesses lack an ordering."""
        accesses = tuple(accesses)
        label = f"{label} on {stream}"
        waits = (*waits, *self._legacy_waits(stream))
        clock = self._ordering.trimmed(stream.clock)
        join(clock, self._ordering.host)
        for wait in waits:
            join(clock, wait.clock)
        clock[stream.timeline] = stream.position + 1
        self._memory.check(accesses, clock, label)
        run = issue(self._memory.busy) if issue is not None else None
        stream.position += 1
        stream.clock = clock
        self._memory.record(accesses, stream.timeline, stream.position, label)
        operation = Operation(stream, label, run, tuple(wait for wait in waits if not wait.done))
        operation.clock = clock
        stream.pending.append(operation)
        stream.last = operation
        if self._chance is not None:
            self._run_some(self._chance.randrange(3))
        return operation

    def _legacy_waits(self, stream: Stream) -> tuple[Operation, ...]:
        """What stream 0 and blocking streams of the same device wait for without being told."""
        if not (stream.legacy or stream.blocking):
            return ()
        return tuple(
            other.last
            for other in self.streams.values()
            if other is not stream
            and other.device == stream.device
            and other.last is not None
            and (other.legacy or (stream.legacy and other.blocking))
        )

    def complete(self, operation: Operation) -> None:
        """Run all that an operation needs, and it; the host then knows that it is over."""
        while not operation.done:
            if self._chance is not None:
                self._run_some(1)
            else:
                self._execute(self._ready_for(operation))
        self._ordering.host_learns(operation.clock)

    def query(self, operation: Operation, steps: int) -> bool:
        """Whether an operation is over, after running at most ``steps`` of what it needs."""
        for _ in range(steps):
            if operation.done:
                break
            self._execute(self._ready_for(operation))
        if operation.done:
            self._ordering.host_learns(operation.clock)
        return operation.done

    def idle(self, stream: Stream) -> bool:
        """Whether the host knows that a stream has nothing left to do."""
        return self._ordering.covers(self._ordering.host, stream.timeline, stream.position)

    def over(self, operation: Operation) -> bool:
        """Whether the host knows that an operation is over."""
        timeline = operation.stream.timeline
        return self._ordering.covers(self._ordering.host, timeline, operation.clock[timeline])

    def comes_after(self, stream: Stream, operation: Operation) -> bool:
        """Whether what is enqueued on a stream now would come after an operation."""
        timeline = operation.stream.timeline
        known = self._ordering.covers(stream.clock, timeline, operation.clock[timeline])
        return known or self.over(operation)

    def _ready_for(self, operation: Operation) -> Operation:
        """The next operation on the way to one."""
        head = operation.stream.pending[0]
        while (wait := next((wait for wait in head.waits if not wait.done), None)) is not None:
            head = wait.stream.pending[0]
        return head

    def _run_some(self, count: int) -> None:
        for _ in range(count):
            heads = [stream.pending[0] for stream in self.streams.values() if stream.pending]
            ready = [head for head in heads if all(wait.done for wait in head.waits)]
            if ready:
                self._execute(self._chance.choice(ready))

    def _execute(self, operation: Operation) -> None:
        operation.stream.pending.popleft()
        operation.done = True
        run, operation.run, operation.waits = operation.run, None, ()
        if run is None:
            return
        try:
            run()
        except BaseException as error:
            self.on_failure(operation, error)
            raise
