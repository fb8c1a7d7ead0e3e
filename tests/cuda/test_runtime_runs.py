"""Runs on a CUDA device: eager, captured, replayed; what they copy; how they wait and are cancelled."""

from __future__ import annotations

import threading
import time
import weakref

import numpy as np
import pytest
from runtime_plans import Bench, PlanMaker, chain, chained, run, values

from onnxplan.compiler.errors import DeviceError, SessionClosedError
from onnxplan.runtime.cancellation import CancelFlag, Cancelled
from onnxplan.runtime.cuda.lane import LANES
from onnxplan.runtime.cuda.staging import CHUNK_BYTES


def test_the_second_run_captures_and_later_ones_replay(bench):
    executor = bench.chain()
    for number in range(5):
        x = values(seed=number)
        np.testing.assert_array_equal(run(executor, x)[0], chained(x))
        assert bench.counters.captures == min(number, 1)
        assert bench.counters.graph_launches == number
    # Three steps: once eagerly, once into the graph; the probe is one more.
    assert bench.counters.launches == 1 + 3 + 3
    assert bench.counters.instantiations == 1


def test_nothing_is_allocated_once_a_slot_is_there(bench):
    executor = bench.chain()
    run(executor, values())
    counters = bench.counters
    before = counters.allocations, counters.pinned_allocations, counters.heuristics
    for _ in range(4):
        run(executor, values())
    assert (counters.allocations, counters.pinned_allocations, counters.heuristics) == before


def test_host_tensors_travel_together(bench):
    maker = PlanMaker(bench.target)
    a, b, c = maker.input(100), maker.input(100), maker.output(100)
    maker.step("add", a, b, c)
    maker.step("add_number", c, maker.output(100), number=1)
    executor = bench.bind(maker.compiled())
    bench.counters.clear()
    x, y = values(100, 1), values(100, 2)
    first, second = run(executor, x, y)
    np.testing.assert_array_equal(first, x + y)
    np.testing.assert_array_equal(second, x + y + 1)
    assert bench.counters.copies == {"host to device": 1, "device to host": 1}


def test_tensors_on_the_device_stay_there(bench):
    executor = bench.chain()
    x = values()
    given, result = bench.device_array(x), bench.device_array(np.zeros_like(x))
    for _ in range(3):
        bench.counters.clear()
        executor.run((given,), (result,))
        assert bench.counters.copies == {"device to device": 2}
    np.testing.assert_array_equal(result.numpy(), chained(x))
    np.testing.assert_array_equal(given.numpy(), x)


def test_host_and_device_mixed(bench):
    maker = PlanMaker(bench.target)
    inputs = [maker.input(64) for _ in range(3)]
    middle = maker.temporary(64)
    maker.step("add", inputs[0], inputs[1], middle)
    maker.step("add", middle, inputs[2], maker.output(64))
    maker.step("add_number", middle, maker.output(64), number=5)
    executor = bench.bind(maker.compiled())
    a, b, c = (values(64, seed) for seed in range(3))
    first, second = np.empty(64, np.float32), bench.device_array(np.zeros(64, np.float32))
    for _ in range(3):
        executor.run((a, bench.device_array(b), c), (first, second))
        np.testing.assert_array_equal(first, a + b + c)
        np.testing.assert_array_equal(second.numpy(), a + b + 5)


def test_empty_tensors_are_not_copied(bench):
    maker = PlanMaker(bench.target)
    maker.step("add_number", maker.input(0), maker.output(0))
    maker.step("add_number", maker.input(8), maker.output(8), number=2)
    executor = bench.bind(maker.compiled())
    bench.counters.clear()
    empty, full = run(executor, values(0), values(8))
    assert empty.shape == (0,)
    np.testing.assert_array_equal(full, values(8) + 2)
    assert bench.counters.copies == {"host to device": 1, "device to host": 1}


def test_a_plan_without_inputs_or_steps(bench):
    executor = bench.bind(PlanMaker(bench.target).compiled())
    for _ in range(3):
        assert run(executor) == []
    assert bench.counters.captures == 0


def test_large_tensors_travel_in_parts(bench):
    size = CHUNK_BYTES // 4 * 2 + 1000
    executor = bench.chain(size=size, steps=1)
    bench.counters.clear()
    x = values(size)
    np.testing.assert_array_equal(run(executor, x)[0], x + 1)
    assert bench.counters.copies == {"host to device": 3, "device to host": 3}


def test_products_and_their_bias(bench):
    generator = np.random.default_rng(0)
    a, b, bias = (generator.standard_normal(s).astype(np.float32) for s in ((5, 7), (7, 3), (3,)))
    maker = PlanMaker(bench.target)
    # The bias lies in the arena, so that each slot has another address for it.
    given, moved = maker.input(3), maker.temporary(3)
    maker.step("add_number", given, moved, number=1)
    left, right = maker.input(5, 7), maker.constant(b)
    maker.product(left, right, moved, maker.output(5, 3), epilogue="relu_bias")
    maker.product(left, right, maker.output(5, 3))
    executor = bench.bind(maker.compiled())
    runs = [executor.launch((bias, a), [np.empty((5, 3), np.float32) for _ in range(2)]) for _ in range(3)]
    for started in runs:
        started.wait()
        fused, plain = started._outputs
        np.testing.assert_allclose(plain, a @ b, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(fused, np.maximum(a @ b + bias + 1, 0), rtol=1e-5, atol=1e-5)
    for _ in range(4):
        fused, plain = run(executor, bias, a)
        np.testing.assert_allclose(fused, np.maximum(a @ b + bias + 1, 0), rtol=1e-5, atol=1e-5)
    # Chosen when the plan was bound, once for each product.
    assert bench.counters.heuristics == 2
    assert executor.memory().slots == 3


def test_large_shared_memory_is_asked_for(bench):
    maker = PlanMaker(bench.target)
    source = maker.input(8)
    maker.step("add_number", source, maker.output(8), number=1, shared=100 << 10)
    maker.step("add_number", source, maker.output(8), number=2, shared=60 << 10)
    executor = bench.bind(maker.compiled())
    np.testing.assert_array_equal(run(executor, values(8))[1], values(8) + 2)


def test_slots_are_captured_one_by_one(bench):
    executor = bench.chain()
    xs = [values(seed=n) for n in range(3)]
    for round_ in range(4):
        results = [np.empty_like(x) for x in xs]
        runs = [executor.launch((x,), (r,)) for x, r in zip(xs, results, strict=True)]
        for started in runs:
            started.wait()
        for x, result in zip(xs, results, strict=True):
            np.testing.assert_array_equal(result, chained(x))
        assert bench.counters.captures == (3 if round_ else 0)
    assert bench.counters.graph_launches == 9
    assert executor.memory().slots == 3


def test_a_run_is_done_when_the_device_is(bench):
    bench.standin.query_steps = 0
    executor = bench.chain()
    result = np.full(300, np.nan, np.float32)
    started = executor.launch((values(),), (result,))
    assert not started.done()
    assert np.isnan(result).all()
    started.wait()
    assert started.done()
    np.testing.assert_array_equal(result, chained(values()))
    started.wait()


def test_the_host_array_may_change_once_a_run_is_started(bench):
    bench.standin.query_steps = 0
    executor = bench.chain()
    x, result = values(), np.empty(300, np.float32)
    started = executor.launch((x,), (result,))
    x[:] = 0
    started.wait()
    np.testing.assert_array_equal(result, chained(values()))


def test_as_many_runs_as_slots_and_the_next_one_waits(bench):
    bench.standin.query_steps = 0
    executor = bench.chain(runs=2)
    started = [executor.launch((values(),), (np.empty(300, np.float32),)) for _ in range(2)]
    finished = threading.Event()

    def third() -> None:
        run(executor, values())
        finished.set()

    thread = threading.Thread(target=third)
    thread.start()
    assert not finished.wait(0.1)
    started[0].wait()
    assert finished.wait(30)
    thread.join()
    started[1].wait()
    assert executor.memory().slots == 2


def test_the_default_number_of_slots(bench):
    executor = bench.chain()
    runs = [executor.launch((values(),), (np.empty(300, np.float32),)) for _ in range(4 * LANES)]
    flag = CancelFlag()
    threading.Timer(0.05, flag.set).start()
    with pytest.raises(Cancelled):
        executor.launch((values(),), (np.empty(300, np.float32),), flag)
    for started in runs:
        started.wait()
    assert executor.memory().peak_slot_bytes == 4 * executor.memory().slot_bytes


def test_cancelled_before_it_began(bench):
    executor = bench.chain()
    flag = CancelFlag()
    flag.set()
    bench.counters.clear()
    with pytest.raises(Cancelled):
        executor.run((values(),), (np.empty(300, np.float32),), flag)
    assert bench.counters.launches == 0
    np.testing.assert_array_equal(run(executor, values())[0], chained(values()))


def test_what_a_cancelled_run_reads_is_kept_until_it_is_over(bench):
    bench.standin.query_steps = 0
    executor = bench.chain(runs=1)
    given = bench.device_array(values())
    gone = weakref.ref(given)
    flag = CancelFlag()
    started = executor.launch((given,), (np.empty(300, np.float32),), flag)
    flag.set()
    with pytest.raises(Cancelled):
        started.wait(flag)
    del given, started
    assert gone() is not None, "the device may still read it"
    np.testing.assert_array_equal(run(executor, values(seed=1))[0], chained(values(seed=1)))
    assert gone() is None


def test_a_run_that_nobody_waits_for_gives_its_slot_back(bench):
    executor = bench.chain(runs=1)
    executor.launch((values(),), (np.empty(300, np.float32),))
    np.testing.assert_array_equal(run(executor, values(seed=1))[0], chained(values(seed=1)))
    assert executor.memory().slots == 1


def test_sixteen_threads(bench):
    bench.standin.chance = None
    executor = bench.chain(steps=4)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for round_ in range(25):
                x = values(seed=100 * number + round_)
                np.testing.assert_array_equal(run(executor, x)[0], chained(x, 4))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "deadlock"
    assert errors == []
    assert executor.memory().slots <= 4
    assert bench.counters.captures <= 4


@pytest.mark.parametrize("seed", range(3))
def test_streams_that_run_on_by_chance(seed):
    bench = Bench(seed=seed)
    executor = bench.chain(steps=5)
    for number in range(6):
        xs = [values(seed=10 * number + n) for n in range(3)]
        results = [np.empty(300, np.float32) for _ in xs]
        runs = [executor.launch((x,), (r,)) for x, r in zip(xs, results, strict=True)]
        for started in reversed(runs):
            started.wait()
        for x, result in zip(xs, results, strict=True):
            np.testing.assert_array_equal(result, chained(x, 5))
    assert bench.standin.violations == []


def test_arguments_that_do_not_fit(bench):
    executor = bench.chain()
    result = np.empty(300, np.float32)
    with pytest.raises(ValueError, match="1 inputs and 1 outputs, not 0 and 1"):
        executor.run((), (result,))
    with pytest.raises(TypeError, match="not list"):
        executor.run(([1.0],), (result,))
    assert not executor.try_run((values(299),), (result,))
    assert not executor.try_run((values().astype(np.float64),), (result,))
    assert not executor.try_run((values(600)[::2],), (result,))
    assert not executor.try_run((values(),), ())
    assert executor.try_run((values(),), (result,))
    np.testing.assert_array_equal(result, chained(values()))
    given = bench.device_array(values())
    assert executor.try_run((given,), (result,))


def test_trim_and_close(bench):
    executor = bench.chain()
    before = bench.blocks
    runs = [executor.launch((values(),), (np.empty(300, np.float32),)) for _ in range(2)]
    assert executor.trim() == 0
    for started in runs:
        started.wait()
    assert executor.trim() == 2 * executor.memory().slot_bytes
    assert executor.memory().slots == 0
    assert bench.blocks == before
    np.testing.assert_array_equal(run(executor, values())[0], chained(values()))
    executor.close()
    assert bench.blocks == before
    with pytest.raises(SessionClosedError):
        run(executor, values())
    executor.close()


def test_close_waits_for_runs(bench):
    bench.standin.query_steps = 0
    executor = bench.chain()
    result = np.empty(300, np.float32)
    started = executor.launch((values(),), (result,))
    with pytest.raises(RuntimeError, match="1 runs are in flight"):
        executor.close(wait=False)
    closing = threading.Thread(target=executor.close)
    closing.start()
    time.sleep(0.05)
    assert closing.is_alive()
    started.wait()
    closing.join(30)
    assert not closing.is_alive()
    np.testing.assert_array_equal(result, chained(values()))


def test_an_executor_that_is_dropped_frees_everything(bench):
    before = bench.blocks
    executor = bench.chain()
    run(executor, values())
    run(executor, values())
    assert bench.blocks != before
    del executor
    assert bench.blocks == before


@pytest.mark.parametrize("call", ["memcpyAsync", "launchKernel", "eventRecord"])
def test_an_error_on_the_way_gives_the_slot_back(bench, call):
    executor = bench.chain(runs=1)
    for nth in (1, 2):
        bench.standin.faults.fail_call(call, 1, nth)
        if call == "eventRecord" and nth == 2:
            run(executor, values())
        with pytest.raises(DeviceError, match="CUDA error 1"):
            run(executor, values())
        np.testing.assert_array_equal(run(executor, values())[0], chained(values()))
    assert executor.memory().slots == 1


def test_chain_plans_are_what_they_say(bench):
    plan = chain(bench.target).plan
    assert len(plan.steps) == 3
    assert plan.arena_bytes > 0
