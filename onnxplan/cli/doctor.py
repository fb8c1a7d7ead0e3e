"""What this machine offers: devices, libraries, versions, the kernel store."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

import onnxplan
from onnxplan.compiler.errors import DeviceUnavailableError
from onnxplan.runtime.cpu.target import detect_target
from onnxplan.runtime.devices import open_device
from onnxplan.runtime.store import store_directory

REQUIRED = ("numpy", "ml_dtypes", "onnx", "onnx-ir", "numba", "llvmlite", "typer", "rich")
OPTIONAL = ("cupy-cuda13x", "cupy-cuda12x", "onnxruntime", "openvino", "torch")


def diagnose() -> dict[str, dict[str, str]]:
    """Findings by section."""
    return {"versions": _versions(), "devices": _devices(), "kernel store": _store()}


def _versions() -> dict[str, str]:
    rows = {
        "onnxplan": onnxplan.__version__,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
    }
    for name in REQUIRED:
        rows[name] = _version(name) or "MISSING: pip install " + name
    for name in OPTIONAL:
        rows[f"{name} (optional)"] = _version(name) or "not installed"
    return rows


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> dict[str, str]:
    target = detect_target(None, "strict")
    caches = ", ".join(f"{size >> 10} KiB" for size in target.cache_bytes)
    rows = {
        "cpu": f"usable: {target.isa}, {target.threads} threads, vectors of {target.vector_bytes} bytes, "
        f"caches {caches}"
    }
    try:
        open_device("cuda")
        rows["cuda"] = "usable"
    except DeviceUnavailableError as error:
        rows["cuda"] = f"unavailable: {error}"
    return rows


def _store() -> dict[str, str]:
    folder = store_directory()
    if folder is None or not folder.is_dir():
        return {"folder": f"{folder} (empty)"}
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    return {"folder": str(folder), "entries": str(len(sizes)), "size": f"{sum(sizes) / 2**20:.1f} MiB"}
