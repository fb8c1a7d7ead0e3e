"""Whatever happens to the files of the kernel store, kernels are built again and nothing else happens."""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import sys

import pytest

from onnxplan.compiler.plan import KernelSpec
from onnxplan.runtime.cpu.target import detect_target
from onnxplan.runtime.library import KernelLibrary
from onnxplan.runtime.store import DIGEST_BYTES, MAGIC, KernelStore, StoredCode, content_key, entry_target

KEY = content_key("some", "kernel")
CODE = StoredCode("symbol", b"\x7fELF object code " * 3)
SPECS = [KernelSpec("one"), KernelSpec("two")]
MUTATIONS = 300

needs_posix = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions and limits")


def make_library(store: KernelStore) -> KernelLibrary:
    """Kernels whose code is their name, and whose address is the length of it."""
    return KernelLibrary(
        lambda spec, target: StoredCode(spec.family, spec.family.encode()),
        detect_target(1),
        lambda: "sources",
        store=store,
        load=lambda code, symbol: len(code),
    )


@pytest.fixture
def entry(tmp_path):
    KernelStore(tmp_path).put(KEY, CODE, "cpu test")
    (path,) = tmp_path.rglob("*.kernel")
    return path


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def expect_rebuilt(store: KernelStore, entry, damaged: bytes, caplog) -> None:
    caplog.clear()
    entry.write_bytes(damaged)
    entry_target(entry)
    assert store.get(KEY) is None
    assert len(warnings(caplog)) == 1
    assert "built again" in caplog.text
    assert not entry.exists()


def test_cut_anywhere(tmp_path, entry, caplog):
    whole = entry.read_bytes()
    store = KernelStore(tmp_path)
    for length in range(len(whole)):
        expect_rebuilt(store, entry, whole[:length], caplog)


def mutate(data: bytes, generator: random.Random) -> bytes:
    """Flipped bits, bytes put in, taken out, set or moved, and parts of the file zeroed."""
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 1, 2, 5))):
        place = generator.randrange(len(changed))
        length = generator.randrange(1, 17)
        match generator.randrange(6):
            case 0 | 1:
                changed[place] ^= 1 << generator.randrange(8)
            case 2:
                changed[place:place] = generator.randbytes(length)
            case 3:
                del changed[place : place + length]
            case 4:
                changed[place : place + length] = bytes(length)
            case 5:
                changed = changed[place:] + changed[:place]
        if not changed:
            break
    return bytes(changed)


def test_damaged_in_any_way(tmp_path, entry, caplog):
    whole = entry.read_bytes()
    store = KernelStore(tmp_path)
    generator = random.Random(6)
    for _ in range(MUTATIONS):
        damaged = mutate(whole, generator)
        if damaged != whole:
            expect_rebuilt(store, entry, damaged, caplog)
    store.put(KEY, CODE)
    assert store.get(KEY) == CODE


def test_each_byte_of_the_head_counts(tmp_path, entry, caplog):
    whole = entry.read_bytes()
    store = KernelStore(tmp_path)
    for place in range(len(MAGIC) + DIGEST_BYTES + 8):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        expect_rebuilt(store, entry, bytes(damaged), caplog)


def test_library_rebuilds_damaged_entries(tmp_path, caplog):
    make_library(KernelStore(tmp_path)).addresses(SPECS)
    for path in tmp_path.rglob("*.kernel"):
        path.write_bytes(path.read_bytes()[:-1])
    again = make_library(KernelStore(tmp_path))
    assert again.addresses(SPECS) == (3, 3)
    assert (again.compiled_count, again.loaded_count) == (2, 0)
    assert len(warnings(caplog)) == 2
    third = make_library(KernelStore(tmp_path))
    assert third.addresses(SPECS) == (3, 3)
    assert (third.compiled_count, third.loaded_count) == (0, 2)


def expect_works_without(store: KernelStore, caplog, *words: str) -> None:
    """All kernels are built, twice, and the log says once why."""
    for _ in range(2):
        library = make_library(store)
        assert library.addresses(SPECS) == (3, 3)
        assert (library.compiled_count, library.loaded_count) == (2, 0)
        store = KernelStore(store.directory)
    (text,) = warnings(caplog)
    for word in (str(store.directory), *words):
        assert word in text


def test_file_where_the_directory_should_be(tmp_path, caplog):
    (tmp_path / "file").touch()
    expect_works_without(KernelStore(tmp_path / "file"), caplog)


def test_file_where_a_folder_of_entries_should_be(tmp_path, caplog):
    make_library(KernelStore(tmp_path)).addresses(SPECS)
    for path in list(tmp_path.glob("??")):
        shutil.rmtree(path)
        path.touch()
    expect_works_without(KernelStore(tmp_path), caplog)


def test_directory_where_an_entry_should_be(tmp_path, entry, caplog):
    entry.unlink()
    entry.mkdir()
    store = KernelStore(tmp_path)
    assert store.get(KEY) is None
    store.put(KEY, CODE)
    assert store.get(KEY) is None
    assert len(warnings(caplog)) == 1
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("failing", ["write", "rename", "create"])
def test_full_disk(tmp_path, caplog, monkeypatch, failing):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*_arguments, **_options):
        raise full

    if failing == "rename":
        monkeypatch.setattr("os.replace", refuse)
    elif failing == "create":
        monkeypatch.setattr("os.open", refuse)
    else:
        open_file = os.fdopen

        def open_on_full_disk(handle, mode):
            file = open_file(handle, mode)
            return file if mode == "rb" else FullFile(file)

        class FullFile:
            def __init__(self, file):
                self.file = file

            def __enter__(self):
                return self

            def write(self, data):
                self.file.write(data[: len(data) // 2])
                self.file.flush()
                raise full

            def __exit__(self, *_):
                self.file.close()

        monkeypatch.setattr("os.fdopen", open_on_full_disk)
    expect_works_without(KernelStore(tmp_path), caplog, "No space left")
    monkeypatch.undo()
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".tmp", ".kernel")]
    library = make_library(KernelStore(tmp_path))
    library.addresses(SPECS)
    make_library(KernelStore(tmp_path)).addresses(SPECS)
    assert len(list(tmp_path.rglob("*.kernel"))) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_limit_on_the_size_of_files(tmp_path, caplog):
    """The system itself refuses in the middle of a write."""
    import resource

    store = KernelStore(tmp_path)
    large = StoredCode("symbol", bytes(100_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        store.put(KEY, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(warnings(caplog)) == 1
    assert store.get(KEY) is None
    assert not list(tmp_path.rglob("*.tmp"))


@needs_posix
def test_directory_that_is_read_only(tmp_path, caplog):
    tmp_path.chmod(0o555)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        expect_works_without(KernelStore(tmp_path), caplog, "Permission denied")
    finally:
        tmp_path.chmod(0o755)


def test_file_system_that_is_read_only(tmp_path, caplog, monkeypatch):
    """What is there is used, without a word; what is not is built."""
    make_library(KernelStore(tmp_path)).addresses(SPECS[:1])
    for path in tmp_path.rglob("*.kernel"):
        os.utime(path, (0, 0))
    read_only = OSError(errno.EROFS, os.strerror(errno.EROFS))
    open_descriptor = os.open

    def open_to_read(path, flags, *mode):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise read_only
        return open_descriptor(path, flags, *mode)

    def refuse(*_arguments, **_options):
        raise read_only

    monkeypatch.setattr("os.open", open_to_read)
    for name in ("os.utime", "os.unlink", "os.mkdir", "os.replace"):
        monkeypatch.setattr(name, refuse)
    library = make_library(KernelStore(tmp_path))
    library.addresses(SPECS[:1])
    assert (library.compiled_count, library.loaded_count) == (0, 1)
    assert warnings(caplog) == []
    library.addresses(SPECS)
    assert (library.compiled_count, library.loaded_count) == (1, 1)
    assert len(warnings(caplog)) == 1


@needs_posix
def test_entries_of_another_user_are_not_executed(tmp_path, caplog, monkeypatch):
    make_library(KernelStore(tmp_path)).addresses(SPECS)
    owner = next(iter(tmp_path.rglob("*.kernel"))).stat().st_uid
    monkeypatch.setattr("os.getuid", lambda: owner + 1)
    monkeypatch.setattr("onnxplan.runtime.store.ADMINISTRATOR", owner + 2)
    expect_works_without(KernelStore(tmp_path), caplog, "others")


@needs_posix
def test_links_and_pipes_are_no_entries(tmp_path, entry, caplog):
    elsewhere = tmp_path / "elsewhere"
    entry.rename(elsewhere)
    entry.symlink_to(elsewhere)
    assert KernelStore(tmp_path).get(KEY) is None
    entry.unlink()
    os.mkfifo(entry)
    assert KernelStore(tmp_path).get(KEY) is None
    assert len(warnings(caplog)) == 1
    KernelStore(tmp_path).put(KEY, CODE)
    assert KernelStore(tmp_path).get(KEY) == CODE


def test_directory_that_is_deleted_again_and_again(tmp_path, caplog):
    folder = tmp_path / "store"
    store = KernelStore(folder)
    for _ in range(3):
        library = make_library(store)
        library.addresses(SPECS)
        assert library.compiled_count == 2
        assert len(list(folder.rglob("*.kernel"))) == 2
        shutil.rmtree(folder)
    assert warnings(caplog) == []


def test_directory_that_is_deleted_during_a_compilation(tmp_path, caplog):
    folder = tmp_path / "store"
    library = make_library(KernelStore(folder))
    library.addresses(SPECS, lambda done, total: shutil.rmtree(folder, ignore_errors=True))
    assert library.compiled_count == 2
    assert warnings(caplog) == []


@needs_posix
def test_others_may_read_but_never_write(tmp_path):
    """A store that root made in an image serves the user who runs it."""
    before = os.umask(0)
    try:
        make_library(KernelStore(tmp_path / "a" / "store")).addresses(SPECS)
    finally:
        os.umask(before)
    for path in (tmp_path / "a").rglob("*"):
        assert path.stat().st_mode & 0o022 == 0, path
        assert path.stat().st_mode & 0o044 == 0o044, path
