"""Values of feeds that are no plain arrays: Python's own, strings, objects of other libraries."""

from __future__ import annotations

import array

import numpy as np
import pytest
from face_models import A, B, C, copy_model, model, node, product_model, refuse, taken, value

import onnxplan
from onnxplan.compiler.dtypes import DType


@pytest.fixture(scope="module")
def product():
    with onnxplan.InferenceSession(product_model()) as session:
        yield session


# Python values


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        ([1, 2, 3], "float32", [1, 2, 3]),
        ([1, 2.5], "float32", [1, 2.5]),
        ((1, 2), "int64", [1, 2]),
        ([[1], [2]], "int8", [[1], [2]]),
        ([True, False], "bool", [True, False]),
        ([True, 2], "int32", [1, 2]),
        ([], "float32", []),
        ([[], []], "int64", [[], []]),
        (3, "int64", 3),
        (2.5, "float64", 2.5),
        (True, "bool", True),
        (1 + 2j, "complex64", 1 + 2j),
        ([1, 2], "bfloat16", [1, 2]),
        ([0.5, -1], "float8e4m3fn", [0.5, -1]),
        ([-8, 7], "int4", [-8, 7]),
        ([2**64 - 1], "uint64", [2**64 - 1]),
        (["a", "ü"], "string", ["a", "ü"]),
        ("text", "string", "text"),
        (b"text", "string", "text"),
        ([b"a", "b"], "string", ["a", "b"]),
        ([1e300], "float32", [np.inf]),
        ([float("nan")], "float16", [np.nan]),
        ([np.float32(1), np.float32(2)], "float32", [1, 2]),
        ([np.ones(2, np.float32)] * 3, "float32", np.ones((3, 2))),
    ],
    ids=str,
)
def test_python_values(given, kind, expected):
    found = taken(given, kind)
    right = np.asarray(expected, object if kind == "string" else None)
    assert found.shape == right.shape
    if kind == "string":
        assert found.tolist() == right.tolist()
    else:
        np.testing.assert_array_equal(found, right.astype(found.dtype))


@pytest.mark.parametrize(
    ("given", "kind", "part"),
    [
        ([[1, 2], [3]], "float32", "do not form a tensor"),
        ([1, [2]], "float32", "do not form a tensor"),
        ([1, None], "float32", "something that is no number"),
        ([{}], "float32", "something that is no number"),
        (["a"], "float32", "do not convert to float32"),
        ([1.5], "int64", "float64 do not convert to int64 without loss"),
        ([1], "bool", "int64 do not convert to bool without loss"),
        ([1j], "float32", "do not convert to float32"),
        ([300], "uint8", "300 is outside of the range of uint8, 0 to 255"),
        ([5, -1], "uint8", "-1 is outside of the range of uint8"),
        ([8], "int4", "8 is outside of the range of int4, -8 to 7"),
        ([2**63], "int64", f"{2**63} is outside"),
        ([2**70], "int64", "no number"),
        ([1], "string", "expected strings, got 1"),
        (1.0, "string", "expected strings, got 1.0"),
        (b"1", "float32", "no number"),
    ],
    ids=str,
)
def test_python_values_that_do_not_fit(given, kind, part):
    with pytest.raises(onnxplan.InvalidFeedsError) as caught:
        taken(given, kind)
    assert part in str(caught.value)
    assert f"x: {kind}" in str(caught.value)


@pytest.mark.parametrize(
    "given", [None, {}, {1}, object(), range(3), iter([1]), np, len], ids=lambda given: type(given).__name__
)
def test_things_that_are_no_tensors(given, product):
    refuse(product, {"a": given, "b": B}, "a: float32[3, 4]", "expected an array", type(given).__name__)


def test_numpy_scalars():
    found = taken(np.float32(2))
    assert found.shape == ()
    assert found == 2
    with pytest.raises(onnxplan.InvalidFeedsError, match="expected float32, got float16"):
        taken(np.float16(2))
    # It is a Python float as well.
    assert taken(np.float64(2)) == 2
    scalars = model([node("Add", "x y", "z")], [value("x", []), value("y", [])], ["z"])
    with onnxplan.InferenceSession(scalars) as session:
        for x in (np.float32(1.5), np.array(1.5, np.float32), 1.5):
            found = session.run_sync({"x": x, "y": 2})["z"]
            assert found.dims == ()
            assert float(found.numpy()) == 3.5


def test_buffers():
    for given in (array.array("f", [1, 2, 3]), memoryview(np.float32([1, 2, 3]))):
        found = taken(given)
        np.testing.assert_array_equal(found, [1, 2, 3])
        assert np.shares_memory(found, np.asarray(given))
    np.testing.assert_array_equal(taken(bytearray(b"ab"), "uint8"), [97, 98])


def test_strings():
    for given in (np.array(["a", "b"]), np.array([b"a", b"b"]), np.array(["a", "b"], object)):
        assert taken(given, "string").tolist() == ["a", "b"]
    assert taken(np.array("a"), "string").shape == ()
    with pytest.raises(onnxplan.InvalidFeedsError, match="expected strings, got 3"):
        taken(np.array(["a", 3], object), "string")


def test_masked_arrays():
    with pytest.raises(onnxplan.InvalidFeedsError, match="mask"):
        taken(np.ma.masked_less(A, 3))


# Other libraries


class Exporter:
    """An object of another library: it has DLPack and nothing else."""

    def __init__(self, source):
        self._source = source

    def __dlpack__(self, **options):
        return self._source.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._source.__dlpack_device__()


class ElsewhereExporter(Exporter):
    """The same on a GPU that is not NVIDIA's."""

    def __dlpack__(self, **options):
        raise BufferError("the data is on a GPU")

    def __dlpack_device__(self):
        return (10, 0)


class Convertible:
    """An object that becomes an array when asked."""

    def __init__(self, source):
        self._source = source

    def __array__(self, dtype=None, copy=None):
        return self._source


class Both(ElsewhereExporter, Convertible):
    pass


class Broken:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("the tensor was deleted")


@pytest.mark.parametrize("make", [Exporter, Convertible, Both, onnxplan.Tensor.from_numpy])
def test_protocols(make, product):
    found = taken(make(A))
    np.testing.assert_array_equal(found, A)
    assert np.shares_memory(found, A)
    np.testing.assert_array_equal(product.run_sync({"a": make(A), "b": make(B)})["c"], C)
    with pytest.raises(onnxplan.InvalidFeedsError, match="expected float32, got float64"):
        taken(make(A.astype(np.float64)))


def test_protocols_that_fail(product):
    refuse(product, {"a": ElsewhereExporter(A), "b": B}, "ElsewhereExporter cannot be read", "on a GPU")
    refuse(product, {"a": Broken(), "b": B}, "Broken cannot be read", "the tensor was deleted")


def test_non_contiguous_exports():
    np.testing.assert_array_equal(taken(Exporter(A.T)), A.T)


def test_torch():
    torch = pytest.importorskip("torch")
    tensor = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    found = taken(tensor)
    np.testing.assert_array_equal(found, tensor.numpy())
    assert np.shares_memory(found, tensor.numpy())
    np.testing.assert_array_equal(taken(tensor.T), tensor.numpy().T)
    with pytest.raises(onnxplan.InvalidFeedsError, match="grad"):
        taken(torch.ones(3, requires_grad=True))
    with pytest.raises(onnxplan.InvalidFeedsError, match="expected float32, got int64"):
        taken(torch.ones(3, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [d for d in DType if d is not DType.STRING], ids=str)
def test_every_element_type(dtype):
    x = np.arange(8).astype(np.uint8 if dtype.kind == "u" else np.int8) % 2
    with onnxplan.InferenceSession(copy_model(dtype.code)) as session:
        given = x.astype(dtype.numpy)
        found = session.run_sync({"x": given})["y"]
        assert found.type == dtype.label
        assert found.numpy().dtype == dtype.numpy
        assert found.numpy().tobytes() == given.tobytes()
        assert not np.shares_memory(found.numpy(), given)
