"""Valid models: sources, tensors of all types, functions, names, versions."""

from __future__ import annotations

import io
import mmap
import pathlib

import numpy as np
import onnx
import pytest
from importer_models import constants, graph, linear_model, model, node, value
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxplan.compiler.importer import load_model, sources
from onnxplan.compiler.ir import standard_name

# Sources


def source_file(proto, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    return path


@pytest.mark.parametrize("columns", [4, 4096])
@pytest.mark.parametrize(
    "make",
    [
        lambda proto, tmp_path: proto,
        lambda proto, tmp_path: proto.SerializeToString(),
        lambda proto, tmp_path: bytearray(proto.SerializeToString()),
        lambda proto, tmp_path: memoryview(proto.SerializeToString()),
        source_file,
        lambda proto, tmp_path: str(source_file(proto, tmp_path)),
        lambda proto, tmp_path: bytes_path(source_file(proto, tmp_path)),
    ],
    ids=["proto", "bytes", "bytearray", "memoryview", "path", "text", "path of bytes"],
)
def test_every_source_gives_the_same_model(make, columns, tmp_path):
    loaded = load_model(make(linear_model(3, columns), tmp_path))
    assert [each.op_type for each in loaded.graph.nodes] == ["MatMul", "Add", "Relu"]
    assert str(loaded.graph.inputs[0].type) == "float32[batch, 3]"
    found = constants(loaded)
    np.testing.assert_array_equal(found["w"], np.arange(3 * columns, dtype=np.float32).reshape(3, columns))
    np.testing.assert_array_equal(found["b"], np.arange(columns, dtype=np.float32))


def bytes_path(path: pathlib.Path):
    class BytesPath:
        def __fspath__(self) -> bytes:
            return bytes(path)

    return BytesPath()


def test_a_model_in_bytes_is_not_copied():
    data = linear_model(3, 4096).SerializeToString()
    array = constants(load_model(data))["w"]
    assert np.shares_memory(array, np.frombuffer(data, np.uint8))
    assert not array.flags.writeable


def test_mutable_bytes_may_be_reused_afterwards():
    data = bytearray(linear_model(3, 4096).SerializeToString())
    loaded = load_model(data)
    data[:] = bytes(len(data))
    assert constants(loaded)["w"][2, 4095] == 3 * 4096 - 1


def test_a_proto_is_neither_changed_nor_kept():
    proto = linear_model(3, 4096)
    before = proto.SerializeToString()
    loaded = load_model(proto)
    assert proto.SerializeToString() == before
    proto.graph.initializer[0].raw_data = bytes(len(proto.graph.initializer[0].raw_data))
    assert constants(loaded)["w"][2, 4095] == 3 * 4096 - 1


def test_large_files_are_mapped_and_small_ones_read(tmp_path, monkeypatch):
    path = source_file(linear_model(3, 4096), tmp_path)
    small = constants(load_model(path))["w"]
    monkeypatch.setattr(sources, "MAPPED_BYTES", 1000)
    large = constants(load_model(path))["w"]
    for array, kind in ((small, bytes), (large, mmap.mmap)):
        base = array
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base.obj, kind)
        assert array[2, 4095] == 3 * 4096 - 1


def test_mapped_pages_are_given_back_and_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAPPED_BYTES", 1000)
    loaded = load_model(source_file(linear_model(3, 4096), tmp_path))
    weights = constants(loaded)["w"]
    assert len(loaded.mappings) == 1
    for _ in range(2):
        assert weights[2, 4095] == 3 * 4096 - 1
        loaded.release_pages()
    assert load_model(linear_model()).mappings == ()


def test_a_model_tells_what_it_can_be_loaded_from_again(tmp_path, monkeypatch):
    proto = linear_model()
    path = source_file(proto, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert load_model("model.onnx").source == str(path)
    assert load_model(pathlib.Path("model.onnx")).source == str(path)
    data = proto.SerializeToString()
    assert load_model(data).source is data
    assert load_model(bytearray(data)).source == data
    assert load_model(proto).source == data


def test_metadata(tmp_path):
    proto = linear_model()
    proto.producer_name, proto.producer_version, proto.doc_string = "maker", "2", "what it is"
    helper.set_model_props(proto, {"key": "text", "other": "ü"})
    loaded = load_model(source_file(proto, tmp_path))
    assert (loaded.producer, loaded.producer_version) == ("maker", "2")
    assert loaded.description == "what it is"
    assert loaded.metadata == {"key": "text", "other": "ü"}
    assert loaded.path == str(tmp_path / "model.onnx")
    assert loaded.opsets == {"": 17}
    assert loaded.ir_version == 9


# Graphs


def test_inputs_with_an_initializer_have_a_default():
    tensor = numpy_helper.from_array(np.float32([1, 2, 3]), "w")
    proto = model([node("Add", "x w", "y")], inputs=[value("x"), value("w", ["n"])], initializer=[tensor])
    loaded = load_model(proto)
    x, w = loaded.graph.inputs
    assert x.default is None
    np.testing.assert_array_equal(w.default, [1, 2, 3])
    assert str(w.type) == "float32[n]"


def test_dimensions():
    dims = [2, "batch", None, 0]
    loaded = load_model(model([node("Identity", "x", "y")], inputs=[value("x", dims)]))
    assert loaded.graph.inputs[0].type.shape == (2, "batch", None, 0)
    assert str(loaded.graph.inputs[0].type) == "float32[2, batch, ?, 0]"
    loaded = load_model(model([node("Identity", "x", "y")], inputs=[value("x", None)]))
    assert loaded.graph.inputs[0].type.shape is None
    negative = model([node("Identity", "x", "y")], inputs=[value("x", [-1, 3])])
    assert load_model(negative).graph.inputs[0].type.shape == (None, 3)


def test_types_that_are_no_tensors():
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 2])
    scalar = helper.make_tensor_type_proto(TensorProto.DOUBLE, [])
    sequence = helper.make_sequence_type_proto(tensor)
    optional = helper.make_optional_type_proto
    mapping = helper.make_map_type_proto(TensorProto.STRING, scalar)
    for proto, text, name in [
        (sequence, "seq(float32[n, 2])", "seq(tensor(float))"),
        (optional(tensor), "optional(float32[n, 2])", "optional(tensor(float))"),
        (optional(sequence), "optional(seq(float32[n, 2]))", "optional(seq(tensor(float)))"),
        (mapping, "map(string, float64)", "map(string,tensor(double))"),
        (
            helper.make_sequence_type_proto(mapping),
            "seq(map(string, float64))",
            "seq(map(string,tensor(double)))",
        ),
        (helper.make_map_type_proto(TensorProto.INT64, tensor), "None", None),
        (helper.make_map_type_proto(TensorProto.FLOAT, scalar), "None", None),
        (helper.make_sequence_type_proto(helper.make_map_type_proto(99, scalar)), "None", None),
    ]:
        loaded = load_model(model([node("Identity", "x", "y")], inputs=[helper.make_value_info("x", proto)]))
        kind = loaded.graph.inputs[0].type
        assert str(kind) == text
        assert name is None or standard_name(kind) == name


def test_nodes_are_sorted():
    nodes = [node("Add", "b c", "y"), node("Relu", "a", "c"), node("Abs", "a", "b"), node("Neg", "x", "a")]
    order = [each.op_type for each in load_model(model(nodes)).graph.nodes]
    assert order.index("Neg") == 0
    assert order.index("Add") == 3


def test_sorted_nodes_keep_their_order():
    nodes = [node("Neg", "x", "a"), node("Abs", "x", "b"), node("Relu", "a", "c"), node("Sum", "a b c", "y")]
    assert [each.op_type for each in load_model(model(nodes)).graph.nodes] == ["Neg", "Abs", "Relu", "Sum"]


def test_subgraphs_read_what_is_around_them_and_order_the_nodes():
    then = graph([node("Add", "late x", "t")], inputs=[], outputs=[value("t", None)])
    other = graph([node("Identity", "x", "o")], inputs=[], outputs=[value("o", None)])
    nodes = [
        node("If", "flag", "y", then_branch=then, else_branch=other),
        node("Relu", "x", "late"),
        node("Constant", "", "flag", value=numpy_helper.from_array(np.array(True))),
    ]
    loaded = load_model(model(nodes))
    branch = loaded.graph.nodes[-1]
    assert branch.op_type == "If"
    relu = next(each for each in loaded.graph.nodes if each.op_type == "Relu")
    assert branch.graph("then_branch").nodes[0].inputs[0] is relu.outputs[0]


def test_names_of_a_subgraph_hide_those_around_it():
    body = graph([node("Neg", "x", "a")], inputs=[], outputs=[value("a", None)])
    nodes = [node("Relu", "x", "a"), node("If", "flag", "b", then_branch=body, else_branch=body)]
    nodes.append(node("Add", "a b", "y"))
    loaded = load_model(model(nodes, inputs=[value("x"), value("flag", [], TensorProto.BOOL)]))
    relu, branch, add = loaded.graph.nodes
    inner = branch.graph("then_branch")
    assert inner.outputs[0] is inner.nodes[0].outputs[0]
    assert add.inputs[0] is relu.outputs[0]


def test_outputs_may_be_inputs_and_initializers():
    tensor = numpy_helper.from_array(np.float32([1]), "w")
    loaded = load_model(model([], outputs=[value("x"), value("w", None)], initializer=[tensor]))
    assert loaded.graph.outputs[0] is loaded.graph.inputs[0]
    assert loaded.graph.outputs[1].constant is not None


def test_missing_inputs_and_outputs_are_none():
    nodes = [node("Clip", "x _ high", "c"), node("Dropout", "c", "y _")]
    tensor = numpy_helper.from_array(np.float32(1), "high")
    clip, dropout = load_model(model(nodes, initializer=[tensor])).graph.nodes
    assert clip.inputs[1] is None
    assert dropout.outputs[1] is None
    assert clip.label == "c"


def test_attributes():
    proto = model(
        [node("LRN", "x", "y", size=3, alpha=0.5, name="norm")],
        inputs=[value("x", [1, 2, 3, 3])],
    )
    (found,) = load_model(proto).graph.nodes
    assert found.attributes == {"size": 3, "alpha": 0.5}
    assert found.label == "norm"
    resize = node(
        "Resize",
        "x _ s",
        "y",
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "s")
    (found,) = load_model(
        model([resize], inputs=[value("x", [1, 2, 3, 3])], initializer=[tensor])
    ).graph.nodes
    assert found.string("mode") == "nearest"


def test_old_models_name_neither_opset_nor_attribute_types():
    proto = model([node("Softmax", "x", "y", axis=1)], ir_version=1)
    del proto.opset_import[:]
    proto.graph.node[0].attribute[0].type = AttributeProto.UNDEFINED
    loaded = load_model(proto)
    assert loaded.opsets == {"": 1}
    assert loaded.graph.nodes[0].attributes == {"axis": 1}


@pytest.mark.parametrize("version", range(1, onnx.defs.onnx_opset_version() + 1))
def test_every_opset(version):
    loaded = load_model(model([node("Relu", "x", "a"), node("MatMul", "a x", "y")], opsets={"": version}))
    assert loaded.opsets == {"": version}
    assert loaded.graph.nodes[0].version == version


def test_both_spellings_of_the_domain():
    for spelling in ("", "ai.onnx"):
        loaded = load_model(model([node("Relu", "x", "y", domain="ai.onnx")], opsets={spelling: 17}))
        assert loaded.graph.nodes[0].domain == ""


# Functions


def function(name, nodes, inputs="a", outputs="r", domain="local", opsets=None, **more):
    imports = [helper.make_opsetid(d, v) for d, v in (opsets or {"": 17, "local": 1}).items()]
    return helper.make_function(domain, name, inputs.split(), outputs.split(), nodes, imports, **more)


def test_functions_are_inlined():
    inner = function("Inner", [node("Relu", "a", "r")])
    outer = function("Outer", [node("Inner", "a", "b", domain="local"), node("Neg", "b", "r")])
    nodes = [node("Outer", "x", "m", domain="local"), node("Outer", "m", "y", domain="local")]
    loaded = load_model(model(nodes, functions=[outer, inner], opsets={"": 17, "local": 1}))
    assert [each.op_type for each in loaded.graph.nodes] == ["Relu", "Neg", "Relu", "Neg"]


def test_attributes_of_functions_are_filled_in():
    leaky = node("LeakyRelu", "a", "r")
    leaky.attribute.append(AttributeProto(name="alpha", ref_attr_name="slope", type=AttributeProto.FLOAT))
    body = function("Slope", [leaky], attributes=["slope"])
    nodes = [node("Slope", "x", "y", domain="local", slope=0.25)]
    loaded = load_model(model(nodes, functions=[body], opsets={"": 17, "local": 1}))
    assert loaded.graph.nodes[0].attributes == {"alpha": 0.25}


def test_functions_of_another_opset_are_converted():
    axes = function("Squeeze1", [node("Squeeze", "a", "r", axes=[0])], opsets={"": 11})
    nodes = [node("Squeeze1", "x", "y", domain="local")]
    loaded = load_model(
        model(nodes, inputs=[value("x", [1, 3])], functions=[axes], opsets={"": 17, "local": 1})
    )
    squeeze = loaded.graph.nodes[-1]
    assert squeeze.op_type == "Squeeze"
    assert len(squeeze.inputs) == 2


def test_large_constants_of_functions_are_not_copied():
    array = np.arange(4096, dtype=np.float32)
    nodes = [node("Constant", "", "k", value=numpy_helper.from_array(array, "k")), node("Add", "a k", "r")]
    calls = [node("Shift", "x", "m", domain="local"), node("Shift", "m", "y", domain="local")]
    proto = model(
        calls, inputs=[value("x", [4096])], functions=[function("Shift", nodes)], opsets={"": 17, "local": 1}
    )
    data = proto.SerializeToString()
    found = [n.attributes["value"] for n in load_model(data).graph.nodes if n.op_type == "Constant"]
    assert len(found) == 2
    for each in found:
        np.testing.assert_array_equal(each, array)
        assert np.shares_memory(each, np.frombuffer(data, np.uint8))


def test_overloads_are_told_apart():
    first = function("F", [node("Relu", "a", "r")])
    second = function("F", [node("Neg", "a", "r")])
    first.overload, second.overload = "one", "two"
    calls = [
        node("F", "x", "m", domain="local", overload="two"),
        node("F", "m", "y", domain="local", overload="one"),
    ]
    loaded = load_model(model(calls, functions=[first, second], opsets={"": 17, "local": 1}, ir_version=10))
    assert [each.op_type for each in loaded.graph.nodes] == ["Neg", "Relu"]


def test_importing_takes_no_copy_of_the_weights(tmp_path, monkeypatch):
    tracemalloc = pytest.importorskip("tracemalloc")
    monkeypatch.setattr(sources, "MAPPED_BYTES", 1 << 20)
    path = source_file(linear_model(1024, 2048), tmp_path)
    load_model(path)
    tracemalloc.start()
    try:
        loaded = load_model(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert constants(loaded)["w"].nbytes == 8 << 20
    assert peak < 1 << 20


def test_large_file_readers_are_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAPPED_BYTES", 1)
    path = source_file(linear_model(3, 4096), tmp_path)
    opened = []
    real = io.open

    def remember(*arguments, **options):
        opened.append(real(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr("builtins.open", remember)
    load_model(path)
    assert opened
    assert all(file.closed for file in opened)
