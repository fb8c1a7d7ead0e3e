"""What a run costs beside its arithmetic: ``python -m bench.overhead``.

The reference sample through ``await session.run`` beside onnxruntime's blocking ``run``, and chains of 1 to
1000 small dependent steps that cannot be fused.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from onnx import TensorProto, helper

import onnxplan
from bench import record

LENGTHS = (1, 10, 100, 1000)


def sample_model() -> onnx.ModelProto:
    """The reference sample: one MatMul of a 3x4 and a 4x3 matrix."""
    return chain_model(
        [helper.make_node("MatMul", ["a", "b"], ["c"])], {"a": [3, 4], "b": [4, 3]}, "c", [3, 3]
    )


def chain_model(
    nodes: list[onnx.NodeProto], inputs: dict[str, list[int]], output: str, dims: list[int]
) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, dims)
    graph = helper.make_graph(nodes, "overhead", infos, [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def product_chain(length: int) -> onnx.ModelProto:
    """``length`` products of 4x4 matrices, each needing the one before."""
    nodes = [helper.make_node("MatMul", [f"x{number}", "m"], [f"x{number + 1}"]) for number in range(length)]
    return chain_model(nodes, {"x0": [4, 4], "m": [4, 4]}, f"x{length}", [4, 4])


async def measure(
    calls: dict[str, Callable[[], Any]], rounds: int = 15, block: float = 0.02
) -> dict[str, float]:
    """Median over blocks of the mean time of a call in seconds; coroutines are awaited; blocks alternate."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(50):
            result = call()
            if isinstance(result, Awaitable):
                await result
    for _ in range(rounds):
        for name, call in calls.items():
            asynchronous = asyncio.iscoroutinefunction(call)
            count, start = 0, time.perf_counter()
            while time.perf_counter() - start < block:
                for _ in range(20):
                    if asynchronous:
                        await call()
                    else:
                        call()
                count += 20
            times[name].append((time.perf_counter() - start) / count)
    return {name: statistics.median(values) for name, values in times.items()}


async def sample_rows() -> list[record.Row]:
    import onnxruntime

    model = sample_model()
    feeds = {
        "a": np.arange(1, 13, dtype=np.float32).reshape(3, 4),
        "b": np.arange(10, 130, 10, dtype=np.float32).reshape(4, 3),
    }
    peer = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with onnxplan.InferenceSession(model) as session:

        async def awaited() -> None:
            await session.run(feeds)

        times = await measure(
            {
                "await": awaited,
                "sync": lambda: session.run_sync(feeds),
                "onnxruntime": lambda: peer.run(None, feeds),
            }
        )
    base = times["onnxruntime"]
    return [
        record.Row(
            "await session.run", 1e6 * times["await"], "us", "onnxruntime", 1e6 * base, base / times["await"]
        ),
        record.Row(
            "session.run_sync", 1e6 * times["sync"], "us", "onnxruntime", 1e6 * base, base / times["sync"]
        ),
    ]


async def time_chain(length: int) -> tuple[int, float, float]:
    """Steps of the plan of a chain, and the time of a run in seconds: ours and onnxruntime's."""
    import onnxruntime

    model = product_chain(length)
    generator = np.random.default_rng(0)
    feeds = {
        "x0": generator.standard_normal((4, 4)).astype(np.float32),
        "m": np.eye(4, dtype=np.float32),
    }
    peer = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with onnxplan.InferenceSession(model) as session:
        times = await measure(
            {"ours": lambda: session.run_sync(feeds), "onnxruntime": lambda: peer.run(None, feeds)}
        )
        return len(session.plan().steps), times["ours"], times["onnxruntime"]


async def chain_rows() -> list[record.Row]:
    rows, previous = [], (0, 0.0)
    for length in LENGTHS:
        steps, ours, theirs = await time_chain(length)
        rows.append(
            record.Row(
                f"chain of {steps} steps", 1e6 * ours, "us", "onnxruntime", 1e6 * theirs, theirs / ours
            )
        )
        if previous[0]:
            each = (ours - previous[1]) / (steps - previous[0])
            rows.append(record.Row(f"one step more, {previous[0]} to {steps}", 1e9 * each, "ns"))
        previous = (steps, ours)
    return rows


def main(save: Annotated[bool, typer.Option(help="write the record")] = True) -> None:
    """Measures the overhead of runs and steps."""
    rows = asyncio.run(sample_rows()) + asyncio.run(chain_rows())
    record.show("overhead", rows)
    if save:
        print(record.write("overhead", rows))


if __name__ == "__main__":
    typer.run(main)
