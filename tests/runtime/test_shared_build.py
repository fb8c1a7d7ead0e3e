"""Processes on one store share the work of building its entries."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from collections import Counter

import pytest
from runtime_kernels import wait_until

from onnxplan.compiler.plan import KernelSpec
from onnxplan.runtime import shared_build
from onnxplan.runtime.cpu.target import detect_target
from onnxplan.runtime.library import KernelLibrary
from onnxplan.runtime.store import KernelStore, StoredCode

SPECS = [KernelSpec(name) for name in ("zero", "one", "two", "three", "four", "five")]
SECONDS = 30.0
PROCESSES = 6

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class CountedBuilds:
    """Kernels whose code is their name; each build is a line of a file that processes share."""

    def __init__(self, folder, seconds: float = 0.0) -> None:
        self.folder = folder
        self.seconds = seconds
        (folder / "builds").touch()

    def build(self, spec, target) -> StoredCode:
        handle = os.open(self.folder / "builds", os.O_WRONLY | os.O_APPEND)
        os.write(handle, f"{spec.family}\n".encode())
        os.close(handle)
        time.sleep(self.seconds)
        return StoredCode(spec.family, spec.family.encode())

    def library(self, **options) -> KernelLibrary:
        return KernelLibrary(
            self.build,
            detect_target(1),
            lambda: "sources",
            store=KernelStore(self.folder / "store"),
            load=lambda code, symbol: (code, symbol),
            **options,
        )

    def names(self) -> list[str]:
        return (self.folder / "builds").read_text().split()


def kernel(spec: KernelSpec):
    return spec.family.encode(), spec.family


EXPECTED = tuple(map(kernel, SPECS))


@needs_fork
@pytest.mark.parametrize("parallel", [1, 2])
def test_processes_build_each_kernel_once(tmp_path, parallel):
    builds = CountedBuilds(tmp_path, 0.01)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(PROCESSES)
    results = context.SimpleQueue()

    def child() -> None:
        library = builds.library(parallel=parallel)
        start.wait(SECONDS)
        right = library.addresses(SPECS) == EXPECTED
        results.put((right, library.compiled_count, library.loaded_count))

    children = [context.Process(target=child) for _ in range(PROCESSES)]
    for process in children:
        process.start()
    found = [results.get() for _ in children]
    for process in children:
        process.join(SECONDS)
        assert process.exitcode == 0
    assert Counter(builds.names()) == Counter(spec.family for spec in SPECS)
    assert all(right for right, _, _ in found)
    assert sum(compiled for _, compiled, _ in found) == len(SPECS)
    assert all(compiled + loaded == len(SPECS) for _, compiled, loaded in found)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".lock", ".tmp")]


def claimed(library: KernelLibrary, spec: KernelSpec):
    """Another process that builds ``spec``."""
    claim = library.store.claim(library._key(spec))
    assert claim is not None
    return claim


@pytest.mark.parametrize("parallel", [1, 3])
def test_what_nobody_builds_comes_first(tmp_path, parallel):
    builds = CountedBuilds(tmp_path)
    library = builds.library(parallel=parallel)
    release = claimed(library, SPECS[0])
    seen, found = [], []
    thread = threading.Thread(
        target=lambda: found.append(library.addresses(SPECS, lambda *counts: seen.append(counts)))
    )
    thread.start()
    wait_until(lambda: len(builds.names()) == 5 and len(seen) == 6)
    assert thread.is_alive()
    library.store.put(library._key(SPECS[0]), StoredCode("zero", b"zero"))
    release()
    thread.join(SECONDS)
    assert found == [EXPECTED]
    assert "zero" not in builds.names()
    assert seen == [(done, 6) for done in range(7)]
    assert (library.compiled_count, library.loaded_count) == (5, 1)


def test_claim_that_is_given_back_without_an_entry(tmp_path):
    """The other process failed, or died."""
    builds = CountedBuilds(tmp_path)
    library = builds.library()
    timer = threading.Timer(0.03, claimed(library, SPECS[0]))
    timer.start()
    assert library.addresses(SPECS) == EXPECTED
    assert library.compiled_count == 6
    timer.join()


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_owner_that_stands_still_is_waited_for_once(tmp_path, monkeypatch):
    """However many kernels it holds, and not at all while there is other work."""
    clock = Clock()
    monkeypatch.setattr(shared_build, "time", clock)
    builds = CountedBuilds(tmp_path)
    library = builds.library()
    releases = [claimed(library, spec) for spec in SPECS[:4]]
    assert library.addresses(SPECS) == EXPECTED
    assert library.compiled_count == 6
    assert clock.now - 1000 == pytest.approx(shared_build.PATIENCE_SECONDS, abs=0.1)
    assert builds.names()[:2] == ["four", "five"]
    for release in releases:
        release()
    assert builds.library().addresses(SPECS) == EXPECTED
    assert len(builds.names()) == 6


def test_entry_of_another_process_that_cannot_be_linked(tmp_path, caplog):
    builds = CountedBuilds(tmp_path)

    def load(code, symbol):
        if code == b"broken":
            raise RuntimeError("no object code")
        return code, symbol

    library = builds.library()
    library._load = load
    library.store.put(library._key(SPECS[0]), StoredCode("zero", b"broken"))
    assert library.addresses(SPECS) == EXPECTED
    assert (library.compiled_count, library.loaded_count) == (6, 0)
    assert builds.library().addresses(SPECS) == EXPECTED
    assert len(builds.names()) == 6


@pytest.mark.parametrize("parallel", [1, 2])
def test_failed_build_gives_its_claims_back(tmp_path, parallel):
    builds = CountedBuilds(tmp_path)
    library = builds.library(parallel=parallel)
    build = library._build

    def fail(spec, target):
        if spec == SPECS[2]:
            raise ValueError("no such kernel")
        return build(spec, target)

    library._build = fail
    with pytest.raises(ValueError, match="no such kernel"):
        library.addresses(SPECS)
    for spec in SPECS:
        claimed(library, spec)()
    assert len(builds.names()) < len(SPECS)
    library._build = build
    assert library.addresses(SPECS) == EXPECTED


def test_progress_that_raises_gives_claims_back(tmp_path):
    library = CountedBuilds(tmp_path).library()

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        library.addresses(SPECS, interrupt)
    for spec in SPECS:
        claimed(library, spec)()
    assert library.addresses(SPECS) == EXPECTED
    assert library.compiled_count == 6


def test_file_system_without_locks(tmp_path, monkeypatch, caplog):
    def refuse(path):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("onnxplan.runtime.store.try_lock", refuse)
    monkeypatch.setattr("onnxplan.runtime.store_upkeep.try_lock", refuse)
    builds = CountedBuilds(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert builds.library().addresses(SPECS) == EXPECTED
        again = builds.library()
        assert again.addresses(SPECS) == EXPECTED
    assert again.loaded_count == 6
    assert not caplog.records
