"""The first things that must work on a GPU, simplest first, so that a failure says where to look."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import asdict
from typing import Any
from unittest import SkipTest

import ml_dtypes
import numpy as np
import onnx
from onnx import helper

import onnxplan
from bench.supervised import Settings

TYPES = "float32 float16 bfloat16 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool".split()
PRODUCT_TOLERANCES = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2, "float64": 1e-12}
CHECKS = (
    ["inventory", "open the device", "one generated kernel", "reference sample", "awaited run"]
    + [f"copy {name}" for name in TYPES]
    + [f"product {name}" for name in PRODUCT_TOLERANCES]
    + [
        "a sum over blocks",
        "data decides a shape",
        "outputs stay on the device",
        "torch tensors",
        "cupy arrays",
    ]
)


def names(settings: Settings) -> list[str]:
    return CHECKS


def check(name: str, settings: Settings) -> dict[str, Any] | None:
    word, _, rest = name.partition(" ")
    if word == "copy":
        return copy_type(rest, settings)
    if word == "product":
        return product(rest, settings)
    return FUNCTIONS[name](settings)


def node_model(
    nodes: list[onnx.NodeProto], feeds: dict[str, np.ndarray], outputs: list[str]
) -> onnx.ModelProto:
    """A model of nodes for just these feeds."""
    infos = [
        helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for key, value in feeds.items()
    ]
    results = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(nodes, "probe", infos, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def run(
    nodes: list[onnx.NodeProto], feeds: dict[str, np.ndarray], outputs: list[str], settings: Settings
) -> list[np.ndarray]:
    model = node_model(nodes, feeds, outputs)
    with onnxplan.InferenceSession(model, device=settings.device) as session:
        results = session.run_sync(feeds)
        return [results[name].numpy() for name in outputs]


def inventory(settings: Settings) -> dict[str, Any]:
    from onnxplan.runtime.cuda.inventory import take_inventory

    return asdict(take_inventory())


def open_the_device(settings: Settings) -> dict[str, Any]:
    from onnxplan.runtime.devices import open_device

    return {"target": asdict(open_device(settings.device).selector.target)}


def generated_kernel(settings: Settings) -> None:
    x = np.arange(1000, dtype=np.float32)
    (y,) = run([helper.make_node("Mul", ["x", "x"], ["y"])], {"x": x}, ["y"], settings)
    np.testing.assert_array_equal(y, x * x)


SAMPLE = {
    "a": np.arange(1, 13, dtype=np.float32).reshape(3, 4),
    "b": np.arange(10, 130, 10, dtype=np.float32).reshape(4, 3),
}
PRODUCT = [700, 800, 900, 1580, 1840, 2100, 2460, 2880, 3300]


def reference_sample(settings: Settings) -> dict[str, Any]:
    model = node_model([helper.make_node("MatMul", ["a", "b"], ["c"])], SAMPLE, ["c"])
    with onnxplan.InferenceSession(model, device=settings.device) as session:
        result = session.run_sync(SAMPLE)["c"]
        assert result.data.tolist() == PRODUCT, result.data
        return {"plan": str(session.plan())}


def awaited_run(settings: Settings) -> None:
    async def sample() -> list[float]:
        model = node_model([helper.make_node("MatMul", ["a", "b"], ["c"])], SAMPLE, ["c"])
        async with await onnxplan.InferenceSession.create(model, device=settings.device) as session:
            for _ in range(3):
                results = await session.run(SAMPLE)
            return list(results["c"].numpy().reshape(-1))

    assert asyncio.run(asyncio.wait_for(sample(), 30)) == PRODUCT


def copy_type(name: str, settings: Settings) -> None:
    """Transposed, so that a kernel moves the elements."""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    x = np.arange(35).reshape(5, 7).astype(dtype)
    node = helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])
    (y,) = run([node], {"x": x}, ["y"], settings)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.view(np.uint8), np.ascontiguousarray(x.T).view(np.uint8))


def product(name: str, settings: Settings) -> dict[str, Any]:
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal(shape).astype(dtype) for shape in ((65, 130), (130, 70)))
    (c,) = run([helper.make_node("MatMul", ["a", "b"], ["c"])], {"a": a, "b": b}, ["c"], settings)
    right = a.astype(np.float64) @ b.astype(np.float64)
    error = float(np.abs(c.astype(np.float64) - right).max() / np.abs(right).max())
    assert error <= PRODUCT_TOLERANCES[name], f"error {error:.3g}"
    return {"error": error}


def sum_over_blocks(settings: Settings) -> None:
    x = np.random.default_rng(0).standard_normal(1_000_003).astype(np.float32)
    (y,) = run([helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], {"x": x}, ["y"], settings)
    np.testing.assert_allclose(y, x.sum(dtype=np.float64), rtol=1e-5, atol=1e-2)


def data_decides(settings: Settings) -> None:
    x = np.array([[0, 2, 0], [3, 0, 4]], np.float32)
    nodes = [helper.make_node("NonZero", ["x"], ["places"])]
    (places,) = run(nodes, {"x": x}, ["places"], settings)
    np.testing.assert_array_equal(places, np.nonzero(x))


def lists(settings: Settings) -> None:
    """Feeds that are no arrays, in the first run and in one that finds its plan."""
    model = node_model([helper.make_node("MatMul", ["a", "b"], ["c"])], SAMPLE, ["c"])
    with onnxplan.InferenceSession(model, device=settings.device) as session:
        for _ in range(3):
            results = session.run_sync({name: array.tolist() for name, array in SAMPLE.items()})
            assert results["c"].data.tolist() == PRODUCT


def outputs_on_device(settings: Settings) -> dict[str, Any]:
    """Results stay there, and are fed again."""
    if not settings.device.startswith("cuda"):
        raise SkipTest("for CUDA only")
    model = node_model([helper.make_node("MatMul", ["a", "b"], ["c"])], SAMPLE, ["c"])
    square = {"a": np.ones((3, 3), np.float32), "b": np.eye(3, dtype=np.float32)}
    again = node_model([helper.make_node("MatMul", ["a", "b"], ["c"])], square, ["c"])
    with (
        onnxplan.InferenceSession(model, device=settings.device) as session,
        onnxplan.InferenceSession(again, device=settings.device) as second,
    ):
        for _ in range(3):
            result = session.run_sync(SAMPLE, outputs="device")["c"]
            assert result.location.startswith("cuda"), result.location
            assert result.numpy().reshape(-1).tolist() == PRODUCT
            fed = second.run_sync({"a": result, "b": square["b"]}, outputs="device")["c"]
            assert fed.numpy().reshape(-1).tolist() == PRODUCT
        return {"location": result.location}


def torch_tensors(settings: Settings) -> None:
    torch = _module("torch", settings)
    model = node_model([helper.make_node("MatMul", ["a", "b"], ["c"])], SAMPLE, ["c"])
    with onnxplan.InferenceSession(model, device=settings.device) as session:
        feeds = {name: torch.from_numpy(array).cuda() for name, array in SAMPLE.items()}
        result = session.run_sync(feeds, outputs="device")["c"]
        assert torch.from_dlpack(result).cpu().numpy().reshape(-1).tolist() == PRODUCT


def cupy_arrays(settings: Settings) -> None:
    cupy = _module("cupy", settings)
    model = node_model([helper.make_node("MatMul", ["a", "b"], ["c"])], SAMPLE, ["c"])
    with onnxplan.InferenceSession(model, device=settings.device) as session:
        feeds = {name: cupy.asarray(array) for name, array in SAMPLE.items()}
        result = session.run_sync(feeds, outputs="device")["c"]
        assert cupy.asnumpy(cupy.from_dlpack(result)).reshape(-1).tolist() == PRODUCT
        assert cupy.asnumpy(cupy.asarray(result)).reshape(-1).tolist() == PRODUCT


def _module(name: str, settings: Settings) -> Any:
    """A module that makes arrays on a GPU, where there really is one."""
    if not settings.device.startswith("cuda"):
        raise SkipTest("for CUDA only")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise SkipTest(f"{name} is not installed") from error
    if not module.cuda.is_available():
        raise SkipTest(f"{name} finds no GPU")
    return module


FUNCTIONS = {
    "inventory": inventory,
    "open the device": open_the_device,
    "one generated kernel": generated_kernel,
    "reference sample": reference_sample,
    "awaited run": awaited_run,
    "a sum over blocks": sum_over_blocks,
    "data decides a shape": data_decides,
    "lists and scalars": lists,
    "outputs stay on the device": outputs_on_device,
    "torch tensors": torch_tensors,
    "cupy arrays": cupy_arrays,
}
