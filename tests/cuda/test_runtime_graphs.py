"""CUDA graphs of slots: how many there are, and what happens when one cannot be captured."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_plans import chained, run, values


def test_graphs_are_bounded_and_the_oldest_goes_first(bench):
    executors = [bench.chain(first=number) for number in range(3)]
    for executor in executors:
        run(executor, values())
    graphs = bench.device.context.parts["graphs"]
    graphs.limit = 2

    def check(number: int) -> None:
        np.testing.assert_array_equal(run(executors[number], values())[0], chained(values(), first=number))

    check(0)
    check(1)
    assert len(graphs) == 2
    check(0)
    assert bench.counters.captures == 2
    check(2)
    assert len(graphs) == 2
    assert bench.counters.captures == 3
    check(0)
    assert bench.counters.captures == 3, "the graph used last is still there"
    check(1)
    assert bench.counters.captures == 4


def test_graphs_of_runs_in_flight_stay(bench):
    bench.standin.query_steps = 0
    first, second = bench.chain(), bench.chain(first=5)
    for executor in (first, second):
        run(executor, values())
    graphs = bench.device.context.parts["graphs"]
    graphs.limit = 1
    result = np.empty(300, np.float32)
    started = first.launch((values(),), (result,))
    np.testing.assert_array_equal(run(second, values())[0], chained(values(), first=5))
    assert len(graphs) == 2
    started.wait()
    np.testing.assert_array_equal(result, chained(values()))


@pytest.mark.parametrize("call", ["streamBeginCapture", "streamEndCapture", "graphInstantiate"])
def test_a_capture_that_fails_costs_the_graph_only(bench, call, caplog):
    executor = bench.chain()
    run(executor, values())
    bench.standin.faults.fail_call(call, 2 if call == "graphInstantiate" else 900)
    np.testing.assert_array_equal(run(executor, values())[0], chained(values()))
    assert bench.counters.graph_launches == 0
    assert "no CUDA graph could be captured" in caplog.text
    np.testing.assert_array_equal(run(executor, values())[0], chained(values()))
    assert bench.counters.graph_launches == 1
    # The status that the stand-in was asked for is no misuse.
    bench.standin._violations[:] = [v for v in bench.standin._violations if "as the test asked" not in v]


def test_after_some_attempts_runs_stay_eager(bench):
    executor = bench.chain()
    run(executor, values())
    for attempt in range(1, 5):
        bench.standin.faults.fail_call("graphInstantiate", 2)
        np.testing.assert_array_equal(run(executor, values())[0], chained(values()))
        assert bench.counters.captures == min(attempt, 3)
