"""Small ONNX models to import, valid ones and others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.importer import load_model


def value(name: str, dims: Sequence[int | str | None] | None = (2, 3), code: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, code, dims)


def graph(nodes: Sequence[NodeProto], **parts: Any) -> GraphProto:
    """A graph from ``x`` to ``y`` unless ``inputs`` or ``outputs`` say otherwise."""
    inputs = parts.pop("inputs", [value("x")])
    outputs = parts.pop("outputs", [value("y", None)])
    return helper.make_graph(list(nodes), parts.pop("name", "g"), inputs, outputs, **parts)


def model(content: GraphProto | Sequence[NodeProto], **settings: Any) -> ModelProto:
    """A model of opset 17 (or ``opsets``) around a graph, or around nodes and what :func:`graph` takes."""
    opsets = settings.pop("opsets", {"": 17})
    functions = settings.pop("functions", [])
    ir_version = settings.pop("ir_version", 9)
    if not isinstance(content, GraphProto):
        content = graph(content, **settings)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return helper.make_model(content, opset_imports=imports, functions=functions, ir_version=ir_version)


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """A node with names divided by spaces; ``_`` stands for a missing one."""
    names = [["" if name == "_" else name for name in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op_type, *names, **attributes)


def linear_model(rows: int = 3, columns: int = 4) -> ModelProto:
    """``y = Relu(x @ w + b)`` with initializers of a known content."""
    weights = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    initializers = [
        numpy_helper.from_array(weights, "w"),
        numpy_helper.from_array(np.arange(columns, dtype=np.float32), "b"),
    ]
    nodes = [node("MatMul", "x w", "m"), node("Add", "m b", "a"), node("Relu", "a", "y", name="last")]
    return model(nodes, initializer=initializers, inputs=[value("x", ["batch", rows])])


def external(tensor: TensorProto, location: str, **entries: int) -> TensorProto:
    """``tensor`` with its data said to lie in a file."""
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.ClearField("raw_data")
    copy.data_location = TensorProto.EXTERNAL
    for key, item in {"location": location, **entries}.items():
        copy.external_data.append(onnx.StringStringEntryProto(key=key, value=str(item)))
    return copy


def function(name: str, nodes: Sequence[NodeProto]) -> FunctionProto:
    """A function of the domain ``local`` from ``a`` to ``r``."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["r"], nodes, imports)


def refuse(source, *parts: str, kind: type[Exception] = InvalidModelError) -> str:
    """Loads ``source``, which must fail with all ``parts`` in the text of the error."""
    with pytest.raises(kind) as caught:
        load_model(source)
    text = str(caught.value)
    for part in parts:
        assert part in text, text
    return text


def constants(loaded) -> dict[str, np.ndarray]:
    """Constants that the nodes of the graph read, by name."""
    return {
        item.name: item.constant
        for each in loaded.graph.walk()
        for item in each.inputs
        if item is not None and item.constant is not None
    }
