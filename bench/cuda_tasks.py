"""Runs beside and after each other on a GPU: throughput of tasks, the gap between runs, and new shapes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
import onnx.parser

import onnxplan
from bench.record import Row
from bench.supervised import Settings

TASKS = 8
SECONDS = 2.0
ROWS, COLUMNS, LAYERS = 256, 1024, 8
NEW_SHAPES = 5


def names(settings: Settings) -> list[str]:
    return ["tasks", "gap", "new shapes"]


def check(name: str, settings: Settings) -> dict[str, Any]:
    """Measures; the rows are among the details."""
    if name == "tasks":
        rows = task_rows(settings)
    elif name == "gap":
        rows = gap_rows(settings)
    else:
        rows = shape_rows(settings)
    return {"rows": [asdict(row) for row in rows]}


def network(columns: int = COLUMNS, layers: int = LAYERS) -> onnx.ModelProto:
    """Layers of a product with a constant, a bias and a Relu, for any number of rows."""
    generator = np.random.default_rng(0)
    lines, before = [], "x"
    for layer in range(layers):
        lines.append(f"p{layer} = MatMul({before}, w) s{layer} = Add(p{layer}, b) h{layer} = Relu(s{layer})")
        before = f"h{layer}"
    text = (
        '<ir_version: 10, opset_import: ["" : 21]> '
        f"network (float[n,{columns}] x) => (float[n,{columns}] {before}) {{ {' '.join(lines)} }}"
    )
    model = onnx.parser.parse_model(text)
    weights = generator.standard_normal((columns, columns)).astype(np.float32) / np.sqrt(columns)
    bias = generator.standard_normal(columns).astype(np.float32)
    for label, array in (("w", weights), ("b", bias)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), label))
    return model


def inputs(rows: int, columns: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(rows).standard_normal((rows, columns), np.float32)}


async def rate(
    session: onnxplan.InferenceSession, feeds: dict[str, Any], tasks: int, seconds: float
) -> float:
    """Runs a second of so many tasks, each of which awaits one run after the other."""
    end = time.perf_counter() + seconds
    count = 0

    async def work() -> None:
        nonlocal count
        while time.perf_counter() < end:
            await session.run(feeds)
            count += 1

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(tasks)))
    return count / (time.perf_counter() - start)


def task_rows(
    settings: Settings, rows: int = ROWS, columns: int = COLUMNS, seconds: float = SECONDS
) -> list[Row]:
    """Throughput of eight tasks beside that of one, from host to host."""
    feeds = inputs(rows, columns)
    with onnxplan.InferenceSession(network(columns), device=settings.device) as session:

        async def rates() -> list[float]:
            await rate(session, feeds, TASKS, seconds / 4)
            return [await rate(session, feeds, tasks, seconds) for tasks in (1, TASKS)]

        one, many = asyncio.run(rates())
    return [Row(f"{TASKS} tasks", many, "runs/s", "1 task", one, many / one)]


def gap_rows(settings: Settings, columns: int = COLUMNS, seconds: float = SECONDS) -> list[Row]:
    """What a run of one row takes longer beside other tasks than its share of the device: the device is never
    idle for longer than this."""
    feeds = inputs(1, columns)
    times = []
    for layers in (1, LAYERS):
        with onnxplan.InferenceSession(network(columns, layers), device=settings.device) as session:

            async def measured(session: onnxplan.InferenceSession = session) -> float:
                await rate(session, feeds, TASKS, seconds / 4)
                return 1 / await rate(session, feeds, TASKS, seconds)

            times.append(asyncio.run(measured()))
    each = max(times[1] - times[0], 0.0) / (LAYERS - 1)
    return [Row("run after run, beside what its layers take", 1e6 * max(times[0] - each, 0.0), "us")]


def shape_rows(settings: Settings, rows: int = ROWS, columns: int = COLUMNS) -> list[Row]:
    """Milliseconds of the first run of new shapes, after other shapes ran."""
    times = []
    with onnxplan.InferenceSession(network(columns), device=settings.device) as session:
        for warm in (2, rows):
            session.run_sync(inputs(warm, columns))
        for number in range(NEW_SHAPES):
            feeds = inputs(rows + 7 * (number + 1), columns)
            start = time.perf_counter()
            session.run_sync(feeds)
            times.append(time.perf_counter() - start)
    return [Row("first run of a new shape", 1e3 * max(times), "ms")]
