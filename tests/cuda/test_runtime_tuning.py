"""Autotuning: which algorithms products get, how often they are timed, and what is kept."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_plans import Bench, PlanMaker, Selector, generate, run

from onnxplan.runtime.cuda.api import use_api
from onnxplan.runtime.cuda.device import CudaKernelSet, open_cuda
from onnxplan.runtime.cuda.matmul import alike
from onnxplan.runtime.cuda.tuning import PURPOSE


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXPLAN_CACHE_DIR", str(tmp_path))
    return tmp_path


class Tuned(Bench):
    """A stand-in whose heuristic has algorithms that take so long, and a device that times them."""

    def __init__(self, *milliseconds: float, cache: bool = False) -> None:
        self.cache = cache
        super().__init__()
        self.standin.algorithms = milliseconds

    def open(self, ordinal: int = 0):
        kernels = CudaKernelSet(lambda target: Selector(target), generate, lambda: "test kernels")
        with use_api(self.api):
            return open_cuda(ordinal, kernels, cache=self.cache, autotune=True)

    @property
    def tuner(self):
        return self.device._tuner


def product(bench, rows: int, columns: int = 7, *, epilogue: str = "none"):
    maker = PlanMaker(bench.target)
    a = maker.input(rows, 5)
    b = maker.constant(np.arange(5 * columns, dtype=np.float32).reshape(5, columns))
    bias = (maker.constant(np.ones(columns, np.float32)),) if epilogue == "bias" else ()
    maker.product(a, b, *bias, maker.output(rows, columns), epilogue=epilogue)
    return bench.bind(maker.compiled())


def number_of(executor) -> int:
    (launch,) = executor._shared.bound.launches
    return launch.product._algorithm[3]


def check(executor, rows: int, columns: int = 7, bias: float = 0.0):
    a = np.arange(rows * 5, dtype=np.float32).reshape(rows, 5)
    b = np.arange(5 * columns, dtype=np.float32).reshape(5, columns)
    for _ in range(3):
        np.testing.assert_allclose(run(executor, a)[0], a @ b + bias, rtol=1e-6)


def test_without_it_the_heuristics_first_choice_is_taken_and_nothing_timed(bench):
    bench.standin.algorithms = (3.0, 1.0)
    executor = product(bench, 4)
    assert number_of(executor) == 0
    assert bench.counters.products == 0
    assert bench.counters.heuristics == 1


@pytest.mark.parametrize(("milliseconds", "fastest"), [((3.0, 1.0, 2.0), 1), ((1.0, 2.0), 0), ((2.0,), 0)])
@pytest.mark.parametrize("epilogue", ["none", "bias"])
def test_the_fastest_is_taken(milliseconds, fastest, epilogue):
    bench = Tuned(*milliseconds)
    before = bench.blocks
    executor = product(bench, 4, epilogue=epilogue)
    assert number_of(executor) == fastest
    assert bench.tuner.timed == (len(milliseconds) > 1)
    check(executor, 4, bias=float(epilogue == "bias"))
    executor.close()
    assert bench.blocks == before
    assert bench.standin.violations == []


def test_products_of_a_kind_are_timed_once_and_runs_time_nothing():
    bench = Tuned(2.0, 1.0)
    assert number_of(product(bench, 5)) == 1
    bench.counters.clear()
    for rows in (6, 7, 8):
        # The stand-in's records are of one shape, which another shape's heuristic does not offer.
        assert number_of(product(bench, rows)) == 0
    again = product(bench, 5)
    assert number_of(again) == 1
    assert bench.tuner.timed == 1
    assert bench.counters.products == 0
    check(again, 5)
    assert bench.counters.calls["eventElapsedTime"] == 0
    product(bench, 9)
    assert bench.tuner.timed == 2


def test_choices_are_kept_with_the_kernels(store):
    assert number_of(product(Tuned(2.0, 1.0, cache=True), 4)) == 1
    later = Tuned(1.0, 2.0, cache=True)
    assert number_of(product(later, 4)) == 1, "as it was timed before"
    assert later.tuner.timed == 0


def test_a_damaged_choice_is_timed_again(store):
    product(Tuned(2.0, 1.0, cache=True), 4)
    for path in store.rglob("*.kernel"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
    later = Tuned(2.0, 1.0, cache=True)
    assert number_of(product(later, 4)) == 1
    assert later.tuner.timed == 1


def test_without_memory_the_first_choice_is_taken(caplog):
    bench = Tuned(2.0, 1.0)
    maker = PlanMaker(bench.target)
    a, b = maker.input(4, 5), maker.constant(np.zeros((5, 7), np.float32))
    maker.product(a, b, maker.output(4, 7))
    compiled = maker.compiled()
    allocate = bench.device.context.allocate

    def refuse(nbytes, purpose):
        if purpose == PURPOSE:
            nbytes = 1 << 50
        return allocate(nbytes, purpose)

    bench.device.context.allocate = refuse
    assert number_of(bench.bind(compiled)) == 0
    assert "is not timed" in caplog.text


def test_what_is_alike():
    from test_runtime_products import product as of

    assert alike(of(m=5)) == alike(of(m=8)) != alike(of(m=9))
    assert alike(of(m=1)) != alike(of(m=2))
    for change in ({"n": 8}, {"k": 4}, {"epilogue": "relu"}, {"trans_b": True}, {"batch": 2}):
        assert alike(of(**change)) != alike(of()), change
