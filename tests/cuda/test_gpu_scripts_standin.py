"""The parts of ``make test-cuda`` and ``make bench-cuda`` run tiny on the stand-in for CUDA."""

from __future__ import annotations

import numpy as np
import pytest
from standin import StandIn

import onnxplan
from bench import cuda_rates, cuda_steps, cuda_tasks
from bench.overhead import product_chain
from bench.supervised import Settings, is_device_broken, run_check
from onnxplan.runtime.cuda.api import use_api
from tests.cuda import gpu_cases, gpu_models, gpu_probe, gpu_runs, gpu_suite

CASES = [name for name in gpu_cases.names(Settings()) if "float32" in name and gpu_cases.PLAIN not in name]
SUITE = ["test_relu_cuda", "test_softmax_axis_1_cuda", "test_matmul_3d_cuda", "test_nonzero_example_cuda"]


@pytest.fixture
def standin():
    made = StandIn()
    with use_api(made.api()):
        yield made
    assert not made.violations


@pytest.fixture
def settings(tmp_path, standin):
    return Settings(folder=str(tmp_path), tasks=3, task_seconds=0.3, leak_runs=20, repeats=3)


def passed(part, name, settings):
    """The outcome of a check that must pass."""
    outcome = run_check(part, name, settings)
    assert outcome["status"] == "passed", outcome
    return outcome


@pytest.mark.parametrize(
    "name", [n for n in gpu_probe.names(Settings()) if n.split()[0] not in ("torch", "cupy")]
)
def test_probe(settings, name):
    passed(gpu_probe, name, settings)


@pytest.mark.parametrize("name", gpu_runs.names(Settings()))
def test_runs(settings, name):
    passed(gpu_runs, name, settings)


@pytest.mark.parametrize("name", CASES[:6])
def test_operator_case(settings, name):
    assert passed(gpu_cases, name, settings)["details"]["kernels"]


@pytest.mark.parametrize("name", SUITE)
def test_backend_suite(settings, name):
    passed(gpu_suite, name, settings)


def test_model(settings):
    """A small network; those of the record have the same code path."""
    model = gpu_runs.layered_model(layers=2)
    details = gpu_models.compare(model, [gpu_runs.feeds_of(2, 0), gpu_runs.feeds_of(3, 1)], settings)
    assert 0 <= details["error"] <= gpu_models.TOLERANCE
    assert details["steps"] >= 2


def test_a_broken_device_is_noticed(settings, standin):
    assert not is_device_broken(settings)
    standin.devices[0].failure = 700
    assert is_device_broken(settings)


def test_copies_are_timed(settings):
    rows = cuda_rates.copy_rows(settings, 1 << 16)
    assert [row.unit for row in rows] == ["GB/s"] * 3
    assert all(row.value > 0 for row in rows)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_are_timed(settings, monkeypatch, dtype):
    monkeypatch.setattr(cuda_rates, "SECONDS", 0.01)
    (row,) = cuda_rates.product_rows(dtype, "strict", settings, 32)
    assert row.unit == "TFLOP/s"
    assert row.value > 0


def test_runs_are_timed(settings, monkeypatch):
    monkeypatch.setattr(cuda_rates, "SECONDS", 0.01)
    for name in ("a run", "chain 10"):
        rows = passed(cuda_rates, name, settings)["details"]["rows"]
        assert all(row["value"] > 0 and row["unit"] == "us" for row in rows)


def test_steps_are_timed(settings):
    with onnxplan.InferenceSession(product_chain(3), device="cuda") as session:
        feeds = {"x0": np.ones((4, 4), np.float32), "m": np.eye(4, dtype=np.float32)}
        session.run_sync(feeds)
        times = cuda_steps.time_steps(session, dict.fromkeys(feeds, (4, 4)), settings)
        steps = session.plan().steps
        assert [item.step for item in times] == list(steps)
        assert [item.number for item in times] == list(range(len(steps)))
        assert set(times[0].to_json()) >= {"us", "GB/s", "TFLOP/s", "kernel", "nodes", "blocks"}
        np.testing.assert_array_equal(session.run_sync(feeds)["x3"].numpy(), feeds["x0"])


def test_tasks(settings):
    small = {"rows": 4, "columns": 8}
    (row,) = cuda_tasks.task_rows(settings, **small, seconds=0.2)
    assert row.ratio == row.value / row.peer_value > 0
    (row,) = cuda_tasks.gap_rows(settings, columns=8, seconds=0.2)
    assert row.value >= 0
    (row,) = cuda_tasks.shape_rows(settings, **small)
    assert row.value > 0
    assert set(cuda_tasks.names(settings)) == {"tasks", "gap", "new shapes"}
