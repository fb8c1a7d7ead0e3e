"""Whether the files of a model are those that it was read from."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from onnxplan.compiler.checked_json import MalformedError
from onnxplan.runtime import origin as origins
from onnxplan.runtime.origin import MAPPED_BYTES, FileIdentity, Origin, open_files, origin_of

SOON = 10.0
"""Seconds after which files of now are old."""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A model with a small and an empty file of external data, and a large one in a folder."""
    (tmp_path / "data").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"model")
    (tmp_path / "small").write_bytes(b"weights")
    (tmp_path / "empty").touch()
    (tmp_path / "data" / "large").write_bytes(bytes(range(256)) * (MAPPED_BYTES // 256 + 1))
    return tmp_path / "model.onnx"


LOCATIONS = ("small", "empty", "data/large")


def seen(path: Path) -> Origin:
    found = origin_of(str(path), LOCATIONS, time.time() + SOON)
    assert found is not None
    return found


def test_files_that_stay(files: Path) -> None:
    found = seen(files)
    assert Origin.from_json(found.to_json(), "origin") == found
    opened = open_files(str(files), found)
    assert opened is not None
    model, external = opened
    assert bytes(model) == b"model"
    assert {name: bytes(data) for name, data in external.items()} == {
        name: (files.parent / name).read_bytes() for name in LOCATIONS
    }
    assert all(data.readonly for data in (model, *external.values()))


@pytest.mark.parametrize("name", ["model.onnx", *LOCATIONS])
def test_a_file_that_was_replaced_or_written(files: Path, name: str) -> None:
    path, found = files.parent / name, seen(files)
    content, times = path.read_bytes(), path.stat()
    replaced = path.with_suffix(".new")
    replaced.write_bytes(content)
    os.utime(replaced, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(replaced, path)
    assert open_files(str(files), found) is None
    found = seen(files)
    assert open_files(str(files), found) is not None
    with path.open("r+b") as file:
        file.write(content[:1] or b"x")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert open_files(str(files), found) is None
    found = seen(files)
    path.unlink()
    assert open_files(str(files), found) is None
    assert origin_of(str(files), LOCATIONS, time.time() + SOON) is None


def test_links_that_point_elsewhere(files: Path) -> None:
    other = files.parent / "other"
    other.write_bytes(b"weights")
    small = files.parent / "small"
    small.rename(files.parent / "first")
    small.symlink_to("first")
    found = seen(files)
    assert open_files(str(files), found) is not None
    small.unlink()
    small.symlink_to("other")
    assert open_files(str(files), found) is None


def test_what_replaces_a_pipe_or_folder(files: Path) -> None:
    found = seen(files)
    files.unlink()
    os.mkfifo(files)
    assert open_files(str(files), found) is None
    files.unlink()
    files.mkdir()
    assert open_files(str(files), found) is None


def test_opened_files_stay_when_they_are_replaced(files: Path) -> None:
    opened = open_files(str(files), seen(files))
    assert opened is not None
    large = files.parent / "data" / "large"
    content = large.read_bytes()
    large.unlink()
    large.write_bytes(b"other")
    assert bytes(opened[1]["data/large"]) == content


def test_fresh_files_have_no_identity(files: Path) -> None:
    assert origin_of(str(files), LOCATIONS, time.time()) is None
    # One file that is fresh is enough.
    assert origin_of(str(files), (), time.time() + origins.RACY_SECONDS + 0.1) is not None


def test_times_that_tell_nothing() -> None:
    second = 1_000_000_000
    moment = 1000.0
    old = FileIdentity(1, 2, 900 * second + 5, 900 * second + 7)
    assert old.is_certain(moment)
    for modified, changed in (
        (900 * second, 900 * second),  # an image, or a system that keeps whole seconds
        (900 * second, 999 * second + 1),
        (999 * second + 1, 900 * second + 1),
        (2000 * second, 900 * second + 1),
    ):
        assert not FileIdentity(1, 2, modified, changed).is_certain(moment)


def test_origins_that_lie() -> None:
    good = Origin(FileIdentity(1, 2, 3, 4), {"w": FileIdentity(5, 6, 7, 8)}).to_json()
    generator = random.Random(2)
    for wrong in (None, [], [good[0]], [good[0][:3], {}], [good[0], []], [good[0], {"w": [1, 2, 3, "4"]}]):
        with pytest.raises(MalformedError, match="origin"):
            Origin.from_json(wrong, "origin")
    for _ in range(100):
        numbers = [generator.randrange(1 << 63) for _ in range(4)]
        assert Origin.from_json([numbers, {}], "origin").model == FileIdentity(*numbers)
