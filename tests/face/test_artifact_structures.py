"""Compiled artifacts of models with sequences, optionals and maps."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from face_models import FLOAT
from onnx import TensorProto, helper
from structure_models import X, Y, mapping, node, optional, same, sequence, tensor

import onnxplan
from onnxplan.compiler.checked_json import MalformedError
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import MapType, OptionalType, SequenceType, TensorType
from onnxplan.compiler.structures import Absent, MapRows, MapValue, SequenceValue
from onnxplan.runtime.artifact_structures import read_structure, read_type, write_structure, write_type


def model() -> onnx.ModelProto:
    nodes = [
        node("SequenceInsert", "xs x", "ys"),
        node("OptionalHasElement", "o", "has"),
        node("Identity", "o", "p"),
        node("DictVectorizer", "m", "v", string_vocabulary=["a", "c", "b"]),
        node("ZipMap", "v", "z", classlabels_int64s=[3, 1, 2]),
    ]
    inputs = {
        "xs": sequence(dims=["n", 3]),
        "x": tensor(),
        "o": optional(tensor()),
        "m": mapping(TensorProto.STRING, FLOAT),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_value_info(name, kind) for name, kind in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in ("ys", "has", "p", "z")],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports)


SHAPES = {"xs": [(2, 3), (1, 3)], "x": (1, 3), "m": ["a", "b"]}
FEEDS = {"xs": [X, Y], "x": Y, "m": {"b": 2.0, "a": 0.5}}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_structures_are_part_of_what_a_plan_is_for(device, tmp_path, emulated_cuda):
    path = tmp_path / "m.plan"
    onnxplan.compile(
        model(), path, device=device, shapes=[SHAPES, {**SHAPES, "o": (2, 3)}], include_model=False
    )
    with onnxplan.InferenceSession(path, device=device) as found, onnxplan.InferenceSession(model()) as plain:
        assert found.inputs == plain.inputs
        assert found.outputs == plain.outputs
        for extra in ({}, {"o": X}):
            results = found.run_sync({**FEEDS, **extra})
            same(results["ys"], [X, Y, Y])
            same(results["has"], np.bool_("o" in extra))
            same(results["p"], extra.get("o"))
            assert results["z"] == [{1: 0.0, 2: 2.0, 3: 0.5}]
        for other in ({"xs": [X]}, {"xs": [Y, X]}, {"m": {"a": 1.0, "c": 1.0}}, {"o": Y}):
            with pytest.raises(onnxplan.IncompatibleArtifactError):
                found.run_sync({**FEEDS, **other})


def test_what_has_no_plan_is_planned_from_the_model(tmp_path):
    path = tmp_path / "m.plan"
    onnxplan.compile(model(), path, shapes=SHAPES)
    with onnxplan.InferenceSession(path) as found:
        same(found.run_sync({**FEEDS, "xs": []})["ys"], [Y])
        same(found.run_sync(FEEDS)["ys"], [X, Y, Y])


TENSOR = TensorType(DType.FLOAT32, (2, "n", None))
MAP = MapType(DType.STRING, DType.FLOAT64)
TYPES = [TENSOR, TensorType(DType.BOOL, None), MAP, SequenceType(MAP), OptionalType(SequenceType(TENSOR))]
STRUCTURES = [
    "x",
    Absent(SequenceType(TENSOR)),
    SequenceValue(TENSOR, ("a", "b")),
    SequenceValue(MAP, (MapValue(MAP, ("k",), "a"), MapValue(MAP, (), "b"))),
    MapRows(MapType(DType.INT64, DType.FLOAT32), (-1, 2), "x"),
]


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_types_both_ways(kind):
    assert read_type(write_type(kind), "here") == kind


@pytest.mark.parametrize("value", STRUCTURES, ids=str)
def test_structures_both_ways(value):
    assert read_structure(write_structure(value), "here") == value


def nested(depth):
    return ["tensor", "bool", None] if depth == 0 else ["seq", nested(depth - 1)]


@pytest.mark.parametrize(
    "value",
    [
        None, 3, [], {}, [[1]], ["tensor"], ["tensor", "float31", None], ["tensor", "bool", [-1]],
        ["tensor", 1, None], ["seq"], ["seq", []], ["list", nested(0)], ["map", "float32", "bool"],
        ["map", "int64"], nested(30),
    ],
)  # fmt: skip
def test_malformed_types(value):
    with pytest.raises(MalformedError, match="here"):
        read_type(value, "here")


@pytest.mark.parametrize(
    "value",
    [
        None, 3, [], {}, ["absent"], ["absent", "x"], ["seq", nested(0), "x"], ["seq", nested(0)],
        ["map", ["map", "int64", "bool"], ["a"], "x"], ["map", ["map", "string", "bool"], [1], "x"],
        ["map", ["map", "int64", "bool"], [1], 2], ["rows", nested(0), [], "x"], ["rows", nested(0)],
        ["table", nested(0), [], "x"], ["seq", nested(0), [["seq", nested(0), [5]]]],
    ],
)  # fmt: skip
def test_malformed_structures(value):
    with pytest.raises(MalformedError, match="here"):
        read_structure(value, "here")
