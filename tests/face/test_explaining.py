"""What ``onnxplan explain`` says, of models whose fusions are known."""

import json

import numpy as np
import onnx
import pytest
from face_models import model, node, value
from onnx import TensorProto
from typer.testing import CliRunner

import onnxplan
from onnxplan.cli.commands import application
from onnxplan.compiler.passes.refusals import recorded_refusals
from onnxplan.explaining import explain, plans_of_run


def explanation(proto, feeds):
    with recorded_refusals() as refusals, onnxplan.InferenceSession(proto, threads=1) as session:
        plans = plans_of_run(session, feeds)
        profile = session.profile(feeds, 0.01)
        return explain(session, plans, refusals, profile)


def lines(found, title):
    return [line for section in found.sections if section.title == title for line in section.lines]


W = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)


def test_fusions_and_nodes_without_steps():
    nodes = [
        node("MatMul", "x w", "p", name="product"),
        node("Relu", "p", "r", name="relu"),
        node("Transpose", "r", "t", name="turn", perm=[1, 0]),
        node("Softmax", "t", "y", name="soft"),
    ]
    found = explanation(model(nodes, [value("x", [64, 64])], ["y"], w=W), {"x": X})
    (fused,) = [line for line in lines(found, "Fused") if "product" in line]
    assert fused.startswith("MatMul + Relu became one matmul: step 0")
    absent = lines(found, "Nodes without a step")
    assert absent[0].startswith("1 of 4 nodes")
    assert absent[1] == "1 Transpose"
    assert lines(found, "Copies and transpositions left") == ["none"]
    assert "no pass puts a matmul and" in lines(found, "Neighbours that were not fused")[0]
    assert any("one plan" in line for line in lines(found, "Inputs and stages"))
    assert "stage 0: an arena of" in lines(found, "Memory")[0]
    assert "steps take" in lines(found, "Estimated and measured times")[0]


REFUSALS = {
    "product read twice": (
        [node("MatMul", "x w", "p"), node("Relu", "p", "r"), node("MatMul", "p r", "y")],
        ["y"],
        "others read the product's result too",
    ),
    "dear map read twice": (
        [
            node("Exp", "x", "e"),
            node("MatMul", "x w", "p"),
            node("Add", "p e", "q"),
            node("MatMul", "q w", "r"),
            node("Add", "r e", "y"),
        ],
        ["y"],
        "several operations read it, and it is not cheap to compute again",
    ),
    "reductions of other rows": (
        [
            node("Softmax", "x", "a", axis=0),
            node("Softmax", "a", "y", axis=1),
        ],
        ["y"],
        "they run over different rows",
    ),
    "unlike steps": (
        [node("CumSum", "x axis", "c"), node("MatMul", "c w", "y")],
        ["y"],
        "no pass puts a scan and a matmul into one kernel",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_reasons(name):
    nodes, outputs, reason = REFUSALS[name]
    proto = model(nodes, [value("x", [64, 64])], outputs, w=W, axis=np.int64(0))
    found = lines(explanation(proto, {"x": X}), "Neighbours that were not fused")
    assert any(line.startswith(reason) for line in found), found


def test_copies_that_are_left():
    nodes = [node("Transpose", "x", "y", perm=[1, 0])]
    found = lines(
        explanation(model(nodes, [value("x", [64, 64])], ["y"]), {"x": X}), "Copies and transpositions left"
    )
    assert found[0].startswith("1 steps move elements only")
    assert "its result is an output of the plan" in found[1]


def test_stages():
    nodes = [
        node("Add", "x x", "y"),
        node("NonZero", "y", "i", name="find"),
        node("Gather", "y i", "z", axis=0),
    ]
    proto = model(nodes, [value("x", ["n"])], ["z"])
    found = lines(explanation(proto, {"x": X[0]}), "Inputs and stages")
    assert found[0].startswith("symbolic dimensions: n;")
    assert any("'find' (NonZero) needs elements that only a run computes" in line for line in found)


def test_nothing_is_recorded_where_nobody_listens():
    nodes, outputs, _ = REFUSALS["product read twice"]
    proto = model(nodes, [value("x", [64, 64])], outputs, w=W, axis=np.int64(0))
    with recorded_refusals() as before:
        pass
    with onnxplan.InferenceSession(proto) as session:
        session.run_sync({"x": X})
    assert before == {}
    with recorded_refusals() as after, onnxplan.InferenceSession(proto):
        pass
    assert after


def test_the_command_line(tmp_path):
    path, plan = tmp_path / "m.onnx", tmp_path / "m.plan"
    nodes, outputs, reason = REFUSALS["product read twice"]
    proto = model(nodes, [value("x", [64, "n"], TensorProto.FLOAT)], outputs, w=W, axis=np.int64(0))
    onnx.save(proto, path)
    arguments = ["explain", str(path), "--dim", "n=64", "--seconds", "0.01"]
    result = CliRunner().invoke(application, arguments)
    assert result.exit_code == 0, result.output
    assert reason in result.output
    result = CliRunner().invoke(application, [*arguments, "--json"])
    titles = [section["title"] for section in json.loads(result.stdout)["sections"]]
    assert {"Neighbours that were not fused", "Memory", "Estimated and measured times"} <= {*titles}
    onnxplan.compile(proto, plan, shapes={"x": (64, 64)})
    result = CliRunner().invoke(application, ["explain", str(plan)])
    assert result.exit_code == 2
    assert "artifact" in result.output
