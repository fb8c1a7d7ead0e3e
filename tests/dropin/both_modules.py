"""Models, and the comparison of one call on both modules."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

import onnxplan.onnxruntime

MODULES = {"onnxruntime": onnxruntime, "onnxplan": onnxplan.onnxruntime}
X = np.arange(4, dtype=np.float32).reshape(2, 2)


def info(name: str, dims: Any, code: int = TensorProto.FLOAT, **options: Any) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, code, dims, **options)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    metadata: dict[str, str] | None = None,
    **initializers: np.ndarray,
) -> bytes:
    tensors = [numpy_helper.from_array(array, name) for name, array in initializers.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors, doc_string="about the graph")
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)],
        ir_version=8,
        producer_name="maker",
        model_version=7,
        doc_string="about the model",
        domain="a.domain",
    )
    helper.set_model_props(made, metadata or {})
    return made.SerializeToString()


def sums(dims: Any = ("n", 2), metadata: dict[str, str] | None = None) -> bytes:
    """``z = x + y`` and its Relu ``r``; ``y`` has a default of ones."""
    nodes = [helper.make_node("Add", ["x", "y"], ["z"]), helper.make_node("Relu", ["z"], ["r"])]
    outputs = [info("z", dims), info("r", None)]
    return model(nodes, [info("x", dims), info("y", [2])], outputs, metadata, y=np.ones(2, np.float32))


def identity(code: int, dims: Any = ("n",)) -> bytes:
    return model(
        [helper.make_node("Identity", ["x"], ["z"])], [info("x", dims, code)], [info("z", dims, code)]
    )


def outcome(call: Callable[[ModuleType], Any], ort: ModuleType) -> Any:
    """What a call gives, or the name of what it raises and of the warnings, comparable between modules."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = plain(call(ort))
        except Exception as error:
            found = type(error).__name__
    return found, [type(item.message).__name__ for item in caught]


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.name, value.shape, value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def same(call: Callable[[ModuleType], Any]) -> Any:
    """The outcome of a call, which must be the same on both modules."""
    expected = outcome(call, onnxruntime)
    assert outcome(call, onnxplan.onnxruntime) == expected
    return expected[0]
