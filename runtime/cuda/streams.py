"""The stream on which a device takes in tensors of other libraries."""

from __future__ import annotations

import threading

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
