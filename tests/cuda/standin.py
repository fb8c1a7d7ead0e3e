"""A strict stand-in for CUDA: CuPy's low-level modules, an allocator and cuBLASLt, on host memory.

Production code runs on it unchanged. It does what CUDA promises and no more: streams run as late as they may,
memory is poisoned, and whatever a GPU would get wrong silently raises :class:`StrictError` and is listed in
``violations``, so that a test sees it even where the error was caught on the way.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from standin_cublaslt import CublasLt
from standin_cudnn import Cudnn
from standin_devices import Device, Memory
from standin_driver import Driver
from standin_errors import (
    CAPTURE_IMPLICIT,
    CAPTURE_STATUSES,
    CAPTURE_UNSUPPORTED,
    INSUFFICIENT_DRIVER,
    INVALID_CONTEXT,
    INVALID_DEVICE,
    INVALID_HANDLE,
    NO_DEVICE,
    NOT_INITIALIZED,
    OUT_OF_MEMORY,
    STICKY,
    CudaStatus,
    StrictError,
)
from standin_faults import Counters, Faults
from standin_graphs import MODE_NAMES, RELAXED, THREAD_LOCAL, Capture
from standin_memory import DEVICE, MemoryMap
from standin_nvrtc import Nvrtc
from standin_order import WRITE, Access, Ordering
from standin_runtime import Runtime
from standin_streams import Operation, Scheduler, Stream, Work

__all__ = ["Device", "Memory", "StandIn", "StrictError"]

AccessOracle = Callable[[Any, tuple[int, ...]], "Sequence[tuple[int, int, bool]] | None"]
"""``(function, words)`` to ``(address, bytes, written)`` of all that a launch touches; None if not known."""


class StandIn:
    """All devices of a pretended machine, and the modules that reach them.

    ``seed`` lets streams run on by chance between calls; without it they run only when they are waited for.
    ``query_steps`` is how many operations a query lets happen, 0 for a device that gets nowhere until it is
    waited for. ``driver_version`` is as CUDA counts (12040), 0 for no driver; ``cuda_version`` is CuPy's.
    ``device_numbers_required`` refuses calls that depend on the current device on threads that have not set
    one. ``access_oracle``, where it is given, tells what kernels read and write; otherwise that comes from
    the kernels' text, and of each operand only the first byte is known. With ``private_arenas`` each block
    that kernels write belongs to the stream that wrote it first, and what a kernel of it touches there counts
    as all of the block. ``compile_source`` and ``load_kernel`` are the emulator's ``compile_source`` and
    ``load``.
    """

    def __init__(
        self,
        devices: int = 1,
        *,
        total_bytes: int = 4 << 30,
        compute_capability: tuple[int, int] = (9, 0),
        driver_version: int = 13020,
        cuda_version: int = 13020,
        seed: int | None = None,
        query_steps: int = 1,
        device_numbers_required: bool = False,
        private_arenas: bool = False,
        access_oracle: AccessOracle | None = None,
        compile_source: Callable[[str], bytes] | None = None,
        load_kernel: Callable[[bytes, str], Any] | None = None,
    ) -> None:
        self.devices = [Device(number, total_bytes, compute_capability) for number in range(devices)]
        self.driver_version = driver_version
        self.cuda_version = cuda_version
        self.query_steps = query_steps
        self.algorithms: Sequence[float] = (1e-3,)
        """Milliseconds that a product takes by each algorithm which the heuristic has, in its order."""
        self.clock = 0.0
        """Milliseconds that products and kernels took."""
        self.launch_milliseconds = 0.0
        """What a kernel takes; a product takes the time of its algorithm."""
        self.device_numbers_required = device_numbers_required
        self.private_arenas = private_arenas
        self.access_oracle = access_oracle
        self.compile_source = compile_source or _emulator_compile
        self.load_kernel = load_kernel or _emulator_load
        self.lock = threading.RLock()
        self.ordering = Ordering()
        self.memory = MemoryMap(self.ordering)
        self.chance = None if seed is None else random.Random(seed)
        self.scheduler = Scheduler(self.ordering, self.memory, self.chance)
        self.scheduler.on_failure = self._note_failure
        self.counters = Counters()
        self.faults = Faults()
        self.captures: list[Capture] = []
        self.discarded: deque[tuple[int, int, int]] = deque()
        self._violations: list[str] = []
        self.functions: dict[int, Any] = {}
        self._handles: dict[int, Any] = {}
        self._destroyed: dict[int, str] = {}
        self._numbers = itertools.count(0x5000_0000_0000, 0x100)
        self._default_streams: dict[tuple[int, int], Stream] = {}
        self._thread = threading.local()
        self._process = os.getpid()
        self.runtime = Runtime(self)
        self.driver = Driver(self)
        self.nvrtc = Nvrtc(self)
        self.cublaslt = CublasLt(self)
        self.cudnn = Cudnn(self)
        self.has_cudnn = False
        """Whether cuDNN is installed."""

    def allocate(self, nbytes: int) -> Memory:
        """Device memory of the current device. Raises CuPy's ``OutOfMemoryError`` as its allocator does."""

        def body() -> Memory:
            self.admit_context(self.runtime)
            self.check_unsafe("an allocation")
            device = self.current_device("an allocation")
            block = self.memory.allocate(DEVICE, nbytes, device.ordinal, device.total_bytes)
            block.pooled = True
            cached = device.cached_bytes - nbytes
            device.cached_bytes = max(0, min(cached, self.free_bytes(device) + device.cached_bytes))
            self.counters.allocations += 1
            return Memory(block, device.epoch, self.discarded)

        try:
            return self.guarded(self.runtime, body)
        except self.runtime.CUDARuntimeError as error:
            if error.status != OUT_OF_MEMORY:
                raise
            from cupy.cuda.memory import OutOfMemoryError

            used = self.memory.used(self.current_device().ordinal)
            raise OutOfMemoryError(nbytes, used, self.current_device().total_bytes) from error

    def release(self) -> None:
        """Gives memory that the allocator holds back to the current device, as ``free_all_blocks`` does."""
        with self.lock:
            self._free_discarded()
            self.current_device().cached_bytes = 0

    def free_bytes(self, device: Device) -> int:
        """What the driver has left, of which the allocator may hold some back."""
        return device.total_bytes - self.memory.used(device.ordinal) - device.cached_bytes

    def api(self) -> Any:
        """The record that production code takes its CUDA from."""
        from onnxplan.runtime.cuda.api import CudaApi

        return CudaApi(
            self.runtime,
            self.driver,
            self.nvrtc,
            self.allocate,
            self.cublaslt,
            cudnn=self.cudnn if self.has_cudnn else None,
            release=self.release,
            reset_device=self.reset_device,
        )

    @property
    def violations(self) -> list[str]:
        """All misuse so far, that of dropped memory included."""
        with self.lock:
            self._free_discarded()
            return list(self._violations)

    def leaks(self) -> list[str]:
        """What is allocated or created now and was not given back."""
        with self.lock:
            self._free_discarded()
            found = [str(block) for block in self.memory]
            return (
                found
                + [str(value) for value in self._handles.values()]
                + self.cublaslt.leaks()
                + self.cudnn.leaks()
            )

    def reset_device(self, ordinal: int) -> None:
        """Destroys a device's context and all in it, as ``cuDevicePrimaryCtxReset`` does."""
        with self.lock:
            device = self.devices[ordinal]
            device.failure = None
            device.epoch += 1
            device.cached_bytes = 0
            self.memory.drop_device(ordinal)
            for handle, value in list(self._handles.items()):
                if getattr(value, "device", None) == ordinal:
                    self.destroy_handle(handle)
            for capture in [capture for capture in self.captures if capture.origin.device == ordinal]:
                capture.release()
                self.captures.remove(capture)
            for key, stream in list(self._default_streams.items()):
                if stream.device == ordinal:
                    del self._default_streams[key]
                    self.close_stream(stream)
            self.cublaslt.drop_device(ordinal)
            self.cudnn.drop_device(ordinal)

    def host_access(self, address: int, nbytes: int, *, written: bool = False) -> None:
        """For tests: the host reads or writes memory now; raises where unfinished work needs it."""
        with self.lock:
            block = self.memory.at(address, nbytes, "the host")
            for access, name in block.log.unfinished(self.ordering, address, address + nbytes):
                if written or access.mode != "reads":
                    self._strict(f"the host uses {address:#x} while {name} {access.mode} it")

    def guarded(self, module: Any, body: Callable[[], Any]) -> Any:
        """Runs the inside of one call: one at a time, statuses as the module's errors, misuse recorded."""
        if os.getpid() != self._process:
            raise module.error(NOT_INITIALIZED, "CUDA does not survive a fork")
        with self.lock:
            self._free_discarded()
            try:
                return body()
            except CudaStatus as status:
                if status.status in CAPTURE_STATUSES:
                    self._violations.append(str(status))
                raise module.error(status.status, status.why) from None
            except StrictError as error:
                self._violations.append(str(error))
                raise

    def _strict(self, message: str) -> None:
        self._violations.append(message)
        raise StrictError(message)

    def _note_failure(self, operation: Operation, error: BaseException) -> None:
        if isinstance(error, CudaStatus) and error.status in STICKY:
            self.devices[operation.stream.device].failure = error.status

    def _free_discarded(self) -> None:
        while self.discarded:
            address, ordinal, epoch = self.discarded.popleft()
            device = self.devices[ordinal]
            if device.epoch != epoch:
                self._violations.append(f"memory at {address:#x} is freed after its device was reset")
            elif device.failure is None:
                try:
                    device.cached_bytes += self.memory.free(address, DEVICE, "the allocator").nbytes
                    self.counters.frees += 1
                except StrictError as error:
                    self._violations.append(str(error))

    def admit_driver(self, module: Any) -> None:
        """Raises unless there is a driver, new enough, and a device."""
        if not self.driver_version:
            raise module.no_driver()
        if self.driver_version // 1000 < self.cuda_version // 1000:
            raise CudaStatus(INSUFFICIENT_DRIVER, f"the driver is for CUDA {self.driver_version}")
        if not self.devices:
            raise CudaStatus(NO_DEVICE)

    def admit_context(self, module: Any) -> None:
        """Raises unless the thread has, or by a call of the runtime gets, a context that is alive."""
        self.admit_driver(module)
        if module is self.runtime:
            self._thread.bound = True
        elif not self.has_context():
            raise CudaStatus(
                INVALID_CONTEXT, "no call of the runtime has made a context current on this thread"
            )
        failure = self.current_device().failure
        if failure is not None:
            raise CudaStatus(failure, "the context is lost")

    def current_device(self, needed_by: str | None = None) -> Device:
        """The thread's device; ``needed_by`` names a call that depends on it."""
        number = getattr(self._thread, "device", None)
        if number is None and needed_by and self.device_numbers_required:
            raise StrictError(f"{needed_by} on a thread that has not called setDevice")
        return self.devices[number or 0]

    def has_context(self) -> bool:
        """Whether a context is current on this thread."""
        return getattr(self._thread, "bound", False)

    def set_device(self, ordinal: int) -> None:
        if not 0 <= ordinal < len(self.devices):
            raise CudaStatus(INVALID_DEVICE, f"device {ordinal} of {len(self.devices)}")
        self._thread.device = ordinal
        self._thread.bound = True

    def new_handle(self) -> int:
        return next(self._numbers)

    def add_handle(self, value: Any) -> int:
        self._handles[value.handle] = value
        return value.handle

    def handle(self, handle: int, kind: type) -> Any:
        """What a handle stands for. Destroyed ones raise :class:`StrictError`, as CUDA may crash on them."""
        value = self._handles.get(handle)
        if isinstance(value, kind):
            return value
        if handle in self._destroyed:
            raise StrictError(f"{self._destroyed[handle]} is used after it was destroyed")
        raise CudaStatus(INVALID_HANDLE, f"{handle:#x} is no {kind.__name__.lower()}")

    def destroy_handle(self, handle: int) -> None:
        value = self._handles.pop(handle)
        self._destroyed[handle] = str(value)
        if isinstance(value, Stream):
            self.close_stream(value)

    def handles(self, kind: type) -> list[Any]:
        return [value for value in self._handles.values() if isinstance(value, kind)]

    def open_stream(self, handle: int, device: int, *, blocking: bool, flags: int = 0) -> Stream:
        stream = Stream(handle, device, self.ordering.open_timeline(), blocking=blocking, flags=flags)
        self.scheduler.streams[stream.timeline] = stream
        return stream

    def close_stream(self, stream: Stream) -> None:
        for operation in stream.pending:
            operation.done = True
        self.ordering.close_timeline(stream.timeline)
        del self.scheduler.streams[stream.timeline]

    def stream(self, handle: int) -> Stream:
        """A stream by handle; 0 and 1 are the legacy one, 2 is the thread's own default."""
        if handle not in (0, 1, 2):
            return self.handle(handle, Stream)
        device = self.current_device("a default stream").ordinal
        key = (device, threading.get_ident() if handle == 2 else 0)
        stream = self._default_streams.get(key)
        if stream is None:
            stream = self._default_streams[key] = self.open_stream(handle, device, blocking=handle == 2)
            stream.legacy = handle != 2
        return stream

    def submit(self, stream: Stream, work: Work, exact: tuple[Access, ...] | None = None) -> Operation | None:
        """Gives work to a stream, or to the capture of it.

        ``exact`` are its accesses before they were widened to blocks: branches of one graph share an arena.
        """
        self.check_implicit(stream)
        if stream.capture is None:
            return self.scheduler.enqueue(stream, work.label, work.accesses, work.issue)
        try:
            for access in work.accesses:
                self.memory.at(access.start, access.end - access.start, work.label)
            stream.capture.add(stream, work, work.accesses if exact is None else exact)
        except StrictError as error:
            stream.capture.spoil(str(error))
            raise
        return None

    def in_arenas(self, stream: Stream, label: str, accesses: tuple[Access, ...]) -> tuple[Access, ...]:
        """The accesses of a kernel or product, widened to whole blocks where those belong to its stream."""
        if not self.private_arenas:
            return accesses
        owner = stream if stream.capture is None else stream.capture.origin
        widened = []
        for access in accesses:
            block = self.memory.at(access.start, 0, label)
            if access.mode == WRITE:
                if block.writer not in (None, owner):
                    raise StrictError(f"{label} on {owner} writes {block}, which belongs to {block.writer}")
                block.writer = owner
            own = block.writer is owner
            widened.append(Access(block.address, block.end, access.mode) if own else access)
        return tuple(dict.fromkeys(widened))

    def check_implicit(self, stream: Stream) -> None:
        """Raises where work of the legacy stream would have to wait for a captured one."""
        if stream.legacy:
            for capture in self.captures:
                if any(member.blocking for member in capture.tails):
                    capture.spoil("work on the legacy stream")
                    raise CudaStatus(
                        CAPTURE_IMPLICIT, "the legacy stream waits for a stream that is captured"
                    )

    def check_unsafe(self, what: str) -> None:
        """Raises where a capture forbids calls that may wait for, or change, the whole device.

        Source: https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__STREAM.html.
        Relaxed captures allow such calls; this project's design does not, on the thread that captures.
        """
        for capture in self.captures:
            mine = capture.thread == threading.get_ident()
            message = f"{what} during the {MODE_NAMES[capture.mode]} capture of {capture.origin}"
            if capture.mode < THREAD_LOCAL or (mine and capture.mode == THREAD_LOCAL):
                capture.spoil(message)
                raise CudaStatus(CAPTURE_UNSUPPORTED, message)
            if mine and capture.mode == RELAXED:
                raise StrictError(message)


def _emulator_compile(text: str) -> bytes:
    from emulator import compile_source

    return compile_source(text)


def _emulator_load(code: bytes, symbol: str) -> Any:
    from emulator import load

    return load(code, symbol)
