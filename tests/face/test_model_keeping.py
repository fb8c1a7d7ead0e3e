"""When and where the plans of models are kept for later processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from face_models import node, value
from onnx import TensorProto, helper
from seen_model_cases import (  # noqa: F401
    COLUMNS,
    DEPTH,
    entries,
    is_seen,
    keep,
    layer,
    opens_seen,
    own_store,
    reference,
    sample,
    save,
)

import onnxplan
from onnxplan.runtime import model_keeper, origin
from onnxplan.runtime.artifact_planner import ArtifactPlanner
from onnxplan.runtime.library import KernelLibrary
from onnxplan.runtime.model_keeper import MOST_PLANS, MOST_WRITES, KeepingPlanner
from onnxplan.runtime.model_planner import ModelPlanner

pytestmark = pytest.mark.usefixtures("store")


def test_plans_that_are_kept_are_bounded(tmp_path: Path) -> None:
    path = save(tmp_path, layer())
    keep(path, *range(1, MOST_PLANS + 3))
    keep(path, 40)
    with onnxplan.InferenceSession(path) as session:
        planner = session._engine.planner
        assert isinstance(planner, ArtifactPlanner)
        kept = [request.shapes[0][0] for request in planner.stages()]
    assert len(kept) == MOST_PLANS
    assert kept[-1] == 40
    assert set(kept[:-1]) <= set(range(2, MOST_PLANS + 3))


def test_a_session_writes_only_a_few_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_keeper, "AGAIN_SECONDS", 0.0)
    path = save(tmp_path, layer())
    with onnxplan.InferenceSession(path) as session:
        for rows in range(1, MOST_WRITES + 4):
            session.run_sync({"x": sample(rows)})
            session._engine.settle(wait=True)
    with onnxplan.InferenceSession(path) as session:
        planner = session._engine.planner
        assert isinstance(planner, ArtifactPlanner)
        assert [request.shapes[0][0] for request in planner.stages()] == list(range(1, MOST_WRITES + 1))


def test_models_that_are_just_written_are_not_kept(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin, "RACY_SECONDS", 2.0)
    keep(save(tmp_path, layer()))
    assert not entries(store)


def test_without_a_cache_nothing_is_kept_or_used(tmp_path: Path, store: Path) -> None:
    path = save(tmp_path, layer())
    keep(path, cache=False)
    assert not store.exists()
    keep(path)
    assert not opens_seen(path, cache=False)
    assert opens_seen(path)


def test_models_without_a_file_are_not_kept(tmp_path: Path, store: Path) -> None:
    for model in (layer(), layer().SerializeToString()):
        with onnxplan.InferenceSession(model) as session:
            session.run_sync({"x": sample()})
            session._engine.settle(wait=True)
            assert isinstance(session._engine.planner, ModelPlanner)
    assert not entries(store)


def test_models_that_are_too_large_are_not_kept(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, layer())
    monkeypatch.setenv("ONNXPLAN_CACHE_SIZE", "2K")
    keep(path)
    assert not entries(store)
    # The constants would fit into half of it, the code beside them does not.
    monkeypatch.setenv("ONNXPLAN_CACHE_SIZE", "6K")
    keep(path)
    assert not entries(store)
    monkeypatch.setenv("ONNXPLAN_CACHE_SIZE", "1M")
    keep(path)
    assert len(entries(store)) == 1


def test_a_full_disk_and_a_file_in_the_way(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, layer())
    monkeypatch.setattr(model_keeper, "_free_bytes", lambda folder: 1000)
    keep(path)
    assert not entries(store)
    monkeypatch.setenv("ONNXPLAN_CACHE_DIR", str(path / "below a file"))
    keep(path)
    assert path.is_file()


def test_where_no_thread_can_be_started_nothing_is_kept(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    path = save(tmp_path, layer())
    with onnxplan.InferenceSession(path, threads=1) as session:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        session.run_sync({"x": sample(3)})
        session._engine.settle(wait=True)
        assert "are not kept: can't start new thread" in caplog.text
        assert not entries(store)
        monkeypatch.undo()


def test_nothing_is_compiled_to_keep_a_model(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "onnxplan.store")
    path = save(tmp_path, layer())
    with onnxplan.InferenceSession(path) as session:
        monkeypatch.setattr(KernelLibrary, "has_stored", lambda *_: False)
        monkeypatch.setattr(KernelLibrary, "objects", None)
        session.run_sync({"x": sample(3)})
        session._engine.settle(wait=True)
    assert "is not kept: the store lost kernels of it" in caplog.text
    assert not entries(store)


def test_one_process_at_a_time_writes(tmp_path: Path, store: Path) -> None:
    path = save(tmp_path, layer())
    with onnxplan.InferenceSession(path) as session:
        planner = session._engine.planner
        assert isinstance(planner, KeepingPlanner)
        place = planner._keeper._place
        release = place.store.claim(place.key)
        assert release is not None
        session.run_sync({"x": sample()})
        session._engine.settle(wait=True)
        assert not entries(store)
        release()
    keep(path)
    assert len(entries(store)) == 1


def test_many_sessions_at_once(tmp_path: Path, store: Path) -> None:
    path = save(tmp_path, layer())
    expected = {rows: reference(layer(), {"x": sample(rows)}) for rows in range(1, 5)}
    failures: list[BaseException] = []

    def work(rows: int) -> None:
        try:
            for _ in range(3):
                with onnxplan.InferenceSession(path) as session:
                    found = session.run_sync({"x": sample(rows)})["y"].numpy()
                    np.testing.assert_array_equal(found, expected[rows])
                    session._engine.settle(wait=True)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(rows,)) for rows in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert opens_seen(path)
    assert not list(store.rglob("*.tmp"))
    assert not list(store.rglob("*.lock"))


@pytest.fixture
def data_dependent(tmp_path: Path) -> Path:
    nodes = [node("NonZero", "x", "found"), node("Add", "found found", "y")]
    graph = helper.make_graph(
        nodes, "g", [value("x", ["n"])], [helper.make_tensor_value_info("y", TensorProto.INT64, None)]
    )
    return save(tmp_path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_models_whose_course_depends_on_data_are_planned_each_time(data_dependent: Path, store: Path) -> None:
    for _ in range(2):
        with onnxplan.InferenceSession(data_dependent) as session:
            found = session.run_sync({"x": np.array([0, 1, 2], np.float32)})["y"].numpy()
            np.testing.assert_array_equal(found, [[2, 4]])
            session._engine.settle(wait=True)
    assert not entries(store)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_while_plans_wait_to_be_written(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_keeper, "START_SECONDS", 60.0)
    path = save(tmp_path, layer())
    with onnxplan.InferenceSession(path) as session:
        session.run_sync({"x": sample()})
        child = os.fork()
        if not child:
            status = 1
            try:
                session.run_sync({"x": sample(4)})
                session._engine.settle(wait=True)
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(entries(store)) == 1
        session._engine.settle(wait=True)
    with onnxplan.InferenceSession(path) as session:
        planner = session._engine.planner
        assert isinstance(planner, ArtifactPlanner)
        assert {request.shapes[0][0] for request in planner.stages()} == {3, 4}


def test_an_exit_gives_up_a_large_model_and_leaves_nothing(tmp_path: Path, store: Path) -> None:
    path = save(tmp_path, layer())
    code = f"""
import numpy as np, onnxplan, threading
from onnxplan.runtime import origin, model_keeper
origin.RACY_SECONDS, model_keeper.SMALL_BYTES, model_keeper.START_SECONDS = -5.0, 0, 60.0
session = onnxplan.InferenceSession({str(path)!r})
session.run_sync({{"x": np.ones((3, {DEPTH}), np.float32)}})
assert [thread.name for thread in threading.enumerate() if "keeper" in thread.name]
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout == result.stderr == ""
    assert not entries(store)
    assert not list(store.rglob("*.tmp"))


def test_plans_that_no_run_used_are_not_held_without_bound(tmp_path: Path) -> None:
    path = save(tmp_path, layer())
    with onnxplan.InferenceSession(path, max_plans=1) as session:
        for rows in range(1, MOST_PLANS + 5):
            session.warmup_sync({"x": (rows, DEPTH)})
        planner = session._engine.planner
        assert isinstance(planner, KeepingPlanner)
        assert len(planner._keeper._made) == MOST_PLANS


def test_keeping_a_model_whose_kernels_are_stored_imports_no_compiler(tmp_path: Path, store: Path) -> None:
    code = f"""
import sys, numpy as np
import onnxplan
from onnxplan.runtime import origin
origin.RACY_SECONDS = -5.0
session = onnxplan.InferenceSession(sys.argv[1])
session.run_sync({{"x": np.ones((3, {DEPTH}), np.float32)}})
session._engine.settle(wait=True)
print("llvmlite" in sys.modules)
"""

    def imports(path: Path) -> str:
        command = [sys.executable, "-c", code, str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert imports(save(tmp_path, layer(), "first.onnx")) == "True\n"
    assert imports(save(tmp_path, layer(seed=1), "second.onnx")) == "False\n"
    assert len(entries(store)) == 2
