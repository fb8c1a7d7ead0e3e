"""The bound of the kernel store, and what is removed to keep it."""

from __future__ import annotations

import logging
import os
import time

import pytest

from onnxplan.runtime import store_upkeep
from onnxplan.runtime.file_lock import try_lock
from onnxplan.runtime.store import KernelStore, StoredCode, content_key, entry_target
from onnxplan.runtime.store_upkeep import (
    DEFAULT_BOUND,
    Freed,
    clear,
    evict,
    list_entries,
    parse_size,
    size_bound,
    tidy,
)

HOUR = 3600.0
CODE = StoredCode("symbol", bytes(1000))


def key(number: int) -> str:
    return content_key(str(number))


@pytest.fixture
def store(tmp_path):
    """Ten entries; the one with number n was last used n hours ago."""
    store = KernelStore(tmp_path)
    for number in range(10):
        store.put(key(number), CODE, f"cpu {number % 2}")
        age(store, number, number * HOUR)
    return store


def path_of(store: KernelStore, number: int):
    return store.directory / key(number)[:2] / f"{key(number)[2:]}.kernel"


def age(store: KernelStore, number: int, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path_of(store, number), (then, then))


def there(store: KernelStore) -> set[int]:
    return {number for number in range(20) if path_of(store, number).exists()}


def size_of_one(store: KernelStore) -> int:
    return path_of(store, 0).stat().st_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1000", 1000),
        ("1000B", 1000),
        ("1k", 1024),
        ("500M", 500 << 20),
        ("500MB", 500 << 20),
        ("2 GiB", 2 << 30),
        (" 1.5G ", 3 << 29),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes(text, size, monkeypatch):
    assert parse_size(text) == size
    monkeypatch.setenv("ONNXPLAN_CACHE_SIZE", text)
    assert size_bound() == size


@pytest.mark.parametrize("text", ["many", "-1", "1X", "G", "1 2", "1e9", "0x10", "1iB"])
def test_texts_that_are_no_sizes(text, monkeypatch):
    monkeypatch.setenv("ONNXPLAN_CACHE_SIZE", text)
    with pytest.raises(ValueError, match=f"ONNXPLAN_CACHE_SIZE: expected .*{text}"):
        size_bound()


def test_bound_without_a_setting(monkeypatch):
    for text in ("", None):
        monkeypatch.delenv("ONNXPLAN_CACHE_SIZE", raising=False)
        if text is not None:
            monkeypatch.setenv("ONNXPLAN_CACHE_SIZE", text)
        assert size_bound() == DEFAULT_BOUND == 4 << 30


def test_least_recently_used_go_first(store):
    one = size_of_one(store)
    assert evict(store.directory, 10 * one) == Freed(0, 0)
    assert there(store) == set(range(10))
    # Six fit into three quarters of eight and a half.
    assert evict(store.directory, 8 * one + one // 2) == Freed(4, 4 * one)
    assert there(store) == set(range(6))
    assert evict(store.directory, 0).entries == 6
    assert there(store) == set()
    assert evict(store.directory / "none", 0) == Freed(0, 0)


def test_models_go_before_kernels(store):
    one = size_of_one(store)
    store.put_model(key(20), lambda file: file.write(bytes(4 * one)))
    store.put_model(key(21), lambda file: file.write(bytes(3 * one)))
    (old,) = [
        entry.path for entry in list_entries(store.directory) if entry.is_model and entry.size == 4 * one
    ]
    os.utime(old, (time.time() - HOUR,) * 2)
    assert sum(entry.is_model for entry in list_entries(store.directory)) == 2
    assert evict(store.directory, 16 * one) == Freed(2, 7 * one, 2)
    assert there(store) == set(range(10))


def test_of_models_the_one_not_used_for_longest_goes_first(store):
    one = size_of_one(store)
    for number, size in ((20, 8 * one), (21, 2 * one)):
        store.put_model(key(number), lambda file, size=size: file.write(bytes(size)))
    opened = store.open_model(key(20))
    assert opened is not None
    old, handle = opened
    os.close(handle)
    os.utime(old, (time.time() - HOUR,) * 2)
    assert evict(store.directory, 19 * one) == Freed(1, 8 * one, 1)
    assert store.open_model(key(20)) is None


def test_a_model_that_cannot_be_written_leaves_nothing(store):
    def fail(file):
        file.write(b"some")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.put_model(key(20), fail)
    assert store.open_model(key(20)) is None
    assert not list(store.directory.rglob("*.tmp"))


def test_use_renews_an_entry(store):
    assert store.get(key(9)) == CODE
    assert store.get(key(5)) == CODE
    evict(store.directory, 4 * size_of_one(store))
    assert there(store) == {0, 5, 9}


def test_times_are_written_rarely(store):
    now = time.time()
    for number, seconds in ((1, 0.5 * HOUR), (2, 1.5 * HOUR)):
        age(store, number, seconds)
        store.get(key(number))
    assert path_of(store, 1).stat().st_mtime == pytest.approx(now - 0.5 * HOUR, abs=60)
    assert path_of(store, 2).stat().st_mtime == pytest.approx(now, abs=60)


def test_a_process_that_writes_much_looks_at_once(store, monkeypatch):
    bound = 5 * size_of_one(store)
    monkeypatch.setenv("ONNXPLAN_CACHE_SIZE", str(bound))
    tidy(store)
    assert there(store) == {0, 1, 2}
    for number in range(10, 16):
        store.put(key(number), CODE)
        tidy(store)
    assert sum(entry.size for entry in list_entries(store.directory)) <= bound
    assert 15 in there(store)


def test_the_directory_is_looked_at_rarely(store, monkeypatch):
    """Whoever writes little looks only if nobody did for some time."""
    looks = []
    monkeypatch.setattr(store_upkeep, "evict", lambda *arguments: looks.append(arguments))
    tidy(store)
    assert len(looks) == 1
    other = KernelStore(store.directory)
    for number in range(10, 13):
        other.put(key(number), CODE)
        tidy(other)
    assert len(looks) == 1
    mark = store.directory / store_upkeep.MARK
    for seconds in (2 * store_upkeep.CHECK_SECONDS, -HOUR):
        then = time.time() - seconds
        os.utime(mark, (then, then))
        other.put(key(13), CODE)
        tidy(other)
    assert len(looks) == 3
    tidy(other)
    assert len(looks) == 3


def test_one_process_at_a_time_removes(store, monkeypatch):
    monkeypatch.setenv("ONNXPLAN_CACHE_SIZE", "0")
    lock = try_lock(store.directory / "checked.lock")
    tidy(store)
    assert there(store) == set(range(10))
    lock.release()
    tidy(store)
    assert there(store) == set()


def test_bound_of_the_environment_that_is_none(store, monkeypatch, caplog):
    monkeypatch.setenv("ONNXPLAN_CACHE_SIZE", "plenty")
    with caplog.at_level(logging.WARNING):
        tidy(store)
    assert "'plenty'" in caplog.text
    assert there(store) == set(range(10))


def test_leavings_of_dead_processes_go(store):
    folder = path_of(store, 0).parent
    files = [folder / name for name in (".1.tmp", ".2.tmp", "3.lock", "4.lock", "5.lock", "notes")]
    for file in files:
        file.write_bytes(b"x" * 10)
    held = try_lock(files[4])
    for file in (files[0], files[2], files[4], files[5]):
        os.utime(file, (0, 0))
    tidy(store)
    assert [file.exists() for file in files] == [False, True, False, True, True, True]
    held.release()


def test_files_that_vanish_meanwhile(store, monkeypatch):
    """Two processes remove at once, and a third one removed some before."""
    listed = list_entries(store.directory)
    path_of(store, 9).unlink()
    monkeypatch.setattr(store_upkeep, "list_entries", lambda _: listed)
    one = size_of_one(store)
    assert evict(store.directory, 0) == Freed(9, 9 * one)
    assert evict(store.directory, 0) == Freed(0, 0)
    assert clear(store.directory) == Freed(0, 0)


def test_a_store_that_cannot_be_tidied_fails_nobody(tmp_path, caplog):
    (tmp_path / "file").touch()
    for store in (KernelStore(None), KernelStore(tmp_path / "none"), KernelStore(tmp_path / "file")):
        store.unchecked_bytes = DEFAULT_BOUND
        with caplog.at_level(logging.INFO):
            tidy(store)
    assert not caplog.records


def test_clear(store):
    failed = store.directory / "failed" / "kernel.cu"
    failed.parent.mkdir()
    failed.write_text("source")
    foreign = store.directory / "ab" / "notes.txt"
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("mine")
    one = size_of_one(store)
    assert clear(store.directory, time.time() - 7.5 * HOUR) == Freed(2, 2 * one)
    assert there(store) == set(range(8))
    assert failed.exists()
    assert clear(store.directory) == Freed(8, 8 * one + len("source"))
    assert there(store) == set()
    assert not failed.exists()
    assert foreign.exists()
    assert clear(store.directory / "none") == Freed(0, 0)


def test_targets_of_entries(store, tmp_path):
    assert entry_target(path_of(store, 3)) == "cpu 1"
    store.put(key(3), CODE)
    assert entry_target(path_of(store, 3)) == ""
    other = tmp_path / "other"
    for data in (b"", b"something else", path_of(store, 2).read_bytes()[:80]):
        other.write_bytes(data)
        assert entry_target(other) == ""
