"""What the device itself does: copy bandwidth, rates of matrix products, and the cost of a run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from unittest import SkipTest

import ml_dtypes
import numpy as np
import onnx
from onnx import helper

import onnxplan
from bench.cuda_models import interleave
from bench.overhead import product_chain, sample_model
from bench.record import Row
from bench.supervised import Settings

COPY_BYTES = 1 << 30
REPEATS = 20
# Element type and math mode -> extent of a square product.
PRODUCTS = {
    ("float32", "strict"): 8192,
    ("float32", "fast"): 8192,
    ("float16", "strict"): 8192,
    ("bfloat16", "strict"): 8192,
    ("float64", "strict"): 4096,
}
CHAINS = (1, 10, 100, 1000)
SECONDS = 1.0


def names(settings: Settings) -> list[str]:
    return [
        "copies",
        *(f"product {dtype} {math}" for dtype, math in PRODUCTS),
        "a run",
        *(f"chain {length}" for length in CHAINS),
    ]


def check(name: str, settings: Settings) -> dict[str, Any]:
    """Measures; the rows are among the details."""
    word, *rest = name.split(" ")
    if word == "copies":
        rows = copy_rows(settings)
    elif word == "product":
        rows = product_rows(rest[0], rest[1], settings)
    elif word == "chain":
        rows = chain_rows(int(rest[0]), settings)
    else:
        rows = asyncio.run(run_rows(settings))
    return {"rows": [asdict(row) for row in rows]}


def cuda_runtime(settings: Settings) -> Any:
    """CuPy's runtime module with the device current; raises ``SkipTest`` on other devices."""
    if not settings.device.startswith("cuda"):
        raise SkipTest("for CUDA only")
    from onnxplan.runtime.cuda.api import load_api

    runtime = load_api().runtime
    runtime.setDevice(int(settings.device.partition(":")[2] or 0))
    return runtime


def event_seconds(runtime: Any, stream: int, queue: Callable[[], None], repeats: int) -> float:
    """The median time that the device takes for what ``queue`` puts on ``stream``, between two events."""
    first, last = (runtime.eventCreateWithFlags(runtime.eventDefault) for _ in range(2))
    times = []
    for _ in range(repeats + 2):
        runtime.eventRecord(first, stream)
        queue()
        runtime.eventRecord(last, stream)
        runtime.eventSynchronize(last)
        times.append(1e-3 * runtime.eventElapsedTime(first, last))
    runtime.eventDestroy(first)
    runtime.eventDestroy(last)
    # The first ones load code and wake the clocks.
    return float(np.median(times[2:]))


def copy_rows(settings: Settings, size: int = COPY_BYTES) -> list[Row]:
    """Bandwidths in GB/s: inside of the device (bytes read and written both count), and to and from it."""
    runtime = cuda_runtime(settings)
    stream = runtime.streamCreateWithFlags(runtime.streamNonBlocking)
    first, second = runtime.malloc(size), runtime.malloc(size)
    pinned = runtime.hostAlloc(size, runtime.hostAllocDefault)
    runtime.memsetAsync(first, 1, size, stream)
    runtime.memsetAsync(second, 1, size, stream)
    kinds = {
        "copy inside of the device": (second, first, runtime.memcpyDeviceToDevice, 2),
        "copy from pinned memory": (first, pinned, runtime.memcpyHostToDevice, 1),
        "copy to pinned memory": (pinned, first, runtime.memcpyDeviceToHost, 1),
    }
    rows = []
    for name, (target, source, kind, passes) in kinds.items():

        def queue(target: int = target, source: int = source, kind: int = kind) -> None:
            runtime.memcpyAsync(target, source, size, kind, stream)

        seconds = event_seconds(runtime, stream, queue, REPEATS)
        rows.append(Row(name, passes * size / seconds / 1e9, "GB/s"))
    runtime.streamSynchronize(stream)
    runtime.freeHost(pinned)
    runtime.free(first)
    runtime.free(second)
    runtime.streamDestroy(stream)
    return rows


def product_model(dtype: str, extent: int) -> onnx.ModelProto:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(getattr(ml_dtypes, dtype, dtype)))
    infos = [helper.make_tensor_value_info(name, code, [extent, extent]) for name in ("a", "b", "c")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])], "product", infos[:2], infos[2:]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def product_rows(dtype: str, math: str, settings: Settings, extent: int | None = None) -> list[Row]:
    """TFLOP/s of a large square product whose operands stay on the device, beside ``torch.matmul``."""
    runtime = cuda_runtime(settings)
    extent = extent or PRODUCTS[dtype, math]
    generator = np.random.default_rng(0)
    arrays = {
        name: generator.standard_normal((extent, extent), np.float32).astype(getattr(ml_dtypes, dtype, dtype))
        for name in ("a", "b")
    }
    model = product_model(dtype, extent)
    with onnxplan.InferenceSession(model, device=settings.device, math=math) as session:
        feeds = {name: device_array(session, array) for name, array in arrays.items()}

        def ours() -> None:
            session.run_sync(feeds, outputs="device")
            runtime.deviceSynchronize()

        calls: dict[str, Callable[[], Any]] = {"onnxplan": ours}
        peer = torch_product(arrays, math, runtime)
        if peer is not None:
            calls["torch.matmul"] = peer
        medians = interleave(calls, SECONDS)
    rates = {name: 2 * extent**3 / seconds / 1e12 for name, seconds in medians.items()}
    label = f"product of {extent}x{extent} {dtype}, math={math}"
    rate = rates.pop("onnxplan")
    if not rates:
        return [Row(label, rate, "TFLOP/s")]
    return [Row(label, rate, "TFLOP/s", name, other, rate / other) for name, other in rates.items()]


def device_array(session: onnxplan.InferenceSession, array: np.ndarray) -> Any:
    """A copy of an array in the memory of the session's device."""
    identity = helper.make_node("Identity", ["x"], ["y"])
    code = helper.np_dtype_to_tensor_dtype(array.dtype)
    infos = [helper.make_tensor_value_info(name, code, array.shape) for name in ("x", "y")]
    graph = helper.make_graph([identity], "copy", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    with onnxplan.InferenceSession(model, device=session.device) as copier:
        return copier.run_sync({"x": array}, outputs="device")["y"]


def torch_on_cuda() -> Any | None:
    """PyTorch, if it has a GPU."""
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def torch_product(arrays: dict[str, np.ndarray], math: str, runtime: Any) -> Callable[[], None] | None:
    """``torch.matmul`` of the same matrices on the GPU, if there is such a thing here."""
    torch = torch_on_cuda()
    if torch is None:
        return None
    torch.backends.cuda.matmul.allow_tf32 = math == "fast"
    dtype = getattr(torch, arrays["a"].dtype.name)
    a, b = (torch.from_numpy(array.astype(np.float64)).to("cuda", dtype) for array in arrays.values())

    def run() -> None:
        torch.matmul(a, b)
        runtime.deviceSynchronize()

    return run


async def run_rows(settings: Settings) -> list[Row]:
    """The reference sample from host to host: microseconds of a run, blocking and awaited."""
    model = sample_model()
    feeds = {"a": np.ones((3, 4), np.float32), "b": np.ones((4, 3), np.float32)}
    with onnxplan.InferenceSession(model, device=settings.device) as session:
        medians = interleave({"sync": lambda: session.run_sync(feeds)}, SECONDS)
        times = []
        for _ in range(300):
            start = time.perf_counter()
            await session.run(feeds)
            times.append(time.perf_counter() - start)
    return [
        Row("session.run_sync of the sample", 1e6 * medians["sync"], "us"),
        Row("await session.run of the sample", 1e6 * float(np.median(times[50:])), "us"),
    ]


def chain_rows(length: int, settings: Settings) -> list[Row]:
    """Dependent products of 4x4 matrices: what a step of a graph costs."""
    feeds = {"x0": np.ones((4, 4), np.float32), "m": np.eye(4, dtype=np.float32)}
    with onnxplan.InferenceSession(product_chain(length), device=settings.device) as session:
        medians = interleave({"run": lambda: session.run_sync(feeds)}, SECONDS)
        steps = len(session.plan().steps)
    return [Row(f"chain of {steps} steps", 1e6 * medians["run"], "us")]
