"""Feeds: what is taken, without a copy where that is possible, and what is refused with which words."""

from __future__ import annotations

import asyncio
from collections import UserDict
from types import MappingProxyType

import ml_dtypes
import numpy as np
import pytest
from face_models import A, B, C, model, node, product_model, refuse, sums_model, taken, value
from onnx import TensorProto

import onnxplan


@pytest.fixture(scope="module")
def product():
    with onnxplan.InferenceSession(product_model()) as session:
        yield session


@pytest.fixture(scope="module")
def dynamic():
    with onnxplan.InferenceSession(product_model("rows", "inner", "columns")) as session:
        yield session


@pytest.fixture(scope="module")
def sums():
    with onnxplan.InferenceSession(sums_model()) as session:
        yield session


# Names


def test_missing_inputs(product):
    refuse(product, {"a": A}, "missing", "b: float32[4, 3]")
    refuse(product, {}, "missing", "a: float32[3, 4]", "b: float32[4, 3]")


def test_unknown_inputs_with_close_names():
    nodes = [node("Add", "input_ids input_mask", "y")]
    inputs = [value("input_ids", [2]), value("input_mask", [2])]
    with onnxplan.InferenceSession(model(nodes, inputs, ["y"])) as session:
        two = np.ones(2, np.float32)
        with pytest.raises(onnxplan.InvalidFeedsError, match=r"'input_id'; did you mean 'input_ids'"):
            session.run_sync({"input_id": two, "input_mask": two})
        with pytest.raises(onnxplan.InvalidFeedsError, match=r"'zzz' \(known: 'input_ids', 'input_mask'\)"):
            session.run_sync({"zzz": two, "input_ids": two, "input_mask": two})
        with pytest.raises(onnxplan.InvalidFeedsError, match="no input 3"):
            session.run_sync({3: two, "input_ids": two, "input_mask": two})


@pytest.mark.parametrize("feeds", [None, [A, B], (A, B), "ab", A])
def test_feeds_that_are_no_mapping(product, feeds):
    refuse(product, feeds, "must be a mapping", type(feeds).__name__)


def test_other_mappings(product):
    for kind in (UserDict, MappingProxyType):
        np.testing.assert_array_equal(product.run_sync(kind({"b": B, "a": A}))["c"], C)


# Types and shapes


def test_wrong_types(product):
    refuse(product, {"a": A.astype(np.float64), "b": B}, "a: float32[3, 4]", "expected float32, got float64")
    refuse(product, {"a": A.astype(np.int32), "b": B}, "got int32[3, 4]", "astype")
    refuse(product, {"a": A.astype(ml_dtypes.bfloat16), "b": B}, "got bfloat16")
    refuse(product, {"a": A.astype("datetime64[s]"), "b": B}, "NumPy dtype datetime64[s]")
    refuse(product, {"a": A.astype(str), "b": B}, "got string")
    refuse(product, {"a": A.astype(object), "b": B}, "expected float32, got string")


def test_wrong_ranks(product):
    refuse(product, {"a": A.reshape(-1), "b": B}, "a: float32[3, 4]", "rank 2", "shape [12] (rank 1)")
    refuse(product, {"a": A[None], "b": B}, "[1, 3, 4] (rank 3)")
    refuse(product, {"a": np.float32(1), "b": B}, "[] (rank 0)")


def test_wrong_dimensions(product):
    refuse(product, {"a": A[:, :3], "b": B}, "a: float32[3, 4]", "dimension 1 is 3", "expected 4")
    refuse(product, {"a": np.zeros((0, 4), np.float32), "b": B}, "dimension 0 is 0", "expected 3")


def test_symbolic_dimensions_that_disagree(dynamic, sums):
    refuse(dynamic, {"a": A, "b": A}, "b: float32[inner, columns]", "'inner' is 3", "but 4 in input 'a'")
    square = model([node("Neg", "x", "y")], [value("x", ["n", "n"])], ["y"])
    with onnxplan.InferenceSession(square) as session:
        refuse(session, {"x": A}, "'n' is 4", "but 3 in the same input")
    x = np.zeros((2, 3), np.float32)
    refuse(sums, {"x": x, "y": np.zeros((4, 3), np.float32)}, "'n' is 4", "but 2 in input 'x'")


def test_dimensions_of_which_nothing_is_known():
    anything = model([node("Neg", "x", "y")], [value("x", None)], ["y"])
    with onnxplan.InferenceSession(anything) as session:
        for shape in [(), (3,), (2, 0, 3), (1, 2, 3, 4)]:
            x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
            found = session.run_sync({"x": x})["y"]
            assert found.dims == shape
            np.testing.assert_array_equal(found, -x)
    unknown = model([node("Neg", "x", "y")], [value("x", [None, 3])], ["y"])
    with onnxplan.InferenceSession(unknown) as session:
        assert session.run_sync({"x": np.ones((5, 3), np.float32)})["y"].dims == (5, 3)
        with pytest.raises(onnxplan.InvalidFeedsError, match="dimension 1 is 4"):
            session.run_sync({"x": np.ones((5, 4), np.float32)})


# Layouts


@pytest.mark.parametrize(
    ("make", "copied"),
    [
        (lambda x: x, False),
        (lambda x: x[::2], True),
        (lambda x: x.T.copy().T, True),
        (lambda x: x[::-1, ::-1], True),
        (lambda x: np.broadcast_to(x[:1], x.shape), True),
        (lambda x: x.astype(x.dtype.newbyteorder()), True),
        (lambda x: np.frombuffer(b"?" + x.tobytes(), x.dtype, offset=1).reshape(x.shape), True),
        (lambda x: x.view(np.recarray), False),
        (lambda x: read_only(x), False),
        (lambda x: x[:0], False),
        (lambda x: x[1:], False),
    ],
    ids=[
        "plain",
        "step",
        "transposed",
        "reversed",
        "broadcast",
        "swapped",
        "misaligned",
        "subclass",
        "read-only",
        "empty",
        "rows",
    ],
)
def test_layouts(make, copied):
    x = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    given = make(x)
    found = taken(given)
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(found, np.asarray(given))
    if given.size:
        assert np.shares_memory(found, given) != copied
    with onnxplan.InferenceSession(model([node("Neg", "x", "y")], [value("x", ["n", 5])], ["y"])) as session:
        for _ in range(3):
            np.testing.assert_array_equal(session.run_sync({"x": given})["y"], -np.asarray(given))


def read_only(x):
    found = x.copy()
    found.flags.writeable = False
    return found


def test_running_on_inputs_does_not_change_them():
    with onnxplan.InferenceSession(sums_model([6])) as session:
        x, y = read_only(np.arange(6, dtype=np.float32)), read_only(np.ones(6, np.float32))
        results = session.run_sync({"x": x, "y": y})
        np.testing.assert_array_equal(x, np.arange(6))
        np.testing.assert_array_equal(results["s"], np.arange(6) + 1)


def test_zero_sized(dynamic, sums):
    empty = np.zeros((0, 3), np.float32)
    assert sums.run_sync({"x": empty, "y": empty})["s"].dims == (0, 3)
    found = dynamic.run_sync({"a": np.zeros((2, 0), np.float32), "b": np.zeros((0, 3), np.float32)})["c"]
    np.testing.assert_array_equal(found, np.zeros((2, 3)))


def test_the_same_array_twice(sums):
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    results = sums.run_sync({"x": x, "y": x})
    np.testing.assert_array_equal(results["s"], x + x)
    np.testing.assert_array_equal(results["d"], x - x)


# Defaults and errors that depend on shapes


def test_inputs_with_a_default():
    inputs = [value("x", ["n", 3]), value("scale", [3])]
    proto = model([node("Mul", "x scale", "y")], inputs, ["y"], scale=np.float32([1, 2, 3]))
    with onnxplan.InferenceSession(proto) as session:
        assert session.input_names == ("x",)
        assert [info.name for info in session.optional_inputs] == ["scale"]
        x = np.ones((2, 3), np.float32)
        for _ in range(2):
            np.testing.assert_array_equal(session.run_sync({"x": x})["y"], x * [1, 2, 3])
            other = np.float32([4, 5, 6])
            np.testing.assert_array_equal(session.run_sync({"scale": other, "x": x})["y"], x * other)
        refuse(session, {"x": x, "scale": np.float32([1])}, "scale: float32[3]")
        refuse(session, {"scale": np.float32([4, 5, 6])}, "missing", "x: float32[n, 3]")


def test_shapes_that_fail_inside_of_the_model():
    nodes = [node("Relu", "x", "r"), node("Add", "r y", "z", name="the sum")]
    proto = model(nodes, [value("x", ["n"]), value("y", ["m"])], ["z"])
    with onnxplan.InferenceSession(proto) as session:
        two, three = np.ones(2, np.float32), np.ones(3, np.float32)
        for _ in range(2):
            with pytest.raises(onnxplan.InvalidFeedsError) as caught:
                session.run_sync({"x": two, "y": three})
            for part in ("'the sum'", "Add", "[2] and [3]", "x float32[2]", "y float32[3]"):
                assert part in str(caught.value)
            np.testing.assert_array_equal(session.run_sync({"x": two, "y": two})["z"], [2, 2])
        with pytest.raises(onnxplan.InvalidFeedsError, match="the sum"):
            session.plan({"x": [2], "y": [3]})


def test_shapes_that_are_fixed_and_fail_make_the_model_invalid():
    nodes = [node("Add", "x y", "z", name="the sum")]
    with pytest.raises(onnxplan.InvalidModelError, match="the sum") as caught:
        onnxplan.InferenceSession(model(nodes, [value("x", [2]), value("y", [3])], ["z"]))
    assert not isinstance(caught.value, onnxplan.InvalidFeedsError)


def test_values_that_fail_inside_of_the_model():
    nodes = [node("Reshape", "x shape", "y", name="the reshape")]
    proto = model(nodes, [value("x", [6]), value("shape", [2], TensorProto.INT64)], ["y"])
    with onnxplan.InferenceSession(proto) as session:
        x = np.arange(6, dtype=np.float32)
        for _ in range(2):
            with pytest.raises(onnxplan.InvalidFeedsError) as caught:
                session.run_sync({"x": x, "shape": np.int64([4, 2])})
            assert "the reshape" in str(caught.value)
            assert session.run_sync({"x": x, "shape": np.int64([3, 2])})["y"].dims == (3, 2)
            assert session.run_sync({"x": x, "shape": np.int64([2, -1])})["y"].dims == (2, 3)


@pytest.mark.parametrize("bad", [{"a": A}, {"a": A, "b": B, "c": B}, {"a": A, "b": A}, {"a": "x", "b": B}])
def test_the_coroutine_raises_the_same(bad, product):
    async def both():
        with pytest.raises(onnxplan.InvalidFeedsError) as caught:
            await product.run(bad)
        return str(caught.value), await product.run({"a": A, "b": B})

    text, results = asyncio.run(both())
    np.testing.assert_array_equal(results["c"], C)
    refuse(product, bad, text)
