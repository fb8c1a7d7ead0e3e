"""A CUDA device as this process uses it: alive, dead with a reason, or left behind by a fork."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

from onnxplan.compiler.errors import DeviceError, DeviceUnavailableError, OutOfMemoryError
from onnxplan.runtime.cuda.api import CudaApi, Memory
from onnxplan.runtime.cuda.errors import MEMORY_ALLOCATION, NOT_READY, is_sticky

LEGACY_STREAM = 1
"""``cudaStreamLegacy``: the default stream, which orders itself with all blocking streams."""

_lock = threading.Lock()
_kept: list[Any] = []
"""What belongs to dead devices: its memory must never be freed, as the addresses mean others' by now."""
_forks = 0
_opened = False


def check_process() -> None:
    """Raises :class:`DeviceUnavailableError` in the child of a process that used CUDA."""
    if _opened and _forks:
        raise DeviceUnavailableError(FORKED)


def open_context(api: CudaApi, ordinal: int) -> CudaContext:
    """The process's context of device ``ordinal``; a dead one is reset first.

    Raises :class:`DeviceUnavailableError` in the child of a process that used CUDA, and where the device
    cannot be reset.
    """
    global _opened
    check_process()
    with _lock:
        context: CudaContext | None = api.contexts.get(ordinal)
        if context is not None and context.dead is None:
            return context
        if context is not None:
            _kept.append(context)
            api.reset_device(ordinal)
        context = CudaContext(api, ordinal)
        api.contexts[ordinal] = context
        _opened = True
        return context


FORKED = (
    "this process was forked from one that uses CUDA, which does not survive a fork; "
    "start processes with multiprocessing's 'spawn' or 'forkserver', or open sessions after the fork only"
)


class CudaContext:
    """What all sessions of the process share on one device. Safe from any number of threads.

    ``with context.active("running"):`` makes the device the thread's current one, and turns CUDA's errors
    into onnxplan's, which say that they came up while ``running``.
    """

    def __init__(self, api: CudaApi, ordinal: int) -> None:
        self.api = api
        self.ordinal = ordinal
        self.name = f"cuda:{ordinal}"
        self.dead: str | None = None
        """Why the device cannot be used any more."""
        self.lock = threading.RLock()
        self.parts: dict[Any, Any] = {}
        """What is made once for a device: libraries, uploads, streams."""
        self.retired = RetiredMemory(api.runtime)
        self.reclaimers: weakref.WeakSet[Any] = weakref.WeakSet()
        """Objects whose ``trim()`` frees memory that is not in use."""
        self._forks = _forks
        self._discarded: deque[Callable[[], None]] = deque()
        self._capturing = threading.local()

    def part(self, key: Any, make: Callable[[], Any]) -> Any:
        """What ``make()`` gave when it was asked for under ``key`` for the first time."""
        found = self.parts.get(key)
        if found is None:
            with self.lock:
                found = self.parts.get(key)
                if found is None:
                    found = self.parts[key] = make()
        return found

    @property
    def forked(self) -> bool:
        """Whether this is the child of the process that opened the device."""
        return self._forks != _forks

    @property
    def usable(self) -> bool:
        return self.dead is None and not self.forked

    def check(self) -> None:
        """Raises :class:`DeviceUnavailableError` where the device is dead or was left behind by a fork."""
        if self._forks != _forks:
            raise DeviceUnavailableError(FORKED)
        if self.dead is not None:
            raise DeviceUnavailableError(self.dead)

    def active(self, doing: str) -> _Active:
        """See the class; raises as :meth:`check` does."""
        return _Active(self, doing)

    def failure(self, error: Exception, doing: str) -> Exception:
        """The onnxplan error for one of CUDA's; marks the device dead where it is beyond use."""
        status = int(getattr(error, "status", 0))
        if status == MEMORY_ALLOCATION:
            return OutOfMemoryError(f"{self.name}: out of memory while {doing}; {self.memory_text()}")
        if is_sticky(status):
            return self.die(f"{self.name} failed while {doing}: {error}")
        return DeviceError(f"{self.name}: {error} (CUDA error {status}) while {doing}")

    def die(self, reason: str) -> DeviceUnavailableError:
        """Marks the device dead; the error to raise."""
        with self.lock:
            if self.dead is None:
                self.dead = f"{reason}; open a new session to use the device again"
                _kept.append(self)
        return DeviceUnavailableError(self.dead)

    def keep(self, value: object) -> None:
        """Keeps ``value`` for ever: what a dead or forked device must not free."""
        _kept.append(value)

    def memory_text(self) -> str:
        """How much device memory is free, as a text."""
        try:
            free, total = self.api.runtime.memGetInfo()
        except self.api.errors:
            return "how much is free is unknown"
        return f"{free:,} of {total:,} bytes are free"

    def allocate(self, nbytes: int, purpose: str) -> DeviceMemory:
        """Device memory of the current device; frees what nobody uses first where there is too little.

        Raises :class:`OutOfMemoryError` that says what was needed, for what, and what is free.
        """
        self.collect()
        self.retired.collect()
        for attempt in range(2):
            try:
                return DeviceMemory(self, self.api.allocate(max(nbytes, 1)))
            except MemoryError:
                pass
            except self.api.errors as error:
                if getattr(error, "status", 0) != MEMORY_ALLOCATION:
                    raise
            if attempt == 0:
                self.reclaim()
        raise OutOfMemoryError(f"{self.name}: {purpose} needs {nbytes:,} bytes, {self.memory_text()}")

    def reclaim(self) -> None:
        """Frees memory of the device that no run uses."""
        for holder in tuple(self.reclaimers):
            holder.trim()
        self.retired.collect(wait=True)
        self.api.release()

    def finished(self, event: int, doing: str) -> bool:
        """Whether all work before an event is done; raises the onnxplan error of work that failed."""
        runtime = self.api.runtime
        status = int(runtime.eventQuery(event))
        if status in (0, NOT_READY):
            return status == 0
        raise self.failure(runtime.CUDARuntimeError(status), doing)

    def dispose(self, free: Callable[[], None]) -> None:
        """Calls ``free``, which gives handles back to CUDA: now, or after this thread's capture.

        For finalizers, which may run anywhere: a capture must not meet calls that do not belong to it.
        """
        if not self.usable:
            self.keep(free)
        elif getattr(self._capturing, "on", False):
            self._discarded.append(free)
        else:
            with self.active("freeing memory"):
                free()

    def collect(self) -> None:
        """Frees what was disposed of during captures."""
        while self._discarded and not getattr(self._capturing, "on", False):
            try:
                free = self._discarded.popleft()
            except IndexError:
                return
            free()

    def capturing(self, on: bool) -> None:
        """Tells that this thread captures a stream from now on, or no longer."""
        self._capturing.on = on


class DeviceMemory:
    """A block of device memory at address ``ptr``, free again when it is dropped unless the device failed."""

    __slots__ = ("_context", "_exported", "_memory", "ptr")

    def __init__(self, context: CudaContext, memory: Memory) -> None:
        self.ptr = int(memory.ptr)
        self._context = context
        self._memory = memory
        self._exported = False

    def mark_exported(self) -> None:
        """Tells that other libraries may have started work on the memory that nobody here knows of."""
        self._exported = True

    def __del__(self) -> None:
        if not self._context.usable:
            self._context.keep(self._memory)
        elif self._exported:
            self._context.retired.add(self._memory)


class RetiredMemory:
    """Memory that other libraries used: it is free when all is done that the default stream waited for.

    They may drop a tensor while work on it is still queued. What runs on streams that do not wait for the
    default stream is theirs to wait for, as DLPack does not tell of it.
    """

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._new: deque[object] = deque()
        self._waiting: deque[tuple[int, list[object]]] = deque()
        self._lock = threading.Lock()

    def add(self, memory: object) -> None:
        """Takes over what keeps memory. For finalizers: calls nothing of CUDA."""
        self._new.append(memory)

    def collect(self, *, wait: bool = False) -> None:
        """Frees what is over; with ``wait`` all of it. The device must be current."""
        if not self._new and not self._waiting:
            return
        runtime = self._runtime
        with self._lock:
            if self._new:
                event = int(runtime.eventCreateWithFlags(runtime.eventDisableTiming))
                runtime.eventRecord(event, LEGACY_STREAM)
                self._waiting.append((event, [self._new.popleft() for _ in range(len(self._new))]))
            while self._waiting:
                event = self._waiting[0][0]
                if wait:
                    runtime.eventSynchronize(event)
                elif int(runtime.eventQuery(event)):
                    return
                self._waiting.popleft()
                runtime.eventDestroy(event)


class _Active:
    """Makes a device current for a thread, and gives errors of CUDA their onnxplan form."""

    __slots__ = ("_context", "_doing", "_previous")

    def __init__(self, context: CudaContext, doing: str) -> None:
        self._context = context
        self._doing = doing
        self._previous = context.ordinal

    def __enter__(self) -> None:
        context = self._context
        context.check()
        runtime = context.api.runtime
        try:
            self._previous = runtime.getDevice()
            # Also where it is current already: the driver's calls need it done once on each thread.
            runtime.setDevice(context.ordinal)
        except context.api.errors as error:
            raise context.failure(error, self._doing) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        context = self._context
        if self._previous != context.ordinal:
            context.api.runtime.setDevice(self._previous)
        if isinstance(error, context.api.errors):
            raise context.failure(error, self._doing) from error


def _after_fork_in_child() -> None:
    global _forks, _lock
    _forks += 1
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
