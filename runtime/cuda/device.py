"""A CUDA device as the engine sees it: opened, probed, with its kernels."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxplan.compiler.errors import DeviceUnavailableError, OnnxPlanError
from onnxplan.compiler.plan import CompiledPlan, KernelSpec
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import KernelSelector
from onnxplan.compiler.target import Target
from onnxplan.runtime.artifact import Artifact, TargetEntry
from onnxplan.runtime.artifact_planner import ArtifactKernels
from onnxplan.runtime.artifact_writer import TargetCode
from onnxplan.runtime.budget import Budget
from onnxplan.runtime.cuda import matmul
from onnxplan.runtime.cuda.api import CudaApi, load_api
from onnxplan.runtime.cuda.array import DeviceArray
from onnxplan.runtime.cuda.compiler import Generate, KernelCompiler
from onnxplan.runtime.cuda.context import CudaContext, check_process, open_context
from onnxplan.runtime.cuda.cublaslt import CublasLt
from onnxplan.runtime.cuda.cudnn_library import own_kernel
from onnxplan.runtime.cuda.executor import CudaExecutor
from onnxplan.runtime.cuda.importing import Importer
from onnxplan.runtime.cuda.modules import Modules
from onnxplan.runtime.cuda.own_kernels import PROBE, PROBE_THREADS, generate
from onnxplan.runtime.cuda.target import detect_target
from onnxplan.runtime.cuda.tuning import Tuner
from onnxplan.runtime.library import KernelLibrary, Progress
from onnxplan.runtime.store import KernelStore, content_key

SLOTS = 4
"""Runs of a plan in flight at once, unless the session says otherwise."""
WORKERS = 16
"""Threads for runs in flight of all sessions on a device, which do little but wait."""
MOST_COMPILERS = 8


@dataclass(frozen=True)
class CudaKernelSet:
    """The kernels that a device is opened with, which the runtime does not know by itself.

    ``selector(target)`` chooses kernels, ``generate`` writes their CUDA C, ``sources()`` is a digest of all
    that the CUDA C depends on.
    """

    selector: Callable[[Target], KernelSelector]
    generate: Generate
    sources: Callable[[], str]


def own_kernels(specs: Sequence[KernelSpec]) -> list[KernelSpec]:
    """The kernels of ours that plans of ``specs`` may launch."""
    return list(dict.fromkeys(own_kernel(spec) for spec in specs if spec.family != matmul.FAMILY))


class CudaDevice:
    """An NVIDIA GPU. Kernels, constants and graphs are shared by all sessions of the process."""

    runs_inline = False

    def __init__(
        self,
        context: CudaContext,
        target: Target,
        kernels: CudaKernelSet,
        own: KernelLibrary,
        *,
        cache: bool,
        progress: Progress | None = None,
        autotune: bool = False,
    ) -> None:
        self.context = context
        self.name = context.name
        self.target = target
        self.selector = kernels.selector(target)
        self.library = _library(context, target, kernels.generate, kernels.sources, "kernels", cache)
        self._progress = progress
        self._tuner = _tuner(context, self.library.store, cache) if autotune else None
        self._importer = Importer(context, lambda spec: own.addresses([spec])[0])

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
        """Runs in flight at once of all sessions together; of one plan there are as many as it has slots."""
        return WORKERS

    def expect_runs(self, count: int) -> None:
        """Nothing hangs on it: runs share the device, not the threads that wait for it."""

    def expect_plans(self) -> None:
        """Nothing to prepare: NVRTC compiles on several threads of this process."""

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], *, host: bool) -> Any:
        """A new tensor of undefined elements: a NumPy array with ``host``, else a :class:`DeviceArray`.

        Raises ``MemoryError`` or :class:`~onnxplan.compiler.errors.OutOfMemoryError`.
        """
        if host:
            return np.empty(shape, dtype)
        with self.context.active("making room for a tensor"):
            nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            memory = self.context.allocate(nbytes, f"a tensor {dtype}{list(shape)}")
            return DeviceArray(memory.ptr, shape, dtype, self.context, memory)

    def import_array(self, value: object, *, copy: bool = True) -> DeviceArray | None:
        """A tensor of another library in this device's memory; None for anything else.

        See :meth:`onnxplan.runtime.cuda.importing.Importer.take`.
        """
        return self._importer.take(value, copy=copy)

    def refusal(self, entry: TargetEntry) -> str | None:
        """Why code of an artifact cannot run here; None if it can.

        Source: https://docs.nvidia.com/cuda/cuda-c-best-practices-guide/#cuda-compatibility-developer-s-guide
        (a cubin runs on devices of its own compute capability's major number and at least its minor number).
        """
        made, here = entry.target, self.target
        if made.device != "cuda":
            return f"it is for {made.device}"
        if made.math != here.math:
            return f"it was compiled with math={made.math!r}"
        major, minor = divmod(int(here.isa.removeprefix("sm_")), 10)
        its_major, its_minor = divmod(int(made.isa.removeprefix("sm_")), 10)
        if its_major != major or its_minor > minor:
            return f"it is for {made.isa}, this device takes {here.isa}"
        return None

    def has_code(self, specs: Sequence[KernelSpec]) -> bool:
        return self.library.has_stored(own_kernels(specs))

    def target_code(self, specs: Sequence[KernelSpec]) -> TargetCode:
        """The cubins of kernels for an artifact."""
        return TargetCode((), self.library.objects(own_kernels(specs), self._progress))

    def artifact_kernels(self, artifact: Artifact, entry: TargetEntry) -> ArtifactKernels:
        return ArtifactKernels(artifact, entry, Modules.of(self.context).load, dict)

    def bind(self, compiled: CompiledPlan, budget: Budget) -> CudaExecutor:
        """Loads the plan's kernels, compiling those that are missing, and uploads its constants.

        Raises ``CompilerError`` for a kernel that does not compile, ``OutOfMemoryError``, and
        :class:`DeviceUnavailableError` once the device failed.
        """
        return CudaExecutor(
            self.context,
            compiled,
            lambda specs: (compiled.kernels or self.library).addresses(specs, self._progress),
            budget=budget,
            concurrency=budget.runs or SLOTS,
            tuner=self._tuner,
        )


def open_cuda(
    ordinal: int,
    kernels: CudaKernelSet,
    *,
    math: str = "strict",
    cache: bool = True,
    progress: Progress | None = None,
    autotune: bool = False,
) -> CudaDevice:
    """The device with this number, after a kernel really ran on it.

    With ``autotune`` the algorithms of libraries are timed when a plan is bound.

    Raises :class:`DeviceUnavailableError` with the cause and what would fix it.
    """
    check_process()
    api = load_api()
    # A device that failed may spoil even the count; it is reset when it is opened again.
    if ordinal not in api.contexts:
        _check_ordinal(api, ordinal)
    context = open_context(api, ordinal)
    with context.active("opening the device"):
        target = detect_target(context, math)
        own = _library(context, target, generate, _own_sources, "own kernels", cache)
        context.part("probe", lambda: _probe(context, own))
    return CudaDevice(context, target, kernels, own, cache=cache, progress=progress, autotune=autotune)


def _check_ordinal(api: CudaApi, ordinal: int) -> None:
    count = int(api.runtime.getDeviceCount())
    if ordinal >= count:
        there = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise DeviceUnavailableError(f"there is no cuda:{ordinal}: the driver sees {there}")


def _own_sources() -> str:
    from onnxplan.runtime.cuda import own_kernels

    return content_key(own_kernels._PROBE_TEXT, own_kernels._COPY_TEXT)


def _library(
    context: CudaContext, target: Target, source: Generate, sources: Callable[[], str], name: str, cache: bool
) -> KernelLibrary:
    """The kernels of a context, shared by all sessions with the same math mode."""
    # What a device has many or few of does not enter the code of kernels.
    target = replace(target, threads=1, flops=0.0, bandwidth=0.0, cudnn=0)

    def make() -> KernelLibrary:
        compiler = KernelCompiler(context.api.nvrtc, source)
        return KernelLibrary(
            compiler.build,
            target,
            sources,
            cache=cache,
            load=Modules.of(context).load,
            platform=compiler.platform_key,
            parallel=min(MOST_COMPILERS, os.cpu_count() or 1),
        )

    library: KernelLibrary = context.part((name, target, cache), make)
    return library


def _tuner(context: CudaContext, store: KernelStore, cache: bool) -> Tuner:
    """The tuner of a context, shared by all sessions that use the store or do not."""

    def make() -> Tuner:
        runtime: Any = context.api.runtime
        with context.active("opening the device"):
            name = runtime.getDeviceProperties(context.ordinal)["name"]
            device = name.decode() if isinstance(name, bytes) else str(name)
            versions = runtime.driverGetVersion(), CublasLt(context.api.cublaslt).version
        return Tuner(context, store, f"cuda {device}, driver {versions[0]}, cuBLASLt {versions[1]}")

    tuner: Tuner = context.part(("tuner", cache), make)
    return tuner


def _probe(context: CudaContext, own: KernelLibrary) -> bool:
    """Runs a tiny kernel and reads what it wrote; raises :class:`DeviceUnavailableError`."""
    failed = f"{context.name} does not run a probe kernel"
    try:
        result = _probe_result(context, own)
    except context.api.errors as error:
        raise DeviceUnavailableError(f"{failed}: {context.failure(error, 'running it')}") from error
    except OnnxPlanError as error:
        raise DeviceUnavailableError(f"{failed}: {error}") from error
    if not np.array_equal(result, 7 + 3 * np.arange(PROBE_THREADS)):
        raise DeviceUnavailableError(f"{failed}: it wrote {result.tolist()}, which is wrong")
    return True


def _probe_result(context: CudaContext, own: KernelLibrary) -> Any:
    runtime = context.api.runtime
    function = own.addresses([PROBE])[0]
    result = np.zeros(PROBE_THREADS, np.int64)
    memory = context.allocate(result.nbytes, "the probe kernel")
    stream = int(runtime.streamCreateWithFlags(runtime.streamNonBlocking))
    try:
        Modules.of(context).launch(function, 1, PROBE_THREADS, (memory.ptr, 7), stream)
        runtime.streamSynchronize(stream)
        runtime.memcpy(result.ctypes.data, memory.ptr, result.nbytes, runtime.memcpyDeviceToHost)
    finally:
        runtime.streamDestroy(stream)
    return result
