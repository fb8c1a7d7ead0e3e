"""The stand-in's ``cupy_backends.cuda.api.runtime``."""

from __future__ import annotations

import threading
from typing import Any

from cupy_backends.cuda.api import runtime as real_runtime
from standin_copies import KIND_NAMES, Fill, make_copy
from standin_errors import (
    CAPTURE_ISOLATION,
    CAPTURE_MERGE,
    CAPTURE_UNSUPPORTED,
    CAPTURED_EVENT,
    INVALID_DEVICE,
    INVALID_HANDLE,
    INVALID_VALUE,
    NOT_PINNED_REGISTERED,
    NOT_READY,
    CudaStatus,
    StrictError,
    runtime_error,
)
from standin_graphs import RELAXED, Capture, Graph, GraphExec
from standin_memory import DEVICE, PINNED, REGISTERED
from standin_module import Module, function
from standin_properties import attribute, properties
from standin_streams import Event, Stream


class Runtime(Module):
    real = real_runtime
    error_class = real_runtime.CUDARuntimeError
    error = staticmethod(runtime_error)

    # Devices

    @function(needs="nothing")
    def driverGetVersion(self) -> int:
        return self.standin.driver_version

    @function(needs="nothing")
    def runtimeGetVersion(self) -> int:
        return self.standin.cuda_version

    @function(needs="driver")
    def getDeviceCount(self) -> int:
        return len(self.standin.devices)

    @function(needs="driver")
    def getDevice(self) -> int:
        return self.standin.current_device().ordinal

    @function(needs="driver")
    def setDevice(self, device: int) -> None:
        self.standin.set_device(device)

    @function(needs="driver")
    def deviceGetAttribute(self, attrib: int, device: int) -> int:
        return attribute(self._device(device), attrib)

    @function(needs="driver")
    def getDeviceProperties(self, device: int) -> dict[str, Any]:
        return properties(self._device(device))

    def _device(self, ordinal: int) -> Any:
        if not 0 <= ordinal < len(self.standin.devices):
            raise CudaStatus(INVALID_DEVICE, f"device {ordinal}")
        return self.standin.devices[ordinal]

    @function(unsafe=True)
    def deviceSynchronize(self) -> None:
        standin = self.standin
        device = standin.current_device("deviceSynchronize").ordinal
        for capture in standin.captures:
            if capture.origin.device == device:
                capture.spoil("deviceSynchronize")
                raise CudaStatus(CAPTURE_UNSUPPORTED, "deviceSynchronize while a stream is captured")
        standin.counters.synchronisations += 1
        for stream in list(standin.scheduler.streams.values()):
            if stream.device == device and stream.last is not None:
                standin.scheduler.complete(stream.last)

    # Memory

    @function()
    def memGetInfo(self) -> tuple[int, int]:
        device = self.standin.current_device("memGetInfo")
        return self.standin.free_bytes(device), device.total_bytes

    @function(unsafe=True)
    def malloc(self, size: int) -> int:
        standin = self.standin
        device = standin.current_device("malloc")
        standin.counters.allocations += 1
        limit = device.total_bytes - device.cached_bytes
        return standin.memory.allocate(DEVICE, size, device.ordinal, limit).address

    @function(unsafe=True)
    def free(self, ptr: int) -> None:
        if not ptr:
            return
        block = self.standin.memory.find(ptr)
        if block is not None and block.pooled:
            raise StrictError(f"free: {block} belongs to the allocator")
        self.standin.memory.free(ptr, DEVICE, "free")
        self.standin.counters.frees += 1

    @function(unsafe=True)
    def hostAlloc(self, size: int, flags: int) -> int:
        if flags & ~15:
            raise CudaStatus(INVALID_VALUE, f"flags {flags}")
        self.standin.counters.pinned_allocations += 1
        device = self.standin.current_device("hostAlloc")
        return self.standin.memory.allocate(PINNED, size, device.ordinal).address

    @function(unsafe=True)
    def freeHost(self, ptr: int) -> None:
        if ptr:
            self.standin.memory.free(ptr, PINNED, "freeHost")

    @function(unsafe=True)
    def hostRegister(self, ptr: int, size: int, flags: int) -> None:
        self.standin.memory.register(ptr, size, self.standin.current_device("hostRegister").ordinal)

    @function(unsafe=True)
    def hostUnregister(self, ptr: int) -> None:
        block = self.standin.memory.find(ptr)
        if block is None or block.kind != REGISTERED:
            raise CudaStatus(NOT_PINNED_REGISTERED)
        self.standin.memory.free(ptr, REGISTERED, "hostUnregister")

    @function()
    def pointerGetAttributes(self, ptr: int) -> Any:
        block = self.standin.memory.find(ptr)
        if block is None or ptr == block.end:
            return real_runtime.PointerAttributes(-2, 0, ptr, 0)
        host = 0 if block.on_device else ptr
        return real_runtime.PointerAttributes(block.device, ptr, host, 2 if block.on_device else 1)

    @function(unsafe=True)
    def memcpy(self, dst: int, src: int, size: int, kind: int) -> None:
        if not size:
            return
        operation = self._copy(dst, src, size, kind, self.standin.stream(0), pageable=True)
        self.standin.scheduler.complete(operation)

    @function()
    def memcpyAsync(self, dst: int, src: int, size: int, kind: int, stream: int) -> None:
        target = self.standin.stream(stream)
        if size:
            self._copy(dst, src, size, kind, target, pageable=False)

    def _copy(self, dst: int, src: int, size: int, kind: int, stream: Stream, *, pageable: bool) -> Any:
        standin = self.standin
        copy = make_copy(standin.memory, dst, src, size, kind)
        if not pageable and (copy.source_block is None or copy.destination_block is None):
            if stream.capture is not None:
                stream.capture.spoil("a copy with pageable memory")
            raise StrictError(f"memcpyAsync: {copy.label} with host memory that is not pinned")
        standin.counters.copies[KIND_NAMES[copy.kind]] += 1
        standin.counters.copied_bytes[KIND_NAMES[copy.kind]] += size
        return standin.submit(stream, copy)

    @function()
    def memset(self, ptr: int, value: int, size: int) -> None:
        self._fill(ptr, value, size, self.standin.stream(0))

    @function()
    def memsetAsync(self, ptr: int, value: int, size: int, stream: int) -> None:
        self._fill(ptr, value, size, self.standin.stream(stream))

    def _fill(self, ptr: int, value: int, size: int, stream: Stream) -> None:
        if size:
            self.standin.memory.at(ptr, size, "memset")
            self.standin.submit(stream, Fill(ptr, value, size))

    # Streams

    @function()
    def streamCreate(self) -> int:
        return self._new_stream(0)

    @function()
    def streamCreateWithFlags(self, flags: int) -> int:
        return self._new_stream(flags)

    @function()
    def streamCreateWithPriority(self, flags: int, priority: int) -> int:
        return self._new_stream(flags)

    def _new_stream(self, flags: int) -> int:
        if flags not in (0, 1):
            raise CudaStatus(INVALID_VALUE, f"stream flags {flags}")
        standin = self.standin
        device = standin.current_device("streamCreate").ordinal
        stream = standin.open_stream(standin.new_handle(), device, blocking=not flags, flags=flags)
        return standin.add_handle(stream)

    @function()
    def streamGetFlags(self, stream: int) -> int:
        return self.standin.stream(stream).flags

    @function()
    def streamDestroy(self, stream: int) -> None:
        target = self.standin.handle(stream, Stream)
        if target.capture is not None:
            target.capture.spoil("streamDestroy")
            raise CudaStatus(CAPTURE_UNSUPPORTED, f"{target} is destroyed while it is captured")
        if not self.standin.scheduler.idle(target):
            raise StrictError(f"{target} is destroyed before its work is known to be over")
        self.standin.destroy_handle(stream)

    @function(unsafe=True)
    def streamSynchronize(self, stream: int) -> None:
        target = self._uncaptured(stream, "streamSynchronize")
        self.standin.counters.synchronisations += 1
        if target.last is not None:
            self.standin.scheduler.complete(target.last)

    @function(unsafe=True, status_result=True)
    def streamQuery(self, stream: int) -> int:
        target = self._uncaptured(stream, "streamQuery")
        done = target.last is None or self.standin.scheduler.query(target.last, self.standin.query_steps)
        return 0 if done else NOT_READY

    def _uncaptured(self, stream: int, name: str) -> Stream:
        target = self.standin.stream(stream)
        self.standin.check_implicit(target)
        if target.capture is not None:
            target.capture.spoil(name)
            raise CudaStatus(CAPTURE_UNSUPPORTED, f"{name} of {target}, which is captured")
        return target

    @function()
    def streamWaitEvent(self, stream: int, event: int, flags: int = 0) -> None:
        standin = self.standin
        target, awaited = standin.stream(stream), standin.handle(event, Event)
        standin.check_implicit(target)
        if awaited.captured is not None:
            capture, bits = awaited.captured
            if capture not in standin.captures or target.legacy:
                raise CudaStatus(CAPTURED_EVENT, f"{awaited} was recorded in a capture that is over")
            if target.capture not in (None, capture):
                capture.spoil("merged")
                target.capture.spoil("merged")
                raise CudaStatus(CAPTURE_MERGE, f"{awaited} belongs to another capture")
            capture.fork(target, bits)
        elif target.capture is not None:
            target.capture.spoil("it waits for uncaptured work")
            raise CudaStatus(
                CAPTURE_ISOLATION, f"{target}, which is captured, waits for uncaptured {awaited}"
            )
        elif awaited.operation is not None:
            standin.scheduler.enqueue(target, f"a wait for {awaited}", waits=(awaited.operation,))

    # Events

    @function()
    def eventCreate(self) -> int:
        return self._new_event(0)

    @function()
    def eventCreateWithFlags(self, flags: int) -> int:
        return self._new_event(flags)

    def _new_event(self, flags: int) -> int:
        if flags & ~3:
            raise CudaStatus(INVALID_VALUE, f"event flags {flags}")
        standin = self.standin
        device = standin.current_device("eventCreate").ordinal
        return standin.add_handle(Event(standin.new_handle(), device, flags))

    @function()
    def eventDestroy(self, event: int) -> None:
        self.standin.handle(event, Event)
        self.standin.destroy_handle(event)

    @function()
    def eventRecord(self, event: int, stream: int) -> None:
        standin = self.standin
        target, recorded = standin.stream(stream), standin.handle(event, Event)
        if target.device != recorded.device:
            raise CudaStatus(INVALID_HANDLE, f"{recorded} and {target} are of different devices")
        standin.check_implicit(target)
        if target.capture is not None:
            recorded.captured = (target.capture, target.capture.tails[target])
        else:
            recorded.captured = None
            recorded.operation = standin.scheduler.enqueue(
                target, f"a record of {recorded}", issue=lambda busy: lambda: recorded.stamp(standin.clock)
            )

    @function(unsafe=True)
    def eventSynchronize(self, event: int) -> None:
        operation = self._recorded(event)
        self.standin.counters.synchronisations += 1
        if operation is not None:
            self.standin.scheduler.complete(operation)

    @function(unsafe=True, status_result=True)
    def eventQuery(self, event: int) -> int:
        operation = self._recorded(event)
        done = operation is None or self.standin.scheduler.query(operation, self.standin.query_steps)
        return 0 if done else NOT_READY

    @function()
    def eventElapsedTime(self, start: int, end: int) -> float:
        for event in (start, end):
            operation = self._recorded(event)
            if operation is None or self.standin.handle(event, Event).flags & 2:
                raise CudaStatus(INVALID_HANDLE, "the event has no time")
            if not operation.done:
                raise CudaStatus(NOT_READY)
        first, last = (self.standin.handle(event, Event).time for event in (start, end))
        return last - first or 1e-3

    def _recorded(self, event: int) -> Any:
        awaited = self.standin.handle(event, Event)
        if awaited.captured is not None:
            raise CudaStatus(CAPTURED_EVENT, f"{awaited} was recorded in a capture")
        return awaited.operation

    # Graphs

    @function()
    def streamBeginCapture(self, stream: int, mode: int = RELAXED) -> None:
        standin = self.standin
        target = standin.stream(stream)
        if target.legacy or mode not in (0, 1, 2):
            raise CudaStatus(CAPTURE_UNSUPPORTED if target.legacy else INVALID_VALUE)
        if target.capture is not None:
            raise CudaStatus(CAPTURE_UNSUPPORTED, f"{target} is captured already")
        capture = Capture(target, mode, threading.get_ident())
        capture.fork(target, 0)
        standin.captures.append(capture)
        standin.counters.captures += 1

    @function()
    def streamEndCapture(self, stream: int) -> int:
        standin = self.standin
        target = standin.stream(stream)
        if target.capture is None:
            raise CudaStatus(INVALID_VALUE, f"{target} is not captured")
        capture = target.capture
        try:
            nodes = capture.finish(target)
        finally:
            if target.capture is None:
                standin.captures.remove(capture)
        return standin.add_handle(Graph(standin.new_handle(), nodes))

    @function()
    def streamIsCapturing(self, stream: int) -> bool:
        target = self.standin.stream(stream)
        self.standin.check_implicit(target)
        if target.capture is not None and target.capture.spoilt is not None:
            raise RuntimeError("the stream was capturing, but an error has invalidated the capture sequence")
        return target.capture is not None

    @function(unsafe=True)
    def graphInstantiate(self, graph: int) -> int:
        standin = self.standin
        nodes = standin.handle(graph, Graph).nodes
        device = standin.current_device("graphInstantiate").ordinal
        standin.counters.instantiations += 1
        return standin.add_handle(GraphExec(standin.new_handle(), device, nodes, standin.chance))

    @function()
    def graphUpload(self, graphExec: int, stream: int) -> None:
        self.standin.handle(graphExec, GraphExec)
        self._uncaptured(stream, "graphUpload")

    @function()
    def graphLaunch(self, graphExec: int, stream: int) -> None:
        standin = self.standin
        work, target = standin.handle(graphExec, GraphExec), standin.stream(stream)
        if target.capture is not None:
            target.capture.spoil("graphLaunch")
            raise CudaStatus(CAPTURE_UNSUPPORTED, "the stand-in has no graphs in graphs")
        if work.last_launch is not None and not standin.scheduler.comes_after(target, work.last_launch):
            raise StrictError(
                f"{work} is launched on {target} while its launch on {work.last_launch.stream} runs"
            )
        work.last_launch = standin.submit(target, work)
        standin.counters.graph_launches += 1

    @function()
    def graphDestroy(self, graph: int) -> None:
        self.standin.handle(graph, Graph)
        self.standin.destroy_handle(graph)

    @function(unsafe=True)
    def graphExecDestroy(self, graphExec: int) -> None:
        work = self.standin.handle(graphExec, GraphExec)
        if work.last_launch is not None and not self.standin.scheduler.over(work.last_launch):
            raise StrictError(f"{work} is destroyed before its launch is known to be over")
        self.standin.destroy_handle(graphExec)
