"""Sharing the event loop and the machine: ``python -m bench.concurrency``.

* How late a ticker of 1 ms on the event loop is while a run of about a second is going on.
* Throughput and latency of many tasks that await one session, beside onnxruntime with a thread pool.
* Processor time that the process takes while it is idle after runs.
* The first run after 20 ms of idleness, when helper threads have gone to sleep.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import onnx
import typer
from onnx import helper, numpy_helper

import onnxplan
from bench import record
from bench.overhead import chain_model, sample_model
from onnxplan.runtime.cpu.target import default_threads

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
Run = Callable[[], Awaitable[Any]]

TICK_SECONDS = 1e-3
LATE_SECONDS = 5e-3
"""The most that a run may hold up the event loop."""
LONG_SECONDS = 1.0
LONG_EXTENT = 1536
LONG_ROUNDS = 5
TICKER_WORST = "lateness of a 1 ms ticker, worst"
TASKS = (8, 16)
IDLE_SECONDS = 1.0
PAUSE_SECONDS = 0.02


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


def random_feeds(session: onnxplan.InferenceSession) -> Feeds:
    """Standard normal inputs, scaled so that chains of products keep their magnitude."""
    generator = np.random.default_rng(0)
    shapes = {info.name: tuple(int(dim or 0) for dim in info.dims or ()) for info in session.inputs}
    return {
        name: (generator.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)
        for name, shape in shapes.items()
    }


def open_peer(model: onnx.ModelProto, threads: int = 0) -> Any:
    """onnxruntime's session; ``threads`` of one run, 0 for its default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


async def run_peer(peer: Any, feeds: Feeds) -> list[Array]:
    """One run through onnxruntime's own asynchronous call."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[list[Array]] = loop.create_future()

    def finish(results: list[Array], _: object, error: str) -> None:
        if error:
            loop.call_soon_threadsafe(done.set_exception, RuntimeError(error))
        else:
            loop.call_soon_threadsafe(done.set_result, results)

    peer.run_async(None, feeds, finish, None)
    return await done


async def lateness(work: Run) -> tuple[list[float], float]:
    """How late each tick was while ``work`` was going on, and how long that took, in seconds."""
    late: list[float] = []
    over = False

    async def tick() -> None:
        while not over:
            due = time.perf_counter() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            late.append(time.perf_counter() - due)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0)
    start = time.perf_counter()
    await work()
    taken = time.perf_counter() - start
    over = True
    await ticker
    return late, taken


async def ticker_rows() -> list[record.Row]:
    """The ticker's lateness during long runs: the worst (median over rounds) and the 99th percentile."""
    model = product_model(LONG_EXTENT, await _products_in(LONG_SECONDS))
    peer = open_peer(model)
    with onnxplan.InferenceSession(model) as session:
        feeds = random_feeds(session)

        async def run_in_loop() -> None:
            peer.run(None, feeds)

        situations: dict[str, Run] = {
            "onnxplan": lambda: session.run(feeds),
            "onnxruntime, run in the loop": run_in_loop,
            "onnxruntime, run_async": lambda: run_peer(peer, feeds),
            "nothing running": lambda: asyncio.sleep(LONG_SECONDS),
        }
        late: dict[str, list[list[float]]] = {name: [] for name in situations}
        times: dict[str, list[float]] = {name: [] for name in situations}
        for work in situations.values():
            await work()
        for _ in range(LONG_ROUNDS):
            for name, work in situations.items():
                await asyncio.sleep(PAUSE_SECONDS)
                found, taken = await lateness(work)
                late[name].append(found)
                times[name].append(taken)
    length = {name: float(np.median(values)) for name, values in times.items() if name != "nothing running"}
    worst = {name: float(np.median([max(each) for each in rounds])) for name, rounds in late.items()}
    high = {name: float(np.percentile(np.concatenate(rounds), 99)) for name, rounds in late.items()}
    rows: list[record.Row] = []
    for label, values in (
        ("length of the long run", length),
        (TICKER_WORST, worst),
        ("lateness of a 1 ms ticker, p99", high),
    ):
        ours, *peers = values
        rows += [record.Row.of_times(label, values[ours], name, values[name]) for name in peers]
    return rows


async def _products_in(seconds: float) -> int:
    """How many products of the long run's size take that long on an idle machine."""
    with onnxplan.InferenceSession(product_model(LONG_EXTENT, 1)) as session:
        feeds = random_feeds(session)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            await session.run(feeds)
            times.append(time.perf_counter() - start)
        return max(1, round(seconds / min(times)))


async def serve(run: Run, tasks: int, seconds: float) -> tuple[list[float], float]:
    """Latencies of runs that ``tasks`` tasks await one after the other, and runs a second of all."""
    latencies: list[float] = []
    start = time.perf_counter()
    end = start + seconds

    async def client() -> None:
        while (began := time.perf_counter()) < end:
            await run()
            latencies.append(time.perf_counter() - began)

    await asyncio.gather(*(client() for _ in range(tasks)))
    return latencies, len(latencies) / (time.perf_counter() - start)


async def load_rows(label: str, model: onnx.ModelProto, seconds: float) -> list[record.Row]:
    """Many tasks on one session, beside onnxruntime in a pool of as many threads as cores.

    onnxruntime's runs have its default number of threads, or one each, which suits a busy server better.
    """
    loop, cores, rounds = asyncio.get_running_loop(), default_threads(), 4
    rows: list[record.Row] = []
    with onnxplan.InferenceSession(model) as session, ThreadPoolExecutor(cores) as pool:
        feeds = random_feeds(session)
        wide, narrow = open_peer(model), open_peer(model, 1)
        engines: dict[str, Run] = {
            "onnxplan": lambda: session.run(feeds),
            "onnxruntime": lambda: loop.run_in_executor(pool, wide.run, None, feeds),
            "onnxruntime, 1 thread a run": lambda: loop.run_in_executor(pool, narrow.run, None, feeds),
        }
        for tasks in TASKS:
            latencies: dict[str, list[float]] = {name: [] for name in engines}
            rates: dict[str, list[float]] = {name: [] for name in engines}
            for _ in range(rounds):
                for name, run in engines.items():
                    # The other engine's threads may still be spinning.
                    await asyncio.sleep(PAUSE_SECONDS)
                    await run()
                    found, rate = await serve(run, tasks, seconds / rounds)
                    latencies[name] += found
                    rates[name].append(rate)
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


async def idle_rows(model: onnx.ModelProto) -> list[record.Row]:
    """Processor time of this process over a second after runs; nothing else may have been started in it."""
    with onnxplan.InferenceSession(model) as session:
        feeds = random_feeds(session)
        for _ in range(50):
            await session.run(feeds)
        ours = await _idle_cpu_seconds()
    peer = open_peer(model)
    for _ in range(50):
        peer.run(None, feeds)
    theirs = await _idle_cpu_seconds()
    name = f"processor time in {IDLE_SECONDS:g} s of idleness"
    return [record.Row.of_times(name, ours, "onnxruntime", theirs)]


async def _idle_cpu_seconds() -> float:
    before = time.process_time()
    await asyncio.sleep(IDLE_SECONDS)
    return time.process_time() - before


async def wake_rows(label: str, model: onnx.ModelProto, count: int = 60) -> list[record.Row]:
    """Median time of a run after 20 ms without any, and of runs one after the other."""
    with onnxplan.InferenceSession(model) as session:
        feeds = random_feeds(session)
        peer = open_peer(model)

        async def run_in_loop() -> None:
            peer.run(None, feeds)

        engines: dict[str, Run] = {
            "onnxplan": lambda: session.run(feeds),
            "onnxruntime, run in the loop": run_in_loop,
            "onnxruntime, run_async": lambda: run_peer(peer, feeds),
        }
        rows = []
        for name, pause in (("after 20 ms of idleness", PAUSE_SECONDS), ("one after the other", 0.0)):
            medians = {engine: await _median(run, count, pause) for engine, run in engines.items()}
            ours, *peers = medians
            rows += [
                record.Row.of_times(f"{label}, run {name}", medians[ours], engine, medians[engine])
                for engine in peers
            ]
    return rows


async def _median(run: Run, count: int, pause: float) -> float:
    """Median time in seconds of ``count`` runs that begin ``pause`` seconds after the one before."""
    await asyncio.sleep(PAUSE_SECONDS)
    await run()
    times = []
    for _ in range(count):
        await asyncio.sleep(pause)
        start = time.perf_counter()
        await run()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


async def measure(seconds: float) -> list[record.Row]:
    layer = layer_model(64, 512)
    return [
        *await idle_rows(layer),
        *await ticker_rows(),
        *await wake_rows("reference sample", sample_model()),
        *await wake_rows("64x512 by 512x512", layer),
        *await load_rows("64x512 by 512x512", layer, seconds),
        *await load_rows("512x512 by 512x512", layer_model(512, 512), seconds),
    ]


def main(
    seconds: Annotated[float, typer.Option(min=0.1, help="time for each engine and load")] = 4.0,
    save: Annotated[bool, typer.Option(help="write the record")] = True,
) -> None:
    """Measures what runs do to the event loop and to each other."""
    rows = asyncio.run(measure(seconds))
    record.show("concurrency", rows)
    worst = next(row.value for row in rows if row.name == TICKER_WORST)
    print(f"a run held up the event loop by {worst:.2f} ms at most (wanted: below {1e3 * LATE_SECONDS:g} ms)")
    if save:
        print(record.write("concurrency", rows))


if __name__ == "__main__":
    typer.run(main)
