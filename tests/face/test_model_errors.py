"""What lowering finds wrong with models: errors of onnxplan's own that name the node."""

from __future__ import annotations

import numpy as np
import pytest
from face_models import model, node, value
from onnx import TensorProto, helper

import onnxplan


def refuse(proto, *parts, kind=onnxplan.InvalidModelError):
    with pytest.raises(kind) as caught:
        onnxplan.InferenceSession(proto)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_shapes_that_would_be_negative():
    x = value("x", [1, 4, 2, 2])
    refuse(
        model([node("SpaceToDepth", "x", "y", blocksize=-2, name="n")], [x], ["y"]),
        "'n'",
        "SpaceToDepth of float32[1, 4, 2, 2]",
    )


def test_shapes_that_cannot_be_addressed():
    shape = np.int64([1 << 40, 1 << 40])
    refuse(model([node("Expand", "x s", "y", name="n")], [value("x", [1])], ["y"], s=shape), "'n'", "Expand")


def test_conditions_that_are_no_bools():
    inputs = [value("c", [3], TensorProto.INT32), value("x", [3]), value("y", [3])]
    refuse(model([node("Where", "c x y", "z", name="n")], inputs, ["z"]), "'n'", "type bool, not int32")


def test_reductions_of_strings():
    texts = np.array(["a", "b"], object)
    refuse(model([node("ReduceSum", "x", "y", name="n")], [], ["y"], x=texts), "'n'", "string")


def test_reductions_of_fed_strings():
    """What depends on strings is known when a run is planned."""
    x = value("x", [3], TensorProto.STRING)
    with onnxplan.InferenceSession(model([node("ReduceSum", "x", "y", name="n")], [x], ["y"])) as session:
        for _ in range(2):
            with pytest.raises(onnxplan.InvalidFeedsError, match=r"'n'.*string"):
                session.run_sync({"x": ["a", "b", "c"]})


def test_missing_inputs_of_operators_without_a_schema():
    gelu = helper.make_node("Gelu", [""], ["y"], name="n", domain="com.microsoft")
    proto = model([gelu], [value("x", [3])], ["y"])
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    refuse(proto, "'n' (Gelu) lacks its input")


def test_results_that_do_not_fit_into_memory():
    """Known when the model is planned, or when it runs: the error names the node, or the outputs."""
    shape = value("s", [1], TensorProto.INT64)
    proto = model([node("Expand", "x s", "y", name="n")], [value("x", [1]), shape], ["y"])
    with onnxplan.InferenceSession(proto) as session:
        x = np.ones(1, np.float32)
        with pytest.raises(onnxplan.OutOfMemoryError, match=r"'y'|'n'") as caught:
            session.run_sync({"x": x, "s": np.int64([1 << 52])})
        assert isinstance(caught.value, MemoryError)
        assert session.run_sync({"x": x, "s": np.int64([5])})["y"].dims == (5,)


def test_padding_that_removes_everything():
    pads = np.int64([0, -2, 0, -2])
    with onnxplan.InferenceSession(
        model([node("Pad", "x p", "y")], [value("x", [3, 4])], ["y"], p=pads)
    ) as session:
        assert session.run_sync({"x": np.ones((3, 4), np.float32)})["y"].dims == (3, 0)


def test_operands_of_different_types():
    proto = model([node("Add", "x y", "z")], [value("x", [2]), value("y", [2], TensorProto.BFLOAT16)], ["z"])
    refuse(proto, "'z'", "Add of float32[2], bfloat16[2]")
