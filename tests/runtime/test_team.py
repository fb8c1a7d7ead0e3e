"""Runs that helper threads share: results, order, tiles, and when helpers work and sleep."""

from __future__ import annotations

import ctypes
import os
import threading
import time

import numpy as np
import pytest
from runtime_kernels import (
    HeldRun,
    PlanMaker,
    hold_plan,
    meet_plan,
    mix_plan,
    mixed,
    poisoned,
    random_words,
    wait_until,
)

from onnxplan.runtime.cancellation import CancelFlag, Cancelled
from onnxplan.runtime.cpu.bound_plan import WAKE_SECONDS
from onnxplan.runtime.cpu.executor import CpuExecutor
from onnxplan.runtime.cpu.layout import MAX_RANGES, RangeWord, TeamWord
from onnxplan.runtime.cpu.native_executor import load_executor
from onnxplan.runtime.cpu.processor import processor_functions
from onnxplan.runtime.cpu.semaphore import NativeSemaphore, function_address
from onnxplan.runtime.cpu.team import Team
from onnxplan.runtime.store import KernelStore


def check_mix(executor, count, steps, runs):
    """Runs an executor of ``mix_plan(count, steps)`` and compares its results."""
    x = random_words(count)
    for _ in range(runs):
        y = poisoned(count)
        executor.run((x,), (y,))
        np.testing.assert_array_equal(y, mixed(x, steps))


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_results_do_not_depend_on_threads(kernels, team, threads):
    executor = CpuExecutor(mix_plan(37, 50, threads), [], kernels, team=team)
    check_mix(executor, 37, 50, runs=20)


def test_thousand_steps_keep_their_order(kernels, team):
    executor = CpuExecutor(mix_plan(16, 1000, 4), [], kernels, team=team)
    x = random_words(16)
    for _ in range(10):
        y = poisoned(16)
        executor.run((x,), (y,))
        np.testing.assert_array_equal(y, mixed(x, 1000))


@pytest.mark.parametrize("seconds", [5e-6, 1e-3], ids=["small grain not worth a wake-up", "worth it"])
def test_each_tile_is_computed_exactly_once(kernels, team, seconds):
    maker = PlanMaker(4)
    counts = [maker.output(f"counts{number}", size) for number, size in enumerate((1, 2, 7, 501))]
    for repetition in range(40):
        operand = counts[repetition % 4]
        maker.step("count", operand, tiles=operand.shape[0], seconds=seconds)
    executor = CpuExecutor(maker.plan(), [], kernels, team=team)
    outputs = tuple(np.zeros(operand.shape, np.int64) for operand in counts)
    for _ in range(5):
        executor.run((), outputs)
    for output in outputs:
        np.testing.assert_array_equal(output, 50)


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_helpers_take_part(kernels, team, workers):
    executor = CpuExecutor(meet_plan(workers), [], kernels, team=team)
    for _ in range(5):
        out = np.zeros(workers + 1, np.int64)
        executor.run((), (out,))
        np.testing.assert_array_equal(out, workers)


def test_workers_of_a_run_have_scratch_of_their_own(kernels, team):
    maker = PlanMaker(4)
    intact, where = maker.output("intact", 400), maker.output("where", 400)
    maker.step("scratch", intact, where, parameters=(100,), tiles=400, seconds=1e-2, scratch=800)
    maker.step("meet", maker.output("met", 5), parameters=(4,), tiles=4, seconds=1.0)
    executor = CpuExecutor(maker.plan(), [], kernels, team=team)
    for _ in range(20):
        outputs = (poisoned(400), poisoned(400), np.zeros(5, np.int64))
        executor.run((), outputs)
        np.testing.assert_array_equal(outputs[0], 1)
        addresses = np.unique(outputs[1])
        assert np.all(addresses % 64 == 0)
        assert np.all(np.diff(addresses) >= 800)


def test_each_worker_begins_with_a_range_of_its_own(kernels, team):
    maker = PlanMaker(4)
    where = maker.output("where", 5)
    maker.step("who", where, parameters=(4,), tiles=4, seconds=1.0, scratch=800)
    executor = CpuExecutor(maker.plan(), [], kernels, team=team)
    for _ in range(20):
        addresses = np.zeros(5, np.int64)
        executor.run((), (addresses,))
        # Tile t is worker t's: their scratch lies in the order of the workers.
        strides = np.diff(addresses[:4])
        assert strides[0] >= 800
        np.testing.assert_array_equal(strides, strides[0])


@pytest.mark.parametrize("tiles", [2, 9, 100, 1001])
def test_a_caller_without_helpers_goes_through_the_tiles_in_order(kernels, tiles):
    team = Team(load_executor(KernelStore(None)), 4)
    team._stopped = True
    maker = PlanMaker(4)
    maker.step("order", maker.output("out", tiles + 1), parameters=(tiles,), tiles=tiles, seconds=1e-3)
    out = np.zeros(tiles + 1, np.int64)
    CpuExecutor(maker.plan(), [], kernels, team=team).run((), (out,))
    np.testing.assert_array_equal(out, np.arange(tiles + 1))


def test_more_tiles_than_a_range_has_pieces(kernels, team):
    tiles = 3 * RangeWord.MOST_PIECES
    maker = PlanMaker(2)
    maker.step("count", maker.output("counts", tiles), tiles=tiles, seconds=1.0)
    counts = np.zeros(tiles, np.int64)
    CpuExecutor(maker.plan(), [], kernels, team=team).run((), (counts,))
    np.testing.assert_array_equal(counts, 1)


def test_more_workers_than_ranges(kernels):
    workers = MAX_RANGES + 3
    team = Team(load_executor(KernelStore(None)), workers)
    executor = CpuExecutor(mix_plan(101, 30, workers), [], kernels, team=team)
    check_mix(executor, 101, 30, runs=10)
    assert team.helpers == workers - 1
    out = np.zeros(workers + 1, np.int64)
    CpuExecutor(meet_plan(workers), [], kernels, team=team).run((), (out,))
    np.testing.assert_array_equal(out, workers)
    team.stop()


@pytest.mark.skipif(not processor_functions(), reason="the system does not tell processors apart")
def test_helper_on_its_callers_processor_moves_and_is_not_pinned(kernels):
    team = Team(load_executor(KernelStore(None)), 2)
    masks = []
    set_affinity = ctypes.CDLL(None).sched_setaffinity

    def record(thread, size, mask):
        masks.append(int.from_bytes(ctypes.string_at(mask, size), "little"))
        return set_affinity(thread, ctypes.c_size_t(size), ctypes.c_void_p(mask))

    word = ctypes.c_int64
    processor = min(os.sched_getaffinity(0))
    callbacks = (ctypes.CFUNCTYPE(word)(lambda: processor), ctypes.CFUNCTYPE(word, word, word, word)(record))
    team._words[[TeamWord.PROCESSOR, TeamWord.SET_AFFINITY]] = [function_address(call) for call in callbacks]
    out = np.zeros(3, np.int64)
    CpuExecutor(meet_plan(2), [], kernels, team=team).run((), (out,))
    np.testing.assert_array_equal(out, 2)
    allowed = os.sched_getaffinity(0)
    everything = sum(1 << number for number in allowed)
    assert masks[:2] == [everything & ~(1 << processor), everything]
    assert os.sched_getaffinity(team._threads[0].native_id) == allowed
    team.stop()


def test_many_threads_run_at_once(kernels, team):
    executors = [CpuExecutor(mix_plan(24, steps, 3), [], kernels, team=team) for steps in (1, 7, 60)]
    failures = []

    def work(number: int) -> None:
        for repetition in range(60):
            executor = executors[(number + repetition) % 3]
            x, y = random_words(24) + number + repetition, poisoned(24)
            executor.run((x,), (y,))
            if not np.array_equal(y, mixed(x, len(executor.plan.steps))):
                failures.append((number, repetition))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert team.busy == 0


def test_cancelling_a_shared_run_frees_the_helpers(kernels, team):
    executor = CpuExecutor(hold_plan(4, tiles=4), [], kernels, team=team)
    flag = CancelFlag()
    held = HeldRun(executor, flag)
    wait_until(lambda: held.started[0] == 4)
    flag.set()
    held.release()
    assert isinstance(held.error, Cancelled)
    assert team.busy == 0
    out = np.zeros(5, np.int64)
    CpuExecutor(meet_plan(4), [], kernels, team=team).run((), (out,))
    np.testing.assert_array_equal(out, 4)


def test_idle_helpers_sleep_and_small_plans_wake_nobody(kernels, team):
    out = np.zeros(5, np.int64)
    CpuExecutor(meet_plan(4), [], kernels, team=team).run((), (out,))
    wait_until(lambda: team.sleepers == team.helpers == 3)
    wakes = team.wakes
    small = CpuExecutor(mix_plan(8, 20, 4, seconds=1e-6), [], kernels, team=team)
    shared = CpuExecutor(mix_plan(8, 3, 4, seconds=WAKE_SECONDS / 4), [], kernels, team=team)
    x, y = random_words(8), poisoned(8)
    for _ in range(50):
        small.run((x,), (y,))
        shared.run((x,), (y,))
    assert (team.sleepers, team.wakes) == (3, wakes)


def test_callers_that_fill_the_cores_send_helpers_away(kernels):
    team = Team(load_executor(KernelStore(None)), 2)
    shared = CpuExecutor(hold_plan(2, tiles=2), [], kernels, team=team)
    alone = CpuExecutor(hold_plan(), [], kernels, team=team)
    first = HeldRun(shared)
    wait_until(lambda: first.started[0] == 2)
    assert team.busy == 2
    second = HeldRun(alone)
    wait_until(lambda: second.started[0] == 1)
    assert team.busy == 3
    first.release()
    wait_until(lambda: team.sleepers == 1)
    assert team.busy == 1
    third = HeldRun(shared)
    wait_until(lambda: third.started[0] >= 1)
    wait_until(lambda: team.sleepers == 1)
    time.sleep(0.02)
    assert (int(third.started[0]), team.busy) == (1, 2)
    second.release()
    wait_until(lambda: third.started[0] == 2)
    third.release()
    np.testing.assert_array_equal(third.after, 1)
    team.stop()


def test_callers_that_are_expected_to_fill_the_cores_keep_helpers_away(kernels):
    team = Team(load_executor(KernelStore(None)), 2)
    shared = CpuExecutor(hold_plan(2, tiles=2), [], kernels, team=team)
    team.expect(2)
    first = HeldRun(shared)
    wait_until(lambda: first.started[0] == 1 and team.sleepers == team.helpers == 1)
    time.sleep(0.02)
    assert (int(first.started[0]), team.busy, team.wakes) == (1, 1, 0)
    first.release()
    np.testing.assert_array_equal(first.after, 1)
    team.expect(1)
    second = HeldRun(shared)
    wait_until(lambda: second.started[0] == 2)
    assert team.busy == 2
    team.expect(2)
    second.release()
    np.testing.assert_array_equal(second.after, 1)
    wait_until(lambda: team.sleepers == 1)
    assert team.busy == 0
    team.stop()


def test_team_with_semaphores_of_the_interpreter(kernels, monkeypatch):
    """As on a system that has no semaphores which native code could use."""

    def missing(_semaphore):
        raise AttributeError("sem_init")

    for name in ("_use_posix", "_use_dispatch", "_use_windows"):
        monkeypatch.setattr(NativeSemaphore, name, missing)
    team = Team(load_executor(KernelStore(None)), 3)
    executor = CpuExecutor(meet_plan(3), [], kernels, team=team)
    for _ in range(5):
        out = np.zeros(4, np.int64)
        executor.run((), (out,))
        np.testing.assert_array_equal(out, 3)
        wait_until(lambda: team.sleepers == 2)
    assert team.wakes >= 8
    team.stop()
    assert team.sleepers == 0


def test_runs_do_without_helpers_that_cannot_start(kernels, monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    team = Team(load_executor(KernelStore(None)), 4)
    executor = CpuExecutor(mix_plan(16, 10, 4), [], kernels, team=team)
    x, y = random_words(16), poisoned(16)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        executor.run((x,), (y,))
    assert team.helpers == 0
    np.testing.assert_array_equal(y, mixed(x, 10))


def test_stopped_team_still_runs_plans(kernels):
    team = Team(load_executor(KernelStore(None)), 3)
    CpuExecutor(meet_plan(3), [], kernels, team=team).run((), (np.zeros(4, np.int64),))
    team.stop()
    assert team.helpers == 0
    x, y = random_words(16), poisoned(16)
    CpuExecutor(mix_plan(16, 10, 3), [], kernels, team=team).run((x,), (y,))
    np.testing.assert_array_equal(y, mixed(x, 10))


def test_run_that_finds_no_seat_does_without_helpers(kernels):
    team = Team(load_executor(KernelStore(None)), 2)
    team._words[TeamWord.OPEN] = -1
    x, y = random_words(16), poisoned(16)
    CpuExecutor(mix_plan(16, 10, 2), [], kernels, team=team).run((x,), (y,))
    np.testing.assert_array_equal(y, mixed(x, 10))
    assert (team.busy, team.wakes) == (0, 0)
    team.stop()
