"""What this machine offers: devices, libraries, versions, the kernel store."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys

import onnxplan
from onnxplan.cli.terminal import mebibytes
from onnxplan.compiler.errors import DeviceUnavailableError
from onnxplan.runtime.cpu.target import detect_target
from onnxplan.runtime.cuda.inventory import Inventory, take_inventory
from onnxplan.runtime.devices import open_device
from onnxplan.runtime.store import store_directory
from onnxplan.runtime.store_upkeep import DEFAULT_BOUND, list_entries, size_bound

REQUIRED = ("numpy", "ml-dtypes", "onnx", "numba", "llvmlite", "typer", "rich")
OPTIONAL = ("onnxruntime", "openvino", "torch")
MISSING = "MISSING"


def diagnose() -> dict[str, dict[str, str]]:
    """Findings by section; what is needed and not there begins with ``MISSING``."""
    return {
        "versions": _versions(),
        "devices": _devices(),
        "cuda": _cuda(take_inventory()),
        "kernel store": _store(),
        "environment": {
            name: value for name, value in sorted(os.environ.items()) if name.startswith("ONNXPLAN_")
        },
    }


def _versions() -> dict[str, str]:
    rows = {
        "onnxplan": onnxplan.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
    }
    for name in REQUIRED:
        rows[name] = _version(name) or f"{MISSING}: pip install {name}"
    for name in OPTIONAL:
        rows[f"{name} (optional)"] = _version(name) or "not installed"
    return rows


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> dict[str, str]:
    """Each device, and whether ``device="cuda"`` works: in the words of its own error if not."""
    rows = {"cpu": _cpu()}
    try:
        open_device("cuda")
        rows["cuda"] = "usable: device='cuda' works"
    except DeviceUnavailableError as error:
        rows["cuda"] = f"unavailable, device='cuda' does not work: {error}"
    return rows


def _cuda(inventory: Inventory) -> dict[str, str]:
    """Driver, devices and libraries of CUDA, and what would have to be installed."""
    if inventory.driver is None:
        rows = {"driver": f"not found: {inventory.driver_problem}"}
    else:
        release = f"{inventory.driver_release}, " if inventory.driver_release else ""
        problem = f", but {inventory.driver_problem}" if inventory.driver_problem else ""
        rows = {"driver": f"{release}for CUDA {'.'.join(map(str, inventory.driver))}{problem}"}
    for device in inventory.devices:
        major, minor = device.capability
        rows[f"cuda:{device.number}"] = (
            f"{device.name}, compute capability {major}.{minor}, {device.memory / 2**30:.1f} GiB"
        )
    for library in inventory.libraries:
        found = f"{library.version}, {library.path or 'at an unknown place'}"
        rows[library.name] = found if library.found else f"not found: {library.problem}"
    if inventory.fix:
        rows["to use device='cuda'"] = inventory.fix
    if inventory.option:
        rows["to add cuDNN"] = inventory.option
    return rows


def _cpu() -> str:
    try:
        target = detect_target()
    except ValueError as error:
        return f"unavailable: {error}"
    caches = ", ".join(f"{size >> 10} KiB" for size in target.cache_bytes)
    threads = f"{target.threads} thread{'s' if target.threads > 1 else ''}"
    tiles = " with AMX" if target.byte_tiles else ""
    return f"usable: {target.isa}{tiles}, {threads}, vectors of {target.vector_bytes} bytes, caches {caches}"


def _store() -> dict[str, str]:
    folder = store_directory()
    rows = {"folder": str(folder)}
    try:
        entries = list_entries(folder)
    except OSError as error:
        return {**rows, "unusable": str(error)}
    models = sum(entry.is_model for entry in entries)
    rows |= {"kernels": str(len(entries) - models), "models": str(models)}
    rows |= {"size": mebibytes(sum(entry.size for entry in entries))}
    try:
        return {**rows, "bound": mebibytes(size_bound())}
    except ValueError as error:
        return {**rows, "bound": f"{mebibytes(DEFAULT_BOUND)}, as {error}"}
