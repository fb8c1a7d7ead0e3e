"""Sharing the event loop and the machine: ``python -m bench.concurrency``.

* How late a ticker of 1 ms on the event loop is while a run of about a second is going on.
* Throughput and latency of many tasks that await one session, beside onnxruntime with a thread pool.
* Processor time that a process takes while it is idle after runs.
* The first run after 20 ms of idleness, when helper threads have gone to sleep.

Each way of running has a process of its own (:mod:`bench.event_loops`), and they are measured in turn:
threads of onnxruntime, which spin for a while after each run, would slow down what else is in their process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated

import numpy as np
import onnx
import typer
from onnx import helper, numpy_helper

from bench import record
from bench.event_loops import IDLE_SECONDS, LONG_SECONDS, PAUSE_SECONDS, LoopEngine, LoopPeer
from bench.overhead import chain_model, sample_model
from bench.peers import interleave, turns

OURS = "onnxplan"
AWAITED = (OURS, "onnxruntime, run in the loop", "onnxruntime, run_async")
POOLED = (OURS, "onnxruntime", "onnxruntime, 1 thread a run")
LATE_SECONDS = 5e-3
"""The most that a run may hold up the event loop."""
LONG_EXTENT = 1536
LONG_ROUNDS = 5
TICKER_WORST = "lateness of a 1 ms ticker, worst"
TASKS = (8, 16)
LOAD_ROUNDS = 4
IDLE_ROUNDS = 3
RUNS_BEFORE_IDLENESS = 50


@contextmanager
def open_peers(ways: Sequence[str], model: onnx.ModelProto) -> Iterator[list[LoopPeer]]:
    """A process for each way of running ``model``, ours first."""
    with ExitStack() as stack:
        yield [stack.enter_context(LoopPeer(way, model)) for way in ways]


def product_model(extent: int, length: int) -> onnx.ModelProto:
    """``length`` products of square float32 matrices, each needing the one before."""
    nodes = [helper.make_node("MatMul", [f"x{n}", "w"], [f"x{n + 1}"]) for n in range(length)]
    return chain_model(nodes, {"x0": [extent, extent], "w": [extent, extent]}, f"x{length}", [extent, extent])


def layer_model(rows: int, features: int) -> onnx.ModelProto:
    """A product with a constant matrix, as in a fully connected layer."""
    weights = np.random.default_rng(0).standard_normal((features, features)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = chain_model(nodes, {"x": [rows, features]}, "y", [rows, features])
    model.graph.initializer.append(numpy_helper.from_array(weights / features**0.5, "w"))
    return model


def ticker_rows() -> list[record.Row]:
    """The ticker's lateness during long runs: the worst (median over rounds) and the 99th percentile."""
    late: dict[str, list[list[float]]] = {}
    times: dict[str, list[float]] = {}
    model = product_model(LONG_EXTENT, _products_in(LONG_SECONDS))
    with open_peers((*AWAITED, "nothing running"), model) as peers:
        for peer in turns(peers, LONG_ROUNDS):
            found, taken = peer.call(LoopEngine.lateness)
            late.setdefault(peer.engine, []).append(found)
            times.setdefault(peer.engine, []).append(taken)
    length = {name: float(np.median(times[name])) for name in AWAITED}
    worst = {name: float(np.median([max(each) for each in rounds])) for name, rounds in late.items()}
    high = {name: float(np.percentile(np.concatenate(rounds), 99)) for name, rounds in late.items()}
    return [
        *_beside_ours("length of the long run", length),
        *_beside_ours(TICKER_WORST, worst),
        *_beside_ours("lateness of a 1 ms ticker, p99", high),
    ]


def _beside_ours(label: str, seconds: dict[str, float]) -> list[record.Row]:
    """A row for each other way, with our time beside its own."""
    return [
        record.Row.of_times(label, seconds[OURS], name, value)
        for name, value in seconds.items()
        if name != OURS
    ]


def _products_in(seconds: float) -> int:
    """How many products of the long run's size take that long on an idle machine."""
    with LoopPeer(OURS, product_model(LONG_EXTENT, 1)) as peer:
        return max(1, round(seconds / min(peer.block(0.2))))


def load_rows(label: str, model: onnx.ModelProto, seconds: float) -> list[record.Row]:
    """Many tasks on one session, beside onnxruntime in a pool of as many threads as cores."""
    rows: list[record.Row] = []
    with open_peers(POOLED, model) as peers:
        for tasks in TASKS:
            latencies: dict[str, list[float]] = {way: [] for way in POOLED}
            rates: dict[str, list[float]] = {way: [] for way in POOLED}
            for peer in turns(peers, LOAD_ROUNDS):
                found, rate = peer.call(LoopEngine.serve, tasks, seconds / LOAD_ROUNDS)
                latencies[peer.engine] += found
                rates[peer.engine].append(rate)
            rows += _compare(f"{label}, {tasks} tasks", latencies, rates)
    return rows


def _compare(
    label: str, latencies: dict[str, list[float]], rates: dict[str, list[float]]
) -> list[record.Row]:
    rows = []
    speed = {name: float(np.median(values)) for name, values in rates.items()}
    ours, *peers = speed
    for peer in peers:
        ratio = speed[ours] / speed[peer]
        rows.append(record.Row(f"{label}: throughput", speed[ours], "runs/s", peer, speed[peer], ratio))
        for quantile in (50, 99):
            mine, other = (float(np.percentile(latencies[name], quantile)) for name in (ours, peer))
            rows.append(record.Row.of_times(f"{label}: p{quantile}", mine, peer, other))
    return rows


def idle_rows(model: onnx.ModelProto) -> list[record.Row]:
    """Processor time of an engine's process over a second after runs."""
    found: dict[str, list[float]] = {OURS: [], "onnxruntime": []}
    with open_peers((OURS, "onnxruntime, run in the loop"), model) as peers:
        for peer in turns(peers, IDLE_ROUNDS):
            found[peer.engine.partition(",")[0]].append(peer.call(LoopEngine.idle, RUNS_BEFORE_IDLENESS))
    medians = {name: float(np.median(values)) for name, values in found.items()}
    return _beside_ours(f"processor time in {IDLE_SECONDS:g} s of idleness", medians)


def wake_rows(label: str, model: onnx.ModelProto, seconds: float = 1.5) -> list[record.Row]:
    """Median time of a run after 20 ms without any, and of runs one after the other."""
    rows: list[record.Row] = []
    with open_peers(AWAITED, model) as peers:
        for name, pause in (("after 20 ms of idleness", PAUSE_SECONDS), ("one after the other", 0.0)):
            rows += _beside_ours(f"{label}, run {name}", interleave(peers, seconds, pause=pause))
    return rows


def measure(seconds: float) -> list[record.Row]:
    layer = layer_model(64, 512)
    return [
        *idle_rows(layer),
        *ticker_rows(),
        *wake_rows("reference sample", sample_model()),
        *wake_rows("64x512 by 512x512", layer),
        *load_rows("64x512 by 512x512", layer, seconds),
        *load_rows("512x512 by 512x512", layer_model(512, 512), seconds),
    ]


def main(
    seconds: Annotated[float, typer.Option(min=0.1, help="time for each engine and load")] = 4.0,
    save: Annotated[bool, typer.Option(help="write the record")] = True,
) -> None:
    """Measures what runs do to the event loop and to each other."""
    rows = measure(seconds)
    record.show("concurrency", rows)
    worst = next(row.value for row in rows if row.name == TICKER_WORST)
    print(f"a run held up the event loop by {worst:.2f} ms at most (wanted: below {1e3 * LATE_SECONDS:g} ms)")
    if save:
        print(record.write("concurrency", rows))


if __name__ == "__main__":
    typer.run(main)
