"""Runs of plans by the CPU executor: arguments, cancelling, memory, closing."""

from __future__ import annotations

import threading
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from runtime_kernels import (
    HeldRun,
    PlanMaker,
    add_plan,
    hold_plan,
    mix_plan,
    mixed,
    poisoned,
    random_words,
    wait_until,
)

from onnxplan.compiler.errors import OutOfMemoryError, SessionClosedError
from onnxplan.runtime.cancellation import CancelFlag, Cancelled
from onnxplan.runtime.cpu.executor import CpuExecutor
from onnxplan.runtime.cpu.native_executor import load_executor
from onnxplan.runtime.cpu.team import Team
from onnxplan.runtime.store import KernelStore


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
    before = executor.memory()
    assert (before.slots, before.peak_slot_bytes) == (0, 0)
    executor.run((random_words(1000),), (poisoned(1000),))
    memory = executor.memory()
    assert memory.slots == 1
    assert memory.slot_bytes == before.slot_bytes
    assert plan.arena_bytes <= memory.slot_bytes <= plan.arena_bytes + 4096
    assert executor.trim() == memory.slot_bytes
    assert executor.memory().slots == 0
    assert executor.memory().peak_slot_bytes == memory.slot_bytes
    x, y = random_words(1000), poisoned(1000)
    executor.run((x,), (y,))
    np.testing.assert_array_equal(y, mixed(x, 3))


def test_too_little_memory_is_said(kernels):
    plan = replace(add_plan(4), arena_bytes=1 << 60)
    with pytest.raises(OutOfMemoryError, match=r"needs 1,152,921,504,606,8\d\d,\d\d\d bytes"):
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
