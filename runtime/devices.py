"""Opening devices by name. The one place where a runtime and its kernels meet."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

import onnxplan.kernels
from onnxplan.compiler import dtypes, expression, scalar
from onnxplan.compiler.assembly import CompiledPlan
from onnxplan.compiler.errors import DeviceUnavailableError
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.registry import CpuKernels, build
from onnxplan.runtime.cpu.executor import CpuExecutor
from onnxplan.runtime.cpu.target import detect_target
from onnxplan.runtime.device import Device
from onnxplan.runtime.library import KernelLibrary, Progress
from onnxplan.runtime.store import source_digest

logger = logging.getLogger("onnxplan")

NO_CUDA = "this version of onnxplan has no CUDA device yet; use device='cpu' or device='auto'"


def log_progress(done: int, total: int) -> None:
    """Says in the log that kernels are being compiled, and when that is over."""
    if done == 0:
        logger.info("compiling %d kernels", total)
    elif done == total:
        logger.info("compiled %d kernels", total)


_progress: ContextVar[Progress] = ContextVar("onnxplan_compilation_progress", default=log_progress)


@contextmanager
def compilation_progress(report: Progress) -> Iterator[None]:
    """Devices opened inside call ``report(done, total)`` while they compile kernels, instead of logging it.

    It is called with 0 before the first and with ``total`` after the last kernel of a plan, on the thread
    that compiles, for as long as the device is in use.
    """
    token = _progress.set(report)
    try:
        yield
    finally:
        _progress.reset(token)


class CpuDevice:
    """The processor. Its kernels are shared by all sessions for the same instruction set and math mode."""

    name = "cpu"

    def __init__(self, target: Target, *, cache: bool, progress: Progress = log_progress) -> None:
        self.selector = CpuKernels(target)
        # The number of threads does not enter the code of kernels.
        self.library = _cpu_library(replace(target, threads=1), cache)
        self._progress = progress

    @property
    def compiled_kernels(self) -> int:
        return self.library.compiled_count

    def bind(self, compiled: CompiledPlan) -> CpuExecutor:
        return CpuExecutor(compiled.plan, compiled.constants, self.library, progress=self._progress)


@functools.cache
def _cpu_library(target: Target, cache: bool) -> KernelLibrary:
    # Generated code depends on its generators and on the vocabulary that they read.
    vocabulary = [Path(str(module.__file__)) for module in (dtypes, expression, scalar)]
    sources = source_digest([*map(Path, onnxplan.kernels.__path__), *vocabulary])
    return KernelLibrary(build, target, sources, cache=cache)


def open_device(name: str, *, threads: int | None = None, math: str = "strict", cache: bool = True) -> Device:
    """The device called ``name``: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``.

    ``auto`` is CUDA where it works and the CPU elsewhere. Raises :class:`DeviceUnavailableError` with the
    reason, ``ValueError`` for another name.
    """
    if name == "cpu":
        return CpuDevice(detect_target(threads, math), cache=cache, progress=_progress.get())
    kind, _, number = name.partition(":")
    if name == "cuda" or (kind == "cuda" and number.isdecimal()):
        raise DeviceUnavailableError(NO_CUDA)
    if name == "auto":
        logger.info("device='auto' chose the CPU: %s", NO_CUDA)
        return open_device("cpu", threads=threads, math=math, cache=cache)
    raise ValueError(f"unknown device {name!r}; expected 'cpu', 'cuda', 'cuda:N' or 'auto'")
