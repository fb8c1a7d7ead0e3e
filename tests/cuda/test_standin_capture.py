"""The stand-in's stream capture and graphs: each rule broken and kept."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from standin import StrictError
from standin_errors import (
    CAPTURE_IMPLICIT,
    CAPTURE_INVALIDATED,
    CAPTURE_ISOLATION,
    CAPTURE_MERGE,
    CAPTURE_UNJOINED,
    CAPTURE_UNMATCHED,
    CAPTURE_UNSUPPORTED,
    CAPTURE_WRONG_THREAD,
    CAPTURED_EVENT,
)
from standin_graphs import GLOBAL, RELAXED, THREAD_LOCAL
from standin_samples import TO_DEVICE, TO_HOST, Machine

ONES = np.ones(64, np.float32)


@pytest.fixture
def machine():
    return Machine()


def status_of(machine, call, *arguments):
    """The status a call raises."""
    with pytest.raises(machine.runtime.CUDARuntimeError) as caught:
        call(*arguments)
    return caught.value.status


def on_thread(function, *arguments):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def test_a_graph_does_what_was_captured_each_time(machine):
    runtime, kernel, stream = machine.runtime, machine.kernel(), machine.stream()
    block = machine.upload(ONES)
    address, values = machine.pinned(ONES)
    back, result = machine.pinned(ONES)
    graph = machine.capture(
        stream,
        THREAD_LOCAL,
        lambda: runtime.memcpyAsync(block.ptr, address, 256, TO_DEVICE, stream),
        lambda: machine.launch(kernel, block.ptr, block.ptr, 64, stream),
        lambda: machine.launch(kernel, block.ptr, block.ptr, 64, stream),
        lambda: runtime.memcpyAsync(back, block.ptr, 256, TO_HOST, stream),
    )
    executable = runtime.graphInstantiate(graph)
    runtime.graphDestroy(graph)
    assert machine.standin.counters.executions == 0
    for start in (1, 5):
        values[:] = start
        runtime.graphLaunch(executable, stream)
        runtime.streamSynchronize(stream)
        assert (result == start + 2).all()
    counters = machine.standin.counters
    assert (counters.launches, counters.executions) == (2, 4)
    assert (counters.captures, counters.instantiations, counters.graph_launches) == (1, 1, 2)
    runtime.graphExecDestroy(executable)
    assert machine.standin.violations == []


UNSAFE = {
    "malloc": lambda machine, *_: machine.runtime.malloc(64),
    "allocator": lambda machine, *_: machine.standin.allocate(64),
    "free": lambda machine, event, address, graph: machine.runtime.free(address),
    "hostAlloc": lambda machine, *_: machine.runtime.hostAlloc(64, 0),
    "hostRegister": lambda machine, *_: machine.runtime.hostRegister(ONES.ctypes.data, 256, 0),
    "memcpy": lambda machine, event, address, graph: machine.download(address, 8),
    "eventQuery": lambda machine, event, address, graph: raising(machine, machine.runtime.eventQuery(event)),
    "eventSynchronize": lambda machine, event, *_: machine.runtime.eventSynchronize(event),
    "streamSynchronize": lambda machine, *_: machine.runtime.streamSynchronize(0),
    "deviceSynchronize": lambda machine, *_: machine.runtime.deviceSynchronize(),
    "moduleLoadData": lambda machine, *_: machine.driver.moduleLoadData(machine.cubin()),
    "graphInstantiate": lambda machine, event, address, graph: machine.runtime.graphInstantiate(graph),
    "graphExecDestroy": lambda machine, *_: machine.runtime.graphExecDestroy(0),
}


def raising(machine, status):
    if status:
        raise machine.runtime.CUDARuntimeError(status)


@pytest.fixture
def scene(machine):
    """What unsafe calls are made on: an event, device memory and a graph."""
    stream = machine.stream()
    event, address = machine.event(stream), machine.runtime.malloc(64)
    machine.runtime.streamSynchronize(stream)
    return event, address, machine.capture(stream, RELAXED)


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("mode", [GLOBAL, THREAD_LOCAL])
def test_unsafe_calls_spoil_a_capture(machine, scene, name, mode):
    stream = machine.stream()
    machine.runtime.streamBeginCapture(stream, mode)
    with pytest.raises((machine.runtime.CUDARuntimeError, machine.driver.CUDADriverError)) as caught:
        UNSAFE[name](machine, *scene)
    assert caught.value.status == CAPTURE_UNSUPPORTED
    assert status_of(machine, machine.runtime.streamEndCapture, stream) == CAPTURE_INVALIDATED
    assert machine.standin.violations


@pytest.mark.parametrize("name", UNSAFE)
def test_relaxed_captures_are_kept_clean_too(machine, scene, name):
    stream = machine.stream()
    machine.runtime.streamBeginCapture(stream)
    with pytest.raises((StrictError, machine.runtime.CUDARuntimeError)):
        UNSAFE[name](machine, *scene)


def test_other_threads_are_free_unless_the_mode_is_global(machine):
    def allocate():
        machine.runtime.setDevice(0)
        return machine.runtime.malloc(64)

    for mode in (RELAXED, THREAD_LOCAL):
        stream = machine.stream()
        machine.runtime.streamBeginCapture(stream, mode)
        on_thread(allocate)
        machine.runtime.streamEndCapture(stream)
    assert machine.standin.violations == []
    stream = machine.stream()
    machine.runtime.streamBeginCapture(stream, GLOBAL)
    assert status_of(machine, on_thread, allocate) == CAPTURE_UNSUPPORTED
    assert status_of(machine, machine.runtime.streamEndCapture, stream) == CAPTURE_INVALIDATED


def test_captures_end_where_they_began(machine):
    stream, other = machine.stream(), machine.stream()
    machine.runtime.streamBeginCapture(stream, THREAD_LOCAL)
    assert machine.runtime.streamIsCapturing(stream)
    assert status_of(machine, on_thread, machine.runtime.streamEndCapture, stream) == CAPTURE_WRONG_THREAD
    event = machine.event(stream)
    machine.runtime.streamWaitEvent(other, event)
    assert machine.runtime.streamIsCapturing(other)
    assert status_of(machine, machine.runtime.streamEndCapture, other) == CAPTURE_UNMATCHED
    machine.runtime.streamEndCapture(stream)
    assert not machine.runtime.streamIsCapturing(other)
    relaxed = machine.stream()
    machine.runtime.streamBeginCapture(relaxed)
    on_thread(machine.runtime.streamEndCapture, relaxed)


def test_branches_are_joined(machine):
    stream, branch, kernel = machine.stream(), machine.stream(), machine.kernel()
    blocks = [machine.upload(ONES) for _ in range(3)]

    def record(joined):
        machine.runtime.streamBeginCapture(stream, THREAD_LOCAL)
        machine.launch(kernel, blocks[0].ptr, blocks[0].ptr, 64, stream)
        machine.runtime.streamWaitEvent(branch, machine.event(stream))
        machine.launch(kernel, blocks[0].ptr, blocks[1].ptr, 64, stream)
        machine.launch(kernel, blocks[0].ptr, blocks[2].ptr, 64, branch)
        if joined:
            machine.runtime.streamWaitEvent(stream, machine.event(branch))
        return machine.runtime.streamEndCapture(stream)

    assert status_of(machine, record, False) == CAPTURE_UNJOINED
    executable = machine.runtime.graphInstantiate(record(True))
    machine.runtime.graphLaunch(executable, stream)
    machine.runtime.streamSynchronize(stream)
    assert [machine.download(block.ptr, 64)[0] for block in blocks] == [2, 3, 3]


def test_branches_of_a_graph_are_ordered(machine):
    stream, branch, kernel = machine.stream(), machine.stream(), machine.kernel()
    blocks = [machine.upload(ONES) for _ in range(2)]
    machine.runtime.streamBeginCapture(stream, THREAD_LOCAL)
    machine.runtime.streamWaitEvent(branch, machine.event(stream))
    machine.launch(kernel, blocks[0].ptr, blocks[1].ptr, 64, stream)
    with pytest.raises(StrictError, match="in another branch"):
        machine.launch(kernel, blocks[1].ptr, blocks[0].ptr, 64, branch)


def test_captures_are_apart_from_the_rest(machine):
    runtime, stream, other = machine.runtime, machine.stream(), machine.stream()
    outside = machine.event(other)
    runtime.streamBeginCapture(stream, THREAD_LOCAL)
    assert status_of(machine, runtime.streamWaitEvent, stream, outside) == CAPTURE_ISOLATION
    assert status_of(machine, runtime.streamEndCapture, stream) == CAPTURE_INVALIDATED
    runtime.streamBeginCapture(stream, RELAXED)
    inside = machine.event(stream)
    runtime.streamEndCapture(stream)
    assert status_of(machine, runtime.streamWaitEvent, other, inside) == CAPTURED_EVENT
    assert status_of(machine, runtime.eventSynchronize, inside) == CAPTURED_EVENT
    assert runtime.eventQuery(inside) == CAPTURED_EVENT
    runtime.streamBeginCapture(stream, RELAXED)
    runtime.streamBeginCapture(other, RELAXED)
    runtime.eventRecord(inside, stream)
    assert status_of(machine, runtime.streamWaitEvent, other, inside) == CAPTURE_MERGE


def test_captured_streams_are_not_waited_for(machine):
    stream = machine.stream()
    on_thread(machine.runtime.streamBeginCapture, stream, RELAXED)
    assert machine.runtime.streamQuery(stream) == CAPTURE_UNSUPPORTED
    assert status_of(machine, machine.runtime.streamSynchronize, stream) == CAPTURE_UNSUPPORTED
    assert status_of(machine, machine.runtime.streamDestroy, stream) == CAPTURE_UNSUPPORTED
    assert status_of(machine, machine.runtime.streamBeginCapture, stream) == CAPTURE_UNSUPPORTED
    assert status_of(machine, machine.runtime.streamBeginCapture, 0) == CAPTURE_UNSUPPORTED


def test_the_legacy_stream_and_a_captured_blocking_stream(machine):
    block = machine.upload(ONES)
    stream = machine.stream(0)
    on_thread(machine.runtime.streamBeginCapture, stream, RELAXED)
    assert status_of(machine, machine.runtime.memsetAsync, block.ptr, 0, 256, 0) == CAPTURE_IMPLICIT
    apart = machine.stream()
    on_thread(machine.runtime.streamBeginCapture, apart, RELAXED)
    machine.standin.captures[0].release()
    del machine.standin.captures[0]
    machine.runtime.memsetAsync(block.ptr, 0, 256, 0)


def test_captured_copies_want_pinned_memory(machine):
    block, stream = machine.upload(ONES), machine.stream()
    machine.runtime.streamBeginCapture(stream, THREAD_LOCAL)
    with pytest.raises(StrictError, match="not pinned"):
        machine.runtime.memcpyAsync(block.ptr, ONES.ctypes.data, 256, TO_DEVICE, stream)
    assert status_of(machine, machine.runtime.streamEndCapture, stream) == CAPTURE_INVALIDATED


@pytest.fixture
def executable(machine):
    """A graph of one kernel: ``(graph, stream, block it changes)``."""
    kernel, stream, block = machine.kernel(), machine.stream(), machine.upload(ONES)
    graph = machine.capture(
        stream, THREAD_LOCAL, lambda: machine.launch(kernel, block.ptr, block.ptr, 64, stream)
    )
    return machine.runtime.graphInstantiate(graph), stream, block


def test_a_graph_does_not_run_twice_at_once(machine, executable):
    graph, stream, block = executable
    other = machine.stream()
    machine.runtime.graphLaunch(graph, stream)
    machine.runtime.graphLaunch(graph, stream)
    with pytest.raises(StrictError, match=r"is launched on .* while its launch on"):
        machine.runtime.graphLaunch(graph, other)
    machine.runtime.streamWaitEvent(other, machine.event(stream))
    machine.runtime.graphLaunch(graph, other)
    machine.runtime.streamSynchronize(other)
    assert machine.download(block.ptr, 64)[0] == 4


def test_a_graph_is_ordered_with_other_streams(machine, executable):
    graph, stream, block = executable
    other = machine.stream()
    machine.runtime.graphLaunch(graph, stream)
    with pytest.raises(StrictError, match="nothing orders"):
        machine.runtime.memsetAsync(block.ptr, 0, 256, other)
    machine.runtime.streamWaitEvent(other, machine.event(stream))
    machine.runtime.memsetAsync(block.ptr, 0, 256, other)
    machine.runtime.streamSynchronize(other)
    assert machine.download(block.ptr, 64)[0] == 0


def test_a_graph_uses_memory_that_is_there(machine):
    runtime, kernel, stream = machine.runtime, machine.kernel(), machine.stream()
    address = runtime.malloc(256)
    graph = machine.capture(
        stream, THREAD_LOCAL, lambda: machine.launch(kernel, address, address, 64, stream)
    )
    executable = runtime.graphInstantiate(graph)
    runtime.graphLaunch(executable, stream)
    with pytest.raises(StrictError, match="before its launch"):
        runtime.graphExecDestroy(executable)
    runtime.streamSynchronize(stream)
    runtime.free(address)
    with pytest.raises(StrictError, match="was freed"):
        runtime.graphLaunch(executable, stream)
    runtime.graphExecDestroy(executable)
    with pytest.raises(StrictError, match="after it was destroyed"):
        runtime.graphLaunch(executable, stream)


def test_a_graph_uses_modules_that_are_there(machine):
    module = machine.driver.moduleLoadData(machine.cubin())
    kernel = machine.driver.moduleGetFunction(module, "onnxplan_add_one")
    stream, block = machine.stream(), machine.upload(ONES)
    graph = machine.capture(
        stream, THREAD_LOCAL, lambda: machine.launch(kernel, block.ptr, block.ptr, 64, stream)
    )
    executable = machine.runtime.graphInstantiate(graph)
    machine.driver.moduleUnload(module)
    with pytest.raises(StrictError, match="unloaded"):
        machine.runtime.graphLaunch(executable, stream)


def test_pinned_memory_of_a_graph_is_checked_at_each_launch(machine):
    block, stream = machine.upload(ONES), machine.stream()
    address, values = machine.pinned(ONES)
    graph = machine.capture(
        stream,
        THREAD_LOCAL,
        lambda: machine.runtime.memcpyAsync(block.ptr, address, 256, TO_DEVICE, stream),
    )
    executable = machine.runtime.graphInstantiate(graph)
    values[:] = 3
    machine.runtime.graphLaunch(executable, stream)
    machine.runtime.streamSynchronize(stream)
    assert machine.download(block.ptr, 64)[0] == 3
    machine.runtime.graphLaunch(executable, stream)
    values[:] = 4
    with pytest.raises(StrictError, match="was changed"):
        machine.runtime.streamSynchronize(stream)


def test_captures_on_many_threads_at_once(machine):
    kernel, ready, failures = machine.kernel(), threading.Barrier(4), []

    def work() -> None:
        try:
            machine.runtime.setDevice(0)
            stream, block = machine.stream(), machine.upload(ONES)
            ready.wait()
            for _ in range(10):
                graph = machine.capture(
                    stream, THREAD_LOCAL, lambda: machine.launch(kernel, block.ptr, block.ptr, 64, stream)
                )
                executable = machine.runtime.graphInstantiate(graph)
                machine.runtime.graphLaunch(executable, stream)
                machine.runtime.streamSynchronize(stream)
                machine.runtime.graphExecDestroy(executable)
                machine.runtime.graphDestroy(graph)
            assert machine.download(block.ptr, 64)[0] == 11
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert machine.standin.violations == []
