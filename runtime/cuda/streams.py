"""Streams beside those of slots: one that takes in tensors of other libraries, and those of a capture."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from onnxplan.runtime.cuda.branches import Branches
from onnxplan.runtime.cuda.context import CudaContext


class ImportStream:
    """A non-blocking stream, one for each device, and the event by which streams wait for each other.

    Used with the device current.
    """

    def __init__(self, context: CudaContext) -> None:
        self._runtime = runtime = context.api.runtime
        self._lock = threading.Lock()
        self.handle = int(runtime.streamCreateWithFlags(runtime.streamNonBlocking))
        self._event = int(runtime.eventCreateWithFlags(runtime.eventDisableTiming))

    @staticmethod
    def of(context: CudaContext) -> ImportStream:
        stream: ImportStream = context.part("import stream", lambda: ImportStream(context))
        return stream

    def order(self, before: int, after: int) -> None:
        """Makes later work of the stream ``after`` wait for what ``before`` has been given so far."""
        with self._lock:
            self._runtime.eventRecord(self._event, before)
            self._runtime.streamWaitEvent(after, self._event)


Queue = Callable[[int], None]
"""Queues a launch on a stream, by its handle."""


class CaptureStreams:
    """The streams and events by which a capture on ``stream`` gets branches; they last as long as it does.

    Used with the device current. The streams execute nothing: they only say which launches of the graph come
    after which.
    """

    def __init__(self, runtime: Any, stream: int, branches: Branches) -> None:
        self._runtime = runtime
        self._branches = branches
        self._streams = [stream]
        self._events: dict[int, int] = {}
        self._start = 0

    def __enter__(self) -> Self:
        runtime, branches = self._runtime, self._branches
        try:
            for _ in range(branches.count - 1):
                self._streams.append(int(runtime.streamCreateWithFlags(runtime.streamNonBlocking)))
            for launch in sorted(branches.recorded):
                self._events[launch] = int(runtime.eventCreateWithFlags(runtime.eventDisableTiming))
            if branches.count > 1:
                self._start = int(runtime.eventCreateWithFlags(runtime.eventDisableTiming))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def queue(self, launches: Sequence[Queue]) -> None:
        """Queues all launches, each after those that it waits for, and joins the branches in the end."""
        runtime, branches, events, streams = self._runtime, self._branches, self._events, self._streams
        if branches.count > 1:
            runtime.eventRecord(self._start, streams[0])
            for stream in streams[1:]:
                runtime.streamWaitEvent(stream, self._start)
        for number, launch in enumerate(launches):
            stream = streams[branches.streams[number]]
            for before in branches.waits[number]:
                runtime.streamWaitEvent(stream, events[before])
            launch(stream)
            if number in events:
                runtime.eventRecord(events[number], stream)
        for last in branches.tails:
            runtime.streamWaitEvent(streams[0], events[last])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for event in (*self._events.values(), *([self._start] if self._start else [])):
            self._runtime.eventDestroy(event)
        for stream in self._streams[1:]:
            self._runtime.streamDestroy(stream)
