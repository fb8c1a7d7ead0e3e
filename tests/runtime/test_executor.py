"""Runs of plans by the CPU executor: results, order, tiles, memory, closing."""

from __future__ import annotations

import threading
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from runtime_kernels import PlanMaker, add_plan, library, meet_plan, mix_plan, mixed, with_threads

from onnxplan.compiler.errors import OutOfMemoryError, SessionClosedError
from onnxplan.compiler.plan import ExecutionPlan
from onnxplan.runtime.cancellation import CancelFlag, Cancelled
from onnxplan.runtime.cpu.executor import CpuExecutor
from onnxplan.runtime.cpu.native_executor import load_executor
from onnxplan.runtime.cpu.team import Team
from onnxplan.runtime.store import KernelStore

WAIT_SECONDS = 30.0


@pytest.fixture(scope="module")
def kernels():
    return library()


@pytest.fixture(scope="module")
def team():
    """Four cores, whatever the machine has."""
    team = Team(load_executor(KernelStore(None)), 4)
    yield team
    team.stop()


def poisoned(size: int) -> np.ndarray:
    return np.full(size, 0x5A5A5A5A5A5A5A5A, np.int64)


def wait_until(condition) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def random_words(size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(-(1 << 40), 1 << 40, size)


@pytest.mark.parametrize("sequence", [tuple, list])
def test_run_reads_inputs_and_fills_outputs(kernels, sequence):
    executor = CpuExecutor(add_plan(9), [], kernels)
    a, b, c = random_words(9), random_words(9) * 5, poisoned(9)
    executor.run(sequence((a, b)), sequence((c,)))
    np.testing.assert_array_equal(c, a + b)


def test_each_run_uses_the_arrays_it_is_given(kernels):
    executor = CpuExecutor(add_plan(4), [], kernels)
    for number in range(20):
        a, b, c = np.full(4, number), np.arange(4), poisoned(4)
        executor.run((a, b), (c,))
        np.testing.assert_array_equal(c, number + np.arange(4))


def test_subclass_of_array_is_accepted(kernels, tmp_path):
    executor = CpuExecutor(add_plan(4), [], kernels)
    stored = np.memmap(tmp_path / "a", np.int64, "w+", shape=(4,))
    stored[:] = 7
    c = poisoned(4)
    executor.run((stored, np.arange(4)), (c,))
    np.testing.assert_array_equal(c, 7 + np.arange(4))


@pytest.mark.parametrize(
    ("inputs", "outputs", "error"),
    [
        ((np.zeros(4, np.int64),), (np.zeros(4, np.int64),), ValueError),
        ((np.zeros(4, np.int64),) * 3, (np.zeros(4, np.int64),), ValueError),
        ((np.zeros(4, np.int64),) * 2, (), ValueError),
        ((np.zeros(4, np.int64), [1, 2, 3, 4]), (np.zeros(4, np.int64),), TypeError),
        ((np.zeros(4, np.int64),) * 2, (None,), TypeError),
    ],
)
def test_wrong_arguments_are_refused(kernels, inputs, outputs, error):
    executor = CpuExecutor(add_plan(4), [], kernels)
    with pytest.raises(error):
        executor.run(inputs, outputs)
    executor.close(wait=False)


def test_call_without_knowledge_of_object_layout(kernels):
    team = Team(replace(load_executor(KernelStore(None)), definition=None), 2)
    executor = CpuExecutor(mix_plan(8, 5, 2), [], kernels, team=team)
    x, y = random_words(8), poisoned(8)
    executor.run((x,), (y,))
    np.testing.assert_array_equal(y, mixed(x, 5))
    flag = CancelFlag()
    flag.set()
    with pytest.raises(Cancelled):
        executor.run((x,), (y,), flag)
    team.stop()


def test_constants_by_order_and_by_name(kernels):
    maker = PlanMaker()
    x, w, y = maker.input("x", 8), maker.constant("w", 8), maker.output("y", 8)
    maker.step("add", x, w, y, tiles=8)
    raw = np.zeros(16, np.int64)
    start = (-raw.ctypes.data % 64) // 8
    weight = raw[start : start + 8]
    weight[:] = random_words(8)
    for constants in ([weight], {"w": weight}):
        result = poisoned(8)
        CpuExecutor(maker.plan(), constants, kernels).run((np.arange(8),), (result,))
        np.testing.assert_array_equal(result, np.arange(8) + weight)
    with pytest.raises(ValueError, match="aligned"):
        CpuExecutor(maker.plan(), [raw[start + 1 : start + 9]], kernels)
    with pytest.raises(ValueError, match="the plan wants"):
        CpuExecutor(maker.plan(), [weight[:7]], kernels)


def test_parameters_are_any_64_bit_words(kernels):
    maker = PlanMaker()
    for number, word in enumerate((-1, (1 << 64) - 2, 1 << 63, -(1 << 63), 5)):
        maker.step("fill", maker.output(f"y{number}", 3), parameters=(word,), tiles=3)
    outputs = tuple(poisoned(3) for _ in range(5))
    CpuExecutor(maker.plan(), [], kernels).run((), outputs)
    expected = [-1, -2, -(1 << 63), -(1 << 63), 5]
    np.testing.assert_array_equal(np.stack(outputs), np.repeat(expected, 3).reshape(5, 3))


def test_buffers_and_operands_outside_of_their_space_are_refused(kernels):
    plan = add_plan(4)
    too_far = replace(plan.buffers[0], size=64)
    with pytest.raises(ValueError, match="outside of its space"):
        CpuExecutor(replace(plan, buffers=(too_far, *plan.buffers[1:])), [], kernels)
    step = plan.steps[0]
    wide = replace(step.operands[0], shape=(5,))
    step = replace(step, operands=(wide, *step.operands[1:]))
    with pytest.raises(ValueError, match="outside of its buffer"):
        CpuExecutor(replace(plan, steps=(step,)), [], kernels)


def test_zero_steps_and_zero_tiles(kernels):
    CpuExecutor(PlanMaker().plan(), [], kernels).run((), ())
    maker = PlanMaker()
    maker.step("fill", maker.output("y", 0), parameters=(1,), tiles=0)
    CpuExecutor(maker.plan(), [], kernels).run((), (np.empty(0, np.int64),))


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_results_do_not_depend_on_threads(kernels, team, threads):
    executor = CpuExecutor(mix_plan(37, 50, threads), [], kernels, team=team)
    x = random_words(37)
    for _ in range(20):
        y = poisoned(37)
        executor.run((x,), (y,))
        np.testing.assert_array_equal(y, mixed(x, 50))


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


def hold_plan(threads: int = 1, tiles: int = 1) -> ExecutionPlan:
    """Waits for a gate, then fills ``after`` with 1."""
    maker = PlanMaker(threads)
    gate, started, after = maker.input("gate", 1), maker.output("started", 1), maker.output("after", 2)
    maker.step("hold", gate, started, tiles=tiles, seconds=1.0)
    maker.step("fill", after, parameters=(1,), tiles=2)
    return maker.plan()


class HeldRun:
    """A run on a thread of its own that has begun and waits for its gate."""

    def __init__(self, executor: CpuExecutor, flag: CancelFlag | None = None) -> None:
        self.gate, self.started, self.after = (np.zeros(size, np.int64) for size in (1, 1, 2))
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(executor, flag))
        self.thread.start()

    def _run(self, executor: CpuExecutor, flag: CancelFlag | None) -> None:
        try:
            executor.run((self.gate,), (self.started, self.after), flag)
        except BaseException as error:
            self.error = error

    def release(self) -> None:
        self.gate[0] = 1
        self.thread.join()


def test_cancelling_stops_before_the_next_step_and_leaves_the_slot_usable(kernels):
    executor = CpuExecutor(hold_plan(), [], kernels, max_concurrency=1)
    flag = CancelFlag()
    held = HeldRun(executor, flag)
    wait_until(lambda: held.started[0])
    flag.set()
    held.release()
    assert isinstance(held.error, Cancelled)
    np.testing.assert_array_equal(held.after, 0)
    after = np.zeros(2, np.int64)
    executor.run((np.ones(1, np.int64),), (np.zeros(1, np.int64), after))
    np.testing.assert_array_equal(after, 1)
    assert executor.memory().slots == 1


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


def test_flag_set_before_the_run_computes_nothing(kernels):
    executor = CpuExecutor(add_plan(4), [], kernels)
    flag = CancelFlag()
    flag.set()
    c = poisoned(4)
    with pytest.raises(Cancelled):
        executor.run((np.arange(4), np.arange(4)), (c,), flag)
    np.testing.assert_array_equal(c, poisoned(4))


def test_runs_beyond_the_bound_wait(kernels):
    executor = CpuExecutor(hold_plan(), [], kernels, max_concurrency=2)
    held = [HeldRun(executor) for _ in range(5)]
    wait_until(lambda: sum(int(run.started[0]) for run in held) == 2)
    assert executor.memory().slots == 2
    for run in held:
        run.gate[0] = 1
    for run in held:
        run.thread.join()
        assert run.error is None
        np.testing.assert_array_equal(run.after, 1)
    assert executor.memory().slots == 2


def test_run_allocates_nothing(kernels, team):
    executor = CpuExecutor(mix_plan(64, 30, 2), [], kernels, team=team)
    inputs, outputs = (random_words(64),), (poisoned(64),)
    executor.run(inputs, outputs)
    before = executor.memory()
    tracemalloc.start()
    try:
        executor.run(inputs, outputs)
        start = tracemalloc.get_traced_memory()[0]
        for _ in range(100):
            executor.run(inputs, outputs)
        grown = tracemalloc.get_traced_memory()[0] - start
    finally:
        tracemalloc.stop()
    assert executor.memory() == before
    assert grown < 1024


def test_memory_and_trim(kernels):
    plan = mix_plan(1000, 3, 1)
    executor = CpuExecutor(plan, [], kernels)
    assert executor.memory().slots == 0
    executor.run((random_words(1000),), (poisoned(1000),))
    memory = executor.memory()
    assert memory.slots == 1
    assert plan.arena_bytes <= memory.slot_bytes <= plan.arena_bytes + 4096
    assert executor.trim() == memory.slot_bytes
    assert executor.memory().slots == 0
    assert executor.memory().peak_slot_bytes == memory.slot_bytes
    x, y = random_words(1000), poisoned(1000)
    executor.run((x,), (y,))
    np.testing.assert_array_equal(y, mixed(x, 3))


def test_too_little_memory_is_said(kernels):
    plan = replace(add_plan(4), arena_bytes=1 << 60)
    with pytest.raises(OutOfMemoryError, match="1,152,921,504,606,846,976"):
        CpuExecutor(plan, [], kernels).run((np.arange(4), np.arange(4)), (poisoned(4),))


def test_close_waits_or_refuses(kernels):
    executor = CpuExecutor(hold_plan(), [], kernels, max_concurrency=1)
    held = HeldRun(executor)
    wait_until(lambda: held.started[0])
    with pytest.raises(RuntimeError, match="1 runs are in flight"):
        executor.close(wait=False)
    waiting = HeldRun(executor)
    closing = threading.Thread(target=executor.close)
    closing.start()
    waiting.thread.join()
    assert isinstance(waiting.error, SessionClosedError)
    assert closing.is_alive()
    held.release()
    closing.join()
    assert held.error is None
    np.testing.assert_array_equal(held.after, 1)
    with pytest.raises(SessionClosedError):
        executor.run((held.gate,), (held.started, held.after))
    assert executor.memory().slots == 0
    executor.close()


def test_idle_helpers_sleep_and_small_plans_wake_nobody(kernels, team):
    out = np.zeros(5, np.int64)
    CpuExecutor(meet_plan(4), [], kernels, team=team).run((), (out,))
    wait_until(lambda: team.sleepers == team.helpers == 3)
    wakes = team.wakes
    small = CpuExecutor(mix_plan(8, 20, 4, seconds=1e-6), [], kernels, team=team)
    shared = CpuExecutor(mix_plan(8, 3, 4, seconds=8e-6), [], kernels, team=team)
    x, y = random_words(8), poisoned(8)
    for _ in range(50):
        small.run((x,), (y,))
        shared.run((x,), (y,))
    assert (team.sleepers, team.wakes) == (3, wakes)


def test_callers_that_fill_the_cores_send_helpers_away(kernels):
    team = Team(load_executor(KernelStore(None)), 2)
    shared = CpuExecutor(with_threads(hold_plan(2, tiles=2), 2), [], kernels, team=team)
    alone = CpuExecutor(hold_plan(), [], kernels, team=team)
    maker = PlanMaker(2)
    gate, started, count = maker.input("gate", 1), maker.output("started", 1), maker.output("after", 2)
    maker.step("hold", gate, started, tiles=2, seconds=1.0)
    maker.step("hold", gate, started, tiles=2, seconds=1.0)
    maker.step("fill", count, parameters=(1,), tiles=2)
    assert shared.plan.steps[0] == maker.plan().steps[0]
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
