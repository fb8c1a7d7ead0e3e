"""Small models for the tests of the face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import onnxplan
from onnxplan.compiler.dtypes import DType
from onnxplan.feeds import check_feeds
from onnxplan.infos import TensorInfo
from onnxplan.runtime.devices import open_device

FLOAT = TensorProto.FLOAT


def value(name: str, dims: Sequence[int | str | None] | None, code: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, code, dims)


def model(
    nodes: Sequence[NodeProto], inputs: Sequence[Any], outputs: Sequence[str], **constants: Any
) -> ModelProto:
    """A model of opset 17; ``constants`` are its initializers."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        list(inputs),
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> NodeProto:
    """A node with names divided by spaces."""
    return helper.make_node(op_type, inputs.split(), outputs.split(), **attributes)


def product_model(rows: Any = 3, inner: Any = 4, columns: Any = 3) -> ModelProto:
    """``c = a @ b``, called ``product``."""
    inputs = [value("a", [rows, inner]), value("b", [inner, columns])]
    return model([node("MatMul", "a b", "c", name="product")], inputs, ["c"])


def sums_model(dims: Sequence[Any] = ("n", 3)) -> ModelProto:
    """``s = x + y``, ``d = x - y``, ``p = x * y`` of equal shapes."""
    nodes = [node("Add", "x y", "s"), node("Sub", "x y", "d"), node("Mul", "x y", "p")]
    return model(nodes, [value("x", dims), value("y", dims)], ["s", "d", "p"])


def copy_model(code: int, dims: Sequence[Any] | None = ("n",)) -> ModelProto:
    """``y = x`` of any type."""
    return model([node("Identity", "x", "y")], [value("x", dims, code)], ["y"])


EXTENT = 384


def long_model(steps: int = 24) -> ModelProto:
    """A chain of large products that takes a while: ``y = x @ w @ w ...`` of a reflection ``w``."""
    extent = EXTENT
    normal = np.random.default_rng(0).standard_normal((extent, 1))
    w = (np.eye(extent) - 2 * normal @ normal.T / (normal.T @ normal)).astype(np.float32)
    nodes = [
        node("MatMul", f"{f'v{step}' if step else 'x'} w", f"v{step + 1}" if step + 1 < steps else "y")
        for step in range(steps)
    ]
    return model(nodes, [value("x", [extent, extent])], ["y"], w=w)


A = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
B = 10 * np.arange(1, 13, dtype=np.float32).reshape(4, 3)
C = np.array([[700, 800, 900], [1580, 1840, 2100], [2460, 2880, 3300]], np.float32)


def refuse(session, feeds, *parts):
    """Runs, which must fail with all ``parts`` in the text; afterwards the session still works."""
    with pytest.raises(onnxplan.InvalidFeedsError) as caught:
        session.run_sync(feeds)
    for part in parts:
        assert part in str(caught.value), str(caught.value)
    assert isinstance(caught.value, ValueError)
    if session.output_names == ("c",):
        np.testing.assert_array_equal(session.run_sync({"a": A, "b": B})["c"], C)


def info(kind: str = "float32", dims=("n",)) -> TensorInfo:
    return TensorInfo("x", kind, dims)


CPU = open_device("cpu")


def taken(given, kind: str = "float32", dims=None) -> np.ndarray:
    """What a kernel would be handed."""
    (found,) = check_feeds({"x": given}, [info(kind, dims)], [], CPU)[0].values()
    assert found.flags.c_contiguous
    assert found.flags.aligned
    assert found.dtype == DType.from_label(kind).numpy
    return found
