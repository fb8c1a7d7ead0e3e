"""Step tables that read the clock: results stay the same, and every step and tile is accounted for."""

import numpy as np
import pytest
from onnx import TensorProto, helper

import onnxplan
from onnxplan.runtime.cancellation import CancelFlag
from onnxplan.runtime.ceilings import Ceilings
from onnxplan.runtime.cpu import measure_ceilings as measuring
from onnxplan.runtime.cpu.layout import Status
from onnxplan.runtime.cpu.slot import Slot
from onnxplan.runtime.cpu.timed_plan import StampedPlan, StepTimer, TileTracer
from onnxplan.runtime.planner import Request
from onnxplan.runtime.store import KernelStore

CHAIN = 5


def chain(size):
    """``x0 @ m @ m ...`` of square matrices."""
    nodes = [helper.make_node("MatMul", [f"x{number}", "m"], [f"x{number + 1}"]) for number in range(CHAIN)]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in ("x0", "m")]
    outputs = [helper.make_tensor_value_info(f"x{CHAIN}", TensorProto.FLOAT, [size, size])]
    graph = helper.make_graph(nodes, "chain", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def stage_of(session, feeds):
    names = session.input_names
    return session._engine.first_stage(Request(names, tuple(feeds[name].shape for name in names)))


@pytest.fixture(params=[(4, 1), (4, 2), (256, 2), (256, 1)], ids=str)
def case(request):
    """Executor, inputs and result of a chain of products: small ones, and such as threads share."""
    size, threads = request.param
    generator = np.random.default_rng(0)
    feeds = {name: generator.standard_normal((size, size), np.float32) for name in ("x0", "m")}
    with onnxplan.InferenceSession(chain(size), threads=threads) as session:
        stage = stage_of(session, feeds)
        expected = session.run_sync(feeds)
        yield (
            stage.executor,
            tuple(feeds[name] for name in stage.input_names),
            expected[stage.output_names[0]].numpy(),
        )


def test_a_run_that_reads_the_clock_computes_the_same(case):
    executor, inputs, expected = case
    stamped = StampedPlan(executor)
    slot = Slot(stamped, executor.team.native)
    output = np.full_like(expected, np.nan)
    assert slot.call(inputs, (output,), CancelFlag().address) == Status.DONE
    np.testing.assert_array_equal(output, expected)
    assert (stamped.stamps[:, 0] > 0).all(), "a row of the table read no clock"
    assert (stamped.intervals() >= 0).all()
    assert len(stamped.intervals()) == len(executor.plan.steps) + 1


def test_a_timer_tells_the_time_of_each_step(case):
    executor, inputs, expected = case
    timer = StepTimer(executor)
    for _ in range(3):
        output = np.full_like(expected, np.nan)
        total, steps = timer.run(inputs, (output,))
        np.testing.assert_array_equal(output, expected)
        assert len(steps) == len(executor.plan.steps)
        assert (steps >= 0).all()
        assert total >= 0


def test_every_tile_is_traced_once(case):
    executor, inputs, expected = case
    tracer = TileTracer(executor)
    for _ in range(20):
        output = np.full_like(expected, np.nan)
        events = tracer.run(inputs, (output,))
        np.testing.assert_array_equal(output, expected)
        workers = executor.bound.workers
        assert set(events[:, 0]) <= set(range(workers))
        assert (events[:, 4] <= events[:, 5]).all()
        for number, step in enumerate(executor.plan.steps):
            own = sorted(map(tuple, events[events[:, 1] == number, 2:4]))
            covered = [tile for first, last in own for tile in range(first, last)]
            assert covered == list(range(step.tiles)), f"step {number}"
        for worker in range(workers):
            own = events[events[:, 0] == worker]
            assert (own[1:, 4] >= own[:-1, 5]).all(), "a worker did two things at once"


def test_ceilings_are_measured_once_for_a_store(tmp_path, monkeypatch):
    measured = []

    def measure(threads, repeats=1):
        measured.append(threads)
        return Ceilings(1e9 + len(measured), 2e9, 3e9)

    monkeypatch.setattr(measuring, "measure_ceilings", measure)
    store = KernelStore(tmp_path)
    first = measuring.stored_ceilings(store, 1)
    assert measuring.stored_ceilings(KernelStore(tmp_path), 1) == first == Ceilings(1e9 + 1, 2e9, 3e9)
    assert measured == [1]
    measuring.stored_ceilings(store, 2)
    again = measuring.stored_ceilings(store, 1, again=True)
    assert measured == [1, 2, 1]
    assert measuring.stored_ceilings(store, 1) == again != first
