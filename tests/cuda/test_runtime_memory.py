"""Device memory: constants that plans share, limits, and what happens when there is too little."""

from __future__ import annotations

import dataclasses
import gc
import threading

import numpy as np
import pytest
from runtime_plans import Bench, PlanMaker, chain, chained, plus_constant, run, values
from standin_errors import OUT_OF_MEMORY

from onnxplan.compiler.errors import OutOfMemoryError
from onnxplan.runtime.budget import Budget
from onnxplan.runtime.cuda.graph_cache import GraphCache
from onnxplan.runtime.cuda.matmul import workspace_limit
from onnxplan.runtime.cuda.memory import Layout, aligned_size, peak_bytes

MEBIBYTE = 1 << 20
TOTAL = 15 * MEBIBYTE


@pytest.fixture
def bench():
    bench = Bench(total_bytes=TOTAL)
    yield bench
    assert bench.standin.violations == []


def used(bench: Bench) -> int:
    bench.standin.violations  # noqa: B018 - frees what was dropped
    return bench.standin.memory.used(0)


def test_constants_are_uploaded_once_for_all_plans(bench):
    constant = values(1000)
    bench.counters.clear()
    first = bench.bind(plus_constant(bench.target, constant))
    second = bench.bind(plus_constant(bench.target, constant))
    other = bench.bind(plus_constant(bench.target, constant.copy()))
    assert bench.counters.copies == {"host to device": 2}
    for executor in (first, second, other):
        np.testing.assert_array_equal(run(executor, values(1000, 1))[0], values(1000, 1) + constant)
    assert first.memory().constant_bytes == 4000


def test_constants_are_freed_with_the_last_plan(bench):
    constant = values(1000)
    before = used(bench)
    first = bench.bind(plus_constant(bench.target, constant))
    second = bench.bind(plus_constant(bench.target, constant))
    assert used(bench) == before + 4000
    first.close()
    assert used(bench) == before + 4000
    np.testing.assert_array_equal(run(second, values(1000, 1))[0], values(1000, 1) + constant)
    del second
    assert used(bench) == before
    again = bench.bind(plus_constant(bench.target, constant))
    np.testing.assert_array_equal(run(again, values(1000, 1))[0], values(1000, 1) + constant)


def test_an_array_at_the_place_of_another_is_another_constant(bench):
    kept = []
    for seed in range(5):
        constant = values(1000, seed)
        executor = bench.bind(plus_constant(bench.target, constant))
        del constant
        gc.collect()
        kept.append(executor)
        np.testing.assert_array_equal(run(executor, values(1000, 9))[0], values(1000, 9) + values(1000, seed))


def test_the_layout_of_a_slot(bench):
    maker = PlanMaker(bench.target)
    maker.step("add", maker.input(1000), maker.input(3), maker.output(1000))
    maker.output(0)
    maker.temporary(100)
    plan = maker.compiled().plan
    layout = Layout.of(plan, 777)
    assert layout.inputs == (0, 4096)
    assert layout.outputs == (4352, 8448)
    assert layout.staged_bytes == layout.arena == 8448
    assert layout.workspace == 8448 + 512
    assert layout.total_bytes == layout.workspace + 1024
    assert layout.workspace_bytes == 1024


def test_peak_bytes_are_what_a_run_takes(bench):
    before = used(bench)
    compiled = plus_constant(bench.target, values(1024))
    executor = bench.bind(compiled)
    assert executor.peak_bytes == peak_bytes(compiled.plan)
    run(executor, values(1024))
    assert used(bench) - before == executor.peak_bytes


def test_products_count_with_the_workspace_of_their_algorithm(bench):
    maker = PlanMaker(bench.target)
    maker.product(maker.input(64, 64), maker.input(64, 64), maker.output(64, 64))
    compiled = maker.compiled()
    before = used(bench)
    executor = bench.bind(compiled)
    a = values(64 * 64).reshape(64, 64)
    np.testing.assert_allclose(run(executor, a, a)[0], a @ a, rtol=1e-5, atol=1.0)
    assert used(bench) - before == executor.peak_bytes
    assert peak_bytes(compiled.plan) <= executor.peak_bytes
    assert executor.peak_bytes <= peak_bytes(compiled.plan, workspace_limit(bench.target.isa))


def test_workspace_limits():
    assert workspace_limit("sm_75") == workspace_limit("sm_89") == 4 * MEBIBYTE
    assert workspace_limit("sm_90") == workspace_limit("sm_120") == 32 * MEBIBYTE


def test_too_little_memory_for_a_run_says_what_is_missing(bench):
    executor = bench.chain(size=2 * MEBIBYTE, steps=3)
    result = np.empty(2 * MEBIBYTE, np.float32)
    for _ in range(2):
        with pytest.raises(OutOfMemoryError) as caught:
            executor.run((values(2 * MEBIBYTE),), (result,))
        text = str(caught.value)
        assert f"{executor.memory().slot_bytes:,} bytes" in text
        assert "for temporaries" in text
        assert f"of {TOTAL:,} bytes are free" in text
    assert executor.memory().slots == 0
    small = bench.chain()
    np.testing.assert_array_equal(run(small, values())[0], chained(values()))


def test_too_little_memory_for_constants(bench):
    with pytest.raises(OutOfMemoryError, match=r"a constant of the model needs 20,971,520 bytes, [\d,]+ of"):
        bench.bind(plus_constant(bench.target, np.zeros(5 * MEBIBYTE, np.float32)))
    np.testing.assert_array_equal(run(bench.chain(), values())[0], chained(values()))


def test_runs_wait_for_the_slots_that_there_is_memory_for(bench):
    size = MEBIBYTE
    executor = bench.chain(size=size, steps=1)
    assert executor.memory().slot_bytes == 8 * MEBIBYTE
    first = np.empty(size, np.float32)
    started = executor.launch((values(size),), (first,))
    second = np.empty(size, np.float32)
    thread = threading.Thread(target=executor.run, args=((values(size, 1),), (second,)))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    started.wait()
    thread.join(30)
    assert not thread.is_alive()
    np.testing.assert_array_equal(first, values(size) + 1)
    np.testing.assert_array_equal(second, values(size, 1) + 1)
    assert executor.memory().slots == 1


def test_idle_slots_of_other_plans_make_room(bench):
    size = MEBIBYTE
    first, second = bench.chain(size=size, steps=1), bench.chain(size=size, steps=1, first=2)
    run(first, values(size))
    np.testing.assert_array_equal(run(second, values(size))[0], values(size) + 2)
    assert first.memory().slots == 0
    np.testing.assert_array_equal(run(first, values(size))[0], values(size) + 1)


def test_a_limit_that_several_plans_share(bench):
    compiled = chain(bench.target, size=1000)
    slot = Layout.of(compiled.plan, 0).total_bytes
    budget = Budget(slot)
    first, second = bench.device.bind(compiled, budget), bench.device.bind(compiled, budget)
    for executor in (first, second, first):
        np.testing.assert_array_equal(run(executor, values(1000))[0], chained(values(1000)))
        assert budget.taken == slot
    assert first.memory().slots + second.memory().slots == 1
    too_low = bench.bind(compiled, limit=slot - 1)
    with pytest.raises(OutOfMemoryError, match="memory_limit"):
        run(too_low, values(1000))


def test_too_little_pinned_memory(bench):
    executor = bench.chain()
    bench.standin.faults.fail_call("hostAlloc", OUT_OF_MEMORY)
    with pytest.raises(OutOfMemoryError, match="bytes of pinned memory"):
        run(executor, values())
    np.testing.assert_array_equal(run(executor, values())[0], chained(values()))


@pytest.mark.parametrize("call", ["streamCreateWithFlags", "eventCreateWithFlags"])
def test_a_slot_that_cannot_be_made_leaves_nothing_behind(bench, call):
    executor = bench.chain()
    before = bench.blocks
    bench.standin.faults.fail_call(call, OUT_OF_MEMORY)
    with pytest.raises(OutOfMemoryError, match="making room for a run"):
        run(executor, values())
    assert bench.blocks == before
    np.testing.assert_array_equal(run(executor, values())[0], chained(values()))


def test_garbage_with_a_run_in_flight_is_collected_without_waiting(bench):
    before = bench.blocks
    executor = bench.chain()
    run(executor, values())
    ring = [executor, executor.launch((values(),), (np.empty(300, np.float32),))]
    ring.append(ring)
    collector = threading.Thread(target=gc.collect, daemon=True)
    del executor, ring
    collector.start()
    collector.join(30)
    assert not collector.is_alive()
    assert bench.blocks == before


def test_memory_that_others_used_waits_for_the_default_stream(bench):
    array = bench.device_array(values())
    pointer = array.pointer
    assert array.__cuda_array_interface__["data"] == (pointer, False)
    runtime = bench.standin.runtime
    target = bench.standin.allocate(1200)
    # What another library does on the default stream, and drops the tensor before it is over.
    runtime.memcpyAsync(target.ptr, pointer, 1200, 3, 1)
    del array
    bench.device.allocate((8,), np.dtype(np.float32), host=False)
    assert pointer in {block.address for block in bench.standin.memory}
    runtime.streamSynchronize(1)
    bench.device.allocate((8,), np.dtype(np.float32), host=False)
    bench.standin.violations  # noqa: B018 - frees what was dropped
    assert pointer not in {block.address for block in bench.standin.memory}


def test_memory_that_others_used_is_waited_for_when_it_is_needed(bench):
    for _ in range(4):
        array = bench.device.allocate((3 * MEBIBYTE,), np.dtype(np.float32), host=False)
        array.__cuda_array_interface__  # noqa: B018
        del array


def test_tensors_on_the_device_say_what_they_needed(bench):
    with pytest.raises(OutOfMemoryError, match=r"a tensor float32\[4194304, 2\] needs 33,554,432 bytes"):
        bench.device.allocate((4 * MEBIBYTE, 2), np.dtype(np.float32), host=False)
    assert isinstance(bench.device.allocate((2, 3), np.dtype(np.float32), host=True), np.ndarray)


def test_memory_that_is_given_up_is_given_back_to_the_driver(bench, monkeypatch):
    released = []
    compiled = chain(bench.target)
    api = dataclasses.replace(bench.api, release=lambda: released.append(used(bench)))
    monkeypatch.setattr(bench.device.context, "api", api)
    executor = bench.bind(compiled)
    before = used(bench)
    run(executor, values())
    assert released == []
    executor.trim()
    assert released == [before]
    executor.close()
    assert len(released) == 2


def test_sizes_are_aligned():
    assert [aligned_size(n) for n in (0, 1, 256, 257)] == [0, 256, 256, 512]


def test_an_empty_graph_cache_has_room():
    cache = GraphCache(0)
    cache.make_room()
    assert len(cache) == 0
