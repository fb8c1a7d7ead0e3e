"""The stand-in for CUDA: each rule broken and kept. Streams, events and their order."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from standin import StrictError
from standin_errors import INVALID_HANDLE, NOT_READY
from standin_samples import ON_DEVICE, TO_DEVICE, TO_HOST, Machine, PythonKernel, floats, kernel_text

ONES = np.ones(64, np.float32)


@pytest.fixture
def machine():
    return Machine()


def test_a_run_from_upload_to_download(machine):
    runtime, stream, kernel = machine.runtime, machine.stream(), machine.kernel()
    source, target = machine.standin.allocate(256), machine.standin.allocate(256)
    address, values = machine.pinned(range(64))
    back, result = machine.pinned(np.zeros(64))
    runtime.memcpyAsync(source.ptr, address, 256, TO_DEVICE, stream)
    machine.launch(kernel, source.ptr, target.ptr, 64, stream)
    runtime.memcpyAsync(back, target.ptr, 256, TO_HOST, stream)
    event = machine.event(stream)
    assert np.isnan(result).all(), "nothing runs before it is waited for"
    runtime.eventSynchronize(event)
    assert (result == values + 1).all()
    counters = machine.standin.counters
    assert (counters.launches, counters.executions, counters.synchronisations) == (1, 1, 1)
    assert counters.copies == {"host to device": 1, "device to host": 1}
    assert counters.copied_bytes == {"host to device": 256, "device to host": 256}
    assert machine.standin.violations == []


def test_kernels_compiled_with_gxx_run():
    from emulator import compile_source, load

    machine = Machine(compile_source=compile_source, load_kernel=load)
    source, target = machine.upload(range(300)), machine.standin.allocate(1200)
    stream = machine.stream()
    machine.launch(machine.kernel(), source.ptr, target.ptr, 300, stream, blocks=2)
    machine.runtime.streamSynchronize(stream)
    assert (machine.download(target.ptr, 300) == np.arange(300) + 1).all()


def test_launch_takes_its_arguments_at_the_call(machine):
    source, target = machine.upload(ONES), machine.upload(ONES)
    stream = machine.stream()
    machine.launch(machine.kernel(), source.ptr, target.ptr, 64, stream)  # clears the words afterwards
    machine.runtime.streamSynchronize(stream)
    assert (machine.download(target.ptr, 64) == 2).all()


def test_unordered_streams(machine):
    source, middle, target = machine.upload(ONES), machine.upload(ONES), machine.upload(ONES)
    first, second, kernel = machine.stream(), machine.stream(), machine.kernel()
    machine.launch(kernel, source.ptr, middle.ptr, 64, first)
    with pytest.raises(StrictError, match=r"reads 1 bytes .* nothing orders the two"):
        machine.launch(kernel, middle.ptr, target.ptr, 64, second)
    with pytest.raises(StrictError, match="writes"):
        machine.launch(kernel, source.ptr, middle.ptr, 64, second)
    with pytest.raises(StrictError, match="writes"):
        machine.launch(kernel, target.ptr, source.ptr, 64, second)
    assert len(machine.standin.violations) == 3


@pytest.mark.parametrize("how", ["event", "stream synchronisation", "event synchronisation", "query"])
def test_ordered_streams(machine, how):
    source, middle, target = machine.upload(ONES), machine.upload(ONES), machine.upload(ONES)
    first, second, kernel = machine.stream(), machine.stream(), machine.kernel()
    machine.launch(kernel, source.ptr, middle.ptr, 64, first)
    event = machine.event(first)
    if how == "event":
        machine.runtime.streamWaitEvent(second, event)
    elif how == "stream synchronisation":
        machine.runtime.streamSynchronize(first)
    elif how == "event synchronisation":
        machine.runtime.eventSynchronize(event)
    else:
        statuses = [machine.runtime.eventQuery(event) for _ in range(3)]
        assert statuses == [NOT_READY, 0, 0]
    machine.launch(kernel, middle.ptr, target.ptr, 64, second)
    machine.runtime.streamSynchronize(second)
    assert (machine.download(target.ptr, 64) == 3).all()
    assert machine.standin.violations == []


def test_an_event_orders_only_what_came_before_it(machine):
    source, target = machine.upload(ONES), machine.upload(ONES)
    first, second, kernel = machine.stream(), machine.stream(), machine.kernel()
    event = machine.event(first)
    machine.launch(kernel, source.ptr, target.ptr, 64, first)
    machine.runtime.streamWaitEvent(second, event)
    with pytest.raises(StrictError, match="nothing orders"):
        machine.launch(kernel, source.ptr, target.ptr, 64, second)


def test_orderings_carry_over(machine):
    source, target = machine.upload(ONES), machine.upload(ONES)
    first, second, third, kernel = machine.stream(), machine.stream(), machine.stream(), machine.kernel()
    machine.launch(kernel, source.ptr, target.ptr, 64, first)
    machine.runtime.streamWaitEvent(second, machine.event(first))
    machine.runtime.streamWaitEvent(third, machine.event(second))
    machine.launch(kernel, source.ptr, target.ptr, 64, third)
    machine.runtime.streamSynchronize(third)
    assert machine.standin.violations == []


def test_two_streams_may_read_the_same(machine):
    source, kernel = machine.upload(ONES), machine.kernel()
    targets = [machine.upload(ONES) for _ in range(2)]
    streams = [machine.stream() for _ in targets]
    for stream, target in zip(streams, targets, strict=True):
        machine.launch(kernel, source.ptr, target.ptr, 64, stream)
    for stream in streams:
        machine.runtime.streamSynchronize(stream)
    assert machine.standin.violations == []


def test_copies_and_fills_are_ordered_too(machine):
    source, target, stream = machine.upload(ONES), machine.upload(ONES), machine.stream()
    machine.launch(machine.kernel(), source.ptr, target.ptr, 64, stream)
    address, _ = machine.pinned(ONES)
    runtime, other = machine.runtime, machine.stream()
    with pytest.raises(StrictError, match="a copy device to host"):
        runtime.memcpyAsync(address, target.ptr, 256, TO_HOST, other)
    with pytest.raises(StrictError, match="a copy host to device"):
        runtime.memcpyAsync(target.ptr, address, 256, TO_DEVICE, other)
    with pytest.raises(StrictError, match="a copy device to device"):
        runtime.memcpyAsync(source.ptr, target.ptr, 256, ON_DEVICE, other)
    with pytest.raises(StrictError, match="memset"):
        runtime.memsetAsync(target.ptr, 0, 256, other)
    runtime.memsetAsync(target.ptr, 0, 256, stream)
    runtime.memcpyAsync(address, target.ptr, 256, TO_HOST, stream)
    runtime.streamSynchronize(stream)
    assert (floats(address, 64) == 0).all()


def test_the_legacy_stream_orders_blocking_streams_only(machine):
    source, target, kernel = machine.upload(ONES), machine.upload(ONES), machine.kernel()
    blocking, other, apart = machine.stream(0), machine.stream(0), machine.stream()
    machine.launch(kernel, source.ptr, target.ptr, 64, blocking)
    machine.runtime.memsetAsync(target.ptr, 0, 256, 0)
    machine.launch(kernel, source.ptr, target.ptr, 64, other)
    with pytest.raises(StrictError, match="nothing orders"):
        machine.launch(kernel, source.ptr, target.ptr, 64, apart)
    machine.runtime.deviceSynchronize()
    assert (machine.download(target.ptr, 64) == 2).all()


def test_a_synchronous_copy_does_not_wait_for_non_blocking_streams(machine):
    source, target, stream = machine.upload(ONES), machine.upload(ONES), machine.stream()
    machine.launch(machine.kernel(), source.ptr, target.ptr, 64, stream)
    with pytest.raises(StrictError, match="nothing orders"):
        machine.download(target.ptr, 64)
    machine.runtime.streamSynchronize(stream)
    assert (machine.download(target.ptr, 64) == 2).all()


def test_an_oracle_tells_exact_ranges():
    def oracle(function, words):
        assert function.symbol == "onnxplan_add_one"
        return [(words[0], 4 * words[2], False), (words[1], 4 * words[2], True)]

    machine = Machine(access_oracle=oracle)
    source, target, kernel = machine.upload(ONES), machine.upload(ONES), machine.kernel()
    first, second = machine.stream(), machine.stream()
    machine.launch(kernel, source.ptr, target.ptr, 32, first)
    machine.launch(kernel, source.ptr, target.ptr + 128, 32, second)
    with pytest.raises(StrictError, match="reads 80 bytes"):
        machine.launch(kernel, target.ptr + 100, source.ptr, 20, second)


def test_private_arenas():
    machine = Machine(private_arenas=True)
    constant, first_arena, second_arena = (machine.upload(ONES) for _ in range(3))
    first, second, kernel = machine.stream(), machine.stream(), machine.kernel()
    machine.launch(kernel, constant.ptr, first_arena.ptr, 32, first)
    machine.launch(kernel, constant.ptr, second_arena.ptr, 32, second)
    machine.launch(kernel, first_arena.ptr, first_arena.ptr + 128, 32, first)
    with pytest.raises(StrictError, match="nothing orders"):
        machine.runtime.memsetAsync(first_arena.ptr + 64, 0, 64, second)
    machine.runtime.deviceSynchronize()
    with pytest.raises(StrictError, match="which belongs to"):
        machine.launch(kernel, constant.ptr, first_arena.ptr, 32, second)
    with pytest.raises(StrictError, match="which belongs to"):
        machine.capture(second, 1, lambda: machine.launch(kernel, constant.ptr, first_arena.ptr, 32, second))


def test_branches_of_a_graph_share_an_arena():
    machine = Machine(private_arenas=True)
    constant, arena = machine.upload(ONES), machine.upload(ONES)
    first, second, kernel = machine.stream(), machine.stream(), machine.kernel()

    def captured(offset):
        def body():
            event = machine.event(first)
            machine.runtime.streamWaitEvent(second, event)
            machine.launch(kernel, constant.ptr, arena.ptr, 8, first)
            machine.launch(kernel, constant.ptr, arena.ptr + offset, 8, second)
            machine.runtime.eventRecord(event, second)
            machine.runtime.streamWaitEvent(first, event)

        return machine.capture(first, 1, body)

    captured(64)
    with pytest.raises(StrictError, match="in another branch"):
        captured(0)


def test_kernels_without_a_readable_text_are_checked_against_copies(machine):
    text = kernel_text("onnxplan_add_one").replace("(arguments.words", "(hidden(arguments).words")
    program = machine.nvrtc.createProgram(text, "kernel.cu", (), ())
    machine.nvrtc.compileProgram(program, ("-arch=sm_90",))
    module = machine.driver.moduleLoadData(machine.nvrtc.getCUBIN(program))
    kernel = machine.driver.moduleGetFunction(module, "onnxplan_add_one")
    source, target = machine.upload(ONES), machine.upload(ONES)
    first, second = machine.stream(), machine.stream()
    machine.launch(kernel, source.ptr, target.ptr, 64, first)
    other = machine.upload(ONES)
    machine.launch(kernel, source.ptr, other.ptr, 64, second)
    with pytest.raises(StrictError, match="reads or writes"):
        machine.runtime.memsetAsync(target.ptr, 0, 256, second)


def test_nothing_is_destroyed_in_use(machine):
    source, target, stream = machine.upload(ONES), machine.upload(ONES), machine.stream()
    module = machine.driver.moduleLoadData(machine.cubin())
    kernel = machine.driver.moduleGetFunction(module, "onnxplan_add_one")
    machine.launch(kernel, source.ptr, target.ptr, 64, stream)
    with pytest.raises(StrictError, match="before its work"):
        machine.runtime.streamDestroy(stream)
    with pytest.raises(StrictError, match="unloaded while"):
        machine.driver.moduleUnload(module)
    machine.runtime.streamSynchronize(stream)
    machine.driver.moduleUnload(module)
    with pytest.raises(StrictError, match="was unloaded"):
        machine.launch(kernel, source.ptr, target.ptr, 64, stream)
    machine.runtime.streamDestroy(stream)
    with pytest.raises(StrictError, match="used after it was destroyed"):
        machine.runtime.streamSynchronize(stream)
    with pytest.raises(machine.runtime.CUDARuntimeError) as caught:
        machine.runtime.streamSynchronize(12345)
    assert caught.value.status == INVALID_HANDLE


def run_by_chance(seed):
    """The order in which kernels on three streams ran; the third stream waits for the first."""
    ran = []

    def load_kernel(code, symbol):
        return PythonKernel(lambda source, target, count: ran.append(count))

    machine = Machine(seed=seed, load_kernel=load_kernel)
    streams, kernel = [machine.stream() for _ in range(3)], machine.kernel()
    blocks = [machine.upload(ONES) for _ in streams]
    for number, (stream, block) in enumerate(zip(streams, blocks, strict=True)):
        if number == 2:
            machine.runtime.streamWaitEvent(stream, machine.event(streams[0]))
        machine.launch(kernel, block.ptr, block.ptr, number, stream)
    machine.runtime.deviceSynchronize()
    return tuple(ran)


def test_by_chance_streams_run_in_orders_that_events_allow():
    orders = {run_by_chance(seed) for seed in range(80)}
    assert orders == {(0, 1, 2), (0, 2, 1), (1, 0, 2)}
    assert run_by_chance(3) == run_by_chance(3)


def test_many_threads(machine):
    kernel, failures = machine.kernel(), []

    def work(number: int) -> None:
        try:
            machine.runtime.setDevice(0)
            stream = machine.stream()
            source, target = machine.upload(np.full(64, number)), machine.upload(ONES)
            address, values = machine.pinned(ONES)
            for _ in range(20):
                machine.launch(kernel, source.ptr, target.ptr, 64, stream)
                machine.runtime.memcpyAsync(address, target.ptr, 256, TO_HOST, stream)
                event = machine.event(stream)
                while machine.runtime.eventQuery(event):
                    pass
                assert (values == number + 1).all()
                machine.runtime.eventDestroy(event)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert machine.standin.violations == []
