"""Opening devices by name. The one place where a runtime and its kernels meet."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import onnxplan.kernels
from onnxplan.compiler import dtypes, expression, scalar
from onnxplan.compiler.assembly import CompiledPlan
from onnxplan.compiler.errors import DeviceUnavailableError
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.registry import CpuKernels, build
from onnxplan.runtime.budget import Budget
from onnxplan.runtime.cpu.executor import CpuExecutor
from onnxplan.runtime.cpu.target import default_threads, detect_target
from onnxplan.runtime.device import Array, Device
from onnxplan.runtime.elsewhere import cuda_location, host_advice
from onnxplan.runtime.library import KernelLibrary, Progress
from onnxplan.runtime.store import source_digest

logger = logging.getLogger("onnxplan")


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
    runs_inline = True

    def __init__(self, target: Target, *, cache: bool, progress: Progress = log_progress) -> None:
        self.selector = CpuKernels(target)
        # The number of threads does not enter the code of kernels.
        self.library = _cpu_library(replace(target, threads=1), cache)
        self._progress = progress

    @property
    def compiled_kernels(self) -> int:
        return self.library.compiled_count

    @property
    def loaded_kernels(self) -> int:
        return self.library.loaded_count

    @property
    def concurrency(self) -> int:
        return max(2, default_threads())

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, host: bool) -> Array:
        return np.empty(shape, dtype)

    def import_array(self, value: object, *, copy: bool = True) -> None:
        """None: arrays of the host are NumPy's affair. ``ValueError`` for those of a CUDA device."""
        location = cuda_location(value)
        if location is not None:
            raise ValueError(f"the array is on {location}, the session runs on the CPU; {host_advice(value)}")

    def bind(self, compiled: CompiledPlan, budget: Budget) -> CpuExecutor:
        return CpuExecutor(
            compiled.plan, compiled.constants, self.library, progress=self._progress, budget=budget
        )


@functools.cache
def _cpu_library(target: Target, cache: bool) -> KernelLibrary:
    return KernelLibrary(build, target, _kernel_sources(), cache=cache)


@functools.cache
def _kernel_sources() -> str:
    """A digest of the kernels' generators and of the vocabulary that they read."""
    vocabulary = [Path(str(module.__file__)) for module in (dtypes, expression, scalar)]
    return source_digest([*map(Path, onnxplan.kernels.__path__), *vocabulary])


def _open_cuda(ordinal: int, math: str, cache: bool) -> Device:
    from onnxplan.kernels.cuda import registry
    from onnxplan.runtime.cuda.device import CudaKernelSet, open_cuda

    kernels = CudaKernelSet(registry.CudaKernels, registry.build, _kernel_sources)
    return open_cuda(ordinal, kernels, math=math, cache=cache, progress=_progress.get())


def open_device(name: str, *, threads: int | None = None, math: str = "strict", cache: bool = True) -> Device:
    """The device called ``name``: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``.

    ``auto`` is CUDA where it works and the CPU elsewhere. Raises :class:`DeviceUnavailableError` with the
    reason, ``ValueError`` for another name.
    """
    if name == "cpu":
        return CpuDevice(detect_target(threads, math), cache=cache, progress=_progress.get())
    if name == "auto":
        try:
            device = _open_cuda(0, math, cache)
        except DeviceUnavailableError as error:
            logger.info("device='auto' chose the CPU: %s", error)
            return open_device("cpu", threads=threads, math=math, cache=cache)
        logger.info("device='auto' chose %s", device.name)
        return device
    kind, colon, number = name.partition(":")
    if kind == "cuda" and (not colon or (number.isascii() and number.isdecimal())):
        return _open_cuda(int(number or 0), math, cache)
    raise ValueError(f"unknown device {name!r}; expected 'cpu', 'cuda', 'cuda:N' or 'auto'")
