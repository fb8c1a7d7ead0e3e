"""Tensors: typed, shaped views of memory."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import onnxplan
from onnxplan import Tensor
from onnxplan.compiler.dtypes import DType

X = np.arange(6, dtype=np.float32).reshape(2, 3)
NUMERIC = [d for d in DType if d is not DType.STRING]


def test_the_parts_of_a_tensor():
    tensor = Tensor("float32", [1, 2, 3, 4, 5, 6], (2, 3))
    assert tensor.type == "float32"
    assert tensor.dims == (2, 3)
    assert tensor.size == 6
    assert tensor.location == "cpu"
    assert len(tensor) == 2
    assert tensor.data.shape == (6,)
    assert tensor.data.tolist() == [1, 2, 3, 4, 5, 6]
    assert tensor.numpy().shape == (2, 3)
    assert tensor.numpy().dtype == np.float32
    assert repr(tensor) == "Tensor('float32', dims=[2, 3], data=[1. 2. 3. 4. 5. 6.])"
    assert len(repr(Tensor.from_numpy(np.zeros(10**6)))) < 200


@pytest.mark.parametrize(
    ("data", "dims", "shape"),
    [
        ([1, 2, 3, 4], None, (4,)),
        ([[1, 2], [3, 4]], None, (2, 2)),
        ([[1, 2], [3, 4]], (4, 1), (4, 1)),
        (5, None, ()),
        ([5], (), ()),
        ([], (0, 3), (0, 3)),
        (np.int64([1, 2]), [2, 1], (2, 1)),
        (np.int64(7), (1, 1), (1, 1)),
        (Tensor("int64", [1, 2]), None, (2,)),
        (range(3), None, (3,)),
    ],
    ids=str,
)
def test_shapes(data, dims, shape):
    tensor = Tensor("int64", data, dims)
    assert tensor.dims == shape
    assert tensor.numpy().dtype == np.int64


@pytest.mark.parametrize("dtype", NUMERIC, ids=str)
def test_every_element_type(dtype):
    tensor = Tensor(dtype.label, [1, 1, 1], (3, 1))
    assert tensor.type == dtype.label
    assert tensor.numpy().dtype == dtype.numpy
    np.testing.assert_array_equal(tensor.numpy().astype(np.complex128), np.ones((3, 1)))
    again = Tensor.from_numpy(tensor.numpy())
    assert again.type == dtype.label
    assert np.shares_memory(again.numpy(), tensor.numpy())
    assert dtype.label in repr(tensor)


def test_strings():
    tensor = Tensor("string", ["a", "ü"])
    assert tensor.type == "string"
    assert tensor.numpy().tolist() == ["a", "ü"]
    assert Tensor.from_numpy(np.array(["a", "b"])).numpy().dtype == object


def test_errors():
    with pytest.raises(TypeError, match=r"'float' is no element type; expected one of float32, .*bfloat16"):
        Tensor("float", [1])
    with pytest.raises(TypeError, match="of type float64, not float32"):
        Tensor("float32", np.zeros(3))
    for dims in [(2, 2), (4,), (), (-1, 3), (-3, -1)]:
        with pytest.raises(ValueError, match="3 elements do not fill"):
            Tensor("float32", [1, 2, 3], dims)
    with pytest.raises(TypeError, match="NumPy array is expected, not list"):
        Tensor.from_numpy([1, 2])
    with pytest.raises(TypeError, match="datetime64"):
        Tensor.from_numpy(np.zeros(3, "datetime64[s]"))
    with pytest.raises(TypeError):
        len(Tensor("float32", 1))


# Memory


def test_nothing_is_copied_without_need():
    for tensor in (Tensor("float32", X), Tensor("float32", X, (3, 2)), Tensor.from_numpy(X)):
        assert np.shares_memory(tensor.numpy(), X)
        assert np.shares_memory(tensor.data, X)
        assert np.shares_memory(np.asarray(tensor), X)
        assert tensor.numpy() is tensor.numpy()
        assert tensor.numpy().flags.writeable


def test_other_layouts_are_copied():
    swapped = X.astype(">f4")
    misaligned = np.frombuffer(b"?" + X.tobytes(), np.float32, offset=1).reshape(2, 3)
    for array in (X.T, X[:, ::2], swapped, misaligned):
        for tensor in (Tensor.from_numpy(array), Tensor("float32", array)):
            found = tensor.numpy()
            assert found.flags.c_contiguous
            assert found.flags.aligned
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, array)
            assert tensor.data.tolist() == array.ravel().tolist()
    assert Tensor.from_numpy(np.array(3.0)).dims == ()
    assert Tensor.from_numpy(np.float32(3)).dims == ()


def test_conversion_to_arrays():
    tensor = Tensor.from_numpy(X)
    assert np.shares_memory(np.array(tensor, copy=False), X)
    assert not np.shares_memory(np.array(tensor), X)
    assert np.asarray(tensor, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="without a copy"):
        np.array(tensor, np.float64, copy=False)
    np.testing.assert_array_equal(np.add(tensor, 1), X + 1)
    assert float(np.sum(tensor)) == 15


# DLPack


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "int64", "uint8", "bool", "complex64"])
def test_dlpack_both_ways(kind):
    tensor = Tensor(kind, [[1, 0, 1], [0, 1, 1]])
    assert tensor.__dlpack_device__() == (1, 0)
    array = np.from_dlpack(tensor)
    assert np.shares_memory(array, tensor.numpy())
    np.testing.assert_array_equal(array, tensor.numpy())
    again = Tensor.from_dlpack(tensor)
    assert again.type == kind
    assert again.dims == (2, 3)
    assert np.shares_memory(again.numpy(), tensor.numpy())


@pytest.mark.parametrize("kind", ["bfloat16", "float8e4m3fn", "int4", "string"])
def test_types_that_dlpack_cannot_carry(kind):
    tensor = Tensor(kind, ["a"] if kind == "string" else [1])
    with pytest.raises(BufferError):
        tensor.__dlpack__()


def test_the_memory_outlives_the_tensor():
    array = np.from_dlpack(Tensor("float32", list(range(1000))))
    assert array.sum() == 499500


def test_torch():
    torch = pytest.importorskip("torch")
    tensor = Tensor.from_numpy(X.copy())
    theirs = torch.from_dlpack(tensor)
    theirs[0, 0] = 42
    assert tensor.numpy()[0, 0] == 42
    assert theirs.dtype == torch.float32
    back = Tensor.from_dlpack(theirs)
    assert back.dims == (2, 3)
    assert np.shares_memory(back.numpy(), tensor.numpy())
    with pytest.raises((BufferError, RuntimeError)):
        Tensor.from_dlpack(torch.ones(3, requires_grad=True))


def test_results_of_runs_feed_runs():
    from face_models import copy_model

    with onnxplan.InferenceSession(copy_model(16)) as session:
        given = np.arange(5).astype(ml_dtypes.bfloat16)
        first = session.run_sync({"x": given})["y"]
        second = session.run_sync({"x": first})["y"]
        np.testing.assert_array_equal(second.numpy(), given)
