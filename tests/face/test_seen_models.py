"""Models that were seen before are opened from the kernel store, and are as if they were compiled anew."""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
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
from onnxplan.runtime.artifact_planner import ArtifactPlanner

pytestmark = pytest.mark.usefixtures("store")


@pytest.mark.parametrize("rows", ["rows", 3])
def test_a_seen_model_is_as_if_it_was_compiled(tmp_path: Path, rows: int | str) -> None:
    path = save(tmp_path, layer(rows=rows))
    with onnxplan.InferenceSession(path) as plain:
        assert not is_seen(plain)
        plain.run_sync({"x": sample()})
        plain._engine.settle(wait=True)
        with onnxplan.InferenceSession(path) as session:
            assert is_seen(session)
            assert session.inputs == plain.inputs
            assert session.optional_inputs == plain.optional_inputs
            assert session.outputs == plain.outputs
            assert session.metadata == plain.metadata == {"author": "me"}
            assert session.plan({"x": (3, DEPTH)}) == plain.plan({"x": (3, DEPTH)})
            assert str(session.plan({"x": (3, DEPTH)})) == str(plain.plan({"x": (3, DEPTH)}))
            assert repr(session) == repr(plain)
            assert session.memory().constants == plain.memory().constants
            counts = (3, 5) if rows == "rows" else (3,)
            feeds = [{"x": sample(count)} for count in counts]
            feeds += [{"x": sample(), "bias": np.ones(COLUMNS, np.float32)}]
            for each in feeds:
                found, wanted = session.run_sync(each), plain.run_sync(each)
                np.testing.assert_array_equal(found["y"].numpy(), wanted["y"].numpy())
                assert found["labels"].numpy().tolist() == ["left", "right"]
            found = session.run_sync({"x": sample()}, ["labels"])
            assert list(found) == ["labels"]
            again = pickle.loads(pickle.dumps(session))
            np.testing.assert_array_equal(
                again.run_sync({"x": sample()})["y"].numpy(), plain.run_sync({"x": sample()})["y"].numpy()
            )
            wrong = {"x": sample()[:, 1:]}
            messages = []
            for each in (session, plain):
                with pytest.raises(onnxplan.InvalidFeedsError) as caught:
                    each.run_sync(wrong)
                messages.append(str(caught.value))
            assert messages[0] == messages[1]


def test_a_process_imports_and_compiles_nothing(tmp_path: Path, store: Path) -> None:
    path = save(tmp_path, layer())
    then = time.time() - 60
    code = f"""
import sys, numpy as np
numpys = set(sys.modules)
import onnxplan
from onnxplan.runtime import origin
origin.RACY_SECONDS = -5.0
session = onnxplan.InferenceSession({str(path)!r})
assert session.run_sync({{"x": np.ones((3, {DEPTH}), np.float32)}})["y"].dims == (3, {COLUMNS})
heavy = {{"onnx", "numba", "llvmlite", "cupy", "asyncio", "google.protobuf"}} & set(sys.modules)
heavy |= {{"subprocess", "tempfile", "inspect"}} & (set(sys.modules) - numpys)
heavy |= {{name for name in sys.modules if name.startswith("onnxplan.kernels")}}
print("heavy" if heavy else "light")
"""

    def run() -> str:
        return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout

    # The first one ends at once, but a small model is written all the same.
    assert run() == "heavy\n"
    assert len(entries(store)) == 1
    before = {file: file.stat().st_mtime_ns for file in store.rglob("*")}
    assert run() == "light\n"
    assert {file: file.stat().st_mtime_ns for file in store.rglob("*")} == before
    assert then < os.stat(path).st_mtime


def test_constants_are_the_mapped_file_and_read_only(tmp_path: Path) -> None:
    path = save(tmp_path, layer())
    keep(path)
    with onnxplan.InferenceSession(path) as session:
        planner = session._engine.planner
        assert isinstance(planner, ArtifactPlanner)
        (stage,) = planner.stages().values()
        assert stage.compiled.constants
        for constant in stage.compiled.constants:
            assert not constant.flags.writeable
            assert np.shares_memory(constant, planner.artifact._bytes)


def test_plans_for_shapes_are_added_as_they_are_met(tmp_path: Path, store: Path) -> None:
    path = save(tmp_path, layer())
    keep(path, 3)
    keep(path, 5, 3)
    keep(path, 7)
    with onnxplan.InferenceSession(path) as session:
        planner = session._engine.planner
        assert isinstance(planner, ArtifactPlanner)
        assert [request.shapes[0][0] for request in planner.stages()] == [3, 5, 7]
        # The weights are the same for all.
        numbers = [set(entry.constants) for entry in planner.artifact.header.plans]
        assert numbers[0] == numbers[1] == numbers[2]
        for rows in (3, 5, 7):
            np.testing.assert_array_equal(
                session.run_sync({"x": sample(rows)})["y"].numpy(), reference(layer(), {"x": sample(rows)})
            )
        assert planner._fallback is None
        session.run_sync({"x": sample(9)})
        assert planner._fallback is not None
    assert len(entries(store)) == 1


def test_another_model_at_the_path(tmp_path: Path, store: Path) -> None:
    path = save(tmp_path, layer(0))
    keep(path)
    times = path.stat()
    other = save(tmp_path, layer(1), "other.onnx")
    assert other.stat().st_size == times.st_size
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(other, path)
    with onnxplan.InferenceSession(path) as session:
        assert not is_seen(session)
        found = session.run_sync({"x": sample()})["y"].numpy()
        np.testing.assert_array_equal(found, reference(layer(1), {"x": sample()}))
        session._engine.settle(wait=True)
    assert opens_seen(path)
    assert len(entries(store)) == 1


def test_other_shapes_are_planned_from_the_model_that_was_opened(tmp_path: Path) -> None:
    path = save(tmp_path, layer(0))
    keep(path, 3)
    with onnxplan.InferenceSession(path) as session:
        assert is_seen(session)
        os.replace(save(tmp_path, layer(1), "other.onnx"), path)
        found = session.run_sync({"x": sample(6)})["y"].numpy()
        np.testing.assert_array_equal(found, reference(layer(0), {"x": sample(6)}))
        session._engine.settle(wait=True)
    # What it kept is of the old model.
    with onnxplan.InferenceSession(path) as session:
        found = session.run_sync({"x": sample(6)})["y"].numpy()
        np.testing.assert_array_equal(found, reference(layer(1), {"x": sample(6)}))


def test_external_data_that_changes(tmp_path: Path) -> None:
    model = layer(0)
    path = tmp_path / "model.onnx"

    def write(seed: int) -> None:
        onnx.save(layer(seed), path, save_as_external_data=True, location="weights.bin", size_threshold=0)

    write(0)
    keep(path)
    assert opens_seen(path)
    message = path.read_bytes()
    data = tmp_path / "weights.bin"
    first = data.read_bytes()
    data.unlink()
    write(1)
    second = data.read_bytes()
    data.unlink()
    write(0)
    assert path.read_bytes() == message
    assert data.read_bytes() == first
    keep(path, 3)
    with onnxplan.InferenceSession(path) as session:
        assert is_seen(session)
        # A shape that is not kept is planned from the external file too.
        found = session.run_sync({"x": sample(4)})["y"].numpy()
        np.testing.assert_array_equal(found, reference(model, {"x": sample(4)}))
    data.unlink()
    data.write_bytes(second)
    with onnxplan.InferenceSession(path) as session:
        assert not is_seen(session)
        found = session.run_sync({"x": sample()})["y"].numpy()
        np.testing.assert_array_equal(found, reference(layer(1), {"x": sample()}))
    data.unlink()
    with pytest.raises(onnxplan.InvalidModelError, match=r"weights\.bin"):
        onnxplan.InferenceSession(path)


def test_what_decides_on_plans_decides_on_entries(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, layer())
    keep(path)
    for options in ({"threads": 1}, {"math": "fast"}, {"optimize": 0}):
        with (
            onnxplan.InferenceSession(path, **options) as session,
            onnxplan.InferenceSession(layer(), **options) as plain,
        ):
            if options.get("threads") != len(os.sched_getaffinity(0)):
                assert not is_seen(session), options
            assert session.plan({"x": (3, DEPTH)}) == plain.plan({"x": (3, DEPTH)})
    for off in ("0", ""):
        monkeypatch.setenv("ONNXPLAN_WINOGRAD", off)
        assert not opens_seen(path)
    monkeypatch.setenv("ONNXPLAN_WINOGRAD", "1")
    assert opens_seen(path)
    monkeypatch.delenv("ONNXPLAN_WINOGRAD")
    assert opens_seen(path)
    # Others make no difference.
    assert opens_seen(path, max_plans=3, max_concurrency=1, memory_limit=1 << 30)
    for name, text in (("DUMP", str(tmp_path / "dump")), ("STOP_AFTER", "fold"), ("VERIFY", "1")):
        monkeypatch.setenv(f"ONNXPLAN_{name}", text)
        assert not opens_seen(path)
        monkeypatch.delenv(f"ONNXPLAN_{name}")
    monkeypatch.setenv("ONNXPLAN_VERIFY", "0")
    assert opens_seen(path)


def test_a_key_is_asked_for_all_the_same(tmp_path: Path) -> None:
    path = save(tmp_path, layer())
    keep(path)
    with pytest.raises(onnxplan.InvalidArtifactError, match="verify_key"):
        onnxplan.InferenceSession(path, verify_key=b"key")


@pytest.mark.parametrize(
    "part", ["everything", "half", "nothing", "header", "plan", "code", "folder", "others"]
)
def test_damaged_entries_are_made_again(tmp_path: Path, store: Path, part: str) -> None:
    path = save(tmp_path, layer())
    keep(path)
    (file,) = entries(store)
    data = bytearray(file.read_bytes())
    with onnxplan.InferenceSession(path) as session:
        planner = session._engine.planner
        assert isinstance(planner, ArtifactPlanner)
        header = planner.artifact.header
    sections = {"plan": header.plans[0].plan, "code": header.targets[0].code}
    file.unlink()
    if part == "folder":
        file.mkdir()
    elif part == "others":
        file.write_bytes(data)
        file.chmod(0o666)
    else:
        if part in sections:
            data[header.sections[sections[part]].offset + 20] ^= 1
        elif part == "header":
            data[200] ^= 1
        size = {"everything": 0, "half": len(data) // 2, "nothing": 0}.get(part, len(data))
        file.write_bytes(bytes(len(data)) if part == "everything" else data[:size])
    with onnxplan.InferenceSession(path) as session:
        found = session.run_sync({"x": sample()})["y"].numpy()
        np.testing.assert_array_equal(found, reference(layer(), {"x": sample()}))
        session._engine.settle(wait=True)
    if part == "folder":
        file.rmdir()
    keep(path)
    assert opens_seen(path)
    assert stat.S_IMODE(entries(store)[0].stat().st_mode) & 0o022 == 0
