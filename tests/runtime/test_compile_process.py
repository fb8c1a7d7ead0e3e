"""A second process compiles beside this one; whatever becomes of it, all kernels arrive."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxplan import InferenceSession
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expressions import scalar_expression
from onnxplan.compiler.plan import KernelSpec
from onnxplan.kernels.cpu.registry import build
from onnxplan.runtime import compile_process, devices, forked_process
from onnxplan.runtime.compile_process import (
    LEAST_KERNELS,
    CompileProcess,
    ask_early,
    compiling_beside,
    expect_kernels,
    expect_no_kernels,
    expects_kernels,
)
from onnxplan.runtime.cpu.target import detect_target
from onnxplan.runtime.library import KernelLibrary
from onnxplan.runtime.store import KernelStore

SECONDS = 120.0
TYPE = (DType.FLOAT32.label,) * 3


def spec(op):
    expression = scalar_expression(op, (DType.FLOAT32, DType.FLOAT32))
    return KernelSpec("map", (expression, TYPE, "ccc", (0, 1), 1, False))


SPECS = tuple(map(spec, ("add", "sub", "mul", "div")))
EFFORT = {spec: number for number, spec in enumerate(SPECS)}


class Started:
    """Notes the processes that are started."""

    def __init__(self, monkeypatch) -> None:
        self.processes: list[Any] = []
        for module, name in ((subprocess, "Popen"), (forked_process, "ForkedProcess")):
            monkeypatch.setattr(module, name, self._noting(getattr(module, name)))

    def _noting(self, start):
        def noted(*arguments, **options):
            process = start(*arguments, **options)
            self.processes.append(process)
            return process

        return noted


@pytest.fixture(params=["forked", "spawned"])
def started(monkeypatch, request):
    if request.param == "forked" and sys.platform != "linux":
        pytest.skip("no process is forked there")
    early = compile_process._Early()
    monkeypatch.setattr(compile_process, "_early", early)
    monkeypatch.setattr(compile_process, "default_threads", lambda: 2)
    monkeypatch.setattr(forked_process, "can_fork", lambda: request.param == "forked")
    yield Started(monkeypatch)
    early.end()


@pytest.fixture
def spawned(started, monkeypatch):
    monkeypatch.setattr(forked_process, "can_fork", lambda: False)
    return started


def library(store, build=build, effort=EFFORT.__getitem__):
    target = detect_target(1)
    return KernelLibrary(
        build, target, devices._kernel_sources, store=store, beside=compiling_beside, effort=effort
    )


def compiled_elsewhere(store, kernels, *specs):
    """A build for ``kernels`` that waits until the store has one of ``specs``."""

    def wait(other, target):
        until = time.monotonic() + SECONDS
        while not any(store.has(kernels._key(spec)) for spec in specs) and time.monotonic() < until:
            time.sleep(0.01)
        return build(other, target)

    return wait


def requests(kernels, specs):
    return [request for spec in specs if (request := kernels.missing(spec)) is not None]


def test_both_processes_compile(tmp_path, started):
    store = KernelStore(tmp_path / "kernels")
    kernels = library(store)
    # This one begins with the kernel of most effort.
    kernels._build = compiled_elsewhere(store, kernels, *SPECS[:-1])
    addresses = kernels.addresses(SPECS)
    assert len(set(addresses)) == len(SPECS)
    assert kernels.loaded_count >= 1
    assert kernels.loaded_count + kernels.compiled_count == len(SPECS)
    assert kernels.missing_count == len(SPECS)
    (process,) = started.processes
    assert process.poll() is not None


def test_no_process_is_started_where_it_does_not_pay(tmp_path, started, monkeypatch):
    def start(folder=tmp_path, count=LEAST_KERNELS):
        kernels = library(KernelStore(folder))
        with compiling_beside(detect_target(1), requests(kernels, SPECS[:count])):
            pass
        return len(started.processes)

    assert start(count=LEAST_KERNELS - 1) == 0
    assert start(folder=None) == 0
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
    monkeypatch.setattr(forked_process, "ForkedProcess", refuse)
    kernels = library(KernelStore(tmp_path))
    kernels.addresses(SPECS)
    assert (kernels.compiled_count, kernels.loaded_count) == (len(SPECS), 0)


def test_a_process_that_fails_is_not_missed_and_is_reported(tmp_path, spawned, monkeypatch, caplog):
    monkeypatch.setattr(compile_process, "PROGRAM", "raise SystemExit(3)")
    caplog.set_level(logging.WARNING, "onnxplan.store")

    def wait_for_its_end(spec, target):
        spawned.processes[0].wait(SECONDS)
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


def test_a_process_that_was_started_early_is_used_for_few_kernels_too(tmp_path, started):
    store = KernelStore(tmp_path)
    expect_kernels(detect_target(1))
    expect_kernels(detect_target(1))
    assert len(started.processes) == 1
    kernels = library(store)
    kernels._build = compiled_elsewhere(store, kernels, SPECS[0])
    kernels.addresses(SPECS[:2])
    assert (kernels.compiled_count, kernels.loaded_count) == (1, 1)
    assert started.processes[0].poll() is not None
    # There is no second one for what a process plans later.
    expect_kernels(detect_target(1))
    assert len(started.processes) == 1


def test_it_compiles_what_it_is_asked_for_before_anybody_waits(tmp_path, started):
    kernels = library(KernelStore(tmp_path))
    ask_early(requests(kernels, SPECS)[0])
    assert not expects_kernels()
    expect_kernels(detect_target(1))
    assert expects_kernels()
    for request in requests(kernels, SPECS) * 2:
        ask_early(request)
    until = time.monotonic() + SECONDS
    while requests(kernels, SPECS) and time.monotonic() < until:
        time.sleep(0.01)
    kernels.addresses(SPECS)
    assert kernels.loaded_count == kernels.missing_count == len(SPECS)
    expect_no_kernels()
    assert not expects_kernels()


def test_a_process_that_was_started_early_ends_where_nothing_is_missing(started):
    expect_kernels(detect_target(1))
    (process,) = started.processes
    assert process.poll() is None
    expect_no_kernels()
    assert process.poll() is not None
    expect_no_kernels()


def test_a_process_that_was_started_early_gives_up(tmp_path, started, monkeypatch):
    monkeypatch.setattr(compile_process, "IDLE_SECONDS", 0)
    expect_kernels(detect_target(1))
    assert started.processes[0].wait() == 0
    # Another one takes its place.
    library(KernelStore(tmp_path)).addresses(SPECS)
    assert len(started.processes) == 2


def test_sessions_of_models_that_nobody_planned_before_start_it(tmp_path, started):
    node = helper.make_node("Neg", ["x"], ["y"])
    kind = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph([node], "negated", kind[:1], kind[1:]))
    with InferenceSession(model, cache=False):
        assert not started.processes
    with InferenceSession(model) as session:
        (process,) = started.processes
        session.run_sync({"x": np.ones(3, np.float32)})
        assert process.poll() is not None


def test_kernels_of_most_effort_are_built_first(tmp_path):
    built = []

    def note(spec, target):
        built.append(spec)
        return build(spec, target)

    kernels = KernelLibrary(
        note,
        detect_target(1),
        devices._kernel_sources,
        store=KernelStore(tmp_path),
        effort=EFFORT.__getitem__,
    )
    kernels.addresses(SPECS)
    assert built == list(reversed(SPECS))


def test_a_process_that_has_ended_sends_no_signal(tmp_path, started):
    sent = []
    before = signal.signal(signal.SIGPIPE, lambda *_: sent.append("SIGPIPE"))
    try:
        process = CompileProcess(detect_target(1))
        started.processes[0].kill()
        started.processes[0].wait()
        for request in requests(library(KernelStore(tmp_path)), SPECS):
            process.ask(request)
        process.end()
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert not sent


def test_an_interrupt_from_the_keyboard_does_not_end_the_process(tmp_path, started):
    kernels = library(KernelStore(tmp_path))
    process = CompileProcess(detect_target(1))
    for spec, request in zip(SPECS, requests(kernels, SPECS), strict=True):
        process.ask(request)
        until = time.monotonic() + SECONDS
        while kernels.missing(spec) is not None and time.monotonic() < until:
            time.sleep(0.01)
        assert kernels.missing(spec) is None
        os.kill(started.processes[0].pid, signal.SIGINT)
    process.end()


def test_it_is_not_missed_where_no_thread_can_be_started(tmp_path, started, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    kernels = library(KernelStore(tmp_path))
    kernels.addresses(SPECS)
    assert (kernels.compiled_count, kernels.loaded_count) == (len(SPECS), 0)
    assert len(started.processes) == 1
