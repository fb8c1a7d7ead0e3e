"""Engines whose runs an event loop awaits: each has a process with a loop and what looks at it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import onnx

import onnxplan
from bench.peers import Array, EngineProcess
from onnxplan.runtime.cpu.target import default_threads

Feeds = dict[str, Array]
Run = Callable[[], Awaitable[Any]]
Value = TypeVar("Value")

TICK_SECONDS = 1e-3
PAUSE_SECONDS = 0.02
"""Longer than threads spin after a run, whichever engine they belong to."""
IDLE_SECONDS = 1.0
LONG_SECONDS = 1.0


def open_onnxruntime(model: bytes, threads: int = 0) -> Any:
    """onnxruntime's session; ``threads`` of one run, 0 for its default."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def load_onnxplan(model: bytes, feeds: Feeds, _: asyncio.AbstractEventLoop) -> Run:
    session = onnxplan.InferenceSession(model)
    return lambda: session.run(feeds)


def load_in_the_loop(model: bytes, feeds: Feeds, _: asyncio.AbstractEventLoop) -> Run:
    """onnxruntime's blocking call on the event loop's own thread."""
    session = open_onnxruntime(model)

    async def run() -> None:
        session.run(None, feeds)

    return run


def load_run_async(model: bytes, feeds: Feeds, loop: asyncio.AbstractEventLoop) -> Run:
    """onnxruntime's own asynchronous call."""
    session = open_onnxruntime(model)

    def run() -> asyncio.Future[list[Array]]:
        done: asyncio.Future[list[Array]] = loop.create_future()

        def finish(results: list[Array], _: object, error: str) -> None:
            if error:
                loop.call_soon_threadsafe(done.set_exception, RuntimeError(error))
            else:
                loop.call_soon_threadsafe(done.set_result, results)

        session.run_async(None, feeds, finish, None)
        return done

    return run


def load_pool(model: bytes, feeds: Feeds, loop: asyncio.AbstractEventLoop) -> Run:
    """onnxruntime's blocking call in a pool of as many threads as cores."""
    session, pool = open_onnxruntime(model), ThreadPoolExecutor(default_threads())
    return lambda: loop.run_in_executor(pool, session.run, None, feeds)


def load_narrow_pool(model: bytes, feeds: Feeds, loop: asyncio.AbstractEventLoop) -> Run:
    """The same with runs of one thread each, which suits a busy server better."""
    session, pool = open_onnxruntime(model, 1), ThreadPoolExecutor(default_threads())
    return lambda: loop.run_in_executor(pool, session.run, None, feeds)


def load_nothing(_model: bytes, _feeds: Feeds, _: asyncio.AbstractEventLoop) -> Run:
    return lambda: asyncio.sleep(LONG_SECONDS)


LOADERS: dict[str, Callable[[bytes, Feeds, asyncio.AbstractEventLoop], Run]] = {
    "onnxplan": load_onnxplan,
    "onnxruntime, run in the loop": load_in_the_loop,
    "onnxruntime, run_async": load_run_async,
    "onnxruntime": load_pool,
    "onnxruntime, 1 thread a run": load_narrow_pool,
    "nothing running": load_nothing,
}


@dataclass(frozen=True, slots=True)
class LoopEngine:
    """An event loop, and what awaits one run of a model on it. Methods block, and leave nothing running."""

    runner: asyncio.Runner
    run: Run

    def lateness(self) -> tuple[list[float], float]:
        """How late each tick of a ticker was during a run, and how long that took, in seconds."""
        return self.runner.run(_lateness(self.run))

    def serve(self, tasks: int, seconds: float) -> tuple[list[float], float]:
        """Latencies of runs that ``tasks`` tasks await one after the other, and runs a second of all."""
        return self.runner.run(_settled(self.run, lambda: _serve(self.run, tasks, seconds)))

    def block(self, seconds: float, pause: float) -> list[float]:
        """Run times of as many runs as fit into ``seconds``, ``pause`` seconds before each included."""
        return self.runner.run(_settled(self.run, lambda: _block(self.run, seconds, pause)))

    def idle(self, runs: int) -> float:
        """Processor time in seconds that the process takes in :data:`IDLE_SECONDS` after so many runs."""
        return self.runner.run(_idle(self.run, runs))


def load(way: str, model: bytes, feeds: Feeds) -> LoopEngine:
    """An engine after its first run, which plans."""
    runner = asyncio.Runner()
    run = LOADERS[way](model, feeds, runner.get_loop())
    runner.run(_again(run, 1))
    return LoopEngine(runner, run)


class LoopPeer(EngineProcess[LoopEngine]):
    """One of :data:`LOADERS` with a model and random feeds, in its own process."""

    def __init__(self, way: str, model: onnx.ModelProto) -> None:
        super().__init__(way, load, way, model.SerializeToString(), random_feeds(model))

    def block(self, seconds: float, pause: float = 0.0) -> list[float]:
        """What :meth:`LoopEngine.block` gives."""
        return self.call(LoopEngine.block, seconds, pause)


def random_feeds(model: onnx.ModelProto) -> Feeds:
    """Standard normal float32 inputs, scaled so that chains of products keep their magnitude."""
    generator = np.random.default_rng(0)
    shapes = {
        info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
        for info in model.graph.input
    }
    return {
        name: (generator.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)
        for name, shape in shapes.items()
    }


async def _again(run: Run, count: int) -> None:
    for _ in range(count):
        await run()


async def _settled(run: Run, measure: Callable[[], Awaitable[Value]]) -> Value:
    """``measure()`` after another engine's threads have gone to sleep, and after a run that wakes our own."""
    await asyncio.sleep(PAUSE_SECONDS)
    await run()
    return await measure()


async def _lateness(run: Run) -> tuple[list[float], float]:
    late: list[float] = []
    over = False

    async def tick() -> None:
        while not over:
            due = time.perf_counter() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            late.append(time.perf_counter() - due)

    await asyncio.sleep(PAUSE_SECONDS)
    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0)
    start = time.perf_counter()
    await run()
    taken = time.perf_counter() - start
    over = True
    await ticker
    return late, taken


async def _serve(run: Run, tasks: int, seconds: float) -> tuple[list[float], float]:
    latencies: list[float] = []
    start = time.perf_counter()
    end = start + seconds

    async def client() -> None:
        while (began := time.perf_counter()) < end:
            await run()
            latencies.append(time.perf_counter() - began)

    await asyncio.gather(*(client() for _ in range(tasks)))
    return latencies, len(latencies) / (time.perf_counter() - start)


async def _block(run: Run, seconds: float, pause: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 2:
        await asyncio.sleep(pause)
        start = time.perf_counter()
        await run()
        times.append(time.perf_counter() - start)
    return times


async def _idle(run: Run, runs: int) -> float:
    await _again(run, runs)
    before = time.process_time()
    await asyncio.sleep(IDLE_SECONDS)
    return time.process_time() - before
