"""OrtValue and OrtDevice, beside onnxruntime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from both_modules import X, outcome, same
from onnx import TensorProto

import onnxplan.onnxruntime

ARRAYS = {
    "float": X,
    "int64": np.arange(3),
    "bool": np.array([True]),
    "half": X.astype(np.float16),
    "double": X.astype(float),
    "transposed": X.T,
    "scalar": np.array(1, np.float32),
    "no elements": np.zeros((0, 2), np.float32),
    "texts": np.array(["a", "b"]),
    "list": [1, 2],
}


@pytest.mark.parametrize("name", ARRAYS)
def test_values_of_arrays(name):
    def call(ort):
        value = ort.OrtValue.ortvalue_from_numpy(ARRAYS[name])
        return [
            value.shape(),
            value.data_type(),
            value.element_type(),
            value.device_name(),
            value.is_tensor(),
            value.is_sparse_tensor(),
            value.is_tensor_sequence(),
            value.has_value(),
            value.tensor_size_in_bytes(),
            value.numpy(),
            value.__dlpack_device__(),
        ]

    same(call)


def test_memory_is_shared(ort):
    array = X.copy()
    value = ort.OrtValue.ortvalue_from_numpy(array)
    assert value.data_ptr() == array.ctypes.data
    array[0, 0] = 9
    assert value.numpy()[0, 0] == 9
    assert np.shares_memory(np.asarray(value), array)
    assert np.shares_memory(np.from_dlpack(value), array)
    assert not np.shares_memory(np.array(value, copy=True), array)


def test_conversions():
    for call in (
        lambda ort: np.asarray(ort.OrtValue.ortvalue_from_numpy(X), dtype=np.float64),
        lambda ort: np.array(ort.OrtValue.ortvalue_from_numpy(X), copy=False),
        lambda ort: ort.OrtValue.from_dlpack(X).numpy(),
        lambda ort: ort.OrtValue.from_dlpack(X.__dlpack__()).numpy(),
        lambda ort: ort.OrtValue.from_dlpack(np.array([True])).data_type(),
        lambda ort: ort.OrtValue.from_dlpack(X.T),
        lambda ort: ort.OrtValue.from_dlpack(3),
        lambda ort: ort.OrtValue(3),
        lambda ort: ort.OrtValue.ortvalue_from_numpy(numpy_obj=X),
    ):
        same(call)


def test_dlpack_shares_memory(ort):
    array = X.copy()
    assert ort.OrtValue.from_dlpack(array).data_ptr() == array.ctypes.data


SHAPES = {
    "float": ([2, 3], np.float32),
    "dtype": ([2, 3], np.dtype("float32")),
    "text": ([2, 3], "int64"),
    "Python's float": ([1], float),
    "no elements": ([0], np.float32),
    "code": ((2, 3), TensorProto.BFLOAT16),
    "unknown code": ([1], 77),
    "strings": ([1], str),
    "negative": ([-1], np.float32),
}


@pytest.mark.parametrize("name", SHAPES)
def test_values_of_shapes(name):
    def call(ort):
        value = ort.OrtValue.ortvalue_from_shape_and_type(*SHAPES[name])
        return value.shape(), value.data_type(), value.element_type(), value.tensor_size_in_bytes()

    same(call)


def test_types_that_numpy_lacks():
    bits = np.array([0x3F80, 0x4000], np.uint16)

    def call(ort):
        value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, TensorProto.BFLOAT16)
        return value.shape(), value.data_type(), value.element_type(), value.data_ptr() == bits.ctypes.data

    assert same(call)[1] == "tensor(bfloat16)"
    same(lambda ort: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, TensorProto.BFLOAT16).numpy())
    same(lambda ort: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, TensorProto.FLOAT))
    ours = onnxplan.onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, TensorProto.BFLOAT16)
    assert ours._value.tolist() == [1.0, 2.0]
    assert (
        onnxplan.onnxruntime.OrtValue.ortvalue_from_numpy(X.astype(ml_dtypes.bfloat16)).element_type() == 16
    )


UPDATES = {
    "array": lambda ort: X * 2,
    "transposed": lambda ort: X.T,
    "value": lambda ort: ort.OrtValue.ortvalue_from_numpy(X + 5),
    "flat": lambda ort: np.ones(4, np.float32),
    "other size": lambda ort: np.ones(3, np.float32),
    "list": lambda ort: [1],
}


@pytest.mark.parametrize("name", UPDATES)
def test_updates_in_place(name):
    def call(ort):
        array = X.copy()
        value = ort.OrtValue.ortvalue_from_numpy(array)
        value.update_inplace(UPDATES[name](ort))
        return value.numpy(), array

    same(call)


def test_updates_of_another_type_are_refused():
    value = onnxplan.onnxruntime.OrtValue.ortvalue_from_numpy(X.copy())
    with pytest.raises(RuntimeError, match="float64"):
        value.update_inplace(X.astype(float))


def test_devices_that_are_not_there():
    for call in (
        lambda ort: ort.OrtValue.ortvalue_from_numpy(X, "cuda", 0),
        lambda ort: ort.OrtValue.ortvalue_from_shape_and_type([1], np.float32, "cuda", 0),
        lambda ort: ort.OrtValue.ortvalue_from_numpy(X, "foo", 0),
        lambda ort: ort.OrtValue.ortvalue_from_numpy(X, "CPU", 0),
        lambda ort: ort.OrtValue.ortvalue_from_numpy(X, "cpu", 1).device_name(),
    ):
        same(call)


def test_devices():
    def fields(device):
        return (
            device.device_id(),
            device.device_type(),
            int(device.device_vendor_id()),
            device.device_mem_type(),
        )

    for arguments in (("cpu", 0), ("cuda", 1), ("gpu", 1, 0x10DE), ("npu", 0), ("dml", 0), ("foo", 0)):
        same(lambda ort, arguments=arguments: fields(ort.OrtDevice.make(*arguments)))
    same(lambda ort: ort.OrtDevice(3))
    for name in ("cpu", "cuda", "gpu", "npu", "dml", "cann", "webgpu", "default_memory"):
        same(lambda ort, name=name: getattr(ort.capi.onnxruntime_pybind11_state.OrtDevice, name)())


def test_vectors():
    def call(ort):
        vector = ort.capi.onnxruntime_pybind11_state.OrtValueVector()
        vector.push_back(ort.OrtValue.ortvalue_from_numpy(X)._ortvalue)
        return len(vector), [value.numpy() for value in vector], vector[0].shape(), vector.element_type_at(0)

    same(call)


def test_tensors_are_copied():
    target = np.zeros((2, 2), np.float32)
    value = onnxplan.onnxruntime.OrtValue.ortvalue_from_numpy
    onnxplan.onnxruntime.copy_tensors([value(X)], [value(target)])
    np.testing.assert_array_equal(target, X)


def test_the_real_one_misreads_bytes_in_another_order():
    """So the difference, which the document names, is one."""

    def call(ort):
        return ort.OrtValue.ortvalue_from_numpy(X.astype(">f4")).numpy()

    assert outcome(call, onnxplan.onnxruntime)[0][2] == X.tolist()
    assert outcome(call, onnxruntime)[0][2] != X.tolist()
