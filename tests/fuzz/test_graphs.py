"""Random valid models give what the reference says, in whatever way they are planned."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.fuzz.checking import check, disagreement, judge
from tests.fuzz.graphs import Program
from tests.fuzz.slices import Profile, check_slice

SLICES, COUNT = 50, 10


@pytest.mark.parametrize("number", range(SLICES))
def test_random_models(number):
    profile = Profile(("float32", "float64", "float16")) if number % 4 == 0 else Profile()
    check_slice(number, COUNT, profile)


def test_wrong_results_are_found():
    """The harness itself: an expectation that is off by more than rounding, in type, or in shape."""
    right = np.array([1.0, np.nan, np.inf], np.float32)
    assert not disagreement(right, right.copy(), 0.0)
    assert not disagreement(right + np.float32(1e-3), right, 2e-3)
    assert disagreement(right + np.float32(1e-3), right, 1e-4)
    assert disagreement(right, right.astype(np.float64), 1.0)
    assert disagreement(right, right.reshape(3, 1), 1.0)
    assert disagreement(np.array([1.0, 0.0, np.inf], np.float32), right, 1e9)
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [helper.make_empty_tensor_value_info("y")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    feeds = {"x": np.ones(3, np.float32)}
    program = Program(model, feeds, {"y": -np.ones(3, np.float32)}, {"y": 0.0})
    check(program)
    with pytest.raises(AssertionError, match="for a test, output 'y'"):
        judge(program, {"y": np.ones(3, np.float32)}, "for a test")
    # Where the reference is wrong, onnxruntime decides.
    check(Program(model, feeds, {"y": np.ones(3, np.float32)}, {"y": 0.0}))
