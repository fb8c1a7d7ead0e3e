"""The tables of the benchmarks; no test asserts a time."""

from __future__ import annotations

import asyncio
import math
import operator

import numpy as np
import onnx
import pytest

import onnxplan
from bench import event_loops, op_cases, ops, roofline
from bench.observers import PLAIN, observer_rows
from bench.overhead import product_chain, sample_model
from bench.peers import EngineProcess, turns
from onnxplan.runtime.ceilings import Ceilings
from onnxplan.runtime.cpu.measure_ceilings import measure_ceilings

CEILINGS = Ceilings(flops=2e9, bandwidth=1e9)


def test_records_of_a_roofline():
    feeds = {name: np.ones((4, 4), np.float32) for name in ("x0", "m")}
    with onnxplan.InferenceSession(product_chain(5), threads=2) as session:
        profile = session.profile(feeds, 0.01)
    rows = {row.name: row for row in roofline.summary_rows("2 threads", profile)}
    assert rows["arithmetic peak, 2 threads"].value == 1e-9 * profile.ceilings.flops
    assert rows["run, 2 threads"].value == 1e3 * profile.seconds
    found = [roofline.row_record(profile, row) for row in profile.rows]
    assert [each["step"] for each in found] == [0, 1, 2, 3, 4, None, None]
    assert {*found[0]} == {
        *("step", "rows", "kernel", "nodes", "us", "share", "GFLOP/s", "GB/s", "of_ceiling", "lost_us")
    }


@pytest.mark.parametrize("threads", [1, 2])
def test_ceilings_are_those_of_a_processor(threads):
    found = measure_ceilings(threads, repeats=1)
    assert 0 < found.flops < math.inf
    assert 0 < found.bandwidth < math.inf
    assert 0 < found.byte_operations < math.inf
    assert found.for_bytes().flops == found.byte_operations
    assert found.for_bfloat16().flops == found.byte_operations / 2
    assert found.for_parts().flops == found.byte_operations / 12
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


def test_a_process_calls_functions_with_what_was_loaded():
    with EngineProcess("sum", operator.add, 1, 2) as process:
        assert process.call(operator.mul, 5) == 15
        with pytest.raises(RuntimeError, match="sum: ZeroDivisionError"):
            process.call(operator.truediv, 0)


def test_turns_go_there_and_back():
    assert "".join(turns("abc", 3)) == "abccbaabc"


def test_an_engine_on_an_event_loop():
    model = sample_model()
    engine = event_loops.load("onnxplan", model.SerializeToString(), event_loops.random_feeds(model))
    with engine.runner:
        late, taken = engine.lateness()
        assert late
        assert taken > 0
        assert len(engine.block(0.0, 0.0)) == 2
        latencies, rate = engine.serve(3, 0.001)
        assert len(latencies) >= 3
        assert rate > 0
