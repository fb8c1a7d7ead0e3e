"""Opening devices by name. The one place where a runtime and its kernels meet."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

from onnxplan.compiler.errors import DeviceUnavailableError
from onnxplan.compiler.plan import CompiledPlan, KernelSpec
from onnxplan.compiler.target import Target
from onnxplan.runtime.artifact import Artifact, TargetEntry
from onnxplan.runtime.artifact_planner import ArtifactKernels
from onnxplan.runtime.budget import Budget
from onnxplan.runtime.compile_process import (
    ask_early,
    compiling_beside,
    expect_kernels,
    expect_no_kernels,
    expects_kernels,
)
from onnxplan.runtime.cpu.executor import CpuExecutor
from onnxplan.runtime.cpu.features import missing_features, used_features
from onnxplan.runtime.cpu.native_executor import (
    FUNCTIONS,
    executor_code,
    executor_digest,
    has_executor,
    interpreter_imports,
)
from onnxplan.runtime.cpu.target import default_threads, detect_target
from onnxplan.runtime.cpu.team import expect_callers, process_team
from onnxplan.runtime.device import Array, Device
from onnxplan.runtime.elsewhere import cuda_location, host_advice
from onnxplan.runtime.library import KernelLibrary, Progress, load_object
from onnxplan.runtime.store import KernelStore, source_digest, store_directory

if TYPE_CHECKING:
    from onnxplan.compiler.selection import KernelSelector
    from onnxplan.runtime.artifact_writer import TargetCode
    from onnxplan.runtime.cuda.device import CudaKernelSet

logger = logging.getLogger("onnxplan")
compile_logger = logging.getLogger("onnxplan.compile")


def log_progress(done: int, total: int) -> None:
    """Says in the log that kernels are being compiled, and when that is over."""
    if done == 0:
        compile_logger.info("compiling %d kernels", total)
    elif done == total:
        compile_logger.info("compiled %d kernels", total)


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
        self.target = target
        self._cache = cache
        self._progress = progress

    @cached_property
    def selector(self) -> KernelSelector:
        from onnxplan.kernels.cpu.registry import CpuKernels
        from onnxplan.runtime.telling_selector import TellingSelector

        return TellingSelector(CpuKernels(self.target), expects_kernels, self._ask_early)

    def _ask_early(self, spec: KernelSpec) -> None:
        request = self.library.missing(spec)
        if request is not None:
            ask_early(request)

    @property
    def library(self) -> KernelLibrary:
        # The number of threads does not enter the code of kernels.
        return _cpu_library(replace(self.target, threads=1), self._cache)

    @property
    def compiled_kernels(self) -> int:
        return self.library.compiled_count

    @property
    def loaded_kernels(self) -> int:
        return self.library.loaded_count

    @property
    def missing_kernels(self) -> int:
        return self.library.missing_count

    @property
    def concurrency(self) -> int:
        return max(2, default_threads())

    def expect_runs(self, count: int) -> None:
        expect_callers(count)

    def expect_plans(self) -> None:
        library = self.library
        if library.store.directory is not None:
            expect_kernels(library.target)

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, host: bool) -> Array:
        return np.empty(shape, dtype)

    def import_array(self, value: object, *, copy: bool = True) -> None:
        """None: arrays of the host are NumPy's affair. ``ValueError`` for those of a CUDA device."""
        location = cuda_location(value)
        if location is not None:
            raise ValueError(f"the array is on {location}, the session runs on the CPU; {host_advice(value)}")

    def bind(self, compiled: CompiledPlan, budget: Budget) -> CpuExecutor:
        kernels, team = compiled.kernels or self.library, None
        if isinstance(kernels, ArtifactKernels):
            store = KernelStore(store_directory() if self._cache else None)
            team = process_team(store, kernels.executor)
        executor = CpuExecutor(
            compiled.plan, compiled.constants, kernels, progress=self._progress, team=team, budget=budget
        )
        expect_no_kernels()
        return executor

    def refusal(self, entry: TargetEntry) -> str | None:
        """Why code of an artifact cannot run here; None if it can."""
        if entry.target.device != "cpu":
            return f"it is for {entry.target.device}"
        if entry.target.math != self.target.math:
            return f"it was compiled with math={entry.target.math!r}"
        missing = missing_features(entry.requires)
        return f"this machine lacks {', '.join(missing)}" if missing else None

    def has_code(self, specs: Sequence[KernelSpec]) -> bool:
        return has_executor(self.library.store) and self.library.has_stored(specs)

    def target_code(self, specs: Sequence[KernelSpec]) -> TargetCode:
        """The code of kernels for an artifact, with the executor that runs them."""
        from onnxplan.kernels.cpu.matrix_tiles import needs_tiles
        from onnxplan.runtime.artifact_writer import ExecutorCode, TargetCode

        library = self.library
        features = used_features(library.store, tiles=any(map(needs_tiles, specs)))
        executor = ExecutorCode(executor_digest(), executor_code(library.store), FUNCTIONS)
        return TargetCode(features, library.objects(specs, self._progress), executor)

    def artifact_kernels(self, artifact: Artifact, entry: TargetEntry) -> ArtifactKernels:
        return ArtifactKernels(artifact, entry, load_object, interpreter_imports)


@functools.cache
def _cpu_library(target: Target, cache: bool) -> KernelLibrary:
    from onnxplan.kernels.cpu.registry import build, effort

    return KernelLibrary(build, target, _kernel_sources, cache=cache, beside=compiling_beside, effort=effort)


def compile_requests(target: dict[str, Any], stream: IO[bytes], idle_seconds: float) -> None:
    """What a second process that compiles does, see :mod:`onnxplan.runtime.compile_process`."""
    from onnxplan.kernels.cpu.registry import build, effort, prepare
    from onnxplan.runtime.compile_requests import RequestQueue, serve

    compiled_for = Target.from_json(target)
    requests = RequestQueue(stream, effort)
    prepare(compiled_for)
    serve(requests, compiled_for, build, idle_seconds)


@functools.cache
def _kernel_sources() -> str:
    """A digest of the kernels' generators and of the vocabulary that they read."""
    import onnxplan.kernels
    from onnxplan.compiler import dtypes, expression, scalar

    vocabulary = [Path(str(module.__file__)) for module in (dtypes, expression, scalar)]
    return source_digest([*map(Path, onnxplan.kernels.__path__), *vocabulary])


def _open_cuda(ordinal: int, math: str, cache: bool, autotune: bool) -> Device:
    from onnxplan.runtime.cuda.device import open_cuda

    return open_cuda(
        ordinal, _cuda_kernels(), math=math, cache=cache, progress=_progress.get(), autotune=autotune
    )


def _cuda_kernels() -> CudaKernelSet:
    from onnxplan.kernels.cuda import registry
    from onnxplan.runtime.cuda.device import CudaKernelSet

    return CudaKernelSet(registry.CudaKernels, registry.build, _kernel_sources)


class Compiler(Protocol):
    """What artifacts for a target are made with; every :class:`Device` is one for itself."""

    @property
    def target(self) -> Target: ...

    @property
    def selector(self) -> KernelSelector: ...

    def target_code(self, specs: Sequence[KernelSpec]) -> TargetCode: ...


def open_compiler(
    name: str, *, threads: int | None = None, math: str = "strict", cache: bool = True
) -> Compiler:
    """The compiler for the device called ``name``, or for ``cuda:sm_90`` and the like, which need not be
    here.

    Raises what :func:`open_device` raises.
    """
    kind, _, architecture = name.partition(":")
    if kind == "cuda" and architecture.startswith("sm_"):
        from onnxplan.runtime.cuda.offline import OfflineCompiler

        return OfflineCompiler(
            architecture, _cuda_kernels(), math=math, cache=cache, progress=_progress.get()
        )
    return open_device(name, threads=threads, math=math, cache=cache)


def open_device(
    name: str,
    *,
    threads: int | None = None,
    math: str = "strict",
    cache: bool = True,
    autotune: bool = False,
) -> Device:
    """The device called ``name``: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``.

    ``auto`` is CUDA where it works and the CPU elsewhere. ``autotune`` is for CUDA alone, see
    :func:`onnxplan.runtime.cuda.device.open_cuda`. Raises :class:`DeviceUnavailableError` with the
    reason, ``ValueError`` for another name.
    """
    if name == "cpu":
        return CpuDevice(detect_target(threads, math), cache=cache, progress=_progress.get())
    if name == "auto":
        try:
            device = _open_cuda(0, math, cache, autotune)
        except DeviceUnavailableError as error:
            logger.info("device='auto' chose the CPU: %s", error)
            return open_device("cpu", threads=threads, math=math, cache=cache)
        logger.info("device='auto' chose %s", device.name)
        return device
    kind, colon, number = name.partition(":")
    if kind == "cuda" and (not colon or (number.isascii() and number.isdecimal())):
        return _open_cuda(int(number or 0), math, cache, autotune)
    raise ValueError(f"unknown device {name!r}; expected 'cpu', 'cuda', 'cuda:N' or 'auto'")
