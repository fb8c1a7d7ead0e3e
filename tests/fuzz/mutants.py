"""Damaged models: what they are made from, and slices of them."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.compiler.importer_models import function, graph, model, node, value
from tests.fuzz.mutations import damaged_bytes, damaged_model

sys.path.insert(0, str(Path(__file__).parent.parent / "ops"))


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


@functools.cache
def operator_models() -> list[onnx.ModelProto]:
    """A model for each operator case, with its inputs fed and with them constant."""
    from cases import discover

    return [case.model(constant=constant) for case in discover() for constant in (False, True)]


def mutants(models: Sequence[onnx.ModelProto], count: int, seed: int) -> list[bytes]:
    """Damaged models: mostly fields of the message, some bytes of the file."""
    source = random.Random(seed)
    found = []
    for _ in range(count):
        chosen = source.choice(models)
        if source.randrange(8):
            found.append(damaged_model(chosen, source).SerializeToString())
        else:
            found.append(damaged_bytes(chosen.SerializeToString(), source))
    return found
