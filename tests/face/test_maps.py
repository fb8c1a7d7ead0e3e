"""Maps as inputs and outputs."""

from __future__ import annotations

import numpy as np
import pytest
from face_models import FLOAT, refuse
from onnx import TensorProto, helper
from structure_models import X, mapping, node, same, session, tensor

import onnxplan


def vectorizer(vocabulary, key, code):
    name = "int64_vocabulary" if key == TensorProto.INT64 else "string_vocabulary"
    nodes = [node("DictVectorizer", "m", "y", **{name: vocabulary})]
    return session(nodes, {"m": mapping(key, code)}, {"y": None})


@pytest.mark.parametrize(
    ("vocabulary", "key", "code", "given", "row"),
    [
        (["a", "c", "b"], TensorProto.STRING, FLOAT, {"c": 2, "a": 1.5}, [1.5, 2, 0]),
        (["a", "c"], TensorProto.STRING, FLOAT, {"q": 7.0}, [0, 0]),
        (["a", "c"], TensorProto.STRING, FLOAT, {}, [0, 0]),
        ([1, 3], TensorProto.INT64, FLOAT, {np.int32(3): np.float32(4), 1: 5}, [5, 4]),
        ([7, -3, 1], TensorProto.INT64, TensorProto.DOUBLE, {1: 0.1, -3: np.array(2.5)}, [0, 2.5, 0.1]),
        (["a", "b"], TensorProto.STRING, TensorProto.INT64, {"b": 2**62}, [0, 2**62]),
        ([7, 3], TensorProto.INT64, TensorProto.STRING, {3: "x"}, ["", "x"]),
    ],
)
def test_maps(vocabulary, key, code, given, row):
    dtype = object if code == TensorProto.STRING else helper.tensor_dtype_to_np_dtype(code)
    with vectorizer(vocabulary, key, code) as found:
        for _ in range(2):
            same(found.run_sync({"m": given})["y"], np.array([row], dtype))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_cast_map(device, emulated_cuda):
    given = {3: 2.5, 1: -1.75, 9: 7.0}
    for target, code, dense, default in [
        ("TO_FLOAT", FLOAT, [-1.75, 2.5, 7.0], 0),
        ("TO_INT64", TensorProto.INT64, [-1, 2, 7], 0),
        ("TO_STRING", TensorProto.STRING, ["-1.750000", "2.500000", "7.000000"], "0.f"),
    ]:
        dtype = object if code == TensorProto.STRING else helper.tensor_dtype_to_np_dtype(code)
        nodes = [
            node("CastMap", "m", "y", cast_to=target),
            node("CastMap", "m", "z", cast_to=target, map_form="SPARSE", max_map=4),
        ]
        kinds = {"y": None, "z": None}
        with session(nodes, {"m": mapping(TensorProto.INT64, FLOAT)}, kinds, device=device) as found:
            for _ in range(2):
                results = found.run_sync({"m": given})
                same(results["y"], np.array([dense], dtype))
                same(results["z"], np.array([[default, dense[0], default, dense[1]]], dtype))
            refuse(
                found, {"m": {-1: 1.0}}, "'z'", "the key -1 is no position", "m map(int64,tensor(float)) with"
            )
            same(found.run_sync({"m": {}})["z"], np.array([[default] * 4], dtype))
    emulated_cuda.check()


def test_cast_map_of_strings():
    nodes = [
        node("CastMap", "m", "y", cast_to="TO_FLOAT"),
        node("CastMap", "m", "z", cast_to="TO_STRING", map_form="SPARSE", max_map=2),
    ]
    with session(
        nodes, {"m": mapping(TensorProto.INT64, TensorProto.STRING)}, {"y": None, "z": None}
    ) as found:
        results = found.run_sync({"m": {1: "2.5", 0: "-1"}})
        same(results["y"], np.float32([[-1, 2.5]]))
        same(results["z"], np.array([["-1", "2.5"]], object))
        refuse(found, {"m": {0: "many"}}, "'y'", "could not convert string to float: 'many'")


def test_maps_are_what_onnxruntime_makes_of_them():
    onnxruntime = pytest.importorskip("onnxruntime")
    kind = mapping(TensorProto.INT64, FLOAT)
    nodes = [
        node("DictVectorizer", "m", "v", int64_vocabulary=[5, 1, 3]),
        node("CastMap", "m", "dense", cast_to="TO_INT64"),
        node("CastMap", "m", "texts", cast_to="TO_STRING", map_form="SPARSE", max_map=4),
    ]
    codes = {"v": FLOAT, "dense": TensorProto.INT64, "texts": TensorProto.STRING}
    outputs = [helper.make_value_info(name, tensor(code)) for name, code in codes.items()]
    graph = helper.make_graph(nodes, "g", [helper.make_value_info("m", kind)], outputs)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=9)
    peer = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    with onnxplan.InferenceSession(proto) as found:
        assert [info.type for info in found.inputs] == [info.type for info in peer.get_inputs()]
        for given in ({5: 0.1, 1: -2.75, 7: 1e6}, {0: 1.0}):
            results = found.run_sync({"m": given})
            for name, right in zip(codes, peer.run(None, {"m": given}), strict=True):
                same(results[name], right)


BAD_MAPS = [
    ([1.0], ["m: map(string, float32)", "expected a dict", "list"]),
    ({1: 2.0}, ["m: map(string, float32)", "the key 1 is no string"]),
    ({"a": "text"}, ["do not convert to float32"]),
    ({"a": [1, 2]}, ["m['a']", "expected a scalar"]),
    ({"a": None}, ["m"]),
]


@pytest.mark.parametrize(("given", "parts"), BAD_MAPS)
def test_bad_maps(given, parts):
    with vectorizer(["a", "b"], TensorProto.STRING, FLOAT) as found:
        refuse(found, {"m": given}, *parts)
        same(found.run_sync({"m": {"b": 2}})["y"], np.float32([[0, 2]]))


@pytest.mark.parametrize("key", [True, 1.5, "1", 2**63])
def test_bad_integer_keys(key):
    with vectorizer([1, 2], TensorProto.INT64, FLOAT) as found:
        refuse(found, {"m": {key: 1.0}}, repr(key), "is no int64")


@pytest.mark.parametrize(
    "labels", [{"classlabels_int64s": [3, 1, 2]}, {"classlabels_strings": ["b", "c", "a"]}]
)
def test_zip_map(labels):
    (names,) = labels.values()
    with session([node("ZipMap", "x", "z", **labels)], {"x": tensor(dims=["n", 3])}, {"z": None}) as found:
        for x in (X, X[:0], X + 7, np.repeat(X, 50, 0)):
            rows = found.run_sync({"x": x})["z"]
            assert rows == [dict(zip(names, row, strict=True)) for row in x.tolist()]
            assert all(list(row) == sorted(names) for row in rows)
        assert len(found.plan({"x": (100, 3)}).steps) == 1


def test_zip_map_is_what_onnxruntime_gives():
    onnxruntime = pytest.importorskip("onnxruntime")
    kind = helper.make_sequence_type_proto(mapping(TensorProto.INT64, FLOAT))
    graph = helper.make_graph(
        [node("ZipMap", "x", "z", classlabels_int64s=[2, 1, 2])],
        "g",
        [helper.make_value_info("x", tensor(dims=["n", 3]))],
        [helper.make_value_info("z", kind)],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=9)
    peer = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (right,) = peer.run(None, {"x": X})
    with onnxplan.InferenceSession(proto) as found:
        assert found.run_sync({"x": X})["z"] == right
        assert [info.type for info in found.outputs] == [info.type for info in peer.get_outputs()]


def test_plans_for_keys():
    with vectorizer(["a", "b"], TensorProto.STRING, FLOAT) as found:
        assert found.plan({"m": ["b", "a"]}).inputs[0].shape == (2,)
        for keys, part in [("ab", "expected the keys"), ([1], "the key 1 is no string")]:
            with pytest.raises(onnxplan.InvalidFeedsError, match=part):
                found.plan({"m": keys})
