"""Fetches and ``out``: which outputs are computed, in which order, and where to."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from face_models import A, B, C, model, node, product_model, sums_model, value

import onnxplan

X = np.arange(6, dtype=np.float32).reshape(2, 3)
Y = np.full((2, 3), 2, np.float32)
RIGHT = {"s": X + Y, "d": X - Y, "p": X * Y}


@pytest.fixture(scope="module", params=[[2, 3], ["n", 3]], ids=["static", "dynamic"])
def sums(request):
    with onnxplan.InferenceSession(sums_model(request.param)) as session:
        yield session


def check(results, names):
    assert list(results) == names
    for name, tensor in results.items():
        assert isinstance(tensor, onnxplan.Tensor)
        np.testing.assert_array_equal(tensor, RIGHT[name])


@pytest.mark.parametrize(
    ("fetches", "names"),
    [
        (None, ["s", "d", "p"]),
        (["s", "d", "p"], ["s", "d", "p"]),
        (["p"], ["p"]),
        (("p", "s"), ["p", "s"]),
        (["d", "p", "s"], ["d", "p", "s"]),
        (["s", "s", "p", "s"], ["s", "p"]),
        ({"d": 1}, ["d"]),
    ],
    ids=str,
)
def test_fetches(sums, fetches, names):
    feeds = {"x": X, "y": Y}
    check(sums.run_sync(feeds, fetches), names)
    check(asyncio.run(sums.run(feeds, fetches)), names)
    check(sums.run_sync(feeds), ["s", "d", "p"])


def test_fetches_may_be_an_iterator(sums):
    check(sums.run_sync({"x": X, "y": Y}, iter(["d", "s"])), ["d", "s"])


@pytest.mark.parametrize(
    ("fetches", "part"),
    [
        (["t"], "no output 't'"),
        (["s", "pp"], "did you mean 'p'"),
        (["x"], "(known: 's', 'd', 'p')"),
        ([], "fetches is empty"),
        ("s", "list of output names, not 's'"),
        (b"s", "list of output names"),
        (3, "list of output names, not 3"),
        ([3], "no output 3"),
        ([["s"]], "no output ['s']"),
        ([None], "no output None"),
    ],
    ids=str,
)
def test_fetches_that_do_not_exist(sums, fetches, part):
    for _ in range(2):
        with pytest.raises(onnxplan.InvalidFeedsError) as caught:
            sums.run_sync({"x": X, "y": Y}, fetches)
        assert part in str(caught.value)
        check(sums.run_sync({"x": X, "y": Y}), ["s", "d", "p"])


def test_what_is_not_fetched_is_not_computed():
    nodes = [node("MatMul", "a b", "c"), node("MatMul", "c b", "d")]
    with onnxplan.InferenceSession(
        model(nodes, [value("a", [3, 3]), value("b", [3, 3])], ["c", "d"])
    ) as session:
        everything = len(session.plan().steps)
        x = np.eye(3, dtype=np.float32)
        session.run_sync({"a": x, "b": x}, ["c"])
        plans = [stage.executor.plan for _, stage in session._engine._first.items()]
        assert sorted(len(plan.steps) for plan in plans) == [everything - 1, everything]


# Results


def test_results_belong_to_the_caller(sums):
    feeds = {"x": X, "y": Y}
    first = sums.run_sync(feeds)
    copies = {name: tensor.numpy().copy() for name, tensor in first.items()}
    second = sums.run_sync({"x": X + 1, "y": Y})
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, copies[name])
        assert not np.shares_memory(tensor.numpy(), second[name].numpy())
        tensor.numpy()[...] = -1
    check(sums.run_sync(feeds), ["s", "d", "p"])


def test_outputs_that_are_inputs_or_constants_are_copies():
    nodes = [node("Relu", "x", "r")]
    constant = np.float32([1, 2, 3])
    with onnxplan.InferenceSession(model(nodes, [value("x", [3])], ["x", "k", "r"], k=constant)) as session:
        x = np.float32([-1, 0, 1])
        for _ in range(2):
            results = session.run_sync({"x": x})
            np.testing.assert_array_equal(results["x"], [-1, 0, 1])
            np.testing.assert_array_equal(results["k"], [1, 2, 3])
            np.testing.assert_array_equal(results["r"], [0, 0, 1])
            for tensor in results.values():
                assert not np.shares_memory(tensor.numpy(), x)
                tensor.numpy()[...] = 9


def test_a_model_without_inputs():
    with onnxplan.InferenceSession(
        model([node("Neg", "k", "y")], [], ["y"], k=np.float32([1, 2]))
    ) as session:
        for _ in range(2):
            np.testing.assert_array_equal(session.run_sync({})["y"], [-1, -2])
        with pytest.raises(onnxplan.InvalidFeedsError, match="no input 'x'"):
            session.run_sync({"x": X})


def test_unused_inputs_are_fed_and_checked():
    inputs = [value("unused", [2]), value("x", ["n"])]
    with onnxplan.InferenceSession(model([node("Neg", "x", "y")], inputs, ["y"])) as session:
        x, unused = np.float32([1, 2, 3]), np.zeros(2, np.float32)
        for _ in range(3):
            np.testing.assert_array_equal(session.run_sync({"unused": unused, "x": x})["y"], -x)
        with pytest.raises(onnxplan.InvalidFeedsError, match="missing"):
            session.run_sync({"x": x})
        with pytest.raises(onnxplan.InvalidFeedsError, match="unused"):
            session.run_sync({"unused": x, "x": x})


def test_inputs_are_told_apart_whatever_order_the_nodes_read_them_in():
    with onnxplan.InferenceSession(
        model([node("Sub", "y x", "d")], [value("x", ["n"]), value("y", ["n"])], ["d"])
    ) as session:
        x, y = np.float32([1, 2]), np.float32([10, 20])
        for _ in range(3):
            np.testing.assert_array_equal(session.run_sync({"x": x, "y": y})["d"], [9, 18])
            np.testing.assert_array_equal(session.run_sync({"y": y, "x": x})["d"], [9, 18])


# out=


@pytest.fixture(scope="module")
def product():
    with onnxplan.InferenceSession(product_model()) as session:
        yield session


def test_out(product, sums):
    out = np.full((3, 3), np.nan, np.float32)
    for _ in range(2):
        out[...] = np.nan
        results = product.run_sync({"a": A, "b": B}, out={"c": out})
        np.testing.assert_array_equal(out, C)
        assert results["c"].numpy() is out
    part = np.full((2, 3), np.nan, np.float32)
    results = sums.run_sync({"x": X, "y": Y}, out={"d": part})
    check(results, ["s", "d", "p"])
    assert results["d"].numpy() is part
    results = sums.run_sync({"x": X, "y": Y}, ["p", "d"], {"p": part})
    check(results, ["p", "d"])
    check(sums.run_sync({"x": X, "y": Y}, out={}), ["s", "d", "p"])


def test_out_may_be_part_of_a_larger_array(product):
    large = np.zeros((5, 3, 3), np.float32)
    product.run_sync({"a": A, "b": B}, out={"c": large[2]})
    np.testing.assert_array_equal(large[2], C)
    assert not large[[0, 1, 3, 4]].any()


def test_out_is_checked_in_every_run(product, sums):
    """Also where the same plan ran just before, and nothing but the arrays is new."""
    out = np.zeros((3, 3), np.float32)
    x, y = X.copy(), Y.copy()
    whole = {name: np.zeros((2, 3), np.float32) for name in ("s", "d", "p")}
    for _ in range(2):
        product.run_sync({"a": A, "b": B}, out={"c": out})
        results = sums.run_sync({"x": x, "y": y}, out=whole)
        check(results, ["s", "d", "p"])
        assert all(results[name].numpy() is array for name, array in whole.items())
    frozen = np.zeros((3, 3), np.float32)
    frozen.flags.writeable = False
    for wrong, part in (
        (frozen, "writable"),
        (np.zeros((3, 4), np.float32), "float32\\[3, 4\\]"),
        (np.zeros((3, 3)), "float64"),
        (np.zeros((3, 3), np.float32).T, "C-contiguous"),
    ):
        with pytest.raises(onnxplan.InvalidFeedsError, match=part):
            product.run_sync({"a": A, "b": B}, out={"c": wrong})
    with pytest.raises(onnxplan.InvalidFeedsError, match="'s' shares memory with input 'x'"):
        sums.run_sync({"x": x, "y": y}, out={**whole, "s": x})
    with pytest.raises(onnxplan.InvalidFeedsError, match="'p' shares memory with output 's'"):
        sums.run_sync({"x": x, "y": y}, out={**whole, "p": whole["s"]})
    np.testing.assert_array_equal(x, X)
    with pytest.raises(ValueError, match="outputs"):
        sums.run_sync({"x": x, "y": y}, out=whole, outputs="elsewhere")


@pytest.mark.parametrize(
    ("out", "part"),
    [
        ({"d": np.zeros((3, 3), np.float32)}, "no output 'd'"),
        ({"c": np.zeros((3, 4), np.float32)}, "'c' is float32[3, 4], the output is float32[3, 3]"),
        ({"c": np.zeros(9, np.float32)}, "float32[9]"),
        ({"c": np.zeros((3, 3))}, "'c' is float64[3, 3], the output is float32[3, 3]"),
        ({"c": np.zeros((3, 3), ">f4")}, "'c'"),
        ({"c": np.zeros((3, 3), np.float32).T}, "C-contiguous"),
        ({"c": np.zeros((6, 3), np.float32)[::2]}, "C-contiguous"),
        ({"c": np.frombuffer(bytes(36), np.float32).reshape(3, 3)}, "writable"),
        ({"c": np.frombuffer(bytearray(37), np.float32, offset=1).reshape(3, 3)}, "aligned"),
        ({"c": [[0] * 3] * 3}, "must be a NumPy array, not list"),
        ({"c": onnxplan.Tensor("float32", np.zeros((3, 3), np.float32))}, "NumPy array, not Tensor"),
        (np.zeros((3, 3), np.float32), "out must be a mapping"),
        ([np.zeros((3, 3), np.float32)], "out must be a mapping"),
    ],
)
def test_out_that_does_not_fit(product, out, part):
    with pytest.raises(onnxplan.InvalidFeedsError) as caught:
        product.run_sync({"a": A, "b": B}, out=out)
    assert part in str(caught.value), str(caught.value)
    np.testing.assert_array_equal(product.run_sync({"a": A, "b": B})["c"], C)


def test_out_that_overlaps(sums):
    x = X.copy()
    with pytest.raises(onnxplan.InvalidFeedsError, match="'s' shares memory with input 'x'"):
        sums.run_sync({"x": x, "y": Y}, out={"s": x})
    out = np.zeros((2, 3), np.float32)
    with pytest.raises(onnxplan.InvalidFeedsError, match="'p' shares memory with output 's'"):
        sums.run_sync({"x": X, "y": Y}, out={"s": out, "p": out})
    with pytest.raises(onnxplan.InvalidFeedsError, match="the run has no output 's'"):
        sums.run_sync({"x": X, "y": Y}, ["p"], {"s": out})
