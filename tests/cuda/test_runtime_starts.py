"""Runs that an event loop starts itself: what they ask of the driver, and where they are left to others."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from runtime_plans import PlanMaker, chained, run, values

from onnxplan.compiler.errors import DeviceError
from onnxplan.runtime.cuda.memory import SMALL_BYTES


def started(executor, *inputs, over=lambda: None):
    outputs = tuple(np.full(b.shape, np.nan, np.float32) for b in executor.plan.outputs)
    return executor.try_start(inputs, outputs, over), outputs


def warm(executor, *inputs):
    for _ in range(2):
        run(executor, *inputs)
    return executor


def calls(bench):
    """The calls of runtime and driver by name, without those that make a device current."""
    made = bench.counters.calls
    return {name: n for name, n in made.items() if name not in ("getDevice", "setDevice", "eventQuery")}


def test_a_run_is_one_copy_each_way_one_launch_and_one_event(bench):
    maker = PlanMaker(bench.target)
    a, b, large = maker.input(100), maker.input(7), maker.input(3)
    first, second = maker.output(100), maker.output(7)
    maker.step("add_number", a, first, number=1)
    maker.step("add_number", b, second, number=2)
    maker.step("add_number", large, maker.output(3), number=3)
    executor = warm(bench.bind(maker.compiled()), values(100), values(7), values(3))
    bench.counters.clear()
    over = []
    run_, outputs = started(executor, values(100), values(7), values(3), over=lambda: over.append(1))
    assert calls(bench) == {"memcpyAsync": 2, "graphLaunch": 1, "eventRecord": 1}
    while not run_.finish_within(1.0):
        pass
    for number, (output, size) in enumerate(zip(outputs, (100, 7, 3), strict=True), 1):
        np.testing.assert_array_equal(output, values(size) + number)
    assert calls(bench) == {"memcpyAsync": 2, "graphLaunch": 1, "eventRecord": 1}
    assert bench.counters.copies == {"host to device": 1, "device to host": 1}
    assert over == [1]


def test_large_inputs_between_small_ones_do_not_part_them(bench):
    many = SMALL_BYTES // 4 + 1
    maker = PlanMaker(bench.target)
    sizes = (5, many, 6, many, 7)
    for number, size in enumerate(sizes):
        maker.step("add_number", maker.input(size), maker.output(size), number=number)
    executor = bench.bind(maker.compiled())
    xs = [values(size, size) for size in sizes]
    for _ in range(3):
        bench.counters.clear()
        for number, (x, result) in enumerate(zip(xs, run(executor, *xs), strict=True)):
            np.testing.assert_array_equal(result, x + number)
        assert bench.counters.copies == {"host to device": 3, "device to host": 3}


def test_without_a_graph_nothing_is_started(bench):
    executor = bench.chain()
    for _ in range(2):
        bench.counters.clear()
        over = []
        assert started(executor, values(), over=lambda over=over: over.append(1))[0] is None
        assert over == []
        assert bench.counters.calls == {}
        run(executor, values())
    assert started(executor, values())[0] is not None


def test_nothing_is_started_where_slots_are_in_use_or_the_arrays_do_not_fit(bench):
    executor = warm(bench.chain(runs=1), values())
    assert started(executor, values(299))[0] is None
    assert started(executor, values().tolist())[0] is None
    first, outputs = started(executor, values(seed=1))
    assert started(executor, values())[0] is None
    first.wait()
    np.testing.assert_array_equal(outputs[0], chained(values(seed=1)))
    assert started(executor, values())[0] is not None


def test_large_plans_are_for_other_threads(bench):
    assert bench.chain(size=1000).starts
    assert not bench.chain(size=1 << 18).starts, "copying takes the event loop's time"
    assert not bench.chain(steps=3000, size=1).starts


def test_polling_ends_and_another_thread_waits(bench):
    executor = warm(bench.chain(), values())
    bench.standin.query_steps = 0
    over = threading.Event()
    run_, outputs = started(executor, values(seed=2), over=over.set)
    assert not run_.finish_within(1e-4)
    assert np.isnan(outputs[0]).all()
    assert not over.is_set()
    thread = threading.Thread(target=run_.wait)
    thread.start()
    thread.join(30)
    assert over.is_set()
    np.testing.assert_array_equal(outputs[0], chained(values(seed=2)))


def test_a_run_that_is_dropped_is_over_once(bench):
    executor = warm(bench.chain(runs=1), values())
    over = []
    run_, _ = started(executor, values(), over=lambda: over.append(1))
    del run_
    assert over == [1]
    np.testing.assert_array_equal(run(executor, values(seed=3))[0], chained(values(seed=3)))


@pytest.mark.parametrize("call", ["memcpyAsync", "graphLaunch", "eventRecord"])
def test_a_start_that_fails_gives_the_slot_back(bench, call):
    executor = warm(bench.chain(runs=1), values())
    bench.standin.faults.fail_call(call, 1)
    with pytest.raises(DeviceError, match="CUDA error 1"):
        started(executor, values())
    np.testing.assert_array_equal(run(executor, values())[0], chained(values()))
