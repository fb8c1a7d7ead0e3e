"""The command line, through typer's runner and as a process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

import onnxplan
from onnxplan.cli import main
from onnxplan.cli.commands import application

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def tensor(name, dims, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, dims)


def save(path, nodes, inputs, outputs, initializers=(), opsets=(("", 17),)):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    imports = [helper.make_opsetid(*opset) for opset in opsets]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


@pytest.fixture
def product(tmp_path):
    """a[batch, 4] times b[4, 3], where b has a default."""
    default = helper.make_tensor("b", TensorProto.FLOAT, [4, 3], np.ones(12))
    return save(
        tmp_path / "product.onnx",
        [helper.make_node("MatMul", ["a", "b"], ["c"], name="the product")],
        [tensor("a", ["batch", 4]), tensor("b", [4, 3])],
        [tensor("c", ["batch", 3])],
        [default],
    )


@pytest.fixture
def gaps(tmp_path):
    """A model of a known and two unknown operators."""
    nodes = [
        helper.make_node("MatMul", ["a", "a"], ["x"]),
        helper.make_node("Frobnicate", ["x"], ["y"], name="first", domain="com.example"),
        helper.make_node("Frobnicate", ["y"], ["z"], name="second", domain="com.example"),
        helper.make_node("Twist", ["z"], ["c"], name="third", domain="com.example"),
    ]
    opsets = (("", 17), ("com.example", 3))
    return save(tmp_path / "gaps.onnx", nodes, [tensor("a", [2, 2])], [tensor("c", [2, 2])], opsets=opsets)


def call(*arguments, **environment):
    """The result of a command; usage errors are not wrapped."""
    return CliRunner(env={"COLUMNS": "300", **environment}).invoke(application, [str(a) for a in arguments])


def succeed(*arguments, **environment):
    result = call(*arguments, **environment)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def refuse(*arguments):
    """What a usage error says."""
    result = call(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    assert result.stdout == ""
    return " ".join(result.stderr.split())


def save_array(path, array):
    np.save(path, array)
    return path


def test_run_shows_and_saves_outputs(product, tmp_path):
    a = np.arange(8, dtype=np.float32).reshape(2, 4)
    file = save_array(tmp_path / "a.npy", a)
    text = succeed("run", product, "--input", f"a={file}", "--output", tmp_path / "new" / "out")
    assert "float32[2, 3]" in text
    assert "6 6 6 22 ..." in text
    assert "1 output written to" in text
    np.testing.assert_array_equal(
        np.load(tmp_path / "new" / "out" / "c.npy"), a @ np.ones((4, 3), np.float32)
    )


def test_run_takes_optional_inputs(product, tmp_path):
    a = save_array(tmp_path / "a.npy", np.ones((1, 4), np.float32))
    b = save_array(tmp_path / "b.npy", np.full((4, 3), 5, np.float32))
    assert "20 20 20" in succeed("run", product, "--input", f"a={a}", "--input", f"b={b}")


def test_random_inputs_follow_the_seed_and_the_dimensions(product, tmp_path):
    outputs = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(number)
        succeed("run", product, "--dim", "batch=5", "--seed", seed, "--output", folder)
        outputs.append(np.load(folder / "c.npy"))
    assert outputs[0].shape == (5, 3)
    assert np.array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


def test_dimensions_come_from_files_where_they_are_not_given(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "y"], ["z"])]
    model = save(
        tmp_path / "m.onnx", nodes, [tensor("x", ["n", "k"]), tensor("y", ["k", 2])], [tensor("z", ["n", 2])]
    )
    x = save_array(tmp_path / "x.npy", np.ones((3, 7), np.float32))
    assert "float32[3, 2]" in succeed("run", model, "--input", f"x={x}")
    assert "--dim k=6, but 'k' is 7" in refuse("run", model, "--input", f"x={x}", "--dim", "k=6")


def test_names_with_markup_brackets_and_slashes(tmp_path):
    names = ["[red]odd/name", "[red]odd:name", "=x=", "..", "é" * 90]
    nodes = [helper.make_node("MatMul", ["a=b", "a=b"], [name]) for name in names]
    model = save(
        tmp_path / "odd.onnx", nodes, [tensor("a=b", ["[bold]", "[bold]"])], [tensor(n, None) for n in names]
    )
    file = save_array(tmp_path / "a=1.npy", np.eye(2, dtype=np.float32))
    folder = tmp_path / "out"
    text = succeed("run", model, "--input", f"a=b={file}", "--output", folder)
    assert all(name in text for name in names)
    assert len(list(folder.iterdir())) == len(names)
    for path in folder.iterdir():
        np.testing.assert_array_equal(np.load(path), np.eye(2))
    assert "[red]odd:name: float32[2, 2]" in succeed("plan", model, "--dim", "[bold]=2")
    assert "'[bold]'" in refuse("run", model, "--dim", "bold=2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dim", "batch"], "--dim batch: expected NAME=SIZE"),
        (["--dim", "batch=-1"], "--dim batch=-1: expected NAME=SIZE"),
        (["--dim", "batch=²"], "--dim batch=²: expected NAME=SIZE"),
        (["--dim", "=3"], "--dim =3: expected NAME=SIZE"),
        (["--dim", "batch=2", "--dim", "batch=3"], "'batch' is 2 already"),
        (["--dim", "btach=2"], "no input has a dimension called 'btach'; did you mean 'batch'?"),
        (["--dim", f"batch={10**15}"], "is too large"),
        (["--input", "a"], "--input a: expected NAME=FILE.npy"),
        (["--input", "a="], "--input a=: expected NAME=FILE.npy"),
        (["--input", "A=x.npy"], "the model has no input 'A'"),
        (["--input", "a=missing.npy"], "No such file or directory"),
        (["--threads", "0"], "--threads"),
        (["--seed", "-1"], "--seed"),
        (["--device", "tpu"], "unknown device 'tpu'; expected 'cpu', 'cuda', 'cuda:N' or 'auto'"),
        (["--device", "cuda:x"], "unknown device 'cuda:x'"),
    ],
)
def test_arguments_that_make_no_sense(product, arguments, message):
    assert message in refuse("run", product, *arguments)


def test_input_files_that_are_none(product, tmp_path):
    text = tmp_path / "text.npy"
    text.write_text("no array")
    assert "not an .npy file" in refuse("run", product, "--input", f"a={text}")
    empty = tmp_path / "empty.npy"
    empty.touch()
    assert "not an .npy file" in refuse("run", product, "--input", f"a={empty}")
    archive = tmp_path / "archive.npz"
    np.savez(archive, a=np.ones(3))
    assert "archive of several arrays" in refuse("run", product, "--input", f"a={archive}")
    pickled = tmp_path / "pickled.npy"
    np.save(pickled, np.array([{}], object), allow_pickle=True)
    assert "allow_pickle=False" in refuse("run", product, "--input", f"a={pickled}")
    file = save_array(tmp_path / "a.npy", np.ones((1, 4), np.float32))
    assert "given twice" in refuse("run", product, "--input", f"a={file}", "--input", f"a={file}")


def test_rank_unknown(tmp_path):
    nodes = [helper.make_node("MatMul", ["a", "a"], ["c"])]
    model = save(tmp_path / "m.onnx", nodes, [tensor("a", None)], [tensor("c", None)])
    assert "the rank of input 'a'" in refuse("run", model)
    assert "the rank of input 'a'" in refuse("plan", model)
    file = save_array(tmp_path / "a.npy", np.eye(2, dtype=np.float32))
    assert "1 0 0 1" in succeed("run", model, "--input", f"a={file}")


def test_plan(product):
    text = succeed("plan", product, "--dim", "batch=6")
    assert text.startswith("plan for cpu")
    assert "a: float32[6, 4]" in text
    assert "total: 1 steps" in text
    plan = onnxplan.ExecutionPlan.from_json(succeed("plan", product, "--dim", "batch=6", "--json"))
    assert str(plan) + "\n" == text


def test_bench(product):
    found = json.loads(succeed("bench", product, "--seconds", "0.01", "--json", "--dim", "batch=2"))
    assert found["unit"] == "ms"
    assert set(found["engines"]) == {"onnxplan", "onnxruntime"}
    for row in found["engines"].values():
        assert row["runs"] >= 1
        assert 0 < row["min"] <= row["p50"] <= row["p90"] <= row["p99"] <= row["max"]
    text = succeed("bench", product, "--seconds", "0.01")
    assert "onnxplan" in text
    assert "1.00x" in text


def test_bench_without_onnxruntime(product, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "not installed" in succeed("bench", product, "--seconds", "0.01")
    assert list(json.loads(succeed("bench", product, "--seconds", "0.01", "--json"))["engines"]) == [
        "onnxplan"
    ]


def test_bench_of_a_model_that_onnxruntime_refuses(product, monkeypatch):
    import onnxruntime

    def refuse_model(*_, **__):
        raise onnxruntime.capi.onnxruntime_pybind11_state.Fail("no such kernel [x]")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse_model)
    assert "it cannot run the model: Fail: no such kernel [x]" in succeed(
        "bench", product, "--seconds", "0.01"
    )


def test_check_of_a_model_that_runs(product):
    text = succeed("check", product)
    assert re.search(r"MatMul .* 17 .* 1 .* cpu", text)
    assert "1 operator: all run here" in text
    (row,) = json.loads(succeed("check", product, "--json"))["operators"]
    expected = {
        "domain": "ai.onnx",
        "op_type": "MatMul",
        "opset": 17,
        "nodes": 1,
        "device": "cpu",
        "missing_in": [],
    }
    assert row == expected


def test_check_lists_all_gaps(gaps):
    result = call("check", gaps)
    assert result.exit_code == 1
    assert "com.example::Frobnicate" in result.stdout
    assert "first, second" in result.stdout
    assert "com.example::Twist" in result.stdout
    assert "2 of 3 operators do not run here" in result.stdout
    result = call("check", gaps, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert not found["supported"]
    missing = {row["op_type"]: row["missing_in"] for row in found["operators"] if row["device"] is None}
    assert missing == {"Frobnicate": ["first", "second"], "Twist": ["third"]}


def test_check_of_an_opset_from_the_future(tmp_path):
    newest = onnx.defs.onnx_opset_version()
    nodes = [helper.make_node("MatMul", ["a", "a"], ["c"])]
    model = save(
        tmp_path / "m.onnx", nodes, [tensor("a", [2, 2])], [tensor("c", [2, 2])], opsets=[("", newest + 1)]
    )
    result = call("check", model)
    assert result.exit_code == 1
    assert str(newest + 1) in result.stdout


def test_doctor(tmp_path):
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "x.kernel").write_bytes(bytes(1 << 20))
    found = json.loads(
        succeed("doctor", "--json", ONNXPLAN_CACHE_DIR=str(tmp_path), ONNXPLAN_CACHE_SIZE="2G")
    )
    assert found["versions"]["onnxplan"] == onnxplan.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["devices"]["cpu"].startswith("usable")
    assert found["kernel store"] == {
        "folder": str(tmp_path),
        "kernels": "1",
        "models": "0",
        "size": "1.0 MiB",
        "bound": "2048.0 MiB",
    }
    assert found["environment"]["ONNXPLAN_CACHE_DIR"] == str(tmp_path)
    text = succeed("doctor", ONNXPLAN_CACHE_DIR=str(tmp_path / "none"))
    assert "0.0 MiB" in text
    assert "cuda" in text


def test_doctor_finds_what_is_wrong(monkeypatch):
    monkeypatch.setattr("onnxplan.cli.doctor.REQUIRED", ("numpy", "no-such-package"))
    result = call("doctor", ONNXPLAN_ISA="quantum")
    assert result.exit_code == 1
    assert "MISSING: pip install no-such-package" in result.stdout
    assert "unavailable: ONNXPLAN_ISA must be one of" in result.stdout


def test_version_and_help():
    assert succeed("--version") == f"onnxplan {onnxplan.__version__}\n"
    for command in ("run", "plan", "bench", "check", "doctor", "cache"):
        assert command in call("--help").stdout
        succeed(command, "--help")


def run_main(capsys, monkeypatch, *arguments):
    """Exit status, standard output and standard error of the command line."""
    monkeypatch.setattr(sys, "argv", ["onnxplan", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code, *capsys.readouterr()


def test_failures_end_in_one_line_and_status_1(capsys, monkeypatch, tmp_path, product, gaps):
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "empty.onnx").touch()
    wrong = save_array(tmp_path / "wrong.npy", np.ones((2, 5), np.float32))
    blocked = tmp_path / "blocked"
    blocked.touch()
    cases = [
        (("run", tmp_path / "none.onnx"), "FileNotFoundError"),
        (("plan", tmp_path / "text.onnx"), "InvalidModelError"),
        (("bench", tmp_path / "empty.onnx"), "InvalidModelError"),
        (("check", tmp_path), "InvalidModelError"),
        (("run", gaps), "UnsupportedOperatorError"),
        (("run", product, "--device", "cuda:99"), "DeviceUnavailableError"),
        (("run", product, "--input", f"a={wrong}"), "InvalidFeedsError: input a: float32[batch, 4]"),
        (("run", product, "--output", blocked), "FileExistsError"),
    ]
    for arguments, message in cases:
        status, _, error = run_main(capsys, monkeypatch, *arguments)
        assert status == 1, arguments
        assert error.startswith(message), arguments
        assert "Traceback" not in error


def test_pipes_get_plain_whole_lines_and_terminals_what_fits(gaps, tmp_path):
    wide = save(
        tmp_path / "wide.onnx",
        [helper.make_node("MatMul", ["a", "a"], ["c" * 300])],
        [tensor("a", [2, 2])],
        [tensor("c" * 300, [2, 2])],
    )
    text = succeed("run", wide, COLUMNS="40", TERM="xterm-256color")
    assert "c" * 300 in text
    assert "\x1b" not in text
    narrow = succeed("run", wide, COLUMNS="40", FORCE_COLOR="1", TERM="xterm-256color")
    assert "\x1b" in narrow
    assert all(len(line) <= 40 for line in ESCAPE.sub("", narrow).splitlines())
    assert ESCAPE.sub("", narrow).count("c") >= 300
    assert "\x1b[31mnothing" in call("check", gaps, FORCE_COLOR="1", TERM="xterm-256color").stdout


def test_encodings_without_the_characters(product):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "onnxplan", "run", str(product)]
    result = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"float32[1, 3]" in result.stdout.decode("ascii").encode()


def test_a_closed_pipe_is_no_failure_of_ours(product):
    command = [sys.executable, "-m", "onnxplan", "plan", str(product), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("terminal", [True, False])
def test_compilation_shows_a_bar_on_a_terminal_only(product, tmp_path, terminal):
    import pty

    environment = {**os.environ, "ONNXPLAN_CACHE_DIR": str(tmp_path / "store"), "TERM": "xterm"}
    reader, writer = pty.openpty() if terminal else os.pipe()
    command = [sys.executable, "-m", "onnxplan", "plan", str(product)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writer, env=environment)
    os.close(writer)
    output = process.communicate()[0]
    shown = b""
    try:
        while chunk := os.read(reader, 1 << 16):
            shown += chunk
    except OSError:
        # Linux reports the end of a pseudo-terminal like this.
        assert terminal
    os.close(reader)
    assert process.returncode == 0
    assert b"total: 1 steps" in output
    assert (b"compiling kernels" in shown) == terminal
    assert terminal or shown == b""


def test_compile_writes_an_artifact_that_other_commands_take(product, tmp_path):
    path = tmp_path / "product.plan"
    said = succeed("compile", product, "-o", path, "--dim", "batch=1,8", "--shape", "a=3x4,b=4x3")
    assert "2 plans for each device" not in said
    assert "1 plan for each device" in said
    said = succeed("compile", product, "-o", path, "--dim", "batch=1,8", "--shape", "b=4x3")
    assert "2 plans for each device" in said
    assert "matmul" in succeed("plan", path, "--dim", "batch=8")
    assert "c" in succeed("run", path, "--dim", "batch=3")


def test_compile_refuses_what_makes_no_sense(product, tmp_path):
    path = tmp_path / "product.plan"
    assert "expected NAME=SIZE" in refuse("compile", product, "-o", path, "--dim", "batch=one")
    assert "given twice" in refuse("compile", product, "-o", path, "--dim", "batch=1", "--dim", "batch=2")
    assert "no input has a dimension called 'rows'" in refuse(
        "compile", product, "-o", path, "--dim", "rows=1"
    )
    assert "expected NAME=1x3x224x224" in refuse("compile", product, "-o", path, "--shape", "a=3by4")
    assert "signing key" in refuse("compile", product, "-o", path, "--sign-key", product)
    assert not path.exists()
