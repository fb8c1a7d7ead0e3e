"""Peak memory of a session beside onnxruntime: ``python -m bench.memory [NAME ...]``.

Each engine loads a model and runs it, in a process of its own. ``session`` is the peak of resident memory
(``VmHWM``: anonymous pages and pages of mapped files alike) above what the engine holds with a model of one
node loaded and run; ``process`` is the peak of the process, imports and all; ``anonymous`` the peak of
anonymous pages above the same baseline, without the clean pages of mapped weights. Linux only.

Kernels come from the store and Python's modules from their bytecode, as in every start but the first: a run
before the measured one fills both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from onnx import helper
from rich.progress import track

from bench import models, record

PEER = "onnxruntime"
MEBIBYTE = 1 << 20


def smallest_model(folder: Path) -> Path:
    """A model of one node: what an engine takes for it is its own."""
    kind = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "smallest", kind[:1], kind[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file = folder / "smallest.onnx"
    onnx.save(model, file)
    return file


def probe(
    engine: str, model: Path, feeds: Path, baseline: Path, threads: int, runs: int, bytecode: Path
) -> dict[str, Any]:
    """What :mod:`bench.memory_probe` finds; raises ``RuntimeError`` with its errors where it fails."""
    arguments = [engine, str(model), str(feeds), str(baseline), str(threads), str(runs)]
    command = [sys.executable, "-m", "bench.memory_probe", *arguments]
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(bytecode), "PYTHONDONTWRITEBYTECODE": ""}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        raise RuntimeError(f"{engine} with {model.name}:\n{result.stderr}")
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def rows_of(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> list[record.Row]:
    """The figures of one model in MiB, ours beside the peer's."""

    def row(what: str, value: int, peer_value: int) -> record.Row:
        ratio = max(peer_value, 1) / max(value, 1)
        return record.Row(f"{name}, {what}", value / MEBIBYTE, "MiB", PEER, peer_value / MEBIBYTE, ratio)

    def above(found: dict[str, Any], kinds: tuple[str, ...], peak: str) -> int:
        return int(found[peak] - sum(found["baseline"][kind] for kind in kinds))

    resident = ("anonymous", "file")
    return [
        row("session", above(ours, resident, "peak"), above(theirs, resident, "peak")),
        row("anonymous", *(above(found, ("anonymous",), "anonymous_peak") for found in (ours, theirs))),
        row("process", ours["peak"], theirs["peak"]),
    ]


def measure(name: str, threads: int, runs: int) -> tuple[list[record.Row], dict[str, Any]]:
    """Rows and all figures in bytes, by engine, of one model."""
    file = models.path(name)
    with tempfile.TemporaryDirectory() as folder:
        feeds, baseline = Path(folder, "feeds.npz"), smallest_model(Path(folder))
        np.savez(feeds, allow_pickle=False, **models.feeds(name))
        bytecode = Path(folder, "bytecode")
        found: dict[str, Any] = {}
        for engine in ("onnxplan", PEER):
            for count in (1, runs):
                found[engine] = probe(engine, file, feeds, baseline, threads, count, bytecode)
    return rows_of(name, found["onnxplan"], found[PEER]), found


def main(
    names: Annotated[list[str] | None, typer.Argument(help="models; default: all")] = None,
    threads: Annotated[int, typer.Option(help="threads of each engine")] = 2,
    runs: Annotated[int, typer.Option(help="runs after loading")] = 3,
    save: Annotated[bool, typer.Option(help="write the record")] = True,
) -> None:
    """Measures models beside onnxruntime."""
    rows: list[record.Row] = []
    details: dict[str, Any] = {}
    for name in track(names or list(models.ZOO), "measuring", transient=True):
        found, details[name] = measure(name, threads, runs)
        rows += found
    worst = {
        what: min(row.ratio or 0.0 for row in rows if row.name.endswith(what))
        for what in ("session", "anonymous", "process")
    }
    rows += [record.Row(f"worst model, {what}", ratio, "ratio", PEER) for what, ratio in worst.items()]
    record.show(f"peak memory: MiB, {threads} threads, load and {runs} runs", rows)
    if save:
        print(record.write("memory", rows, details={"bytes": details}))


if __name__ == "__main__":
    typer.run(main)
