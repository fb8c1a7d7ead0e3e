"""The kernel store on disk and the library of loaded kernels."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import runtime_kernels
from runtime_kernels import build

from onnxplan.compiler.plan import KernelSpec
from onnxplan.runtime.cpu.target import detect_target
from onnxplan.runtime.library import KernelLibrary
from onnxplan.runtime.store import KernelStore, StoredCode, content_key, source_digest, store_directory

SPECS = [KernelSpec("fill"), KernelSpec("add"), KernelSpec("nothing")]
KEY = content_key("some", "kernel")
CODE = StoredCode("symbol", bytes(range(256)) * 10)


def make_library(store: KernelStore, sources: str = "sources", **changes) -> KernelLibrary:
    return KernelLibrary(build, replace(detect_target(1), **changes), lambda: sources, store=store)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.kernel"))


def test_entry_comes_back_as_it_was(tmp_path):
    KernelStore(tmp_path).put(KEY, CODE)
    assert KernelStore(tmp_path).get(KEY) == CODE
    assert KernelStore(tmp_path).get(content_key("another")) is None
    assert KernelStore(tmp_path / "elsewhere").get(KEY) is None


def test_store_without_directory_keeps_nothing():
    store = KernelStore(None)
    store.put(KEY, CODE)
    assert store.get(KEY) is None


@pytest.mark.parametrize("position", [0, 20, 55, 90, 500, -1])
def test_entry_with_a_flipped_bit_is_not_trusted(tmp_path, position):
    KernelStore(tmp_path).put(KEY, CODE)
    (path,) = entries(tmp_path)
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)
    assert KernelStore(tmp_path).get(KEY) is None
    assert entries(tmp_path) == []


@pytest.mark.parametrize("length", [0, 1, 30, 52, 60, 1000])
def test_cut_entry_is_not_trusted(tmp_path, length):
    KernelStore(tmp_path).put(KEY, CODE)
    (path,) = entries(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    assert KernelStore(tmp_path).get(KEY) is None


def test_entry_under_another_key_is_not_trusted(tmp_path):
    store = KernelStore(tmp_path)
    store.put(KEY, CODE)
    (path,) = entries(tmp_path)
    other = content_key("another")
    target = tmp_path / other[:2] / f"{other[2:]}.kernel"
    target.parent.mkdir(exist_ok=True)
    path.rename(target)
    assert store.get(other) is None


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_entry_that_anybody_may_write_is_not_trusted(tmp_path, caplog):
    store = KernelStore(tmp_path)
    store.put(KEY, CODE)
    (path,) = entries(tmp_path)
    path.chmod(0o666)
    with caplog.at_level(logging.WARNING):
        assert store.get(KEY) is None
    assert "others" in caplog.text


def test_store_that_cannot_be_written_says_so_once(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    store = KernelStore(blocked / "kernels")
    with caplog.at_level(logging.WARNING):
        library = make_library(store)
        assert all(library.addresses(SPECS))
        store.put(KEY, CODE)
    assert library.compiled_count == 3
    assert sum(record.name == "onnxplan.store" for record in caplog.records) == 1


def test_second_library_compiles_nothing(tmp_path):
    first = make_library(KernelStore(tmp_path))
    first.addresses(SPECS)
    assert (first.compiled_count, first.loaded_count) == (3, 0)
    second = make_library(KernelStore(tmp_path))
    addresses = second.addresses(SPECS)
    assert (second.compiled_count, second.loaded_count) == (0, 3)
    assert second.addresses([SPECS[1], SPECS[1]]) == (addresses[1], addresses[1])


@pytest.mark.parametrize("changes", [{"isa": "generic"}, {"math": "fast"}, {"sources": "edited"}])
def test_what_the_code_depends_on_is_in_the_key(tmp_path, changes):
    make_library(KernelStore(tmp_path)).addresses(SPECS[:1])
    other = make_library(KernelStore(tmp_path), **changes)
    other.addresses(SPECS[:1])
    assert (other.compiled_count, other.loaded_count) == (1, 0)


def test_threads_and_caches_are_not_in_the_key(tmp_path):
    make_library(KernelStore(tmp_path)).addresses(SPECS[:1])
    other = make_library(KernelStore(tmp_path), threads=7, cache_bytes=(1, 2, 3))
    other.addresses(SPECS[:1])
    assert (other.compiled_count, other.loaded_count) == (0, 1)


def test_code_that_cannot_be_linked_is_built_again(tmp_path):
    store = KernelStore(tmp_path)
    library = make_library(store)
    library.addresses(SPECS[:1])
    (path,) = entries(tmp_path)
    key = path.parent.name + path.stem
    store.put(key, StoredCode("kernel", b"no object code"))
    again = make_library(store)
    assert all(again.addresses(SPECS[:1]))
    assert (again.compiled_count, again.loaded_count) == (1, 0)
    third = make_library(store)
    third.addresses(SPECS[:1])
    assert third.loaded_count == 1


def test_progress_counts_what_is_compiled(tmp_path):
    seen = []
    library = make_library(KernelStore(tmp_path))
    library.addresses(SPECS[:1])
    library.addresses(SPECS, lambda done, total: seen.append((done, total)))
    library.addresses(SPECS, lambda done, total: seen.append((done, total)))
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_threads_compile_each_kernel_once():
    library = make_library(KernelStore(None))
    found = []
    threads = [threading.Thread(target=lambda: found.append(library.addresses(SPECS))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert library.compiled_count == 3


def test_failed_build_is_raised_and_tried_again(monkeypatch):
    library = make_library(KernelStore(None))
    body = runtime_kernels.BODIES.pop("nothing")
    try:
        with pytest.raises(KeyError):
            library.addresses(SPECS)
    finally:
        runtime_kernels.BODIES["nothing"] = body
    assert all(library.addresses(SPECS))


def test_directory_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ONNXPLAN_CACHE_DIR", str(tmp_path / "own"))
    assert store_directory() == tmp_path / "own"
    monkeypatch.delenv("ONNXPLAN_CACHE_DIR")
    if os.name == "posix" and os.uname().sysname == "Linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert store_directory() == tmp_path / "onnxplan" / "kernels"
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        assert store_directory() == Path.home() / ".cache" / "onnxplan" / "kernels"


def test_source_digest_follows_names_and_content(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    first = source_digest([tmp_path])
    assert source_digest([tmp_path]) == first
    (tmp_path / "a.py").write_text("x = 2")
    second = source_digest([tmp_path])
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, source_digest([tmp_path])}) == 3
