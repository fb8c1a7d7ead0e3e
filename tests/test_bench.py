"""The tables of the benchmarks; no test asserts a time."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import onnx
import pytest

import onnxplan
from bench import op_cases, ops, roofline
from bench.ceilings import Ceilings, measure_ceilings
from bench.observers import PLAIN, observer_rows
from bench.overhead import product_chain
from bench.step_times import StampedPlan, time_steps
from onnxplan.runtime.cpu.layout import Status
from onnxplan.runtime.cpu.slot import Slot
from onnxplan.runtime.planner import Request

CEILINGS = Ceilings(flops=2e9, bandwidth=1e9)
CHAIN = 5


@pytest.fixture
def chain():
    with onnxplan.InferenceSession(product_chain(CHAIN), threads=2) as session:
        yield session


@pytest.fixture
def chain_feeds():
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal((4, 4), np.float32) for name in ("x0", "m")}


def test_every_step_is_timed_in_the_plans_order(chain, chain_feeds):
    times = time_steps(chain, chain_feeds, seconds=0.01)
    plan = chain.plan()
    assert times.plan == plan
    assert [(number, step) for number, step, _ in times.timed_steps] == list(enumerate(plan.steps))
    assert min(*times.steps, times.run, times.stamped_run) >= 0


def test_a_run_that_reads_the_clock_computes_the_same(chain, chain_feeds):
    stage = chain._engine.first_stage(Request(chain.input_names, ((4, 4), (4, 4))))
    stamped = StampedPlan(stage.executor._bound, stage.executor)
    slot = Slot(stamped, stage.executor._team.native)
    inputs = tuple(chain_feeds[name] for name in stage.input_names)
    output = np.full((4, 4), np.nan, np.float32)
    assert slot.call(inputs, (output,)) == Status.DONE
    expected = chain_feeds["x0"] @ np.linalg.matrix_power(chain_feeds["m"].astype(np.float64), CHAIN)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-3)
    assert (stamped.stamps[:, 0] > 0).all(), "a row of the table read no clock"
    assert (stamped.intervals() >= 0).all()
    assert len(stamped.intervals()) == len(stage.executor.plan.steps) + 1


def test_lines_of_a_plan(chain, chain_feeds):
    times = time_steps(chain, chain_feeds, seconds=0.01)
    lines = roofline.step_lines(times, CEILINGS)
    assert [line.seconds for line in lines] == list(times.steps)
    for line, step in zip(lines, times.plan.steps, strict=True):
        assert line.ceiling == max(step.flops / 2e9, step.bytes / 1e9)
    assert {*lines[0].to_json()} == {
        *("step", "kernel", "nodes", "us", "share", "GFLOP/s", "GB/s", "of_ceiling", "lost_us")
    }
    families = roofline.family_lines(lines)
    assert sum(line.flops for line in families) == times.plan.flops
    assert sum(line.seconds for line in families) == pytest.approx(sum(times.steps))
    roofline.show_lines("chain", families + lines)
    rows = {row.name: row for row in roofline.summary_rows("1 thread", times, lines, CEILINGS)}
    assert rows["arithmetic peak, 1 thread"].value == 2.0


def test_figures_of_a_line():
    line = roofline.Line("3", "map", "n", seconds=4e-6, flops=4000, bytes=1000, ceiling=1e-6, total=8e-6)
    assert line.to_json() == {
        "step": "3", "kernel": "map", "nodes": "n", "us": 4.0, "share": 0.5,
        "GFLOP/s": 1.0, "GB/s": 0.25, "of_ceiling": 0.25, "lost_us": 3.0,
    }  # fmt: skip
    empty = roofline.Line("0", "map", "", seconds=0.0, flops=0, bytes=0, ceiling=0.0, total=0.0)
    assert empty.share == empty.of_ceiling == empty.lost == 0.0


@pytest.mark.parametrize("threads", [1, 2])
def test_ceilings_are_those_of_a_processor(threads):
    found = measure_ceilings(threads, repeats=1)
    assert 0 < found.flops < math.inf
    assert 0 < found.bandwidth < math.inf
    assert found.flops / 2 < found.byte_operations < math.inf
    assert found.for_bytes().flops == found.byte_operations
    assert found.best(CEILINGS).flops == max(found.flops, CEILINGS.flops)


def every_case():
    """All cases but those with large weights, which take seconds to make."""
    cases = [case for make in op_cases.GROUPS.values() for case in make()]
    assert len({(case.group, case.name) for case in cases}) == len(cases)
    return [case for case in cases if sum(map(size, case.constants)) < 1 << 20]


def size(constant):
    """Elements of a constant of a case."""
    shape = constant if isinstance(constant, tuple) else np.shape(constant)
    return math.prod(shape)


@pytest.mark.parametrize("case", every_case(), ids=lambda case: f"{case.group}: {case.name}")
def test_models_of_operators(case):
    model = case.model()
    onnx.checker.check_model(model)
    shape = [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]
    assert all(extent > 0 for extent in shape)
    itemsize = 1 if case.dtype == "uint8" else 4
    assert op_cases.traffic(model) >= itemsize * (math.prod(shape) + sum(map(math.prod, case.inputs)))
    if case.op == "QLinearConv":
        assert case.flops == 2 * math.prod(shape) * math.prod(case.constants[2].shape[1:])
    if case.op == "Conv":
        assert case.flops == 2 * math.prod(shape) * math.prod(case.constants[0][1:])
    if case.op in ("MatMul", "Gemm"):
        transposed = case.attributes.get("transA", 0)
        assert case.flops == 2 * math.prod(shape) * case.inputs[0][-2 if transposed else -1]


def test_figures_of_operators(capsys):
    case = next(op_cases.products())
    times = [
        ops.OpTime(case, 1, ours=1.0, theirs=2.0, bytes=10**9),
        ops.OpTime(case, 1, ours=4.0, theirs=2.0, bytes=10**9),
    ]
    assert times[0].bound(CEILINGS) == "memory"
    assert times[0].bound(Ceilings(1e6, 1e12)) == "arithmetic"
    assert times[1].to_json(CEILINGS)["of_ceiling"] == 0.25
    rows = {row.name: row.value for row in ops.summary_rows(times, {1: CEILINGS})}
    assert rows["geometric mean, gemm, 1 thread"] == pytest.approx(1.0)
    assert rows["worst, gemm, 1 thread"] == 0.5
    assert rows["least share of the ceiling, gemm, 1 thread"] == 0.25
    ops.show_times(times, {1: CEILINGS})
    assert case.name in capsys.readouterr().out


def test_observers_are_compared_with_plain_runs():
    plain, *observed = asyncio.run(observer_rows(rounds=1, block=0.001))
    assert plain.peer == ""
    assert {row.peer for row in observed} == {PLAIN}
    assert len({row.name for row in observed}) == 3
    assert all(row.peer_value == plain.value and row.unit == "us" for row in observed)
