"""A second process compiles beside this one; whatever becomes of it, all kernels arrive."""

from __future__ import annotations

import logging
import subprocess
import sys
import time

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxplan import InferenceSession
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expressions import scalar_expression
from onnxplan.compiler.plan import KernelSpec
from onnxplan.kernels.cpu.registry import build
from onnxplan.runtime import compile_process, devices
from onnxplan.runtime.compile_process import (
    LEAST_KERNELS,
    compiling_beside,
    expect_kernels,
    expect_no_kernels,
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
    early = compile_process._Early()
    monkeypatch.setattr(compile_process, "_early", early)
    monkeypatch.setattr(compile_process, "default_threads", lambda: 2)
    yield Started(monkeypatch)
    early.end()


def library(store, build=build):
    target = detect_target(1)
    return KernelLibrary(build, target, devices._kernel_sources, store=store, beside=compiling_beside)


def compiled_elsewhere(store, kernels, spec):
    """A build for ``kernels`` that waits until the store has another one."""

    def wait(other, target):
        until = time.monotonic() + SECONDS
        while store.get(kernels._key(spec)) is None and time.monotonic() < until:
            time.sleep(0.01)
        return build(other, target)

    return wait


def test_the_other_process_begins_with_the_last_kernel(tmp_path, started):
    store = KernelStore(tmp_path / "kernels")
    kernels = library(store)
    kernels._build = compiled_elsewhere(store, kernels, SPECS[-1])
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


def test_a_process_that_was_started_early_is_used_for_few_kernels_too(tmp_path, started):
    store = KernelStore(tmp_path)
    expect_kernels(store, detect_target(1))
    expect_kernels(store, detect_target(1))
    assert len(started.processes) == 1
    kernels = library(store)
    kernels._build = compiled_elsewhere(store, kernels, SPECS[1])
    kernels.addresses(SPECS[:2])
    assert (kernels.compiled_count, kernels.loaded_count) == (1, 1)
    assert started.processes[0].poll() is not None
    # There is no second one for what a process plans later.
    expect_kernels(store, detect_target(1))
    assert len(started.processes) == 1


def test_a_process_that_was_started_early_ends_where_nothing_is_missing(tmp_path, started):
    expect_kernels(KernelStore(tmp_path), detect_target(1))
    (process,) = started.processes
    assert process.poll() is None
    expect_no_kernels()
    assert process.poll() is not None
    expect_no_kernels()


def test_a_process_that_was_started_early_gives_up(tmp_path, started, monkeypatch):
    monkeypatch.setattr(compile_process, "IDLE_SECONDS", 0)
    store = KernelStore(tmp_path)
    expect_kernels(store, detect_target(1))
    assert started.processes[0].wait(SECONDS) == 0
    # Another one takes its place.
    library(store).addresses(SPECS)
    assert len(started.processes) == 2


def test_none_is_started_early_without_a_store(tmp_path, started):
    expect_kernels(KernelStore(None), detect_target(1))
    assert not started.processes


def test_sessions_of_models_that_nobody_planned_before_start_it(tmp_path, started):
    node = helper.make_node("Neg", ["x"], ["y"])
    kind = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph([node], "negated", kind[:1], kind[1:]))
    with InferenceSession(model) as session:
        (process,) = started.processes
        session.run_sync({"x": np.ones(3, np.float32)})
        assert process.poll() is not None


def test_kernels_of_most_effort_are_left_to_the_other_process(tmp_path):
    built = []

    def note(spec, target):
        built.append(spec)
        return build(spec, target)

    effort = {spec: number for number, spec in enumerate(reversed(SPECS))}.__getitem__
    kernels = KernelLibrary(
        note, detect_target(1), devices._kernel_sources, store=KernelStore(tmp_path), effort=effort
    )
    kernels.addresses(SPECS)
    assert built == list(reversed(SPECS))
