"""Profiles of sessions: every step is there, rows add up, runs stay as they are, timelines open."""

import asyncio
import itertools
import json
import threading

import numpy as np
import pytest
from face_models import long_model, model, node, product_model, value
from typer.testing import CliRunner

import onnxplan
from onnxplan import profiler
from onnxplan.cli.commands import application
from onnxplan.profiling import HOST, Profile
from onnxplan.runtime.cancellation import CancelFlag, Cancelled


def staged_model():
    nodes = [
        node("Add", "x x", "y"),
        node("NonZero", "y", "i", name="find"),
        node("Gather", "y i", "z", axis=0),
    ]
    return model(nodes, [value("x", ["n"])], ["z"])


def staged_feeds():
    return {"x": np.array([0, 1, 2, 0, 3], np.float32)}


def product_feeds():
    return {"a": np.ones((3, 4), np.float32), "b": np.ones((4, 3), np.float32)}


def check_sums(profile):
    assert sum(row.seconds for row in profile.rows) == pytest.approx(profile.seconds)
    for stage in profile.stages:
        assert sum(row.seconds for row in stage.rows) == pytest.approx(stage.seconds)


def test_a_profile_has_every_step():
    feeds = product_feeds()
    with onnxplan.InferenceSession(product_model(), threads=1) as session:
        profile = session.profile(feeds, 0.01)
        plan = session.plan()
    (stage,) = profile.stages
    assert [row.index for row in stage.steps] == list(range(len(plan.steps)))
    for row, step in zip(stage.steps, plan.steps, strict=True):
        assert (row.family, row.nodes, row.flops, row.bytes) == (
            step.kernel.family, step.nodes, step.flops, step.bytes,
        )  # fmt: skip
        assert row.ceiling == profile.ceilings.seconds(step.flops, step.bytes)
    assert stage.steps[0].operators == ("MatMul",)
    assert (profile.device, profile.threads, stage.ends) == ("cpu", 1, "")
    assert (stage.arena_bytes, stage.arena_lower_bound) == (plan.arena_bytes, plan.arena_lower_bound)
    assert profile.runs >= 5
    check_sums(profile)
    assert Profile.from_json(profile.to_json()) == profile
    assert "between steps" in str(profile)


def test_stages_have_their_own_steps():
    with onnxplan.InferenceSession(staged_model()) as session:
        profile = session.profile(staged_feeds(), 0.01, timeline=True)
        plans = session.plans({"x": [5]})
    assert [len(stage.steps) for stage in profile.stages] == [len(plan.steps) for plan in plans]
    assert len(profile.stages) > 1
    assert "'find' (NonZero)" in profile.stages[0].ends
    assert profile.stages[-1].ends == ""
    assert {event.stage for event in profile.timeline.stages} == set(range(len(plans)))
    check_sums(profile)
    assert "stage 0:" in str(profile)


def test_work_of_the_host_is_a_row():
    pytest.importorskip("PIL")
    import test_images

    _, stream = test_images.bitmap(6, 5, 0)
    with onnxplan.InferenceSession(test_images.model()) as session:
        profile = session.profile({"stream": stream, "factor": np.float32(2)}, 0.01, timeline=True)
    (row,) = [row for row in profile.rows if row.kind == HOST]
    assert (row.nodes, row.operators) == (("decoder",), ("ImageDecoder",))
    assert row.seconds > 0
    assert "computed by the host" in profile.stages[0].ends
    assert [event.step for event in profile.timeline.tiles].count(None) == 1
    check_sums(profile)


def test_runs_after_a_profile_are_as_before():
    with onnxplan.InferenceSession(staged_model()) as session:
        before = session.run_sync(staged_feeds())["z"].numpy()
        memory = session.memory()
        session.profile(staged_feeds(), 0.01, timeline=True)
        np.testing.assert_array_equal(session.run_sync(staged_feeds())["z"].numpy(), before)
        assert session.memory().constants == memory.constants


def test_random_courses():
    """Random numbers decide how many elements a later stage has."""
    nodes = [
        node("RandomUniform", "", "r", shape=[8]),
        node("Greater", "r half", "b"),
        node("NonZero", "b", "y"),
    ]
    proto = model(nodes, [], ["y"], half=np.float32(0.5))
    with onnxplan.InferenceSession(proto) as session:
        profile = session.profile({}, 0.05, timeline=True)
    check_sums(profile)
    profile.trace()


def test_artifacts_without_their_model_know_no_operators(tmp_path):
    feeds = product_feeds()
    for included, operators in ((True, ("MatMul",)), (False, ())):
        path = tmp_path / f"{included}.plan"
        onnxplan.compile(product_model(), path, include_model=included)
        with onnxplan.InferenceSession(path) as session:
            profile = session.profile(feeds, 0.01)
        assert profile.stages[0].steps[0].operators == operators
        assert profile.model == str(path)


def test_bad_arguments():
    with onnxplan.InferenceSession(product_model()) as session:
        feeds = product_feeds()
        for seconds in (0, -1.0, float("nan")):
            with pytest.raises(ValueError, match="seconds must be positive"):
                session.profile(feeds, seconds)
        with pytest.raises(onnxplan.InvalidFeedsError, match="b"):
            session.profile({"a": feeds["a"]}, 0.01)
    with pytest.raises(onnxplan.SessionClosedError):
        session.profile(feeds, 0.01)


def test_other_devices_are_refused_by_name():
    class Elsewhere:
        name = "cuda:7"

    feeds = product_feeds()
    with onnxplan.InferenceSession(product_model()) as session:
        (stage,) = session._engine.plain.values()
        executor, stage.executor, stage.device = stage.executor, object(), Elsewhere()
        with pytest.raises(NotImplementedError, match="steps of cuda:7 cannot be timed"):
            session.profile(feeds, 0.01)
        stage.executor = executor


def test_an_asynchronous_profile_leaves_the_loop_free():
    async def go():
        with onnxplan.InferenceSession(product_model()) as session:
            task = asyncio.create_task(session.profile_async(product_feeds(), 0.2))
            turns = 0
            while not task.done():
                await asyncio.sleep(0.001)
                turns += 1
            return await task, turns

    profile, turns = asyncio.run(go())
    assert profile.stages[0].steps
    assert turns > 1


def test_cancelling_ends_an_asynchronous_profile(monkeypatch):
    monkeypatch.setattr(profiler, "ROUND_LIMIT", 10**9)

    async def go():
        with onnxplan.InferenceSession(product_model()) as session:
            task = asyncio.create_task(session.profile_async(product_feeds(), 3600.0))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(go())


def test_a_cancelled_profile_raises():
    flag = CancelFlag()
    flag.set()
    feeds = product_feeds()
    with onnxplan.InferenceSession(product_model()) as session, pytest.raises(Cancelled):
        profiler.profile_runs(session, feeds, 1.0, timeline=False, remeasure=False, cancel=flag)


PHASES = {"X", "M", "C", "b", "e"}
METADATA = {"process_name": "name", "thread_name": "name", "thread_sort_index": "sort_index"}


def check_trace(document):
    """The fields that the trace event format documents for each phase, and slices that nest."""
    assert {*document} == {"traceEvents", "displayTimeUnit", "otherData"}
    assert document["displayTimeUnit"] in ("ms", "ns")
    open_slices = {}
    lanes = {}
    for event in document["traceEvents"]:
        assert event["ph"] in PHASES
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert isinstance(event["name"], str)
        assert event["name"]
        assert isinstance(event["args"], dict)
        if event["ph"] == "M":
            assert METADATA[event["name"]] in event["args"]
            continue
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            lanes.setdefault((event["pid"], event["tid"]), []).append(
                (event["ts"], event["ts"] + event["dur"])
            )
        elif event["ph"] == "C":
            assert all(isinstance(each, int | float) and each >= 0 for each in event["args"].values())
        else:
            key = event["cat"], event["id"]
            if event["ph"] == "b":
                assert key not in open_slices
                open_slices[key] = event["ts"]
            else:
                assert open_slices.pop(key) <= event["ts"]
    assert not open_slices
    for lane in lanes.values():
        lane.sort()
        for (_, end), (begin, _) in itertools.pairwise(lane):
            assert begin >= end - 0.002, "slices of one thread overlap"


def test_traces_have_the_documented_fields():
    with onnxplan.InferenceSession(long_model(), threads=2) as session:
        profile = session.profile({"x": np.ones(session.inputs[0].dims, np.float32)}, 0.01, timeline=True)
        concurrency = session._device.concurrency
    document = json.loads(json.dumps(profile.trace()))
    check_trace(document)
    events = document["traceEvents"]
    assert len([event for event in events if event.get("cat") == "step"]) == len(profile.stages[0].steps)
    assert len([event for event in events if event.get("cat") == "run"]) == 2 * concurrency
    assert any(event["ph"] == "C" and event["name"] == "runs waiting" for event in events)
    buffers = {event["id"] for event in events if event.get("cat") == "buffer"}
    assert len(buffers) == len(profile.stages[0].buffers)
    with pytest.raises(ValueError, match="timeline=True"):
        profile.without_timeline().trace()


def test_traces_of_stages():
    with onnxplan.InferenceSession(staged_model()) as session:
        profile = session.profile(staged_feeds(), 0.01, timeline=True)
    document = profile.trace()
    check_trace(document)
    names = [event["name"] for event in document["traceEvents"] if event.get("cat") == "stage"]
    assert names == [f"stage {number}" for number in range(len(profile.stages))]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "staged.onnx"
    path.write_bytes(staged_model().SerializeToString())
    return path


def invoke(*arguments):
    return CliRunner().invoke(application, ["profile", *map(str, arguments)])


@pytest.mark.parametrize("by", ["step", "kernel", "operator"])
def test_the_command_line_shows_a_table(file, by):
    result = invoke(file, "--dim", "n=5", "--seconds", "0.01", "--by", by)
    assert result.exit_code == 0, result.output
    assert "of ceiling" in result.output
    assert ("Add" in result.output) == (by == "operator")


def test_the_command_line_writes_json_and_a_trace(file, tmp_path):
    trace = tmp_path / "trace.json"
    result = invoke(file, "--dim", "n=5", "--seconds", "0.01", "--json", "--trace", trace)
    assert result.exit_code == 0, result.output
    profile = Profile.from_json(result.stdout)
    assert profile.model == str(file)
    check_trace(json.loads(trace.read_text()))


def test_the_command_line_refuses(file):
    result = invoke(file, "--by", "colour")
    assert result.exit_code == 2
    assert "step, kernel, operator" in result.output


def test_threads_of_profiles_do_not_stay():
    with onnxplan.InferenceSession(product_model()) as session:
        feeds = product_feeds()
        session.profile(feeds, 0.01, timeline=True)
        before = threading.active_count()
        session.profile(feeds, 0.01, timeline=True)
        assert threading.active_count() == before
