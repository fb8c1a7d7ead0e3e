"""Engines of cuDNN chosen by timing them: which are taken, what is kept, and what failing ones do."""

from __future__ import annotations

import logging
from dataclasses import replace

import emulator
import numpy as np
import pytest
from emulated import EmulatedCuda
from standin_cudnn import Engine
from test_cudnn_plans import SERVED, SERVED_STRICTLY, STRICT, model, run

import onnxplan
from bench.cuda_plans import executor_of
from onnxplan.runtime.cuda.bound_plan import CudnnLaunch
from onnxplan.runtime.cuda.operation_graph import TIMED_ENGINES
from onnxplan.runtime.cuda.tuning import LAUNCHES, ROUNDS

pytestmark = pytest.mark.skipif(emulator.COMPILER is None, reason="kernels cannot be emulated without g++")

SLOW = Engine(workspace_bytes=16, number=7, knobs=((2, 5), (13, 1)), milliseconds=3.0)
FAST = Engine(workspace_bytes=32, number=7, knobs=((2, 5), (13, 0)), milliseconds=1.0)
MIDDLE = Engine(workspace_bytes=0, number=3, milliseconds=2.0)
TIMINGS = (1 + ROUNDS) * LAUNCHES


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXPLAN_CACHE_DIR", str(tmp_path))


def opened(engines, *, autotune=True, name="float16", **options):
    """A device with these engines, and the bytes of workspace by which they are known, for each step."""
    device = EmulatedCuda(cudnn=True)
    device.standin.cudnn.engines = list(engines)
    math = "fast" if name == "float16" else "strict"
    with (
        device.used(),
        onnxplan.InferenceSession(
            model(name).SerializeToString(), device="cuda", math=math, autotune=autotune, **options
        ) as session,
    ):
        run(session, name, tolerance=STRICT if math == "strict" else None)
        launches = executor_of(session, {"x": (2, 3, 9, 11)})._shared.bound.launches
        chosen = [entry.graph.workspace_bytes for entry in launches if isinstance(entry, CudnnLaunch)]
    device.check()
    assert not [leak for leak in device.standin.cudnn.leaks() if "descriptor" in leak]
    return device, chosen


def test_without_it_the_first_engine_is_taken_and_nothing_timed():
    device, chosen = opened([SLOW, FAST], autotune=False)
    assert chosen == [16] * SERVED
    assert device.standin.counters.convolutions == 2 * SERVED


@pytest.mark.parametrize("engines", [(SLOW, FAST, MIDDLE), (FAST, SLOW), (SLOW, Engine((5,)), FAST)])
def test_the_fastest_engine_is_taken(engines):
    device, chosen = opened(engines)
    assert chosen == [32] * SERVED
    timed = sum(engine.notes == (0,) for engine in engines)
    assert device.standin.counters.convolutions == SERVED * (2 + TIMINGS * timed)


def test_so_many_are_timed_and_no_more():
    engines = [replace(SLOW, number=number) for number in range(TIMED_ENGINES)]
    assert opened([*engines, FAST])[1] == [16] * SERVED


def test_choices_are_kept_with_the_kernels():
    opened([SLOW, FAST])
    device, chosen = opened([replace(SLOW, milliseconds=0.5), MIDDLE, FAST])
    assert chosen == [32] * SERVED, "as it was timed before"
    assert device.standin.counters.convolutions == 2 * SERVED


def test_a_choice_that_is_not_offered_any_more_is_the_first():
    opened([SLOW, FAST])
    assert opened([MIDDLE, SLOW])[1] == [0] * SERVED


def test_engines_that_fail_are_left_out(caplog):
    with caplog.at_level(logging.WARNING, "onnxplan.cuda"):
        assert opened([SLOW, replace(FAST, fails=True), MIDDLE])[1] == [0] * SERVED
    assert sum("is left out" in record.message for record in caplog.records) == SERVED


def test_where_all_fail_our_own_kernel_serves(caplog):
    with caplog.at_level(logging.WARNING, "onnxplan.cuda"):
        assert opened([replace(SLOW, fails=True), replace(FAST, fails=True)])[1] == []
    assert sum("our own kernel computes it" in record.message for record in caplog.records) == SERVED


def test_strict_sessions_time_engines_of_float32_alone():
    device, chosen = opened(
        [replace(FAST, milliseconds=0.1), replace(SLOW, notes=()), replace(MIDDLE, notes=())], name="float32"
    )
    assert chosen == [0] * SERVED_STRICTLY
    assert device.standin.counters.convolutions == SERVED_STRICTLY * (2 + 2 * TIMINGS)
    assert np.isfinite(device.standin.clock)
