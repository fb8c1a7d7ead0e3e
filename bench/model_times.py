"""Whole models beside onnxruntime and OpenVINO: ``python -m bench.model_times [NAME ...]``.

float32, each engine in its own process with the same number of threads, blocks of runs in turn, medians.
Before a model is timed its outputs are compared with onnxruntime's. ``--pause 20`` times calls after 20 ms of
idleness instead of calls one after the other: a record of its own.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer
from rich.progress import track

from bench import models, record
from bench.peers import Array, Peer, interleave

ENGINES = ("onnxplan", "onnxruntime", "openvino")


def largest_error(found: list[Array], expected: list[Array]) -> float:
    """The largest absolute difference, relative to the root mean square of the expected output."""
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        scale = float(np.sqrt(np.mean(np.square(theirs, dtype=np.float64)))) or 1.0
        worst = max(worst, float(np.abs(ours.astype(np.float64) - theirs).max(initial=0.0)) / scale)
    return worst


def time_model(
    name: str, threads: int, seconds: float, engines: tuple[str, ...], pause: float = 0.0
) -> list[record.Row]:
    """Rows of one model with one number of threads, runs ``pause`` seconds apart: ours beside each peer."""
    file, feeds = models.path(name), models.feeds(name)
    peers: list[Peer] = []
    try:
        for engine in engines:
            peers.append(Peer(engine, file, feeds, threads))
        outputs = {peer.engine: peer.outputs() for peer in peers}
        error = largest_error(outputs["onnxplan"], outputs["onnxruntime"])
        if not error < 1e-3:
            raise RuntimeError(f"{name}: outputs differ from onnxruntime's by {error:.2g} of their scale")
        medians = interleave(peers, seconds, pause=pause)
    finally:
        for peer in peers:
            peer.__exit__(None, None, None)
    ours = medians.pop("onnxplan")
    label = f"{name}, {record.threads_label(threads)}"
    return [record.Row.of_times(label, ours, peer, theirs) for peer, theirs in medians.items()]


def summary(rows: list[record.Row]) -> list[record.Row]:
    """Geometric mean and worst of (best peer's time / ours), for each number of threads."""
    best: dict[str, float] = {}
    for row in rows:
        if row.ratio is not None:
            best[row.name] = min(best.get(row.name, np.inf), row.ratio)
    found = []
    for suffix in sorted({name.rpartition(", ")[2] for name in best}):
        ratios = [ratio for name, ratio in best.items() if name.endswith(suffix)]
        mean = float(np.exp(np.mean(np.log(ratios))))
        found.append(record.Row(f"geometric mean, {suffix}", mean, "ratio", "best peer"))
        found.append(record.Row(f"worst model, {suffix}", min(ratios), "ratio", "best peer"))
    return found


def main(
    names: Annotated[list[str] | None, typer.Argument(help="models; default: all")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="numbers of threads; default: 1 and 2")] = None,
    seconds: Annotated[float, typer.Option(help="time for each engine and model")] = 4.0,
    pause: Annotated[float, typer.Option(min=0, help="milliseconds of idleness before each run")] = 0.0,
    save: Annotated[bool, typer.Option(help="write the record")] = True,
) -> None:
    """Times models beside their peers."""
    rows: list[record.Row] = []
    cases = [(name, count) for name in names or list(models.ZOO) for count in threads or [1, 2]]
    for name, count in track(cases, "measuring", transient=True):
        rows += time_model(name, count, seconds, ENGINES, pause / 1e3)
    rows += summary(rows)
    idle = f", after {pause:g} ms of idleness" if pause else ""
    record.show(f"models, float32{idle}: milliseconds", rows)
    if save:
        print(record.write("models-after-idleness" if pause else "models", rows, details={"pause_ms": pause}))


if __name__ == "__main__":
    typer.run(main)
