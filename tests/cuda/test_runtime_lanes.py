"""Runs queued behind each other in one slot: the device goes from one to the next without the host."""

from __future__ import annotations

import contextlib
import random
import threading
import weakref

import numpy as np
import pytest
from runtime_plans import Bench, chain, chained, run, values
from standin_errors import StrictError

from onnxplan.compiler.errors import DeviceError
from onnxplan.runtime.cancellation import CancelFlag, Cancelled
from onnxplan.runtime.cuda.lane import LANE_BYTES, LANES


def one_slot(bench: Bench, **options: int):
    """An executor whose limit of memory allows one slot."""
    compiled = chain(bench.target, **options)
    limit = bench.bind(compiled).peak_bytes
    return bench.bind(compiled, limit=limit)


def launch(executor, x, cancel=None):
    result = np.full(x.shape, np.nan, np.float32)
    return executor.launch((x,), (result,), cancel), result


def warm(executor):
    for _ in range(2):
        run(executor, values())
    return executor


def test_the_next_run_is_queued_before_the_present_one_is_over(bench):
    executor = warm(one_slot(bench))
    bench.standin.query_steps = 0
    bench.counters.clear()
    started = [launch(executor, values(seed=seed)) for seed in range(LANES)]
    assert executor.memory().slots == 1
    assert not any(completion.done() for completion, _ in started)
    assert bench.counters.calls["graphLaunch"] == LANES
    assert bench.counters.synchronisations == 0
    assert bench.counters.copies == {"host to device": LANES, "device to host": LANES}
    # The last one is over when all are: no output was overwritten meanwhile.
    started[-1][0].wait()
    for seed, (completion, result) in enumerate(started):
        completion.wait()
        np.testing.assert_array_equal(result, chained(values(seed=seed)))


def test_lanes_that_shared_pinned_memory_would_be_noticed():
    bench = Bench(query_steps=0)
    executor = warm(one_slot(bench))
    slot = executor._shared.slots.take()
    slot.lanes[1].transfers = slot.lanes[0].transfers
    executor._shared.slots.give(slot)
    started = [launch(executor, values(seed=seed)) for seed in range(2)]
    with pytest.raises(StrictError, match="changed before the copy was over"):
        started[0][0].wait()


def test_the_depth_is_bounded(bench):
    executor = warm(one_slot(bench))
    bench.standin.query_steps = 0
    started = [launch(executor, values(seed=seed)) for seed in range(LANES)]
    flag = CancelFlag()
    threading.Timer(0.05, flag.set).start()
    with pytest.raises(Cancelled, match="waited for its place"):
        launch(executor, values(), flag)
    # A place behind the other run is free, so that a third one need not wait for both.
    started[0][0].wait()
    third, result = launch(executor, values(seed=7))
    assert not started[1][0].done()
    third.wait()
    started[1][0].wait()
    np.testing.assert_array_equal(result, chained(values(seed=7)))


def test_who_waits_is_told_when_a_place_is_free(bench):
    executor = warm(one_slot(bench))
    bench.standin.query_steps = 0
    started = [launch(executor, values(seed=seed)) for seed in range(LANES)]
    results: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: results.extend(run(executor, values(seed=9))))
    thread.start()
    started[0][0].wait()
    thread.join(30)
    assert not thread.is_alive()
    np.testing.assert_array_equal(results[0], chained(values(seed=9)))
    started[1][0].wait()
    np.testing.assert_array_equal(started[1][1], chained(values(seed=1)))


def test_the_first_runs_of_a_slot_may_be_queued_behind_each_other(bench):
    executor = one_slot(bench)
    bench.standin.query_steps = 0
    started = [launch(executor, values(seed=seed)) for seed in range(LANES)]
    for seed, (completion, result) in enumerate(started):
        completion.wait()
        np.testing.assert_array_equal(result, chained(values(seed=seed)))
    assert bench.counters.captures == 1


def test_a_new_slot_comes_before_a_place_behind_another_run(bench):
    executor = bench.chain()
    bench.standin.query_steps = 0
    started = [launch(executor, values(seed=seed)) for seed in range(4 * LANES)]
    assert executor.memory().slots == 4
    order = list(enumerate(started))
    random.Random(0).shuffle(order)
    for seed, (completion, result) in order:
        completion.wait()
        np.testing.assert_array_equal(result, chained(values(seed=seed)))


def test_runs_of_different_slots_wait_for_nothing_of_each_other(bench):
    """So copies of one may happen while another computes: any order of ends is possible."""
    executor = bench.chain()
    for _ in range(3):
        for completion, _ in [launch(executor, values()) for _ in range(4)]:
            completion.wait()
    bench.standin.query_steps = 0
    bench.counters.clear()
    started = [launch(executor, values(seed=seed)) for seed in range(4 * LANES)]
    calls = bench.counters.calls
    assert calls["graphLaunch"] == calls["eventRecord"] == 4 * LANES
    assert calls["memcpyAsync"] == 2 * 4 * LANES
    assert calls["streamWaitEvent"] == bench.counters.synchronisations == 0
    last, result = started[3]
    last.wait()
    np.testing.assert_array_equal(result, chained(values(seed=3)))
    # Only what stands before it on its own stream is over.
    assert [completion.done() for completion, _ in started].count(True) == 1
    for completion, _ in started:
        completion.wait()


def test_a_cancelled_run_leaves_the_one_behind_it_alone(bench):
    executor = warm(one_slot(bench))
    bench.standin.query_steps = 0
    given = bench.device_array(values())
    gone = weakref.ref(given)
    flag = CancelFlag()
    first = executor.launch((given,), (np.empty(300, np.float32),), flag)
    second, result = launch(executor, values(seed=1))
    flag.set()
    with pytest.raises(Cancelled):
        first.wait(flag)
    del given, first
    assert gone() is not None, "the device may still read it"
    second.wait()
    np.testing.assert_array_equal(result, chained(values(seed=1)))
    assert gone() is None, "what came before a run that is over is over"
    np.testing.assert_array_equal(run(executor, values(seed=2))[0], chained(values(seed=2)))


@pytest.mark.parametrize("call", ["memcpyAsync", "graphLaunch", "eventRecord"])
def test_a_run_that_cannot_be_queued_leaves_the_one_before_it_alone(bench, call):
    executor = warm(one_slot(bench))
    bench.standin.query_steps = 0
    first, result = launch(executor, values(seed=1))
    bench.standin.faults.fail_call(call, 1)
    with pytest.raises(DeviceError, match="CUDA error 1"):
        launch(executor, values())
    second, other = launch(executor, values(seed=2))
    first.wait()
    second.wait()
    np.testing.assert_array_equal(result, chained(values(seed=1)))
    np.testing.assert_array_equal(other, chained(values(seed=2)))
    assert executor.memory().slots == 1


def test_closing_waits_for_all_runs_of_a_slot(bench):
    executor = warm(one_slot(bench))
    bench.standin.query_steps = 0
    started = [launch(executor, values(seed=seed)) for seed in range(LANES)]
    with pytest.raises(RuntimeError, match="in flight"):
        executor.close(wait=False)
    closer = threading.Thread(target=executor.close)
    closer.start()
    started[0][0].wait()
    closer.join(0.1)
    assert closer.is_alive()
    started[1][0].wait()
    closer.join(30)
    assert not closer.is_alive()
    np.testing.assert_array_equal(started[1][1], chained(values(seed=1)))


def test_trimming_leaves_slots_in_use(bench):
    executor = warm(one_slot(bench))
    bench.standin.query_steps = 0
    started = [launch(executor, values(seed=seed)) for seed in range(LANES)]
    started[0][0].wait()
    assert executor.trim() == 0
    started[1][0].wait()
    assert executor.trim() > 0


def test_runs_that_nobody_waits_for_give_their_places_back(bench):
    executor = warm(one_slot(bench))
    bench.standin.query_steps = 0
    for seed in range(3 * LANES):
        launch(executor, values(seed=seed))
    np.testing.assert_array_equal(run(executor, values(seed=3))[0], chained(values(seed=3)))
    assert executor.memory().slots == 1


def test_pinned_memory_is_counted_by_lanes(bench):
    executor = one_slot(bench)
    before = bench.counters.pinned_allocations
    warm(executor)
    assert bench.counters.pinned_allocations == before + LANES
    assert executor.memory().pinned_bytes == LANES * executor._shared.bound.layout.staged_bytes


def test_large_plans_have_one_lane(bench):
    executor = bench.chain(size=LANE_BYTES // 4, steps=1)
    run(executor, values(LANE_BYTES // 4))
    assert executor._shared.lanes == 1


@pytest.mark.parametrize("seed", range(4))
def test_many_threads_on_one_slot(seed):
    bench = Bench(seed=seed)
    executor = one_slot(bench)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        generator = random.Random(number)
        try:
            for turn in range(12):
                x = values(seed=100 * number + turn)
                flag = CancelFlag()
                completion, result = launch(executor, x, flag)
                if generator.random() < 0.2:
                    flag.set()
                    # It may be over already.
                    with contextlib.suppress(Cancelled):
                        completion.wait(flag)
                elif generator.random() < 0.8:
                    completion.wait()
                    np.testing.assert_array_equal(result, chained(x))
                # A thread that keeps a place must not wait for another one.
                del completion
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures, failures
    assert not any(thread.is_alive() for thread in threads)
    assert executor.memory().slots == 1
    executor.close()
