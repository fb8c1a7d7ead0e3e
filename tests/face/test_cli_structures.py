"""Sequences, optionals and maps on the command line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, save_model
from test_cli import refuse, save_array, succeed

TENSOR = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", 3])
SEQUENCE = helper.make_sequence_type_proto(TENSOR)
MAP = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))


def save(path, nodes, inputs, outputs):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_value_info(name, kind) for name, kind in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    save_model(helper.make_model(graph, opset_imports=imports), path)
    return path


@pytest.fixture
def sequences(tmp_path):
    nodes = [
        helper.make_node("SequenceInsert", ["xs", "x"], ["ys"]),
        helper.make_node("OptionalHasElement", ["o"], ["has"]),
        helper.make_node("Identity", ["o"], ["p"]),
    ]
    inputs = {"xs": SEQUENCE, "x": TENSOR, "o": helper.make_optional_type_proto(TENSOR)}
    return save(tmp_path / "s.onnx", nodes, inputs, ["ys", "has", "p"])


def test_run_draws_sequences_and_leaves_optionals_out(sequences, tmp_path):
    folder = tmp_path / "out"
    text = succeed("run", sequences, "--length", "xs=3", "--dim", "n=2", "--output", folder)
    assert all(f"ys[{position}]" in text for position in range(4))
    assert "ys[4]" not in text
    assert "absent" in text
    assert sorted(file.name for file in folder.iterdir()) == ["has.npy", *(f"ys-{i}.npy" for i in range(4))]
    assert np.load(folder / "ys-3.npy").shape == (2, 3)
    assert "ys[2]" not in succeed("run", sequences)
    assert "ys[0]" in succeed("run", sequences, "--length", "xs=0")


def test_files_of_elements(sequences, tmp_path):
    arrays = [np.full((rows, 3), rows, np.float32) for rows in (1, 2)]
    files = [save_array(tmp_path / f"{array[0, 0]}.npy", array) for array in arrays]
    given = [part for name in ("xs", "xs", "x", "o") for part in ("--input", f"{name}={files[name == 'xs']}")]
    folder = tmp_path / "out"
    succeed("run", sequences, *given[:2], "--input", f"xs={files[0]}", *given[4:], "--output", folder)
    for name, array in {"ys-0": arrays[1], "ys-1": arrays[0], "ys-2": arrays[0], "p": arrays[0]}.items():
        np.testing.assert_array_equal(np.load(folder / f"{name}.npy"), array)
    assert "'x' is given twice" in refuse("run", sequences, *given[4:6], *given[4:6])


def test_plan_and_check(sequences):
    text = succeed("plan", sequences, "--length", "xs=2", "--dim", "n=5")
    assert "xs[1]: float32[5, 3]" in text
    assert "all run here" in succeed("check", sequences)
    assert "no input called 'x' is a sequence" in refuse("plan", sequences, "--length", "x=2")
    assert "--length xs: expected NAME=SIZE" in refuse("plan", sequences, "--length", "xs")


def test_bench(sequences):
    text = succeed("bench", sequences, "--seconds", "0.01", "--json")
    assert json.loads(text)["engines"]["onnxplan"]["runs"] >= 1


def test_maps(tmp_path):
    nodes = [
        helper.make_node("DictVectorizer", ["m"], ["y"], int64_vocabulary=[4, 2], domain="ai.onnx.ml"),
        helper.make_node("ZipMap", ["y"], ["z"], classlabels_strings=["b", "a"], domain="ai.onnx.ml"),
    ]
    model = save(tmp_path / "m.onnx", nodes, {"m": MAP}, ["y", "z"])
    file = tmp_path / "m.json"
    file.write_text('{"2": 1.5, "4": 3}')
    folder = tmp_path / "out"
    text = succeed("run", model, "--input", f"m={file}", "--output", folder)
    assert "map of 2" in text
    assert "a: 1.5, b: 3" in text
    assert json.loads((folder / "z.json").read_text()) == [{"a": 1.5, "b": 3.0}]
    assert "give it with --input NAME=FILE.json" in refuse("run", model)
    assert "--length m: no input of the model is a sequence" in refuse("run", model, "--length", "m=2")
    for content, part in [('{"x": 1}', "int64 keys"), ("[1]", "no JSON object"), ("{", "JSON object")]:
        file.write_text(content)
        assert part in refuse("run", model, "--input", f"m={file}")
    assert "No such file" in refuse("run", model, "--input", f"m={tmp_path / 'missing.json'}")
    assert "the rank of input 'm'" in refuse("plan", model)


def test_long_sequences_are_cut(tmp_path):
    node = helper.make_node("SplitToSequence", ["x"], ["ys"])
    model = save(tmp_path / "m.onnx", [node], {"x": TENSOR}, ["ys"])
    text = succeed("run", model, "--dim", "n=40")
    assert "ys[15]" in text
    assert "ys[16]" not in text
    assert "sequence of 40" in text
    assert "sequence of 0" in succeed("run", model, "--dim", "n=0")
