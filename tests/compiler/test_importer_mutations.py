"""Damaged models: they are imported, or refused by an error of onnxplan's own."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from importer_models import function, graph, linear_model, model, node, value
from onnx import TensorProto, helper, numpy_helper

from onnxplan.compiler.errors import OnnxPlanError
from onnxplan.compiler.importer import load_model


def mutations(data: bytes, count: int, seed: int):
    """``data`` with a few bytes changed, removed, doubled or cut off."""
    source = random.Random(seed)
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(source.choice((1, 1, 2, 8))):
            place = source.randrange(len(changed))
            kind = source.randrange(5)
            if kind == 0:
                changed[place] ^= 1 << source.randrange(8)
            elif kind == 1:
                changed[place] = source.randrange(256)
            elif kind == 2:
                del changed[place + 1 : place + source.randrange(2, 10)]
            elif kind == 3:
                changed[place:place] = changed[place : place + source.randrange(1, 9)]
            else:
                del changed[place + 1 :]
        yield bytes(changed)


def varied_model() -> onnx.ModelProto:
    """A bit of everything: initializers of several kinds, sparse ones, functions, subgraphs, attributes."""
    body = graph([node("Neg", "x", "t")], inputs=[], outputs=[value("t", None)])
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [2])
    places = helper.make_tensor("i", TensorProto.INT64, [1, 2], [1, 2])
    initializers = [
        numpy_helper.from_array(np.ones((3, 3), np.float32), "w"),
        helper.make_tensor("b", TensorProto.FLOAT, [3], [1, 2, 3]),
        helper.make_tensor("h", TensorProto.FLOAT16, [3], [1, 2, 3]),
        helper.make_tensor("k", TensorProto.INT4, [3], [1, -2, 3]),
        TensorProto(name="z", data_type=TensorProto.STRING, dims=[1], string_data=[b"text"]),
    ]
    nodes = [
        node("MatMul", "x w", "m"),
        node("Add", "m b", "a"),
        node("F", "a", "c", domain="local"),
        node("If", "f", "d", then_branch=body, else_branch=body),
        node("Sum", "c d s", "e"),
        node("Softmax", "e", "y", axis=-1, name="last"),
    ]
    return model(
        nodes,
        functions=[function("F", [node("Relu", "a", "q"), node("Neg", "q", "r")])],
        opsets={"": 17, "local": 1},
        inputs=[value("x", ["n", 3]), value("f", [], TensorProto.BOOL)],
        initializer=initializers,
        sparse_initializer=[helper.make_sparse_tensor(values, places, [2, 3])],
        value_info=[value("m", ["n", 3])],
    )


@pytest.mark.parametrize("make", [linear_model, varied_model, lambda: linear_model(2, 2000)])
def test_damaged_models_raise_only_our_errors(make):
    data = make().SerializeToString()
    load_model(data)
    refused = 0
    for changed in mutations(data, 300, seed=7):
        try:
            load_model(changed)
        except (OnnxPlanError, OSError):
            refused += 1
    assert refused > 30
