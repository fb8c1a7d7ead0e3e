"""``onnxplan.compare`` and the command: which node differs, and why."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import onnx
import pytest
from face_models import model, node, value
from onnx import TensorProto, helper
from typer.testing import CliRunner

import onnxplan
from onnxplan import peers
from onnxplan.cli.commands import application
from onnxplan.compiler import pipeline
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.primitives import MapReduce

X = np.array([[0.5, -1.0, 2.0], [np.nan, 0.0, np.inf]], np.float32)
AGAINST = ("onnxruntime", "reference", "unoptimised")


def chain(**constants):
    """x, times w, tanh, exp, plus a constant of a node: m, t, e, y."""
    nodes = [
        helper.make_node("Constant", [], ["one"], value_floats=[1.0]),
        node("Mul", "x w", "m", name="scale"),
        node("Tanh", "m", "t"),
        node("Exp", "t", "e"),
        node("Add", "e one", "y", name="last"),
    ]
    return model(nodes, [value("x", ["n", 3])], ["y"], **{"w": np.full(3, 2, np.float32), **constants})


@pytest.mark.parametrize("against", AGAINST)
def test_agreement(against):
    found = onnxplan.compare(chain(), {"x": X}, against=against)
    assert found.agrees
    assert (found.nodes, found.hidden, found.fault) == (5, 0, None)


def replaced(op_type, other):
    """A peer that computes another operator: the reference on a changed model."""

    def run(proto, feeds, names):
        changed = onnx.ModelProto()
        changed.CopyFrom(proto)
        for inner in changed.graph.node:
            inner.op_type = other if inner.op_type == op_type else inner.op_type
        return peers._reference(changed, feeds, names)

    return run


def test_a_node_that_computes_something_else(monkeypatch):
    monkeypatch.setitem(peers.PEERS, "reference", replaced("Tanh", "Sigmoid"))
    found = onnxplan.compare(chain(), {"x": X}, against="reference")
    first = found.first
    assert first is found.fault
    assert (first.node, first.op_type, first.opset, first.output, first.cause) == (
        "t",
        "Tanh",
        17,
        "t",
        "node",
    )
    right = 1 / (1 + np.exp(-2 * X[0]))
    distances = np.abs(np.tanh(2 * X[0]) - right)
    # tanh and sigmoid agree at infinity.
    assert (first.difference.count, first.difference.size) == (4, 6)
    assert first.difference.absolute.index == (0, int(distances.argmax()))
    assert first.own.count == 4
    (operand,) = first.operands
    assert (operand.name, operand.constant, operand.difference) == ("m", False, None)


def noisy(name, distance):
    """The reference, with one value a little off and what follows computed from that."""

    def run(proto, feeds, names):
        values = dict(zip(names, peers._reference(proto, feeds, names), strict=True))
        values[name] = values[name] + np.float32(distance)
        values["y"] = values[name] * np.float32(1e6)
        return [values[wanted] for wanted in names]

    return run


def test_differences_that_grow_are_told_from_faults(monkeypatch):
    nodes = [node("Tanh", "x", "t"), node("Mul", "t w", "y", name="large")]
    proto = model(nodes, [value("x", [2, 3])], ["y"], w=np.array(1e6, np.float32))
    monkeypatch.setitem(peers.PEERS, "reference", noisy("t", 2e-6))
    found = onnxplan.compare(proto, {"x": X}, against="reference", rtol=1e-6, atol=1e-5)
    assert (found.first.node, found.first.cause, found.first.own) == ("large", "inputs", None)
    assert found.fault is None
    t, w = found.first.operands
    assert 1e-6 < t.difference.absolute.distance < 3e-6
    assert (w.constant, w.difference) == (True, None)


def break_fused(program):
    """A pass that takes exp for neg where tanh stands in the same expression."""
    for operation in program.operations:
        primitive = operation.primitive
        if isinstance(primitive, MapReduce):
            names = [instruction.op for instruction in primitive.expression.instructions]
            if "tanh" in names and "exp" in names:
                instructions = tuple(
                    dataclasses.replace(i, op="neg") if i.op == "exp" else i
                    for i in primitive.expression.instructions
                )
                expression = Expression(instructions, primitive.expression.outputs)
                operation.primitive = MapReduce(expression, primitive.shape, primitive.axes)
    return program


def break_the_optimiser(monkeypatch):
    names = [name for name, _ in pipeline.PASSES]
    place = names.index("fuse_maps") + 1
    broken = ("break_fused", lambda program, pool: break_fused(program))
    monkeypatch.setattr(pipeline, "PASSES", (*pipeline.PASSES[:place], broken, *pipeline.PASSES[place:]))


@pytest.mark.parametrize("against", AGAINST)
def test_an_optimiser_that_changes_results(monkeypatch, against):
    break_the_optimiser(monkeypatch)
    found = onnxplan.compare(chain(), {"x": X}, against=against)
    assert (found.fault.output, found.fault.op_type, found.fault.cause) == ("e", "Exp", "fusion")
    assert found.fault.own is None


def branching():
    """An If whose branches read m from around them, and a node before it in the list that comes after it."""
    branches = [
        helper.make_graph(
            [node("Neg", "m", "n"), node(kind, "n", "r")],
            kind,
            [],
            [helper.make_empty_tensor_value_info("r")],
        )
        for kind in ("Exp", "Abs")
    ]
    nodes = [
        node("Relu", "z", "y"),
        node("Mul", "x w", "m"),
        node("If", "c", "z", name="choice", then_branch=branches[0], else_branch=branches[1]),
    ]
    inputs = [value("x", [2, 3]), value("c", [], TensorProto.BOOL)]
    return model(nodes, inputs, ["y"], w=np.full(3, 2, np.float32))


def test_subgraphs_show_at_their_node(monkeypatch):
    feeds = {"x": X, "c": np.array(True)}
    found = onnxplan.compare(branching(), feeds, against="reference")
    assert found.agrees
    assert (found.nodes, found.hidden) == (3, 4)

    def run(proto, given, names):
        return peers._reference(proto, {**given, "c": np.array(False)}, names)

    monkeypatch.setitem(peers.PEERS, "reference", run)
    found = onnxplan.compare(branching(), feeds, against="reference")
    assert (found.first.node, found.first.cause) == ("choice", "node")
    assert [operand.name for operand in found.first.operands] == ["c", "m"]


def test_functions_strings_and_other_types():
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 17)]
    )
    nodes = [
        node("Twice", "x", "d", domain="local"),
        node("Cast", "d", "h", to=TensorProto.BFLOAT16),
        node("Identity", "s", "u"),
    ]
    proto = model(nodes, [value("x", [3]), value("s", [2], TensorProto.STRING)], ["h", "u"])
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("local", 1))
    feeds = {"x": np.array([1.01, 2, 3], np.float32), "s": np.array(["a", "b"], object)}
    for against in AGAINST:
        found = onnxplan.compare(proto, feeds, against=against)
        assert found.agrees, found


def test_types_that_numpy_lacks_are_fed_to_the_peers():
    proto = model([node("Neg", "x", "y")], [value("x", [2], TensorProto.BFLOAT16)], ["y"])
    feeds = {"x": np.array([1, -2], ml_dtypes.bfloat16)}
    assert onnxplan.compare(proto, feeds, against="reference").agrees
    nodes = [node("Cast", "x", "y", to=TensorProto.FLOAT)]
    proto = model(nodes, [value("x", [2], TensorProto.BFLOAT16)], ["y"])
    assert onnxplan.compare(proto, feeds, against="onnxruntime").agrees


def test_random_numbers_are_no_fault():
    nodes = [node("RandomNormalLike", "x", "r"), node("Add", "r x", "y")]
    proto = model(nodes, [value("x", [2, 3])], ["y"])
    found = onnxplan.compare(proto, {"x": np.zeros((2, 3), np.float32)})
    assert (found.first.node, found.first.cause, found.first.own) == ("r", "random", None)


def even_window():
    """LRN of an even size, which onnxruntime refuses, on three axes, which the reference refuses."""
    return model([node("LRN", "x", "y", size=2)], [value("x", [1, "c", 4])], ["y"])


@pytest.mark.parametrize("against", ["onnxruntime", "reference"])
def test_peers_that_cannot_run_the_model(against):
    with pytest.raises(onnxplan.PeerError, match=f"{against} cannot run the model: .*[Ss]ize|4D"):
        onnxplan.compare(even_window(), {"x": np.ones((1, 3, 4), np.float32)}, against=against)


def test_arguments():
    with pytest.raises(ValueError, match="against must be one of 'onnxruntime', 'reference'"):
        onnxplan.compare(chain(), {"x": X}, against="torch")
    with pytest.raises(onnxplan.InvalidFeedsError, match="'z'"):
        onnxplan.compare(chain(), {"z": X})


# The command


def call(proto, tmp_path, *arguments):
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    result = CliRunner(env={"COLUMNS": "300"}).invoke(application, ["compare", str(path), *arguments])
    return result.exit_code, " ".join(result.output.replace("│", " ").split())


def test_the_command_tells_of_agreement(tmp_path):
    x = tmp_path / "x.npy"
    np.save(x, X)
    code, text = call(chain(), tmp_path, "--input", f"x={x}")
    assert (code, text) == (0, "all values of 5 nodes agree with onnxruntime")
    code, text = call(branching(), tmp_path, "--against", "unoptimised", "--seed", "3")
    assert code == 0
    assert "the values of 4 nodes inside of subgraphs cannot be fetched" in text


def test_the_command_tells_of_a_difference(tmp_path, monkeypatch):
    monkeypatch.setitem(peers.PEERS, "reference", replaced("Tanh", "Sigmoid"))
    code, text = call(chain(), tmp_path, "--against", "reference", "--dim", "n=2")
    assert code == 1
    for part in (
        "node t ",
        "operator Tanh, opset 17",
        "onnxplan float32[2, 3]",
        "reference float32[2, 3]",
        "elements that differ 6 of 6",
        "largest absolute difference",
        "the node itself: given the inputs of reference, it still differs",
        "m float32[2, 3]",
    ):
        assert part in text
    assert call(chain(), tmp_path, "--against", "reference", "--atol", "10")[0] == 0


def test_the_command_tells_of_growing_differences(tmp_path, monkeypatch):
    nodes = [node("Tanh", "x", "t"), node("Mul", "t w", "y", name="large")]
    proto = model(nodes, [value("x", [2, 3])], ["y"], w=np.array(1e6, np.float32))
    monkeypatch.setitem(peers.PEERS, "reference", noisy("t", 2e-6))
    code, text = call(proto, tmp_path, "--against", "reference", "--rtol", "1e-6", "--atol", "1e-5")
    assert code == 1
    assert "its inputs: given those of reference, the node agrees with it" in text
    assert "no node differs by itself" in text
    assert "w (constant)" in text


def test_the_command_fails_with_2(tmp_path):
    code, text = call(even_window(), tmp_path, "--dim", "c=3")
    assert code == 2
    assert "PeerError: onnxruntime cannot run the model" in text
    code, text = call(chain(), tmp_path, "--against", "torch")
    assert code == 2
    assert "--against torch: expected one of onnxruntime, reference, unoptimised" in text
    result = CliRunner().invoke(application, ["compare", str(tmp_path / "none.onnx")])
    assert result.exit_code == 2
    assert "FileNotFoundError" in result.output
