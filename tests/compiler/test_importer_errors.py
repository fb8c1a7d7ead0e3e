"""Everything that can be wrong with a model: an error of onnxplan's own, with a text that helps."""

from __future__ import annotations

import os
import random
import re

import numpy as np
import onnx
import pytest
from importer_models import graph, linear_model, model, node, value
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxplan.compiler.errors import InvalidModelError, OnnxPlanError, UnsupportedOperatorError
from onnxplan.compiler.importer import load_model


def refuse(source, *parts: str, kind: type[Exception] = InvalidModelError) -> str:
    """Loads ``source``, which must fail with all ``parts`` in the text of the error."""
    with pytest.raises(kind) as caught:
        load_model(source)
    text = str(caught.value)
    for part in parts:
        assert part in text, text
    return text


def saved(tmp_path, content: bytes, name: str = "model.onnx") -> str:
    path = tmp_path / name
    path.write_bytes(content)
    return str(path)


# Sources


def test_no_such_file(tmp_path):
    path = str(tmp_path / "none.onnx")
    with pytest.raises(FileNotFoundError) as caught:
        load_model(path)
    assert caught.value.filename == path
    assert "no such model file" in str(caught.value)


def test_a_directory(tmp_path):
    refuse(tmp_path, str(tmp_path), "is a directory; expected an ONNX file")
    saved(tmp_path, b"x", "inner.onnx")
    refuse(tmp_path, "inner.onnx")


def test_no_regular_file(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    refuse(path, str(path), "not a regular file")
    refuse("/dev/zero", "not a regular file")


def test_an_empty_file(tmp_path):
    path = saved(tmp_path, b"")
    refuse(path, path, "is empty")
    refuse(b"", "empty")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = saved(tmp_path, linear_model().SerializeToString())
    os.chmod(path, 0)
    with pytest.raises(PermissionError, match=re.escape(path)):
        load_model(path)


def test_a_path_with_a_null_character():
    refuse("model\0.onnx", "is no path")


@pytest.mark.parametrize("source", [None, 3, 1.5, ["model.onnx"], object(), np.zeros(3)])
def test_no_source_at_all(source):
    with pytest.raises(TypeError, match=f"path, bytes or onnx.ModelProto, not as {type(source).__name__}"):
        load_model(source)


def test_a_path_given_as_bytes():
    refuse(b"folder/model.onnx", "17 bytes", "looks like a path")


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(40), "ZIP archive"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"\x80\x02}q\x00", "pickle"),
        (b"\x18\x00\x00\x00ORTM" + bytes(40), "onnxruntime's own format"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(40), "TensorFlow Lite"),
        (b'{"a": 1}', "JSON"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_files_of_another_kind(content, hint, tmp_path):
    path = saved(tmp_path, content)
    refuse(path, path, "not an ONNX model", hint)


def test_random_bytes(tmp_path):
    for seed in range(50):
        content = random.Random(seed).randbytes(2000)
        refuse(saved(tmp_path, content), "not an ONNX model")
        refuse(content, "not an ONNX model", "2000 bytes")


def test_every_truncation(tmp_path):
    data = linear_model(3, 2000).SerializeToString()
    for length in [*range(1, 200), *range(200, len(data), 997), len(data) - 1]:
        with pytest.raises(InvalidModelError):
            load_model(data[:length])
    path = saved(tmp_path, data[:-1000])
    refuse(path, path, "cut short")


def test_other_messages():
    refuse(onnx.ModelProto(), "the ModelProto", "no graph")
    refuse(onnx.ModelProto(ir_version=9), "no graph")
    refuse(onnx.TensorProto(dims=[3], data_type=1, name="t").SerializeToString(), "not an ONNX model")
    refuse(b"\x08\x07", "no graph")


# Header


def test_no_operator_set():
    proto = linear_model()
    del proto.opset_import[:]
    refuse(proto, "imports no operator set")


def test_operator_sets_that_disagree():
    proto = linear_model()
    proto.opset_import.append(helper.make_opsetid("ai.onnx", 13))
    refuse(proto, "'ai.onnx'", "17 and 13")
    proto = linear_model()
    proto.opset_import[0].version = 0
    refuse(proto, "'ai.onnx'", "version 0")


def test_an_operator_set_that_is_not_imported():
    refuse(
        model([node("Gelu", "x", "y", domain="com.microsoft")]), "'y'", "com.microsoft::Gelu", "imports no"
    )


def test_all_missing_operators_are_listed_at_once():
    nodes = [
        node("Nonsense", "x", "a", name="first"),
        node("Relu", "a", "b"),
        node("Nonsense", "b", "c", name="second"),
        node("Fancy", "c", "y", name="third", domain="com.example"),
    ]
    proto = model(nodes, opsets={"": 17, "com.example": 2})
    refuse(
        proto,
        "the ModelProto",
        "ai.onnx::Nonsense (opset 17), nodes: first, second",
        "com.example::Fancy (opset 2), nodes: third",
        kind=UnsupportedOperatorError,
    )
    with pytest.raises(UnsupportedOperatorError) as caught:
        load_model(proto)
    assert caught.value.operators == (
        ("", "Nonsense", 17, ("first", "second")),
        ("com.example", "Fancy", 2, ("third",)),
    )
    assert isinstance(caught.value, NotImplementedError)
    assert load_model(proto, check_operators=False).graph.nodes[0].op_type == "Nonsense"


def test_missing_operators_inside_of_subgraphs_are_listed():
    body = graph([node("Nonsense", "x", "a", name="inner")], inputs=[], outputs=[value("a", None)])
    proto = model(
        [node("If", "f", "y", then_branch=body, else_branch=body)],
        inputs=[value("x"), value("f", [], TensorProto.BOOL)],
    )
    refuse(proto, "Nonsense", "inner", kind=UnsupportedOperatorError)


def test_many_nodes_are_abbreviated():
    nodes = [node("Nonsense", "x", f"n{i}") for i in range(9)]
    refuse(
        model([*nodes, node("Relu", "n8", "y")]),
        "n0, n1, n2, n3, n4 and 4 more",
        kind=UnsupportedOperatorError,
    )


def test_a_newer_opset_comes_with_the_other_gaps():
    newest = onnx.defs.onnx_opset_version()
    proto = model([node("Nonsense", "x", "a"), node("Relu", "a", "y", beyond=1)], opsets={"": newest + 1})
    text = refuse(proto, f"opset {newest + 1}", f"up to {newest}", "Nonsense", kind=UnsupportedOperatorError)
    assert "Relu" not in text


# Names


def test_a_value_that_nothing_defines():
    nodes = [node("Relu", "x", "hidden"), node("Add", "hiden x", "y", name="sum")]
    refuse(model(nodes), "'sum'", "Add", "'hiden', which nothing defines", "did you mean 'hidden'")


def test_an_output_that_nothing_computes():
    refuse(model([node("Relu", "x", "z")], outputs=[value("zz")]), "graph output 'zz'", "did you mean 'z'")


def test_a_value_of_a_subgraph_does_not_leave_it():
    body = graph([node("Neg", "x", "inner")], inputs=[], outputs=[value("inner", None)])
    nodes = [node("If", "f", "a", then_branch=body, else_branch=body), node("Add", "a inner", "y")]
    refuse(model(nodes, inputs=[value("x"), value("f", [], TensorProto.BOOL)]), "reads 'inner'")


def test_a_subgraph_reads_what_nothing_defines():
    body = graph([node("Neg", "missing", "a", name="inner")], inputs=[], outputs=[value("a", None)])
    nodes = [node("If", "f", "y", then_branch=body, else_branch=body)]
    refuse(model(nodes, inputs=[value("f", [], TensorProto.BOOL)]), "'missing'")


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_cycle(length):
    nodes = [node("Neg", f"v{(i - 1) % length}", f"v{i}", name=f"n{i}") for i in range(length)]
    nodes.append(node("Relu", "v0", "y"))
    text = refuse(model(nodes), "cycle")
    members = re.findall(r"'n(\d)'", text)
    assert len(members) == length + 1
    assert members[0] == members[-1]
    for before, after in zip(members, members[1:], strict=False):
        assert int(after) == (int(before) + 1) % length


def test_a_cycle_through_a_subgraph():
    body = graph([node("Neg", "y", "a")], inputs=[], outputs=[value("a", None)])
    nodes = [node("If", "f", "b", then_branch=body, else_branch=body), node("Relu", "b", "y")]
    refuse(model(nodes, inputs=[value("f", [], TensorProto.BOOL)]), "cycle")


def test_a_long_chain_is_no_problem():
    nodes = [node("Neg", f"v{i}", f"v{i + 1}") for i in range(5000)]
    random.Random(0).shuffle(nodes)
    loaded = load_model(model(nodes, inputs=[value("v0")], outputs=[value("v5000", None)]))
    names = [each.inputs[0].name for each in loaded.graph.nodes]
    assert names == [f"v{i}" for i in range(5000)]


def test_names_that_are_taken():
    two = [node("Relu", "x", "y", name="first"), node("Neg", "x", "y", name="second")]
    refuse(model(two), "'second'", "'y'", "another value of that name")
    refuse(model([node("Relu", "x", "x", name="own")], outputs=[value("x")]), "'own'", "'x'")
    refuse(model([node("Relu", "x", "y")], inputs=[value("x"), value("x")]), "graph input 'x'")
    refuse(model([node("Relu", "x", "y")], outputs=[value("y"), value("y")]), "graph output 'y'", "twice")
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    nodes = [node("Relu", "w", "y")]
    refuse(model(nodes, initializer=[tensor, tensor]), "initializer 'w'", "another")
    given = [value("w", [3])]
    refuse(model(nodes, inputs=given, initializer=[tensor, tensor]), "initializer 'w'", "another")
    refuse(model([node("Relu", "x", "w")], outputs=[value("w")], initializer=[tensor]), "'w'", "another")


def test_names_that_are_empty():
    tensor = numpy_helper.from_array(np.zeros(3, np.float32))
    refuse(model([node("Relu", "x", "y")], initializer=[tensor]), "initializer has no name")
    refuse(model([node("Relu", "x", "y")], inputs=[value("x"), value("")]), "graph input has no name")


def test_names_that_are_no_text():
    data = model([node("Relu", "x", "odd_name"), node("Neg", "odd_name", "y")]).SerializeToString()
    refuse(data.replace(b"odd_name", b"odd\xffname"), "not UTF-8")
    refuse(data.replace(b"Relu", b"Re\xffu"), "not UTF-8")


def test_no_outputs():
    refuse(model([node("Relu", "x", "y")], outputs=[]), "no outputs")


# Nodes


@pytest.mark.parametrize(
    ("bad", "parts"),
    [
        (node("Relu", "x x", "y", name="n"), ["'n' (Relu, opset 17)", "2 inputs; expected 1"]),
        (node("Relu", "", "y", name="n"), ["0 inputs; expected 1"]),
        (node("Relu", "x", "y z", name="n"), ["2 outputs; expected 1"]),
        (node("Clip", "x x x x", "y", name="n"), ["4 inputs; expected 1 to 3"]),
        (node("Concat", "", "y", name="n", axis=0), ["0 inputs; expected at least 1"]),
        (node("Add", "x _", "y", name="n"), ["'n'", "lacks its input 'B'"]),
        (node("Concat", "x x", "y", name="n"), ["'n'", "lacks its attribute 'axis'"]),
        (node("Concat", "x x", "y", name="n", axis=1.0), ["'axis' is of type float, expected int"]),
        (node("Softmax", "x", "y", name="n", axes=1), ["no attribute 'axes'", "did you mean 'axis'"]),
        (node("Relu", "x", "y", name="n", slope=1.0), ["no attribute 'slope'", "known: none"]),
    ],
    ids=lambda item: (
        "" if isinstance(item, list) else f"{item.op_type}-{len(item.input)}-{len(item.attribute)}"
    ),
)
def test_nodes_against_their_schema(bad, parts):
    refuse(model([bad]), *parts)


def test_an_attribute_that_stands_twice():
    bad = node("Softmax", "x", "y", axis=1, name="n")
    bad.attribute.append(helper.make_attribute("axis", 0))
    refuse(model([bad]), "'n'", "attribute twice")


def test_attributes_of_no_type():
    bad = node("Softmax", "x", "y", name="n")
    bad.attribute.append(AttributeProto(name="axis"))
    refuse(model([bad]), "'n'", "'axis' is of type undefined, expected int")
    bad = node("Fancy", "x", "y", name="n", domain="other")
    bad.attribute.append(AttributeProto(name="axis"))
    refuse(model([bad], opsets={"": 17, "other": 1}), "'n'", "'axis'", "unknown type 0")


def test_an_attribute_of_a_function_outside_of_one():
    bad = node("Softmax", "x", "y", name="n")
    bad.attribute.append(AttributeProto(name="axis", type=AttributeProto.INT, ref_attr_name="outer"))
    refuse(model([bad]), "'axis'", "'n'", "'outer'", "in no function")


def test_a_tensor_attribute_that_is_broken():
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[3], raw_data=b"1234")
    refuse(
        model([node("Constant", "", "y", value=tensor, name="n")]), "'value'", "'n'", "4 bytes", "needs 12"
    )


# Tensors


@pytest.mark.parametrize(
    ("tensor", "parts"),
    [
        (dict(dims=[2, 3], raw_data=bytes(20)), ["20 bytes of data; float32[2, 3] needs 24"]),
        (dict(dims=[2, 3], raw_data=bytes(28)), ["28 bytes of data; float32[2, 3] needs 24"]),
        (dict(dims=[2, 3000], raw_data=bytes(23996)), ["23996 bytes", "needs 24000"]),
        (dict(dims=[2], float_data=[1.0]), ["1 elements of data; float32[2] needs 2"]),
        (dict(dims=[2], float_data=[1.0] * 3), ["3 elements of data; float32[2] needs 2"]),
        (dict(dims=[2]), ["0 elements of data; float32[2] needs 2"]),
        (dict(dims=[2], int32_data=[1, 2]), ["0 elements of data; float32[2] needs 2"]),
        (dict(dims=[2], data_type=TensorProto.INT4, raw_data=b"12"), ["2 bytes of data; int4[2] needs 1"]),
        (dict(dims=[3], data_type=TensorProto.INT4, int32_data=[1]), ["1 bytes of data; int4[3] needs 2"]),
        (dict(dims=[2], data_type=TensorProto.COMPLEX64, float_data=[1.0] * 3), ["3 elements", "needs 4"]),
        (dict(dims=[2], data_type=TensorProto.STRING, string_data=[b"a"]), ["1 strings", "needs 2"]),
        (dict(dims=[1], data_type=TensorProto.STRING, raw_data=b"12345678"), ["strings cannot"]),
        (dict(dims=[-1], raw_data=bytes(4)), ["negative dimension: [-1]"]),
        (dict(dims=[1 << 40, 1 << 40], raw_data=bytes(4)), ["impossible shape"]),
        (dict(dims=[1 << 40], raw_data=bytes(4)), ["4 bytes of data"]),
        (dict(dims=[1] * 70, raw_data=bytes(4)), ["impossible shape"]),
        (dict(dims=[0, 1 << 60, 1 << 60]), ["impossible shape"]),
        (dict(dims=[1], data_type=0, raw_data=bytes(4)), ["unknown element type 0"]),
        (dict(dims=[1], data_type=99, raw_data=bytes(4)), ["unknown element type 99"]),
        (dict(dims=[1], segment=TensorProto.Segment(begin=0, end=1), float_data=[1]), ["segments"]),
    ],
    ids=lambda item: " ".join(item) if isinstance(item, list) else "",
)
def test_initializers(tensor, parts):
    broken = TensorProto(**{"name": "w", "data_type": TensorProto.FLOAT, **tensor})
    refuse(model([node("Identity", "w", "y")], initializer=[broken]), "initializer 'w'", *parts)


@pytest.mark.parametrize(
    ("values", "indices", "dims", "parts"),
    [
        ([1, 2], [0, 9], [8], ["outside of its shape [8]"]),
        ([1, 2], [0, -1], [8], ["outside of its shape [8]"]),
        ([1, 2], [[0, 0], [0, 4]], [4, 4], ["outside of its shape [4, 4]"]),
        ([1, 2], [0], [8], ["2 values but indices of shape [1]"]),
        ([1, 2], [[0, 1, 2], [0, 1, 2]], [4, 4], ["2 values but indices of shape [2, 3]"]),
        ([[1, 2]], [0, 1], [4, 4], ["vector of values"]),
    ],
)
def test_sparse_initializers(values, indices, dims, parts):
    tensor = numpy_helper.from_array(np.array(values, np.float32), "w")
    places = numpy_helper.from_array(np.array(indices, np.int64), "i")
    sparse = helper.make_sparse_tensor(tensor, places, dims)
    refuse(model([node("Identity", "w", "y")], sparse_initializer=[sparse]), "sparse initializer 'w'", *parts)


def test_a_sparse_initializer_that_is_too_large():
    tensor = numpy_helper.from_array(np.ones(1, np.float32), "w")
    places = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    sparse = helper.make_sparse_tensor(tensor, places, [1 << 55])
    proto = model([node("Identity", "w", "y")], sparse_initializer=[sparse])
    refuse(proto, "'w'", f"{4 << 55:,} bytes", kind=MemoryError)


def test_a_default_that_does_not_fit_its_input():
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    for given in (value("w", [4]), value("w", [3, 1]), value("w", [3], TensorProto.INT32)):
        proto = model([node("Identity", "w", "y")], inputs=[given], initializer=[tensor])
        refuse(proto, "initializer 'w' is float32[3], its graph input")


# Functions


def function(name, nodes):
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["r"], nodes, imports)


def calling(name, functions):
    nodes = [node(name, "x", "y", domain="local")]
    return model(nodes, functions=functions, opsets={"": 17, "local": 1})


def test_functions_that_call_themselves():
    own = function("F", [node("F", "a", "r", domain="local")])
    refuse(calling("F", [own]), "functions call themselves: local::F -> local::F")
    first = function("F", [node("G", "a", "r", domain="local")])
    body = graph([node("F", "a", "t", domain="local")], inputs=[], outputs=[value("t", None)])
    flag = numpy_helper.from_array(np.array(True))
    second = function(
        "G", [node("Constant", "", "f", value=flag), node("If", "f", "r", then_branch=body, else_branch=body)]
    )
    refuse(calling("F", [first, second]), "local::F -> local::G -> local::F")


def test_functions_that_stand_twice():
    own = function("F", [node("Relu", "a", "r")])
    refuse(calling("F", [own, own]), "two functions")


def test_functions_that_are_not_there():
    other = function("G", [node("Relu", "a", "r")])
    refuse(calling("F", [other]), "local::F", kind=UnsupportedOperatorError)


def test_functions_with_too_many_inputs():
    proto = calling("F", [function("F", [node("Relu", "a", "r")])])
    proto.graph.node[0].input.append("x")
    refuse(proto)


# Whatever else


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
