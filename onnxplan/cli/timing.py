"""Latency beside onnxruntime: both engines in turn, so that a noisy machine is noisy for both."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import Progress
from rich.table import Table

from onnxplan.session import InferenceSession

Array = npt.NDArray[Any]
BLOCK_SECONDS = 0.2


def compare_latency(
    model: Path, session: InferenceSession, feeds: dict[str, Array], threads: int | None, seconds: float
) -> Table:
    """A table of percentiles of run times in milliseconds, an engine a row."""
    engines: dict[str, Callable[[], Any]] = {"onnxplan": lambda: session.run_sync(feeds)}
    peer = _onnxruntime(model, threads)
    if peer is not None:
        engines["onnxruntime"] = lambda: peer.run(None, feeds)
    times = measure(engines, seconds)
    table = Table("engine", "runs", "min", "p50", "p90", "p99", "max", "vs onnxruntime", title="milliseconds")
    base = float(np.median(times["onnxruntime"])) if "onnxruntime" in times else None
    for name, values in times.items():
        low, middle, high, top, most = (f"{1e3 * q:.4g}" for q in np.percentile(values, [0, 50, 90, 99, 100]))
        ratio = f"{base / float(np.median(values)):.2f}x" if base else "not installed"
        table.add_row(name, str(len(values)), low, middle, high, top, most, ratio)
    return table


def measure(engines: dict[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Run times in seconds of each engine, in alternating blocks, after a warm-up of each."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for call in engines.values():
        call()
        call()
    with Progress(transient=True) as progress:
        task = progress.add_task("measuring", total=seconds * len(engines))
        spent = 0.0
        while spent < seconds * len(engines):
            for name, call in engines.items():
                block = 0.0
                while block < BLOCK_SECONDS:
                    start = time.perf_counter()
                    call()
                    taken = time.perf_counter() - start
                    times[name].append(taken)
                    block += taken
                spent += block
                progress.update(task, completed=spent)
    return times


def _onnxruntime(model: Path, threads: int | None) -> Any:
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
