"""From the start of a process to the first result: ``python -m bench.startup [NAME ...]``.

Each start is a process of its own that imports the engine, opens the model and runs it once on inputs that
lie in a file; engines take turns, and the figures are medians. onnxplan starts from a compiled artifact, from
the .onnx file that it has seen before (its plans are in the store), from one it has never seen while the
store holds the kernels of other models, and with an empty store. onnxruntime starts from the .onnx file.

Modules come from their bytecode and files from the page cache, as in every start but the first. Linux only:
the resident memory of several processes that serve one artifact comes from ``/proc``.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import track

import onnxplan
from bench import models, record

NAMES = ("resnet50", "minilm_l6", "bert_base", "gpt2_prefill")
SERVED = "bert_base"
PROCESSES = 4
PEER = "onnxruntime"
MEBIBYTE = 1 << 20

OURS = """
import sys, numpy
feeds = dict(numpy.load(sys.argv[2]))
import onnxplan
session = onnxplan.InferenceSession(sys.argv[1])
results = session.run_sync(feeds)
numpy.asarray(next(iter(results.values())))
"""
THEIRS = """
import sys, numpy
feeds = dict(numpy.load(sys.argv[2]))
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
session.run(None, feeds)
"""
KEEP = """
session._engine.settle(wait=True)
"""
"""What waits until the model is in the store."""
FLOOR = """
import sys, numpy
dict(numpy.load(sys.argv[1]))
"""
"""What a process does before either engine: no start is shorter."""
IMPORT = "import onnxplan; onnxplan.InferenceSession"
NUMPY = "import numpy"
SERVE = """
import os
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
"""
"""What a serving process does after its first run, until it is told to end."""


@dataclass(frozen=True)
class Start:
    """One way to begin: the program, its arguments, the store, and what is done before each start."""

    program: str
    arguments: tuple[str, ...]
    store: Path
    prepare: Callable[[], object] = lambda: None


def environment(store: Path, bytecode: Path) -> dict[str, str]:
    return os.environ | {
        "ONNXPLAN_CACHE_DIR": str(store),
        "PYTHONPYCACHEPREFIX": str(bytecode),
        "PYTHONDONTWRITEBYTECODE": "",
    }


def seconds_of(start: Start, bytecode: Path) -> float:
    """From starting the process to its end; raises ``RuntimeError`` with its errors where it fails."""
    start.prepare()
    command = [sys.executable, "-c", start.program, *start.arguments]
    began = time.perf_counter()
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment(start.store, bytecode)
    )
    taken = time.perf_counter() - began
    if result.returncode:
        raise RuntimeError(f"{' '.join(start.arguments)}:\n{result.stderr}")
    return taken


def medians(starts: Mapping[str, Start], rounds: int, bytecode: Path) -> dict[str, float]:
    """The median seconds of each start, taken in turn after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in starts}
    for number in range(rounds + 1):
        for name, start in starts.items():
            taken = seconds_of(start, bytecode)
            if number:
                times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}


def model_rows(name: str, rounds: int, folder: Path, bytecode: Path, others: Path) -> list[record.Row]:
    """The rows of one model; ``others`` is a store that holds the kernels of other models."""
    file, feeds, artifact = str(models.path(name)), folder / f"{name}.npz", folder / f"{name}.plan"
    np.savez(feeds, allow_pickle=False, **models.feeds(name))
    onnxplan.compile(file, artifact)
    warm, cold, unseen = folder / "warm", folder / "cold", folder / "unseen"

    def forget(store: Path, source: Path | None) -> None:
        shutil.rmtree(store, ignore_errors=True)
        if source is not None:
            shutil.copytree(source, store)

    arguments = (file, str(feeds))
    # A process that ends with its first result leaves a large model to one that stays.
    seconds_of(Start(OURS + KEEP, arguments, warm), bytecode)
    starts = {
        PEER: Start(THEIRS, arguments, warm),
        "artifact": Start(OURS, (str(artifact), str(feeds)), folder / "never made"),
        "store warm": Start(OURS, arguments, warm),
        "NumPy and the inputs alone": Start(FLOOR, (str(feeds),), folder / "never made"),
    }
    found = medians(starts, rounds, bytecode)
    rare = {
        "never seen, store of other models": Start(OURS, arguments, unseen, lambda: forget(unseen, others)),
        "never seen, store empty": Start(OURS, arguments, cold, lambda: forget(cold, None)),
    }
    found |= medians(rare, max(1, rounds // 4), bytecode)
    theirs = found.pop(PEER)
    artifact.unlink()
    return [record.Row.of_times(f"{name}, {label}", value, PEER, theirs) for label, value in found.items()]


def store_of_others(name: str, folder: Path, bytecode: Path) -> Path:
    """A store that the models of :data:`NAMES` have filled, but for one."""
    store = folder / f"others of {name}"
    for other in NAMES:
        if other != name:
            feeds = folder / "other.npz"
            np.savez(feeds, allow_pickle=False, **models.feeds(other))
            seconds_of(Start(OURS, (str(models.path(other)), str(feeds)), store), bytecode)
    return store


def import_rows(rounds: int, folder: Path, bytecode: Path) -> list[record.Row]:
    starts = {
        "import onnxplan and its session": Start(IMPORT, (), folder / "import"),
        "import numpy": Start(NUMPY, (), folder / "import"),
    }
    return [
        record.Row(f"process that does {name}", 1e3 * value, "ms")
        for name, value in medians(starts, rounds, bytecode).items()
    ]


def memory_rows(folder: Path, bytecode: Path) -> list[record.Row]:
    """Proportional set size of one process and of several that serve one model, after a run.

    onnxplan serves it from an artifact, and from the .onnx file that it has seen before.
    """
    model, feeds, artifact = models.path(SERVED), folder / "served.npz", folder / "served.plan"
    np.savez(feeds, allow_pickle=False, **models.feeds(SERVED))
    onnxplan.compile(model, artifact)
    seconds_of(Start(OURS + KEEP, (str(model), str(feeds)), folder / "serving"), bytecode)
    rows = []
    found: dict[str, list[float]] = {}
    served = {"artifact": (OURS, artifact), "store warm": (OURS, model), PEER: (THEIRS, model)}
    for label, (program, file) in served.items():
        found[label] = [_resident(program, file, feeds, count, folder, bytecode) for count in (1, PROCESSES)]
    for label in ("artifact", "store warm"):
        for position, count in enumerate((1, PROCESSES)):
            ours, theirs = (found[each][position] for each in (label, PEER))
            name = f"memory of {count} process{'es' if count > 1 else ''} serving {SERVED}, {label}"
            rows.append(record.Row(name, ours / MEBIBYTE, "MiB", PEER, theirs / MEBIBYTE, theirs / ours))
    for label, (one, several) in found.items():
        rows.append(
            record.Row(f"memory of {PROCESSES} processes over one's, {label}", several / one, "times")
        )
    return rows


def _resident(program: str, file: Path, feeds: Path, count: int, folder: Path, bytecode: Path) -> float:
    command = [sys.executable, "-c", program + SERVE, str(file), str(feeds)]
    store = folder / "serving"
    processes = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(store, bytecode),
        )
        for _ in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError(f"a process that serves {file} ended early")
        return float(sum(_proportional_bytes(process.pid) for process in processes))
    finally:
        for process in processes:
            process.communicate("\n")


def _proportional_bytes(pid: int) -> int:
    """Source: https://docs.kernel.org/filesystems/proc.html (``smaps_rollup``)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def shape_rows(names: tuple[str, ...]) -> list[record.Row]:
    """Planning and binding a shape that a session of a dynamic model has not met, after one that it has."""
    rows = []
    for name in names:
        if "batch" not in models.ZOO[name].dims:
            continue
        with onnxplan.InferenceSession(models.path(name, dynamic=True)) as session:
            session.warmup_sync(_shapes(name, 1))
            times = []
            for batch in (2, 3, 5, 7):
                shapes = _shapes(name, batch)
                began = time.perf_counter()
                session.warmup_sync(shapes)
                times.append(time.perf_counter() - began)
        rows.append(record.Row(f"{name}, a new input shape", 1e3 * statistics.median(times), "ms"))
    return rows


def _shapes(name: str, batch: int) -> dict[str, Any]:
    return {key: array.shape for key, array in models.feeds(name, batch=batch).items()}


def measure(names: tuple[str, ...], rounds: int) -> list[record.Row]:
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        bytecode = folder / "bytecode"
        rows = import_rows(rounds, folder, bytecode)
        for name in track(names, "measuring", transient=True):
            others = store_of_others(name, folder, bytecode)
            rows += model_rows(name, rounds, folder, bytecode, others)
        rows += shape_rows(names)
        if SERVED in names and sys.platform == "linux":
            rows += memory_rows(folder, bytecode)
    return rows


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"models; default: {', '.join(NAMES)}")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="starts of each kind")] = 9,
    save: Annotated[bool, typer.Option(help="write the record")] = True,
) -> None:
    """Times how processes start."""
    rows = measure(tuple(names or NAMES), rounds)
    record.show("start-up", rows)
    if save:
        print(record.write("startup", rows, details={"rounds": rounds}))


if __name__ == "__main__":
    typer.run(main)
