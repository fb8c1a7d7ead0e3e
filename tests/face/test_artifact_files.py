"""Files that artifacts are written to: whole or not at all, and nothing but files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import onnxplan
from onnxplan.runtime.artifact import DIGEST_BYTES, is_artifact
from tests.face.face_models import product_model


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.plan"
    path.write_bytes(b"what was there")
    replace = os.replace

    def refuse(source: str | Path, target: str | Path) -> None:
        # The kernel store, which others use after this test, may go on.
        if Path(target) == path:
            raise OSError("no room")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no room"):
        onnxplan.compile(product_model(), path)
    assert path.read_bytes() == b"what was there"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept.plan"]
    assert DIGEST_BYTES == 32


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")
def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    pipe, folder = tmp_path / "pipe", tmp_path / "folder"
    os.mkfifo(pipe)
    folder.mkdir()
    for path in (pipe, folder):
        with pytest.raises(OSError, match="an artifact replaces nothing but a file"):
            onnxplan.compile(product_model(), path)
    assert pipe.is_fifo()
    assert folder.is_dir()
    assert {entry.name for entry in tmp_path.iterdir()} == {"pipe", "folder"}


@pytest.mark.skipif(sys.platform == "win32", reason="links take privileges there")
def test_a_link_leads_to_the_artifact(tmp_path: Path) -> None:
    link, path = tmp_path / "newest.plan", tmp_path / "first.plan"
    path.write_bytes(b"what was there")
    link.symlink_to(path)
    onnxplan.compile(product_model(), link)
    assert link.is_symlink()
    assert is_artifact(path)
