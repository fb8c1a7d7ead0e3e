"""``onnxplan cache``."""

from __future__ import annotations

import json
import os
import re
import time

import numpy as np
import pytest
from onnx import TensorProto, helper
from test_cli import call, product, refuse, run_main, save, save_array, succeed, tensor  # noqa: F401

from onnxplan.runtime import origin
from onnxplan.runtime.devices import _cpu_library
from onnxplan.runtime.store import KernelStore, StoredCode, content_key

DAY = 86400.0


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A store with two kernels for one target and one for another, which was not used for three days."""
    folder = tmp_path / "store"
    monkeypatch.setenv("ONNXPLAN_CACHE_DIR", str(folder))
    store = KernelStore(folder)
    for number, target in enumerate(("cpu avx2", "cpu avx2", "cuda sm_90")):
        store.put(content_key(str(number)), StoredCode("kernel", bytes(1 << 20)), target)
    for path in folder.rglob("*.kernel"):
        if b"sm_90" in path.read_bytes()[:300]:
            os.utime(path, (time.time() - 3 * DAY,) * 2)
    return folder


def test_info(folder):
    found = json.loads(succeed("cache", "info", "--json", ONNXPLAN_CACHE_SIZE="4M"))
    files = list(folder.rglob("*.kernel"))
    size = sum(path.stat().st_size for path in files)
    rows = found.pop("targets")
    assert found == {"folder": str(folder), "kernels": 3, "models": 0, "bytes": size, "bound": 4 << 20}
    assert [(row["target"], row["kernels"]) for row in rows] == [("cpu avx2", 2), ("cuda sm_90", 1)]
    assert sum(row["bytes"] for row in rows) == size
    assert rows[1]["oldest"] == rows[1]["newest"] < rows[0]["oldest"] <= rows[0]["newest"]
    text = succeed("cache", "info", ONNXPLAN_CACHE_SIZE="4M")
    assert f"{folder}: 3 kernels, 0 models, 3.0 MiB of 4.0 MiB" in text
    assert "cuda sm_90" in text


def test_info_of_entries_that_nobody_can_name(folder):
    for path in folder.rglob("*.kernel"):
        path.write_bytes(path.read_bytes()[:40])
    (row,) = json.loads(succeed("cache", "info", "--json"))["targets"]
    assert (row["target"], row["kernels"]) == ("unknown", 3)


def test_info_of_an_empty_store(tmp_path):
    nothing = tmp_path / "none"
    assert succeed("cache", "info", ONNXPLAN_CACHE_DIR=str(nothing)).endswith(
        "0 kernels, 0 models, 0.0 MiB of 4096.0 MiB\n"
    )
    assert not nothing.exists()


def test_clear(folder):
    assert "1 kernel and 0 models removed from" in succeed("cache", "clear", "--older-than", "2")
    assert "0 kernels and 0 models removed from" in succeed("cache", "clear", "--older-than", "0.5")
    assert len(list(folder.rglob("*.kernel"))) == 2
    assert succeed("cache", "clear") == f"2 kernels and 0 models removed from {folder}, 2.0 MiB freed\n"
    assert not list(folder.rglob("*.kernel"))
    assert "0 kernels and 0 models removed" in succeed("cache", "clear")


@pytest.fixture
def positions(tmp_path):
    """A model whose course depends on data: twice the positions of what is not zero, in two stages."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["found"]),
        helper.make_node("Add", ["found", "found"], ["y"]),
    ]
    inputs = [tensor("x", ["n"])]
    return save(tmp_path / "positions.onnx", nodes, inputs, [tensor("y", None, TensorProto.INT64)])


def warm(*arguments, store):
    """The result of the command in a process that has no kernels yet."""
    _cpu_library.cache_clear()
    try:
        return call("cache", "warm", *arguments, ONNXPLAN_CACHE_DIR=str(store))
    finally:
        # It keeps its kernels in that store.
        _cpu_library.cache_clear()


def test_warm_compiles_what_a_model_needs_once(positions, tmp_path):
    store = tmp_path / "store"
    result = warm(positions, "--dim", "n=5", store=store)
    assert result.exit_code == 0
    found = re.fullmatch(
        r"(\d+) kernels for cpu: \1 compiled, 0 were there; the store is .*\n", result.stdout
    )
    files = set(store.rglob("*.kernel"))
    assert len(files) >= int(found[1]) >= 2
    result = warm(positions, "--dim", "n=5", store=store)
    assert result.exit_code == 0
    expected = f"{found[1]} kernels for cpu: 0 compiled, {found[1]} were there; the store is {store}\n"
    assert result.stdout == expected
    assert set(store.rglob("*.kernel")) == files


def test_warm_keeps_the_model(product, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(origin, "RACY_SECONDS", -5.0)
    monkeypatch.delenv("ONNXPLAN_VERIFY", raising=False)
    store = tmp_path / "store"
    assert warm(product, store=store).exit_code == 0
    (file,) = store.rglob("*.model")
    assert (
        warm(product, store=store).stdout
        == f"1 kernel for cpu: 0 compiled, 1 were there; the store is {store}\n"
    )
    monkeypatch.setenv("ONNXPLAN_CACHE_DIR", str(store))
    found = json.loads(succeed("cache", "info", "--json"))
    assert found["models"] == 1
    assert found["seen"]["bytes"] == file.stat().st_size
    assert found["bytes"] == sum(
        path.stat().st_size for path in store.rglob("*") if path.suffix in (".kernel", ".model")
    )
    assert re.search(r"models +│ +1 +│", succeed("cache", "info"))
    assert " and 1 model removed from" in succeed("cache", "clear")
    assert not file.exists()


def test_warm_fails_where_nothing_is_kept(product, tmp_path):  # noqa: F811
    (tmp_path / "file").touch()
    result = warm(product, store=tmp_path / "file")
    assert result.exit_code == 1
    assert result.stdout == ""
    text = str(result.exception)
    assert "1 kernel for cpu: 1 compiled, 0 were there, but the kernel store does not keep them: " in text
    assert str(tmp_path / "file") in text


def test_warm_takes_shapes_from_files(product, tmp_path):  # noqa: F811
    file = save_array(tmp_path / "a.npy", np.ones((7, 4), np.float32))
    assert "kernel" in succeed("cache", "warm", product, "--input", f"a={file}", "--math", "fast")


def test_arguments_that_make_no_sense(product, monkeypatch):  # noqa: F811
    assert "no input has a dimension called 'bat'" in refuse("cache", "warm", product, "--dim", "bat=3")
    assert "math must be one of" in refuse("cache", "warm", product, "--math", "sloppy")
    assert "unknown device 'tpu'" in refuse("cache", "warm", product, "--device", "tpu")
    assert "older-than" in refuse("cache", "clear", "--older-than", "-1")
    monkeypatch.setenv("ONNXPLAN_CACHE_SIZE", "plenty")
    assert "ONNXPLAN_CACHE_SIZE: expected a number of bytes" in refuse("cache", "info")


def test_store_out_of_reach(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ONNXPLAN_CACHE_DIR", str(tmp_path / "file"))
    for command in ("info", "clear"):
        status, _, error = run_main(capsys, monkeypatch, "cache", command)
        assert status == 1
        assert error.startswith("NotADirectoryError")
    found = json.loads(call("doctor", "--json").stdout)["kernel store"]
    assert "Not a directory" in found["unusable"]
