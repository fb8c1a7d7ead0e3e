"""What a machine has of CUDA: driver, devices, libraries, and what would have to be installed.

Nothing here needs CuPy: the point is to say what is there when CuPy, the driver or a library is not.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxplan.compiler.records import dataclass

NEEDED = ("CuPy", "NVRTC", "cuBLASLt", "cudart")
CUPY_PACKAGES = ("cupy-cuda13x", "cupy-cuda12x", "cupy")
OLDEST_CUDA, NEWEST_CUDA = 12, 13
"""Major versions of CUDA that there are extras for."""
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76
"""Values of ``CUdevice_attribute``, https://docs.nvidia.com/cuda/cuda-driver-api/."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU: its number, the name its driver gives it, compute capability, and memory in bytes."""

    number: int
    name: str
    capability: tuple[int, int]
    memory: int


@dataclass(frozen=True, slots=True)
class Library:
    """A library: version and file where it was found, else the ``problem``."""

    name: str
    version: str = ""
    path: str = ""
    problem: str = ""

    @property
    def found(self) -> bool:
        return not self.problem


@dataclass(frozen=True, slots=True)
class Inventory:
    """What was found.

    ``driver`` is the highest version of CUDA that the driver supports (``None`` without a driver),
    ``driver_release`` the driver's own version, ``driver_problem`` why there is none. ``fix`` says how to
    get what is missing (empty if nothing that ``device="cuda"`` needs is), ``option`` how to get cuDNN.
    """

    driver: tuple[int, int] | None
    driver_release: str
    driver_problem: str
    devices: tuple[Device, ...]
    libraries: tuple[Library, ...]
    fix: str
    option: str


class Machine:
    """Where the findings come from."""

    def open_driver(self) -> Any:
        """The driver's library; raises ``OSError``."""
        return ctypes.CDLL("libcuda.so.1")

    def driver_release(self) -> str:
        """The kernel module's version, such as ``580.82.07``; empty where it does not say."""
        file = Path("/proc/driver/nvidia/version")
        try:
            found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", file.read_text(encoding="utf-8"))
        except OSError:
            return ""
        return found.group() if found else ""

    def open_toolkit(self, name: str) -> tuple[str, Any]:
        """File and library of a part of the CUDA toolkit; raises ``ImportError`` and ``RuntimeError``."""
        from cuda import pathfinder

        loaded = pathfinder.load_nvidia_dynamic_lib(name)
        path = str(loaded.abs_path)
        return path, ctypes.CDLL(path)

    def open_cudnn(self) -> tuple[str, Any]:
        """File and library of cuDNN, from its wheel or the system; raises ``OSError``."""
        for package in ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12"):
            for file in self.files(package):
                if file.name == "libcudnn.so.9":
                    return str(file), ctypes.CDLL(str(file))
        return "libcudnn.so.9", ctypes.CDLL("libcudnn.so.9")

    def version(self, package: str) -> str | None:
        """The version of an installed distribution."""
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    def files(self, package: str) -> list[Path]:
        """The files of an installed distribution; none if it is not installed."""
        try:
            found = importlib.metadata.files(package)
        except importlib.metadata.PackageNotFoundError:
            return []
        return [Path(str(file.locate())) for file in found or ()]

    def module_path(self, module: str) -> str:
        """Where a module would be imported from, without importing it; empty if it is not there."""
        spec = importlib.util.find_spec(module)
        return spec.origin or "" if spec else ""


def take_inventory(machine: Machine | None = None) -> Inventory:
    """Looks at everything; raises nothing for what is not there."""
    machine = machine or Machine()
    driver, devices, problem = _driver(machine)
    libraries = (
        _cupy(machine),
        _toolkit(machine, "NVRTC", "nvrtc", _nvrtc_version),
        _toolkit(machine, "cuBLASLt", "cublasLt", _cublaslt_version),
        _toolkit(machine, "cudart", "cudart", _cudart_version),
        _cudnn(machine),
        _cudnn_frontend(machine),
    )
    cuda = _wanted_cuda(machine, driver)
    release = machine.driver_release() if driver else ""
    fix = _fix(machine, libraries, driver, len(devices), cuda)
    return Inventory(driver, release, problem, devices, libraries, fix, _option(libraries, cuda))


def _driver(machine: Machine) -> tuple[tuple[int, int] | None, tuple[Device, ...], str]:
    """Version of CUDA, devices, and what is wrong."""
    try:
        library = machine.open_driver()
    except OSError as error:
        return None, (), _first_line(error)
    version = ctypes.c_int()
    library.cuDriverGetVersion(ctypes.byref(version))
    found = version.value // 1000, version.value % 1000 // 10
    status = library.cuInit(0)
    if status:
        return found, (), f"the driver does not start: {_status_text(library, status)}"
    count = ctypes.c_int()
    status = library.cuDeviceGetCount(ctypes.byref(count))
    if status:
        return found, (), f"the driver does not tell its devices: {_status_text(library, status)}"
    devices = tuple(_device(library, number) for number in range(count.value))
    return found, devices, "" if devices else "the driver finds no device"


def _status_text(library: Any, status: int) -> str:
    text = ctypes.c_char_p()
    if library.cuGetErrorString(status, ctypes.byref(text)) or text.value is None:
        return f"error {status}"
    return f"error {status}, {text.value.decode()}"


def _device(library: Any, number: int) -> Device:
    handle = ctypes.c_int()
    library.cuDeviceGet(ctypes.byref(handle), number)
    name = ctypes.create_string_buffer(256)
    library.cuDeviceGetName(name, len(name), handle)
    memory = ctypes.c_size_t()
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.cuDeviceGetAttribute(ctypes.byref(major), COMPUTE_CAPABILITY_MAJOR, handle)
    library.cuDeviceGetAttribute(ctypes.byref(minor), COMPUTE_CAPABILITY_MINOR, handle)
    return Device(number, name.value.decode(), (major.value, minor.value), memory.value)


def _installed_cupy(machine: Machine) -> list[tuple[str, str]]:
    """Name and version of each CuPy there is."""
    return [(name, version) for name in CUPY_PACKAGES if (version := machine.version(name))]


def _cupy(machine: Machine) -> Library:
    installed = _installed_cupy(machine)
    if not installed:
        return Library("CuPy", problem="not installed")
    versions = ", ".join(f"{name} {version}" for name, version in installed)
    if len(installed) > 1:
        return Library("CuPy", problem=f"several are installed, which overwrite each other: {versions}")
    return Library("CuPy", versions, machine.module_path("cupy"))


def _toolkit(machine: Machine, title: str, name: str, read: Callable[[Any], str]) -> Library:
    try:
        path, library = machine.open_toolkit(name)
        return Library(title, read(library), path)
    except ImportError:
        return Library(title, problem="cannot be looked for: cuda-pathfinder is not installed")
    except (OSError, RuntimeError, AttributeError) as error:
        return Library(title, problem=f"cannot be loaded: {_first_line(error)}")


def _nvrtc_version(library: Any) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def _cublaslt_version(library: Any) -> str:
    library.cublasLtGetVersion.restype = ctypes.c_size_t
    return _triple(library.cublasLtGetVersion())


def _cudart_version(library: Any) -> str:
    version = ctypes.c_int()
    library.cudaRuntimeGetVersion(ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _triple(number: int) -> str:
    """``130502`` as ``13.5.2``."""
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def _cudnn(machine: Machine) -> Library:
    try:
        path, library = machine.open_cudnn()
        library.cudnnGetVersion.restype = ctypes.c_size_t
        return Library("cuDNN (optional)", _triple(library.cudnnGetVersion()), path)
    except (OSError, AttributeError) as error:
        return Library("cuDNN (optional)", problem=f"cannot be loaded: {_first_line(error)}")


def _cudnn_frontend(machine: Machine) -> Library:
    version = machine.version("nvidia-cudnn-frontend")
    if version is None:
        return Library("cuDNN frontend (optional)", problem="not installed")
    return Library("cuDNN frontend (optional)", version, machine.module_path("cudnn"))


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _wanted_cuda(machine: Machine, driver: tuple[int, int] | None) -> int:
    """The major version of CUDA to install: the driver's, else that of the CuPy that is there."""
    if driver is not None:
        return max(OLDEST_CUDA, min(driver[0], NEWEST_CUDA))
    return OLDEST_CUDA if machine.version("cupy-cuda12x") else NEWEST_CUDA


def _fix(
    machine: Machine, libraries: tuple[Library, ...], driver: tuple[int, int] | None, devices: int, cuda: int
) -> str:
    """What to do before ``device="cuda"`` can work."""
    steps = []
    if driver is None:
        steps.append("install NVIDIA's driver")
    elif driver[0] < OLDEST_CUDA:
        steps.append(
            f"update the driver: it supports CUDA {driver[0]}.{driver[1]}, {OLDEST_CUDA}.0 is needed"
        )
    elif not devices:
        steps.append("make a device visible (nvidia-smi lists them, CUDA_VISIBLE_DEVICES may hide them)")
    installed = [name for name, _ in _installed_cupy(machine)]
    unfit = [name for name in installed if len(installed) > 1 or name not in ("cupy", f"cupy-cuda{cuda}x")]
    if unfit:
        steps.append(f"pip uninstall --yes {' '.join(unfit)}")
    if unfit or any(library.problem for library in libraries if library.name in NEEDED):
        steps.append(f"pip install 'onnxplan[cuda{cuda}]'")
    return "; ".join(steps)


def _option(libraries: tuple[Library, ...], cuda: int) -> str:
    """How to get cuDNN, if it is not there."""
    if all(library.found for library in libraries if library.name.startswith("cuDNN")):
        return ""
    return f"pip install 'onnxplan[cuda{cuda},{'cudnn' if cuda == NEWEST_CUDA else f'cudnn{cuda}'}]'"
