"""Benchmark records: ``bench/results/<date>-<suite>-<device>.json`` and a table on the terminal."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onnxplan.cli.terminal import add_row, console, table

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("onnxplan", "numpy", "numba", "llvmlite", "onnx", "onnxruntime", "openvino", "torch")
CUDA_PACKAGES = ("cupy-cuda13x", "cupy-cuda12x", "nvidia-cublas", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside a peer's. ``ratio`` above 1 is better than the peer, whatever the unit."""

    name: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None

    @staticmethod
    def of_times(name: str, seconds: float, peer: str, peer_seconds: float) -> Row:
        """Two durations in seconds, kept in milliseconds."""
        return Row(name, 1e3 * seconds, "ms", peer, 1e3 * peer_seconds, peer_seconds / seconds)


def threads_label(count: int) -> str:
    """``1 thread``, ``2 threads``: how names of rows end."""
    return f"{count} thread{'s' if count > 1 else ''}"


def device_name() -> str:
    """The processor as it names itself, with the number of cores this process may use."""
    from onnxplan.runtime.cpu.target import detect_target

    target = detect_target(None, "strict")
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return f"{name}, {target.isa}, {target.threads} cores"


def write(
    suite: str, rows: list[Row], *, device: str | None = None, details: Mapping[str, Any] | None = None
) -> Path:
    """Writes the record of a suite and returns its file.

    ``device`` is the processor's name by default; ``details`` are further entries of the record.
    """
    packages = PACKAGES if device is None else (*PACKAGES, *CUDA_PACKAGES)
    device = device or device_name()
    date = datetime.date.today().isoformat()
    record = {
        "suite": suite,
        "device": device,
        "date": date,
        "commit": _commit(),
        "versions": _versions(packages),
        "rows": [asdict(row) for row in rows],
        **(details or {}),
    }
    slug = "-".join("".join(c if c.isalnum() else " " for c in device.lower()).split())
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{date}-{suite}-{slug}.json"
    file.write_text(json.dumps(record, indent=1) + "\n")
    return file


def show(title: str, rows: list[Row]) -> None:
    """The rows as a table."""
    found = table("figure", "onnxplan", "unit", "peer", "peer's", "ratio", title=title)
    for row in rows:
        peer_value = "" if row.peer_value is None else f"{row.peer_value:.4g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        add_row(found, row.name, f"{row.value:.4g}", row.unit, row.peer, peer_value, ratio)
    console().print(found)


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=RESULTS.parent, check=False)
    return result.stdout.strip() or "unknown"
