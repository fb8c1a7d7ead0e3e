"""Latency beside onnxruntime: both engines in turn, so that a noisy machine is noisy for both."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from rich.table import Table

from onnxplan.cli.terminal import add_row, console, table
from onnxplan.compiler.records import dataclass
from onnxplan.session import InferenceSession

BLOCK_SECONDS = 0.2
PERCENTILES = {"min": 0, "p50": 50, "p90": 90, "p99": 99, "max": 100}


@dataclass(frozen=True, slots=True)
class Latencies:
    """Run times in seconds by engine, and why the peer has none."""

    seconds: Mapping[str, list[float]]
    peer_missing: str = ""

    def rows(self) -> dict[str, dict[str, float]]:
        """For each engine its runs, percentiles in milliseconds, and its speed relative to onnxruntime."""
        medians = {name: float(np.median(values)) for name, values in self.seconds.items()}
        found: dict[str, dict[str, float]] = {}
        for name, values in self.seconds.items():
            row: dict[str, float] = {"runs": len(values)}
            row |= {label: 1e3 * float(np.percentile(values, q)) for label, q in PERCENTILES.items()}
            if "onnxruntime" in medians:
                row["vs_onnxruntime"] = medians["onnxruntime"] / medians[name]
            found[name] = row
        return found

    def table(self) -> Table:
        """The same for people."""
        found = table("engine", "runs", *PERCENTILES, "vs onnxruntime", title="milliseconds")
        for name, row in self.rows().items():
            times = (f"{row[label]:.4g}" for label in PERCENTILES)
            ratio = f"{row['vs_onnxruntime']:.2f}x" if "vs_onnxruntime" in row else self.peer_missing
            add_row(found, name, str(int(row["runs"])), *times, ratio)
        return found


def compare_latency(
    model: Path, session: InferenceSession, feeds: dict[str, Any], threads: int | None, seconds: float
) -> Latencies:
    """Times ``session`` and, where it is installed and runs the model, onnxruntime with as many threads."""
    engines: dict[str, Callable[[], Any]] = {"onnxplan": lambda: session.run_sync(feeds)}
    peer, missing = _onnxruntime(model, feeds, threads)
    if peer is not None:
        engines["onnxruntime"] = peer
    return Latencies(measure(engines, seconds), missing)


def measure(engines: dict[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    """Run times in seconds of each engine, in alternating blocks, after a warm-up of each."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    total = seconds * len(engines)
    for call in engines.values():
        call()
    screen = console(stderr=True)
    with Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("measuring", total=total)
        spent = 0.0
        while spent < total:
            for name, call in engines.items():
                # The caches hold the other engine's data now, and its threads may still be spinning.
                call()
                block = _time_block(call)
                times[name] += block
                spent += sum(block)
                progress.update(task, completed=spent)
    return times


def _time_block(call: Callable[[], Any]) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + BLOCK_SECONDS
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def _onnxruntime(
    model: Path, feeds: dict[str, Any], threads: int | None
) -> tuple[Callable[[], Any] | None, str]:
    """A run of onnxruntime, or why there is none."""
    try:
        import onnxruntime
    except ImportError:
        return None, "not installed"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        session.run(None, feeds)
    except Exception as error:
        # Its errors have no base class of their own.
        return None, f"it cannot run the model: {type(error).__name__}: {error}"
    return lambda: session.run(None, feeds), ""
