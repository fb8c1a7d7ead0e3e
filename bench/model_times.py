"""Whole models beside onnxruntime and OpenVINO: ``python -m bench.model_times [NAME ...]``.

float32, each engine in its own process with the same number of threads, blocks of runs in turn, medians.
Before a model is timed its outputs are compared with onnxruntime's. ``--pause 20`` times calls after 20 ms of
idleness instead of calls one after the other, ``--math fast`` products of factors that are rounded to
bfloat16, beside OpenVINO's: records of their own.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer
from rich.progress import track

from bench import models, record
from bench.peers import Array, Peer, interleave

ENGINES = {
    "strict": ("onnxplan", "onnxruntime", "openvino"),
    "fast": ("onnxplan, fast", "onnxruntime", "openvino, bf16"),
}
"""Ours, onnxruntime and OpenVINO, for each kind of arithmetic."""
LARGEST_ERROR = 1e-3
ROUNDED_ERROR = 2.0
"""Of what is rounded, over OpenVINO's."""


def largest_error(found: list[Array], expected: list[Array]) -> float:
    """The largest absolute difference, relative to the root mean square of the expected output."""
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        scale = float(np.sqrt(np.mean(np.square(theirs, dtype=np.float64)))) or 1.0
        worst = max(worst, float(np.abs(ours.astype(np.float64) - theirs).max(initial=0.0)) / scale)
    return worst


def check_outputs(name: str, math: str, outputs: list[list[Array]]) -> None:
    """Raises ``RuntimeError`` where ours, the first, are too far from onnxruntime's, the second."""
    ours, expected, others = outputs
    error, limit = largest_error(ours, expected), LARGEST_ERROR
    if math == "fast":
        limit += ROUNDED_ERROR * largest_error(others, expected)
    if not error < limit:
        raise RuntimeError(f"{name}: outputs differ from onnxruntime's by {error:.2g} of their scale")


def time_model(
    name: str, threads: int, seconds: float, math: str = "strict", pause: float = 0.0
) -> list[record.Row]:
    """Rows of one model with one number of threads, runs ``pause`` seconds apart: ours beside each peer."""
    file, feeds = models.path(name), models.feeds(name)
    peers: list[Peer] = []
    try:
        for engine in ENGINES[math]:
            peers.append(Peer(engine, file, feeds, threads))
        check_outputs(name, math, [peer.outputs() for peer in peers])
        medians = interleave(peers, seconds, pause=pause)
    finally:
        for peer in peers:
            peer.__exit__(None, None, None)
    ours, *theirs = (medians[engine] for engine in ENGINES[math])
    label = f"{name}, {record.threads_label(threads)}"
    _, *names = ENGINES["strict"]
    return [record.Row.of_times(label, ours, peer, time) for peer, time in zip(names, theirs, strict=True)]


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
    math: Annotated[str, typer.Option(help="strict or fast")] = "strict",
    save: Annotated[bool, typer.Option(help="write the record")] = True,
) -> None:
    """Times models beside their peers."""
    if math not in ENGINES:
        raise typer.BadParameter(f"strict or fast, not {math!r}", param_hint="--math")
    rows: list[record.Row] = []
    cases = [(name, count) for name in names or list(models.ZOO) for count in threads or [1, 2]]
    for name, count in track(cases, "measuring", transient=True):
        rows += time_model(name, count, seconds, math, pause / 1e3)
    rows += summary(rows)
    idle = f", after {pause:g} ms of idleness" if pause else ""
    rounded = ", rounded to bfloat16" if math == "fast" else ""
    record.show(f"models, float32{rounded}{idle}: milliseconds", rows)
    if save:
        suite = "models" + ("-fast" if math == "fast" else "") + ("-after-idleness" if pause else "")
        print(record.write(suite, rows, details={"pause_ms": pause}))


if __name__ == "__main__":
    typer.run(main)
