"""Strings: what depends on them alone is evaluated when a run is planned."""

import numpy as np
import pytest
from onnx import TensorProto, helper

import onnxplan


def model():
    nodes = [
        helper.make_node("Concat", ["x", "y"], ["joined"], axis=0),
        helper.make_node("Equal", ["joined", "wanted"], ["equal"]),
        helper.make_node("Where", ["equal", "wanted", "joined"], ["chosen"]),
        helper.make_node("Cast", ["equal"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["number", "factor"], ["score"]),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.STRING, ["n"]),
        helper.make_tensor_value_info("y", TensorProto.STRING, ["m"]),
        helper.make_tensor_value_info("factor", TensorProto.FLOAT, [1]),
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in ("chosen", "score", "joined")]
    wanted = helper.make_tensor("wanted", TensorProto.STRING, [1], [b"b"])
    graph = helper.make_graph(nodes, "strings", inputs, outputs, [wanted])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize(
    ("x", "y"), [(["a", "b"], ["c"]), (["b"], ["b", "ü"]), ([], ["z"]), (["b", "a"], ["c"])]
)
def test_strings_in_and_out(x, y):
    with onnxplan.InferenceSession(model()) as session:
        for _ in range(2):
            factor = np.array([2.5], np.float32)
            results = session.run_sync({"x": np.array(x, object), "y": np.array(y, object), "factor": factor})
            assert results["joined"].numpy().tolist() == x + y
            assert results["chosen"].numpy().tolist() == x + y
            np.testing.assert_array_equal(results["score"].numpy(), [2.5 * (text == "b") for text in x + y])


def test_equal_shapes_of_different_strings_do_not_share_a_plan():
    with onnxplan.InferenceSession(model()) as session:
        factor = np.ones(1, np.float32)
        for text in ("a", "b", "a"):
            results = session.run_sync({"x": [text], "y": [], "factor": factor})
            assert results["score"].numpy().tolist() == [float(text == "b")]


def test_results_of_strings_belong_to_the_caller():
    with onnxplan.InferenceSession(model()) as session:
        feeds = {"x": ["a"], "y": ["c"], "factor": np.ones(1, np.float32)}
        session.run_sync(feeds)["joined"].numpy()[:] = "changed"
        assert session.run_sync(feeds)["joined"].numpy().tolist() == ["a", "c"]


def test_plans_depend_on_the_strings_fed():
    with onnxplan.InferenceSession(model()) as session:
        with pytest.raises(onnxplan.InvalidFeedsError, match="'x' is of strings"):
            session.plan({"x": (1,), "y": (2,)})
        assert session.run_sync({"x": ["b"], "y": [], "factor": [1]})["score"].numpy().tolist() == [1]


def test_strings_of_computed_numbers_follow_the_numbers():
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["square"]),
        helper.make_node("Cast", ["square"], ["text"], to=TensorProto.STRING),
        helper.make_node("Add", ["square", "x"], ["sum"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    outputs = [helper.make_empty_tensor_value_info(name) for name in ("text", "sum")]
    graph = helper.make_graph(nodes, "texts", [x], outputs)
    with onnxplan.InferenceSession(helper.make_model(graph)) as session:
        for values in ([1.5, 2.0], [0.1], [1.5, 2.0], [], list(range(3000))):
            results = session.run_sync({"x": np.array(values, np.float32)})
            squares = np.array(values, np.float32) ** 2
            assert results["text"].numpy().tolist() == [f"{square:.8g}" for square in squares.tolist()]
            np.testing.assert_array_equal(results["sum"].numpy(), squares + np.array(values, np.float32))


def test_constants_of_strings_serve_no_other_plan():
    """Models of texts meet new ones all the time: what is made of them must not pile up."""
    grams = [f"word{number}" for number in range(20_000)]
    node = helper.make_node(
        "TfIdfVectorizer",
        ["x"],
        ["y"],
        mode="TF",
        min_gram_length=1,
        max_gram_length=1,
        max_skip_count=0,
        ngram_counts=[0],
        ngram_indexes=list(range(len(grams))),
        pool_strings=grams,
    )
    x = helper.make_tensor_value_info("x", TensorProto.STRING, ["n"])
    outputs = [helper.make_empty_tensor_value_info("y")]
    graph = helper.make_graph([node], "counts", [x], outputs)
    with onnxplan.InferenceSession(helper.make_model(graph), max_plans=2) as session:
        for number in range(6):
            results = session.run_sync({"x": [grams[number], "other", grams[number]]})
            assert np.flatnonzero(results["y"].numpy()).tolist() == [number]
            assert results["y"].numpy()[number] == 2
        assert session._engine.planner.pool.nbytes < 3 * results["y"].numpy().nbytes
