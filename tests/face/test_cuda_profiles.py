"""Profiles of sessions on CUDA: events between the steps, the same record as on the CPU."""

from __future__ import annotations

import gc
import itertools
import json

import numpy as np
import pytest
from face_models import long_model, product_model, sums_model
from test_profiles import check_sums, product_feeds, staged_feeds, staged_model
from typer.testing import CliRunner

import onnxplan
from onnxplan.chrome_trace import RUN
from onnxplan.cli.commands import application
from onnxplan.profiling import Profile
from onnxplan.runtime.cancellation import CancelFlag, Cancelled
from onnxplan.runtime.cuda.timed_run import STREAM, EventTimer

KERNEL_SECONDS = 2e-3
PRODUCT_SECONDS = 5e-3
X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def cuda(emulated_cuda):
    standin = emulated_cuda.standin
    standin.launch_milliseconds = 1e3 * KERNEL_SECONDS
    before, standin.algorithms = standin.algorithms, (1e3 * PRODUCT_SECONDS,)
    yield standin
    standin.launch_milliseconds, standin.algorithms = 0.0, before
    standin.query_steps = 1
    gc.collect()
    emulated_cuda.check()


def test_steps_take_what_the_events_between_them_say(cuda):
    with onnxplan.InferenceSession(product_model(), device="cuda") as session:
        profile = session.profile(product_feeds(), 0.01)
        plan = session.plan()
    (stage,) = profile.stages
    assert [row.seconds for row in stage.steps] == [pytest.approx(PRODUCT_SECONDS)]
    (row,), (step,) = stage.steps, plan.steps
    assert (row.family, row.nodes, row.operators) == ("cublaslt", step.nodes, ("MatMul",))
    assert row.ceiling == max(step.flops / plan.target.flops, step.bytes / plan.target.bandwidth)
    assert (profile.device, profile.threads) == ("cuda:0", 1)
    check_sums(profile)
    assert Profile.from_json(profile.to_json()) == profile
    assert "cublaslt" in str(profile)


def test_kernels_and_stages(cuda):
    with onnxplan.InferenceSession(staged_model(), device="cuda") as session:
        profile = session.profile(staged_feeds(), 0.01, timeline=True)
        plans = session.plans({"x": [5]})
    assert [len(stage.steps) for stage in profile.stages] == [len(plan.steps) for plan in plans]
    launched = [row for stage in profile.stages for row in stage.steps if row.seconds]
    assert launched
    assert all(row.seconds == pytest.approx(KERNEL_SECONDS) for row in launched)
    assert {event.stage for event in profile.timeline.stages} == set(range(len(plans)))
    check_sums(profile)


def test_a_timeline_has_the_stream_as_a_row(cuda):
    with onnxplan.InferenceSession(long_model(), device="cuda") as session:
        feeds = {info.name: np.ones(info.dims, info.type) for info in session.inputs}
        profile = session.profile(feeds, 0.01, timeline=True)
        steps = session.plan().steps
    events = profile.timeline.tiles
    assert [(event.worker, event.step, event.last) for event in events] == [
        (STREAM, number, step.tiles) for number, step in enumerate(steps)
    ]
    for before, after in itertools.pairwise(events):
        assert before.end == pytest.approx(after.begin, abs=1e-8)
    metadata = [event for event in profile.trace()["traceEvents"] if event["name"] == "thread_name"]
    names = [event["args"]["name"] for event in metadata if event["pid"] == RUN]
    assert "stream 0" in names
    assert "host" in names
    assert not any("worker" in name for name in names)


def test_timed_runs_compute_the_same_and_have_no_graph(cuda):
    with onnxplan.InferenceSession(sums_model(), device="cuda") as session:
        session.run_sync({"x": X, "y": X})
        executor = session._recent.executor
        timer = EventTimer(executor)
        outputs = tuple(np.full(b.shape, np.nan, np.float32) for b in executor.plan.outputs)
        cuda.counters.clear()
        total, seconds = timer.run((X, X), outputs)
        calls = cuda.counters.calls
        assert calls["graphLaunch"] == 0
        launches = len(executor.launched_steps)
        assert calls["eventCreateWithFlags"] == calls["eventDestroy"] == launches + 2
        assert calls["eventElapsedTime"] == launches + 1
        assert total > 0
        assert seconds.sum() == pytest.approx(launches * KERNEL_SECONDS)
        readings = timer.readings()
        assert len(readings) == len(executor.plan.steps) + 2
        assert readings[-1] - readings[0] == pytest.approx(1e9 * seconds.sum(), abs=10)
        by_name = dict(zip((b.name for b in executor.plan.outputs), outputs, strict=True))
        np.testing.assert_array_equal(by_name["s"], X + X)
        np.testing.assert_array_equal(by_name["p"], X * X)
        results = session.run_sync({"x": X, "y": X})
        np.testing.assert_array_equal(results["s"], X + X)


def test_steps_without_elements_take_no_time(cuda):
    with onnxplan.InferenceSession(sums_model(), device="cuda") as session:
        empty = np.empty((0, 3), np.float32)
        profile = session.profile({"x": empty, "y": empty}, 0.01, timeline=True)
    assert all(row.seconds == 0 for row in profile.stages[0].steps)
    assert profile.timeline.tiles == ()


def test_a_cancelled_timed_run_frees_its_events(cuda):
    with onnxplan.InferenceSession(sums_model(), device="cuda") as session:
        for _ in range(2):
            session.run_sync({"x": X, "y": X})
        executor = session._recent.executor
        outputs = tuple(np.empty(b.shape, np.float32) for b in executor.plan.outputs)
        flag = CancelFlag()
        flag.set()
        cuda.counters.clear()
        with pytest.raises(Cancelled):
            EventTimer(executor).run((X, X), outputs, flag)
        calls = cuda.counters.calls
        assert calls["eventCreateWithFlags"] == calls["eventDestroy"] > 0


def test_a_failing_device_ends_a_profile(cuda):
    with onnxplan.InferenceSession(sums_model(), device="cuda") as session:
        session.run_sync({"x": X, "y": X})
        cuda.faults.fail_call("eventElapsedTime", 1)
        with pytest.raises(onnxplan.OnnxPlanError, match="while timing steps"):
            session.profile({"x": X, "y": X}, 0.01)
        np.testing.assert_array_equal(session.run_sync({"x": X, "y": X})["s"], X + X)


@pytest.mark.parametrize("command", ["profile", "explain"])
def test_commands(cuda, tmp_path, command):
    path = tmp_path / "product.onnx"
    path.write_bytes(product_model().SerializeToString())
    found = CliRunner().invoke(
        application, [command, str(path), "--device", "cuda", "--seconds", "0.01", "--json"]
    )
    assert found.exit_code == 0, found.output
    assert "cublaslt" in json.dumps(json.loads(found.stdout))
