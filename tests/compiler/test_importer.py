"""Valid models: sources, tensors of all types, functions, names, versions."""

from __future__ import annotations

import io
import mmap
import pathlib

import ml_dtypes
import numpy as np
import onnx
import pytest
from importer_models import graph, linear_model, model, node, value
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.importer import load_model, portable, sources
from onnxplan.compiler.importer.wire import MINIMUM_BYTES, detach_tensors


def constants(loaded) -> dict[str, np.ndarray]:
    """Constants that the nodes of the graph read, by name."""
    return {
        item.name: item.constant
        for each in loaded.graph.walk()
        for item in each.inputs
        if item is not None and item.constant is not None
    }


def constant_of(tensor: TensorProto) -> np.ndarray:
    return constants(load_model(model([node("Identity", tensor.name, "y")], initializer=[tensor])))[
        tensor.name
    ]


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


def test_portable_sources_do_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert portable("model.onnx") == str(tmp_path / "model.onnx")
    assert portable(pathlib.Path("model.onnx")) == str(tmp_path / "model.onnx")
    assert portable(bytearray(b"abc")) == b"abc"
    proto = linear_model()
    assert portable(proto) == proto.SerializeToString()


def test_metadata(tmp_path):
    proto = linear_model()
    proto.producer_name, proto.producer_version, proto.doc_string = "maker", "2", "what it is"
    helper.set_model_props(proto, {"key": "text", "other": "ü"})
    loaded = load_model(source_file(proto, tmp_path))
    assert loaded.producer == "maker 2"
    assert loaded.description == "what it is"
    assert loaded.metadata == {"key": "text", "other": "ü"}
    assert loaded.path == str(tmp_path / "model.onnx")
    assert loaded.opsets == {"": 17}
    assert loaded.ir_version == 9


# Detached tensors


def scattered_model():
    """Large tensors in all the places where there may be some."""
    random = np.random.default_rng(1)
    arrays = {name: random.standard_normal(3000).astype(np.float32) for name in "abcdef"}
    tensors = {name: numpy_helper.from_array(array, name) for name, array in arrays.items()}
    places = numpy_helper.from_array(np.arange(3000), "places")
    sparse = helper.make_sparse_tensor(tensors["c"], places, [3000])
    sparse_attribute = helper.make_sparse_tensor(tensors["e"], places, [3000])
    then = graph([node("Constant", "", "t", value=tensors["d"])], inputs=[], outputs=[value("t", None)])
    other = graph(
        [node("Identity", "f", "o")], inputs=[], outputs=[value("o", None)], initializer=[tensors["f"]]
    )
    nodes = [
        node("Constant", "", "k", value=tensors["b"]),
        node("Constant", "", "s", sparse_value=sparse_attribute),
        node("If", "flag", "i", then_branch=then, else_branch=other),
        node("Sum", "x a c k s i", "y"),
    ]
    flag = value("flag", [], TensorProto.BOOL)
    proto = model(
        nodes, inputs=[value("x", [3000]), flag], initializer=[tensors["a"]], sparse_initializer=[sparse]
    )
    return proto, arrays


def test_tensors_are_detached_wherever_they_are():
    proto, arrays = scattered_model()
    data = proto.SerializeToString()
    structure = detach_tensors(memoryview(data))
    assert len(structure) < 5000 < len(data)
    loaded = load_model(data)
    found = constants(loaded)
    for each in loaded.graph.walk():
        if each.op_type == "Constant":
            found[each.outputs[0].name] = each.attributes.get("value", each.attributes.get("sparse_value"))
    for own, name in {"a": "a", "k": "b", "c": "c", "t": "d", "s": "e", "f": "f"}.items():
        np.testing.assert_array_equal(found[own], arrays[name], err_msg=name)


def test_without_large_tensors_the_bytes_stay_the_same():
    data = linear_model().SerializeToString()
    assert detach_tensors(memoryview(data)) == data


@pytest.mark.parametrize("size", [MINIMUM_BYTES - 4, MINIMUM_BYTES, MINIMUM_BYTES + 4])
def test_detaching_starts_at_a_size(size):
    array = np.arange(size // 4, dtype=np.float32)
    np.testing.assert_array_equal(constant_of(numpy_helper.from_array(array, "w")), array)


def test_the_last_of_repeated_raw_data_counts():
    first, second = np.full(2000, 1, np.float32), np.full(2000, 2, np.float32)
    tensor = numpy_helper.from_array(first, "w")
    proto = model([node("Identity", "w", "y")], initializer=[tensor])
    again = TensorProto(raw_data=second.tobytes())
    merged = (
        proto.SerializeToString()
        + onnx.ModelProto(
            graph=onnx.GraphProto(
                initializer=[TensorProto.FromString(tensor.SerializeToString() + again.SerializeToString())]
            )
        ).SerializeToString()
    )
    # The two graph fields merge into one graph of two initializers of the same name.
    doubled = onnx.ModelProto.FromString(merged)
    del doubled.graph.initializer[0]
    np.testing.assert_array_equal(constants(load_model(doubled))["w"], second)


# Tensors

RAW_TYPES = [d for d in DType if d is not DType.STRING]


def codes_of(dtype: DType, count: int) -> np.ndarray:
    """An array of ``dtype`` whose bytes take many values."""
    random = np.random.default_rng(3)
    if dtype is DType.BOOL:
        return random.integers(0, 2, count).astype(bool)
    if dtype.kind == "c":
        return (random.standard_normal(count) + 1j * random.standard_normal(count)).astype(dtype.numpy)
    if dtype.is_integer:
        limits = ml_dtypes.iinfo(dtype.numpy)
        return random.integers(
            int(limits.min), int(limits.max), count, dtype=np.int64 if limits.min else np.uint64
        ).astype(dtype.numpy)
    return random.standard_normal(count).astype(dtype.numpy)


def assert_same_bits(found: np.ndarray, right: np.ndarray) -> None:
    assert found.dtype == right.dtype
    assert found.shape == right.shape
    assert found.tobytes() == right.tobytes()


@pytest.mark.parametrize("dtype", RAW_TYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3), (3, 0, 2)], ids=str)
def test_raw_data(dtype, shape):
    array = codes_of(dtype, int(np.prod(shape))).reshape(shape)
    tensor = numpy_helper.from_array(array, "w")
    assert tensor.data_type == dtype.code
    assert_same_bits(constant_of(tensor), array)


@pytest.mark.parametrize("dtype", RAW_TYPES, ids=str)
def test_typed_data(dtype):
    array = codes_of(dtype, 7)
    # onnx packs types of less than eight bits in raw data alone: unpack them to the field by hand.
    if dtype.label in ("int4", "uint4", "float4e2m1", "int2", "uint2"):
        packed = numpy_helper.from_array(array, "w")
        tensor = TensorProto(name="w", data_type=dtype.code, dims=[7], int32_data=list(packed.raw_data))
    elif dtype.is_float and dtype.itemsize < 4:
        patterns = array.view(np.uint16 if dtype.itemsize == 2 else np.uint8)
        tensor = TensorProto(name="w", data_type=dtype.code, dims=[7], int32_data=patterns.tolist())
    else:
        tensor = helper.make_tensor("w", dtype.code, [7], array.tolist())
    assert not tensor.HasField("raw_data")
    assert_same_bits(constant_of(tensor), array)


def test_strings():
    texts = [b"a", b"", "ü".encode(), b"\xff"]
    tensor = TensorProto(name="w", data_type=TensorProto.STRING, dims=[2, 2], string_data=texts)
    found = constant_of(tensor)
    assert found.tolist() == [["a", ""], ["ü", "\udcff"]]
    assert found.dtype == object


def test_raw_bools_are_zero_or_one():
    tensor = TensorProto(name="w", data_type=TensorProto.BOOL, dims=[4], raw_data=b"\0\1\2\xff")
    assert constant_of(tensor).view(np.uint8).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("linear", [False, True])
def test_sparse_initializers_become_dense(linear):
    values = helper.make_tensor("w", TensorProto.FLOAT, [3], [1, 2, 3])
    indices = [[0, 1], [1, 0], [1, 3]]
    flat = [1, 4, 7] if linear else sum(indices, [])
    places = helper.make_tensor("i", TensorProto.INT64, [3] if linear else [3, 2], flat)
    sparse = helper.make_sparse_tensor(values, places, [2, 4])
    loaded = load_model(model([node("Identity", "w", "y")], sparse_initializer=[sparse]))
    np.testing.assert_array_equal(constants(loaded)["w"], [[0, 1, 0, 0], [2, 0, 0, 3]])


def test_a_sparse_initializer_without_values():
    values = helper.make_tensor("w", TensorProto.INT32, [0], [])
    places = helper.make_tensor("i", TensorProto.INT64, [0, 2], [])
    sparse = helper.make_sparse_tensor(values, places, [2, 0])
    loaded = load_model(model([node("Identity", "w", "y")], sparse_initializer=[sparse]))
    assert constants(loaded)["w"].shape == (2, 0)


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
