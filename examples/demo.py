"""The reference sample, then a real network: ``python examples/demo.py`` (or ``make demo``)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

import onnxplan
from onnxplan.cli.inputs import read_inputs
from onnxplan.cli.terminal import compilation_bar, console
from onnxplan.cli.timing import compare_latency

SHOWN_LINES = 20
SECONDS = 3.0


def reference_model() -> onnx.ModelProto:
    """One MatMul of a 3x4 and a 4x3 matrix."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "sample",
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, [3, 4]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, [4, 3]),
        ],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [3, 3])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


async def run_sample() -> None:
    async with await onnxplan.InferenceSession.create(reference_model()) as session:
        a = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
        b = np.arange(10, 130, 10, dtype=np.float32).reshape(4, 3)
        results = await session.run({"a": a, "b": b})
        c = results["c"]
        print(f"data of result tensor 'c': {','.join(f'{value:g}' for value in c.data)}")
        print(f"type {c.type}, dims {list(c.dims)}, size {c.size}")


def run_network() -> None:
    file = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_resnet50.onnx"
    print("\nA ResNet-50 (onnxplan plan FILE prints all of its plan):\n")
    with compilation_bar() as loaded, onnxplan.InferenceSession(file) as session:
        loaded()
        lines = str(session.plan()).splitlines()
        print("\n".join([*lines[:SHOWN_LINES], "...", lines[-1], ""]))
        latencies = compare_latency(file, session, read_inputs(session), None, SECONDS)
    console().print(latencies.table())


if __name__ == "__main__":
    asyncio.run(run_sample())
    run_network()
