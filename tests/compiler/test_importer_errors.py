"""Everything that can be wrong with a model: an error of onnxplan's own, with a text that helps."""

from __future__ import annotations

import itertools
import random
import re

import numpy as np
import onnx
import pytest
from importer_models import function, graph, linear_model, model, node, refuse, value
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxplan.compiler.errors import UnsupportedOperatorError
from onnxplan.compiler.importer import load_model

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
    for before, after in itertools.pairwise(members):
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
        (node("Sum", "x _ x", "y", name="n"), ["'n'", "lacks its input 1, one of 'data_0'"]),
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
        ({"dims": [2, 3], "raw_data": bytes(20)}, ["20 bytes of data; float32[2, 3] needs 24"]),
        ({"dims": [2, 3], "raw_data": bytes(28)}, ["28 bytes of data; float32[2, 3] needs 24"]),
        ({"dims": [2, 3000], "raw_data": bytes(23996)}, ["23996 bytes", "needs 24000"]),
        ({"dims": [2], "float_data": [1.0]}, ["1 elements of data; float32[2] needs 2"]),
        ({"dims": [2], "float_data": [1.0] * 3}, ["3 elements of data; float32[2] needs 2"]),
        ({"dims": [2]}, ["0 elements of data; float32[2] needs 2"]),
        ({"dims": [2], "int32_data": [1, 2]}, ["0 elements of data; float32[2] needs 2"]),
        (
            {"dims": [2], "data_type": TensorProto.INT4, "raw_data": b"12"},
            ["2 bytes of data; int4[2] needs 1"],
        ),
        (
            {"dims": [3], "data_type": TensorProto.INT4, "int32_data": [1]},
            ["1 bytes of data; int4[3] needs 2"],
        ),
        (
            {"dims": [2], "data_type": TensorProto.COMPLEX64, "float_data": [1.0] * 3},
            ["3 elements", "needs 4"],
        ),
        ({"dims": [2], "data_type": TensorProto.STRING, "string_data": [b"a"]}, ["1 strings", "needs 2"]),
        ({"dims": [1], "data_type": TensorProto.STRING, "raw_data": b"12345678"}, ["strings cannot"]),
        ({"dims": [-1], "raw_data": bytes(4)}, ["negative dimension: [-1]"]),
        ({"dims": [1 << 40, 1 << 40], "raw_data": bytes(4)}, ["impossible shape"]),
        ({"dims": [1 << 40], "raw_data": bytes(4)}, ["4 bytes of data"]),
        ({"dims": [1] * 70, "raw_data": bytes(4)}, ["impossible shape"]),
        ({"dims": [0, 1 << 60, 1 << 60]}, ["impossible shape"]),
        ({"dims": [1], "data_type": 0, "raw_data": bytes(4)}, ["unknown element type 0"]),
        ({"dims": [1], "data_type": 99, "raw_data": bytes(4)}, ["unknown element type 99"]),
        ({"dims": [1], "segment": TensorProto.Segment(begin=0, end=1), "float_data": [1]}, ["segments"]),
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
