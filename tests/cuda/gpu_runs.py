"""Many runs on a device: replays, slots, new shapes, many tasks, leaks."""

from __future__ import annotations

import asyncio
import gc
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import onnxplan
from bench.supervised import Settings

WIDTH = 256
RUN_SECONDS = 30.0
"""A run that takes longer counts as a deadlock."""

DEVICE_LEAK = 2 << 20
HOST_LEAK = 64 << 20
"""Bytes that memory may grow by over all runs of the leak check."""


def layered_model(seed: int = 0, layers: int = 4) -> onnx.ModelProto:
    """Dense layers with a Softmax behind, for any batch: products, generated maps and a reduction."""
    generator = np.random.default_rng(seed)
    nodes, weights = [], []
    for number in range(layers):
        matrix = (generator.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)).astype(np.float32)
        bias = generator.standard_normal(WIDTH).astype(np.float32)
        weights += [
            numpy_helper.from_array(matrix, f"w{number}"),
            numpy_helper.from_array(bias, f"b{number}"),
        ]
        nodes += [
            helper.make_node("MatMul", [f"x{number}", f"w{number}"], [f"m{number}"]),
            helper.make_node("Add", [f"m{number}", f"b{number}"], [f"a{number}"]),
            helper.make_node("Tanh", [f"a{number}"], [f"x{number + 1}"]),
        ]
    nodes.append(helper.make_node("Softmax", [f"x{layers}"], ["y"], axis=-1))
    info = helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["batch", WIDTH])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", WIDTH])
    graph = helper.make_graph(nodes, "layers", [info], [result], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def feeds_of(batch: int, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng([seed, batch])
    return {"x0": generator.standard_normal((batch, WIDTH)).astype(np.float32)}


class Expected:
    """Right results by batch and seed, from the CPU; safe from several threads."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._session = onnxplan.InferenceSession(model)
        self._known: dict[tuple[int, int], np.ndarray] = {}
        self._lock = threading.Lock()

    def check(self, result: np.ndarray, batch: int, seed: int) -> None:
        with self._lock:
            key = batch, seed
            if key not in self._known:
                self._known[key] = self._session.run_sync(feeds_of(batch, seed))["y"].numpy()
        np.testing.assert_allclose(result, self._known[key], rtol=1e-4, atol=1e-6)


def replays_are_equal(settings: Settings) -> None:
    """A run and its replays agree in every bit."""
    with onnxplan.InferenceSession(layered_model(), device=settings.device) as session:
        feeds = feeds_of(8, 0)
        first = session.run_sync(feeds)["y"].numpy().copy()
        for _ in range(settings.repeats):
            np.testing.assert_array_equal(session.run_sync(feeds)["y"].numpy(), first)


def replays_take_new_feeds(settings: Settings) -> None:
    """Outputs belong to the caller: none is overwritten by a later run."""
    model = layered_model()
    right = Expected(model)
    with onnxplan.InferenceSession(model, device=settings.device) as session:
        results = [session.run_sync(feeds_of(8, seed))["y"] for seed in range(settings.repeats)]
        for seed, result in enumerate(results):
            right.check(result.numpy(), 8, seed)


def slots_at_once(settings: Settings) -> None:
    """Threads share a session; each gets the result of its own feeds."""
    model = layered_model()
    right = Expected(model)
    with onnxplan.InferenceSession(model, device=settings.device) as session:

        def work(thread: int) -> None:
            for number in range(settings.repeats):
                seed = thread * 1000 + number % 5
                right.check(session.run_sync(feeds_of(8, seed))["y"].numpy(), 8, seed)

        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(work, thread) for thread in range(8)]:
                future.result()


def new_shapes_evict(settings: Settings) -> None:
    """More shapes than plans are kept for: each is planned, evicted and planned again."""
    model = layered_model()
    right = Expected(model)
    with onnxplan.InferenceSession(model, device=settings.device, max_plans=4) as session:
        for _ in range(2):
            for batch in range(1, 13):
                right.check(session.run_sync(feeds_of(batch, 0))["y"].numpy(), batch, 0)


def stages_between_graphs(settings: Settings) -> None:
    """A shape that depends on data: one plan before, one behind the point where it is known."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Transpose", ["places"], ["rows"]),
        helper.make_node("GatherND", ["x", "rows"], ["picked"]),
        helper.make_node("ReduceSum", ["picked"], ["y"], keepdims=0),
    ]
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    graph = helper.make_graph(nodes, "stages", [info], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    generator = np.random.default_rng(0)
    with onnxplan.InferenceSession(model, device=settings.device) as session:
        for _ in range(5):
            x = (generator.random((64, 64)) * (generator.random((64, 64)) < 0.3)).astype(np.float32)
            found = session.run_sync({"x": x})["y"].numpy()
            np.testing.assert_allclose(found, x.sum(dtype=np.float64), rtol=1e-5)


def trimming(settings: Settings) -> dict[str, Any]:
    """Memory that no run needs goes back, and runs go on."""
    model = layered_model()
    right = Expected(model)
    with onnxplan.InferenceSession(model, device=settings.device) as session:
        right.check(session.run_sync(feeds_of(512, 0))["y"].numpy(), 512, 0)
        before = free_bytes(settings)
        session.trim()
        after = free_bytes(settings)
        right.check(session.run_sync(feeds_of(512, 0))["y"].numpy(), 512, 0)
    return {"free_before": before, "free_after": after}


def free_bytes(settings: Settings) -> int:
    """Device memory that the driver has left."""
    if not settings.device.startswith("cuda"):
        return 0
    from onnxplan.runtime.cuda.api import load_api

    runtime = load_api().runtime
    runtime.deviceSynchronize()
    return int(runtime.memGetInfo()[0])


def many_tasks(settings: Settings) -> dict[str, Any]:
    """Tasks run, some are cancelled, for a while; the event loop stays free and nothing waits for ever."""
    return asyncio.run(_many_tasks(settings))


async def _many_tasks(settings: Settings) -> dict[str, Any]:
    model = layered_model()
    right = Expected(model)
    counts = {"runs": 0, "cancelled": 0}
    late = [0.0]
    async with await onnxplan.InferenceSession.create(
        model, device=settings.device, max_concurrency=4
    ) as session:
        end = time.monotonic() + settings.task_seconds

        async def work(task: int) -> None:
            generator = np.random.default_rng(task)
            while time.monotonic() < end:
                batch, seed = int(generator.choice([1, 2, 8, 32])), int(generator.integers(4))
                run = asyncio.ensure_future(session.run(feeds_of(batch, seed)))
                if generator.random() < 0.05:
                    await asyncio.sleep(0)
                    run.cancel()
                    await asyncio.wait([run], timeout=RUN_SECONDS)
                    counts["cancelled"] += run.cancelled()
                    continue
                results = await asyncio.wait_for(run, RUN_SECONDS)
                right.check(results["y"].numpy(), batch, seed)
                counts["runs"] += 1

        async def tick() -> None:
            while time.monotonic() < end:
                start = time.monotonic()
                await asyncio.sleep(0.005)
                late[0] = max(late[0], time.monotonic() - start - 0.005)

        async with asyncio.TaskGroup() as group:
            for coroutine in (tick(), *map(work, range(settings.tasks))):
                group.create_task(coroutine)
        results = await asyncio.wait_for(session.run(feeds_of(8, 0)), RUN_SECONDS)
        right.check(results["y"].numpy(), 8, 0)
    return {**counts, "latest_tick_ms": round(1e3 * late[0], 2)}


def leaks(settings: Settings) -> dict[str, Any]:
    """Memory of device and host after many runs, and after sessions that came and went."""
    model = layered_model()
    feeds = feeds_of(8, 0)
    with onnxplan.InferenceSession(model, device=settings.device) as session:
        _runs(session, feeds, max(10, settings.leak_runs // 20))
        before = free_bytes(settings), _host_bytes()
        _runs(session, feeds, settings.leak_runs)
        by_runs = before[0] - free_bytes(settings), _host_bytes() - before[1]
    _open_and_run(model, feeds, settings)
    before = free_bytes(settings), _host_bytes()
    for _ in range(20):
        _open_and_run(model, feeds, settings)
    by_sessions = before[0] - free_bytes(settings), _host_bytes() - before[1]
    details = {
        "runs": settings.leak_runs,
        "device_bytes_by_runs": by_runs[0],
        "host_bytes_by_runs": by_runs[1],
        "device_bytes_by_20_sessions": by_sessions[0],
        "host_bytes_by_20_sessions": by_sessions[1],
    }
    assert max(by_runs[0], by_sessions[0]) <= DEVICE_LEAK, f"device memory grew: {details}"
    assert max(by_runs[1], by_sessions[1]) <= HOST_LEAK, f"host memory grew: {details}"
    return details


def _open_and_run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], settings: Settings) -> None:
    with onnxplan.InferenceSession(model, device=settings.device) as session:
        _runs(session, feeds, 3)


def _runs(session: onnxplan.InferenceSession, feeds: dict[str, np.ndarray], count: int) -> None:
    for _ in range(count):
        session.run_sync(feeds)
    gc.collect()


def _host_bytes() -> int:
    """Memory of this process that is resident, or was at most where only that is known."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


CHECKS = {
    "replays are equal": replays_are_equal,
    "replays take new feeds": replays_take_new_feeds,
    "slots at once": slots_at_once,
    "new shapes evict plans": new_shapes_evict,
    "stages run between graphs": stages_between_graphs,
    "trimming": trimming,
    "many tasks": many_tasks,
    "leaks": leaks,
}


def names(settings: Settings) -> list[str]:
    return list(CHECKS)


def check(name: str, settings: Settings) -> dict[str, Any] | None:
    return CHECKS[name](settings)
