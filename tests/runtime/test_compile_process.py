"""A second process compiles beside this one; whatever becomes of it, all kernels arrive."""

from __future__ import annotations

import logging
import subprocess
import sys
import time

import pytest

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expressions import scalar_expression
from onnxplan.compiler.plan import KernelSpec
from onnxplan.kernels.cpu.registry import build
from onnxplan.runtime import compile_process, devices
from onnxplan.runtime.compile_process import LEAST_KERNELS, compiling_beside
from onnxplan.runtime.cpu.target import detect_target
from onnxplan.runtime.library import KernelLibrary
from onnxplan.runtime.store import KernelStore

SECONDS = 120.0
TYPE = (DType.FLOAT32.label,) * 3


def spec(op):
    expression = scalar_expression(op, (DType.FLOAT32, DType.FLOAT32))
    return KernelSpec("map", (expression, TYPE, "ccc", (0, 1), 1, False))


SPECS = tuple(map(spec, ("add", "sub", "mul", "div")))


class Started:
    """Notes the processes that are started."""

    def __init__(self, monkeypatch) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        start = subprocess.Popen

        def popen(*arguments, **options):
            process = start(*arguments, **options)
            self.processes.append(process)
            return process

        monkeypatch.setattr(subprocess, "Popen", popen)


@pytest.fixture
def started(monkeypatch):
    monkeypatch.setattr(compile_process, "default_threads", lambda: 2)
    return Started(monkeypatch)


def library(store, build=build):
    target = detect_target(1)
    return KernelLibrary(build, target, devices._kernel_sources, store=store, beside=compiling_beside)


def test_the_other_process_begins_with_the_last_kernel(tmp_path, started):
    store = KernelStore(tmp_path / "kernels")

    def wait_for_the_other(spec, target):
        until = time.monotonic() + SECONDS
        while store.get(kernels._key(SPECS[-1])) is None and time.monotonic() < until:
            time.sleep(0.01)
        return build(spec, target)

    kernels = library(store, wait_for_the_other)
    addresses = kernels.addresses(SPECS)
    assert len(set(addresses)) == len(SPECS)
    assert kernels.loaded_count >= 1
    assert kernels.loaded_count + kernels.compiled_count == len(SPECS)
    assert kernels.missing_count == len(SPECS)
    (process,) = started.processes
    assert process.poll() is not None


def test_no_process_is_started_where_it_does_not_pay(tmp_path, started, monkeypatch):
    store = KernelStore(tmp_path)

    def start(store=store, count=LEAST_KERNELS):
        with compiling_beside(store, detect_target(1), SPECS[:count]):
            pass
        return len(started.processes)

    assert start(count=LEAST_KERNELS - 1) == 0
    assert start(store=KernelStore(None)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(compile_process, "default_threads", lambda: 1)
        assert start() == 0
    with monkeypatch.context() as patch:
        patch.setattr(sys, "frozen", True, raising=False)
        assert start() == 0
    for executable in ("", "/usr/bin/some-server"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", executable)
            assert start() == 0
    assert start() == 1


def test_a_process_that_cannot_start_is_not_missed(tmp_path, started, monkeypatch):
    def refuse(*arguments, **options):
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    kernels = library(KernelStore(tmp_path))
    kernels.addresses(SPECS)
    assert (kernels.compiled_count, kernels.loaded_count) == (len(SPECS), 0)


def test_a_process_that_fails_is_not_missed_and_is_reported(tmp_path, started, monkeypatch, caplog):
    monkeypatch.setattr(compile_process, "PROGRAM", "raise SystemExit(3)")
    caplog.set_level(logging.WARNING, "onnxplan.store")

    def wait_for_its_end(spec, target):
        started.processes[0].wait(SECONDS)
        return build(spec, target)

    kernels = library(KernelStore(tmp_path), wait_for_its_end)
    kernels.addresses(SPECS)
    assert (kernels.compiled_count, kernels.loaded_count) == (len(SPECS), 0)
    assert [record.message for record in caplog.records] == [
        "the process that compiles beside this one failed with status 3"
    ]


def test_the_process_ends_where_a_kernel_cannot_be_compiled(tmp_path, started):
    def fail(spec, target):
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        library(KernelStore(tmp_path), fail).addresses(SPECS)
    assert all(process.poll() is not None for process in started.processes)
    assert len(started.processes) == 1
