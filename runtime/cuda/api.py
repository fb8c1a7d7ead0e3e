"""Everything the CUDA device calls, in one record: CuPy's low-level modules, an allocator, cuBLASLt, cuDNN.

CuPy is imported only when a CUDA device is asked for. Each cause for which CUDA cannot be used is a
:class:`DeviceUnavailableError` of its own that says what would fix it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import field
from typing import Any, Protocol

from onnxplan.compiler.errors import DeviceUnavailableError
from onnxplan.compiler.records import dataclass

CUDA_ERROR_NO_DEVICE = 100
CUDA_ERROR_INSUFFICIENT_DRIVER = 35
INSTALL = "pip install 'onnxplan[cuda13]' (driver series 580 or newer) or pip install 'onnxplan[cuda12]'"


class Memory(Protocol):
    """A block of device memory, which is free again when the object is dropped."""

    @property
    def ptr(self) -> int: ...


def _nothing() -> None:
    pass


def _cannot_reset(ordinal: int) -> None:
    raise DeviceUnavailableError(f"cuda:{ordinal} cannot be reset; start a new process")


@dataclass(frozen=True, eq=False)
class CudaApi:
    """What the CUDA device calls. Tests make one of stand-ins.

    ``runtime``, ``driver`` and ``nvrtc`` are ``cupy_backends.cuda.api.runtime``, ``.driver`` and
    ``cupy_backends.cuda.libs.nvrtc``. ``allocate(nbytes)`` gives memory of the current device, aligned to
    256 bytes or more, and raises ``MemoryError``; ``release()`` gives unused memory that the allocator holds
    back to the driver. ``cublaslt`` is cuBLASLt's library. ``reset_device(ordinal)`` destroys what the
    process has on a device, so that a device that failed can be opened again.
    """

    runtime: Any
    driver: Any
    nvrtc: Any
    allocate: Callable[[int], Memory]
    cublaslt: Any
    release: Callable[[], None] = _nothing
    reset_device: Callable[[int], None] = _cannot_reset
    cudnn: Any = None
    """cuDNN's library, if it is installed."""
    contexts: dict[int, Any] = field(default_factory=dict)
    """The open devices by ordinal, see :mod:`onnxplan.runtime.cuda.context`."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What calls of runtime and driver raise; ``status`` is the number of the error."""
        return self.runtime.CUDARuntimeError, self.driver.CUDADriverError


_installed: CudaApi | None = None
_chosen: list[CudaApi] = []


@contextlib.contextmanager
def use_api(api: CudaApi) -> Iterator[CudaApi]:
    """Devices opened inside, on any thread, use ``api`` instead of what is installed."""
    _chosen.append(api)
    try:
        yield api
    finally:
        _chosen.remove(api)


def load_api() -> CudaApi:
    """The installed CUDA libraries, checked; raises :class:`DeviceUnavailableError` with the cause."""
    global _installed
    if _chosen:
        check_api(_chosen[-1])
        return _chosen[-1]
    if _installed is None:
        _installed = _load_installed()
    return _installed


def check_api(api: CudaApi) -> None:
    """Raises :class:`DeviceUnavailableError` without a driver, a new enough one, a device, or NVRTC."""
    check_driver(api.runtime)
    check_nvrtc(api.nvrtc)


def _load_installed() -> CudaApi:
    try:
        runtime = importlib.import_module("cupy_backends.cuda.api.runtime")
        driver = importlib.import_module("cupy_backends.cuda.api.driver")
    except ModuleNotFoundError as error:
        raise DeviceUnavailableError(f"CuPy is not installed ({error}); {INSTALL}") from error
    except ImportError as error:
        raise DeviceUnavailableError(f"CuPy cannot be imported: {error}; {INSTALL}") from error
    check_driver(runtime)
    nvrtc = load_nvrtc()
    cublaslt = _load_cublaslt(_cuda_major(runtime))
    try:
        cuda = importlib.import_module("cupy.cuda")
    except ImportError as error:
        raise DeviceUnavailableError(f"CuPy cannot be imported: {error}; {INSTALL}") from error
    pool = _Pool(cuda.MemoryPool)
    return CudaApi(
        runtime,
        driver,
        nvrtc,
        pool.allocate,
        cublaslt,
        release=pool.release,
        reset_device=pool.reset_device,
        cudnn=_load_cudnn(),
    )


def load_nvrtc() -> Any:
    """CuPy's binding of NVRTC, which needs no driver; raises :class:`DeviceUnavailableError`."""
    if _chosen:
        return _chosen[-1].nvrtc
    try:
        nvrtc = importlib.import_module("cupy_backends.cuda.libs.nvrtc")
    except ImportError as error:
        raise DeviceUnavailableError(
            f"CuPy, which NVRTC is called by, cannot be imported: {error}; {INSTALL}"
        ) from error
    check_nvrtc(nvrtc)
    return nvrtc


class _Pool:
    """Memory pools of onnxplan's own: blocks that other users of CuPy free never become ours.

    Of CuPy's default pool they could, while kernels on streams that ours do not wait for still use them.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._pool = make()
        # Pools of before a reset hold pointers that must not be freed any more.
        self._kept: list[Any] = []

    def allocate(self, nbytes: int) -> Memory:
        memory: Memory = self._pool.malloc(nbytes)
        return memory

    def release(self) -> None:
        self._pool.free_all_blocks()

    def reset_device(self, ordinal: int) -> None:
        """Source: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__PRIMARY__CTX.html"""
        self._kept.append(self._pool)
        self._pool = self._make()
        # On Windows too the driver's functions have the C calling convention on 64 bits.
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        status = library.cuDevicePrimaryCtxReset_v2(ctypes.c_int(ordinal))
        if status:
            raise DeviceUnavailableError(
                f"cuda:{ordinal} failed before and cannot be reset (CUDA error {status}); start a new process"
            )


def check_driver(runtime: Any) -> None:
    """Raises :class:`DeviceUnavailableError` without a driver, a new enough one, or a device."""
    version = runtime.driverGetVersion()
    if not version:
        raise DeviceUnavailableError(
            "no NVIDIA driver: the driver's library (libcuda.so.1, nvcuda.dll) cannot be loaded; install the "
            "driver from https://www.nvidia.com/drivers, or in a container make the host's visible to it "
            "(docker run --gpus all)"
        )
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        if error.status == CUDA_ERROR_INSUFFICIENT_DRIVER:
            major = _cuda_major(runtime)
            older = "; pip install 'onnxplan[cuda12]'" if major > 12 else ""
            raise DeviceUnavailableError(
                f"the NVIDIA driver is too old: it supports CUDA {version_text(version)}, CuPy is built for "
                f"CUDA {major}; install a driver of series {'580' if major > 12 else '525'} or newer{older}"
            ) from error
        if error.status != CUDA_ERROR_NO_DEVICE:
            raise DeviceUnavailableError(f"CUDA does not start: {error}") from error
        count = 0
    if not count:
        raise DeviceUnavailableError(
            "the NVIDIA driver sees no CUDA device; look at nvidia-smi and CUDA_VISIBLE_DEVICES"
        )


def check_nvrtc(nvrtc: Any) -> None:
    """Raises :class:`DeviceUnavailableError` where NVRTC's library cannot be loaded."""
    try:
        nvrtc.getVersion()
    except (RuntimeError, OSError, AttributeError) as error:
        raise DeviceUnavailableError(
            f"NVRTC, which compiles kernels, cannot be loaded: {error}; {INSTALL}"
        ) from error


def _load_cublaslt(cuda_major: int) -> Any:
    package = f"nvidia-cublas-cu{cuda_major}" if cuda_major < 13 else "nvidia-cublas"
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")
    except ImportError as error:
        raise DeviceUnavailableError(
            f"cuda-pathfinder, which finds cuBLASLt, is not installed ({error}); pip install cuda-pathfinder"
        ) from error
    try:
        return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublasLt").abs_path)
    except (RuntimeError, OSError) as error:
        raise DeviceUnavailableError(
            f"cuBLASLt cannot be loaded; pip install {package}, or set CUDA_HOME to a CUDA {cuda_major} "
            f"toolkit ({error})"
        ) from error


def _load_cudnn() -> Any:
    """cuDNN's library, behind cuBLASLt and NVRTC, which it needs; ``None`` where it is not installed."""
    from onnxplan.runtime.cuda.inventory import Machine

    try:
        return Machine().open_cudnn()[1]
    except OSError:
        return None


def _cuda_major(runtime: Any) -> int:
    return int(runtime.runtimeGetVersion()) // 1000


def version_text(version: int) -> str:
    """``12.4`` for 12040, as CUDA counts its versions."""
    return f"{version // 1000}.{version % 1000 // 10}"
