"""Tensors of models: of all types, typed and raw, sparse, and left where they are if they are large."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from importer_models import constants, graph, linear_model, model, node, value
from onnx import TensorProto, helper, numpy_helper

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.importer.wire import MINIMUM_BYTES, detach_tensors


def constant_of(tensor: TensorProto) -> np.ndarray:
    return constants(load_model(model([node("Identity", tensor.name, "y")], initializer=[tensor])))[
        tensor.name
    ]


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
    if dtype.bits in (2, 4):
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
    flat = [1, 4, 7] if linear else np.ravel(indices).tolist()
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
