"""The stand-in for CUDA: each rule broken and kept. Memory and copies."""

from __future__ import annotations

import ctypes
import gc

import numpy as np
import pytest
from standin import StrictError
from standin_errors import OUT_OF_MEMORY
from standin_memory import POISON
from standin_samples import ON_DEVICE, TO_DEVICE, TO_HOST, Machine

ONES = np.ones(64, np.float32)


@pytest.fixture
def machine():
    return Machine()


def test_new_memory_is_poisoned_and_aligned(machine):
    memory = machine.standin.allocate(100)
    assert memory.ptr % 256 == 0
    assert ctypes.string_at(memory.ptr, 100) == bytes([POISON]) * 100


def test_asynchronous_copies_want_pinned_memory(machine):
    target, stream, pageable = machine.upload(ONES), machine.stream(), np.ones(64, np.float32)
    address = pageable.ctypes.data
    with pytest.raises(StrictError, match="not pinned"):
        machine.runtime.memcpyAsync(target.ptr, address, 256, TO_DEVICE, stream)
    with pytest.raises(StrictError, match="not pinned"):
        machine.runtime.memcpyAsync(address, target.ptr, 256, TO_HOST, stream)
    machine.runtime.hostRegister(address, 256, 0)
    machine.runtime.memcpyAsync(target.ptr, address, 256, TO_DEVICE, stream)
    machine.runtime.streamSynchronize(stream)
    machine.runtime.hostUnregister(address)
    with pytest.raises(StrictError, match="not pinned"):
        machine.runtime.memcpyAsync(target.ptr, address, 256, TO_DEVICE, stream)


def test_the_host_leaves_pinned_memory_alone_while_it_is_copied(machine):
    runtime, target, stream = machine.runtime, machine.upload(ONES), machine.stream()
    address, values = machine.pinned(ONES)
    runtime.memcpyAsync(target.ptr, address, 256, TO_DEVICE, stream)
    values[3] = 7
    with pytest.raises(StrictError, match=r"source .* was changed"):
        runtime.streamSynchronize(stream)
    runtime.streamSynchronize(stream)
    runtime.memcpyAsync(address, target.ptr, 256, TO_HOST, stream)
    values[3] = 7
    with pytest.raises(StrictError, match=r"destination .* was changed"):
        runtime.streamSynchronize(stream)
    runtime.memcpyAsync(target.ptr, address, 256, TO_DEVICE, stream)
    runtime.streamSynchronize(stream)
    values[3] = 9
    runtime.memcpyAsync(target.ptr, address, 256, TO_DEVICE, stream)
    runtime.memcpyAsync(address, target.ptr, 256, TO_HOST, stream)
    runtime.streamSynchronize(stream)
    assert values[3] == 9


def test_host_access_is_checked_where_tests_say_so(machine):
    runtime, target, stream = machine.runtime, machine.upload(ONES), machine.stream()
    address, _ = machine.pinned(ONES)
    runtime.memcpyAsync(target.ptr, address, 256, TO_DEVICE, stream)
    machine.standin.host_access(address, 256)
    with pytest.raises(StrictError, match="the host"):
        machine.standin.host_access(address, 256, written=True)
    runtime.streamSynchronize(stream)
    machine.standin.host_access(address, 256, written=True)


def test_copies_must_be_of_the_declared_kind(machine):
    target, (address, _) = machine.upload(ONES), machine.pinned(ONES)
    for destination, source, kind in ((address, target.ptr, TO_DEVICE), (target.ptr, address, ON_DEVICE)):
        with pytest.raises((machine.runtime.CUDARuntimeError, StrictError)):
            machine.runtime.memcpy(destination, source, 256, kind)
    machine.runtime.memcpy(address, target.ptr, 256, machine.runtime.memcpyDefault)


def test_pointers_must_be_in_allocations(machine):
    source, target, stream, kernel = (
        machine.upload(ONES),
        machine.upload(ONES),
        machine.stream(),
        machine.kernel(),
    )
    with pytest.raises(StrictError, match="in no allocation"):
        machine.launch(kernel, ONES.ctypes.data, target.ptr, 64, stream)
    with pytest.raises(StrictError, match="past the end"):
        machine.runtime.memsetAsync(target.ptr + 8, 0, 256, stream)
    with pytest.raises(StrictError, match="overlap"):
        machine.runtime.memcpyAsync(target.ptr + 8, target.ptr, 64, ON_DEVICE, stream)
    machine.launch(kernel, source.ptr, target.ptr + 128, 32, stream)
    machine.runtime.streamSynchronize(stream)
    assert machine.download(target.ptr + 128, 32)[0] == 2


def test_a_kernel_that_writes_past_its_memory(machine):
    source, target, stream = machine.upload(ONES), machine.upload(ONES), machine.stream()
    machine.launch(machine.kernel("onnxplan_overrun"), source.ptr, target.ptr, 64, stream)
    with pytest.raises(StrictError, match="onnxplan_overrun wrote behind device memory"):
        machine.runtime.streamSynchronize(stream)


def test_use_after_free(machine):
    source, stream, kernel = machine.upload(ONES), machine.stream(), machine.kernel()
    address = machine.runtime.malloc(256)
    machine.launch(kernel, source.ptr, address, 64, stream)
    machine.runtime.streamSynchronize(stream)
    machine.runtime.free(address)
    with pytest.raises(StrictError, match=r"after device memory .* was freed"):
        machine.launch(kernel, source.ptr, address, 64, stream)
    with pytest.raises(StrictError, match="freed before"):
        machine.runtime.free(address)
    pinned, _ = machine.pinned(ONES)
    machine.runtime.freeHost(pinned)
    with pytest.raises(StrictError, match="was freed"):
        machine.runtime.memcpyAsync(source.ptr, pinned, 256, TO_DEVICE, stream)


def test_memory_is_not_freed_while_it_is_used(machine):
    source, stream, kernel = machine.upload(ONES), machine.stream(), machine.kernel()
    address = machine.runtime.malloc(256)
    machine.launch(kernel, source.ptr, address, 64, stream)
    with pytest.raises(StrictError, match=r"is freed while kernel onnxplan_add_one .* writes it"):
        machine.runtime.free(address)
    dropped = machine.standin.allocate(256)
    machine.launch(kernel, source.ptr, dropped.ptr, 64, stream)
    del dropped
    gc.collect()
    assert "is freed while" in machine.standin.violations[-1]


def test_leaks_are_listed(machine):
    assert machine.standin.leaks() == []
    runtime = machine.runtime
    memory, stream = machine.standin.allocate(256), machine.stream()
    address, event = runtime.hostAlloc(64, 0), machine.event(stream)
    module = machine.driver.moduleLoadData(machine.cubin())
    runtime.streamSynchronize(stream)
    graph = machine.capture(stream, 1)
    executable = runtime.graphInstantiate(graph)
    assert len(machine.standin.leaks()) == 7
    del memory
    runtime.freeHost(address)
    runtime.eventDestroy(event)
    machine.driver.moduleUnload(module)
    runtime.graphExecDestroy(executable)
    runtime.graphDestroy(graph)
    runtime.streamDestroy(stream)
    assert machine.standin.leaks() == []


def test_memory_runs_out():
    machine = Machine(total_bytes=1000)
    kept = machine.standin.allocate(600)
    assert machine.runtime.memGetInfo() == (400, 1000)
    with pytest.raises(MemoryError, match="Out of memory allocating 500 bytes"):
        machine.standin.allocate(500)
    with pytest.raises(machine.runtime.CUDARuntimeError, match="out of memory") as caught:
        machine.runtime.malloc(500)
    assert caught.value.status == OUT_OF_MEMORY
    del kept
    assert machine.standin.allocate(500).size == 500


def test_freed_memory_is_held_back_until_it_is_released():
    machine = Machine(total_bytes=1000)
    kept, other = machine.standin.allocate(600), machine.standin.allocate(100)
    del kept
    assert machine.runtime.memGetInfo() == (300, 1000)
    with pytest.raises(machine.runtime.CUDARuntimeError):
        machine.runtime.malloc(500)
    again = machine.standin.allocate(400)
    assert machine.runtime.memGetInfo() == (300, 1000)
    machine.standin.release()
    assert machine.runtime.memGetInfo() == (500, 1000)
    more = machine.standin.allocate(500)
    assert machine.runtime.memGetInfo() == (0, 1000)
    del again, more, other
    machine.standin.release()
    assert machine.runtime.memGetInfo() == (1000, 1000)
