"""Kernels that read the clock, for step tables that are to tell when what ran.

``read_clock`` writes the monotonic clock's ``timespec`` to its parameters. ``traced_kernel`` stands for
another kernel: it calls that, and notes who computed which tiles when. Sources:
https://pubs.opengroup.org/onlinepubs/9799919799/functions/clock_getres.html; 64-bit systems only.
"""

from __future__ import annotations

import time
from typing import Any

from onnxplan.runtime.cpu.layout import EventWord, TraceWord
from onnxplan.runtime.cpu.native_builder import NativeFunction, compile_module

CLOCK_FUNCTIONS = ("read_clock", "traced_kernel")


def compile_clock() -> bytes:
    """Object code with :data:`CLOCK_FUNCTIONS`."""
    return compile_module("onnxplan.clock", _build)


def _build(module: Any) -> None:
    clock_gettime = NativeFunction(module, "clock_gettime", 2, body=False)
    _build_read_clock(module, clock_gettime)
    _build_traced_kernel(module, clock_gettime)


def _build_read_clock(module: Any, clock_gettime: NativeFunction) -> None:
    f = NativeFunction(module, "read_clock", 5, exported=True)
    f.call(clock_gettime, time.CLOCK_MONOTONIC, f.arguments[1])
    f.give(0)


def _build_traced_kernel(module: Any, clock_gettime: NativeFunction) -> None:
    f = NativeFunction(module, "traced_kernel", 5, exported=True)
    operands, record, first, last, scratch = f.arguments
    log = f.load(record, TraceWord.LOG)
    number = f.atomic("add", log, 0, 1)
    event = log + 8 * TraceWord.EVENTS + number * (8 * EventWord.WORDS)
    f.store(event, EventWord.SCRATCH, scratch)
    f.store(event, EventWord.STEP, f.load(record, TraceWord.STEP))
    f.store(event, EventWord.FIRST, first)
    f.store(event, EventWord.LAST, last)
    f.call(clock_gettime, time.CLOCK_MONOTONIC, event + 8 * EventWord.BEGIN)
    kernel, parameters = f.load(record, TraceWord.KERNEL), f.load(record, TraceWord.PARAMETERS)
    f.call(kernel, operands, parameters, first, last, scratch)
    f.call(clock_gettime, time.CLOCK_MONOTONIC, event + 8 * EventWord.END)
    f.give(0)
