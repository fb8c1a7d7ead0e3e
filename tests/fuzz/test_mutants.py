"""Damaged models run, or are refused by an error of onnxplan's own: no crash, hang, or other error."""

from __future__ import annotations

import random

import onnx
import pytest
from onnx import TensorProto, helper

from onnxplan.compiler.errors import OnnxPlanError
from onnxplan.compiler.importer import load_model
from tests.compiler.importer_models import linear_model
from tests.fuzz.mutants import mutants, operator_models, varied_model
from tests.fuzz.mutations import damaged_bytes
from tests.fuzz.sandbox import attempt_all


@pytest.mark.parametrize("make", [linear_model, varied_model, lambda: linear_model(2, 2000)])
def test_damaged_files_raise_only_our_errors(make):
    data = make().SerializeToString()
    load_model(data)
    source = random.Random(7)
    refused = 0
    for _ in range(300):
        try:
            load_model(damaged_bytes(data, source))
        except (OnnxPlanError, OSError):
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("number", range(4))
def test_damaged_models_run_or_are_refused(number):
    outcomes = list(attempt_all(mutants([*operator_models(), varied_model()], 100, number)))
    wrong = [f"{outcome.kind}: {outcome.text}" for outcome in outcomes if not outcome.is_right]
    assert not wrong, "\n".join(wrong)
    assert sum(outcome.kind == "refused" for outcome in outcomes) > 20
    assert sum(outcome.kind == "ran" for outcome in outcomes) > 10


def endless() -> onnx.ModelProto:
    """A loop of so many iterations that it takes longer than any test."""
    going, inner = helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Neg", ["s"], ["t"])
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [going, inner],
        "body",
        [
            info("i", TensorProto.INT64, []),
            info("c", TensorProto.BOOL, []),
            info("s", TensorProto.FLOAT, [1]),
        ],
        [info("d", TensorProto.BOOL, []), info("t", TensorProto.FLOAT, [1])],
    )
    count = helper.make_tensor("n", TensorProto.INT64, [], [1 << 40])
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)],
        "g",
        [info("x", TensorProto.FLOAT, [1])],
        [info("y", TensorProto.FLOAT, [1])],
        [count],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_the_sandbox_tells_hangs_from_the_rest():
    models = [linear_model().SerializeToString(), endless().SerializeToString(), b"no model"]
    outcomes = list(attempt_all(models, seconds=2.0))
    assert [outcome.kind for outcome in outcomes] == ["ran", "died", "refused"]
    assert "lowering.py" in outcomes[1].text
