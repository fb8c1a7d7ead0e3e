"""Programs that import onnxruntime, unchanged, on onnxplan."""

from __future__ import annotations

import subprocess
import sys

import onnxruntime
import pytest
from both_modules import sums
from member_table import DOCUMENT, current_document

import onnxplan.onnxruntime

PROGRAM = """
import sys
import numpy as np
import onnxruntime as ort
import onnxruntime.capi.onnxruntime_pybind11_state as state
from onnxruntime import InferenceSession, SessionOptions
from onnxruntime.capi.onnxruntime_inference_collection import OrtValue
from onnxruntime.transformers.io_binding_helper import TypeHelper

session = InferenceSession(sys.argv[1], SessionOptions(), providers=["CPUExecutionProvider"])
x = np.arange(4, dtype=np.float32).reshape(2, 2)
assert TypeHelper.get_io_numpy_type_map(session)["x"] is np.float32
try:
    session.run(None, {"x": x[0]})
except state.InvalidArgument:
    print(ort.__name__, session.run(["z"], {"x": x})[0].tolist(), sys.argv[2:], __name__)
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "model.onnx").write_bytes(sums())
    return tmp_path


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=folder
    )


EXPECTED = "onnxplan.onnxruntime [[1.0, 2.0], [3.0, 4.0]] ['--flag', 'a b'] __main__\n"


@pytest.mark.parametrize("how", [["program.py"], ["-m", "program"]], ids=["file", "module"])
def test_a_program_runs_unchanged(program, how):
    done = run(program, "-m", "onnxplan.onnxruntime", *how, "model.onnx", "--flag", "a b")
    assert (done.returncode, done.stdout) == (0, EXPECTED), done.stderr


def test_a_program_fails_as_it_would_alone(program):
    done = run(program, "-m", "onnxplan.onnxruntime", "program.py", "none.onnx")
    assert done.returncode == 1
    assert "NoSuchFile" in done.stderr
    (program / "exits.py").write_text("raise SystemExit(7)")
    assert run(program, "-m", "onnxplan.onnxruntime", "exits.py").returncode == 7


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), ([], 2), (["-m"], 2), (["--what"], 2)])
def test_usage(tmp_path, arguments, code):
    done = run(tmp_path, "-m", "onnxplan.onnxruntime", *arguments)
    assert done.returncode == code
    assert "python -m onnxplan.onnxruntime PROGRAM" in done.stdout + done.stderr


def test_what_is_not_there_cannot_be_imported(tmp_path):
    code = (
        "import onnxplan.onnxruntime as o; o.install(); o.install(); import onnxruntime.capi\n"
        "try: import onnxruntime.quantization\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    done = run(tmp_path, "-c", code)
    assert (
        "onnxplan.onnxruntime stands in for onnxruntime and has no 'onnxruntime.quantization'" in done.stdout
    )


def test_the_real_one_must_not_be_there_already(tmp_path):
    done = run(tmp_path, "-c", "import onnxruntime, onnxplan.onnxruntime as o; o.install()")
    assert "RuntimeError: onnxruntime was imported already" in done.stderr


def test_importing_it_is_light():
    code = (
        "import sys, onnxplan.onnxruntime;"
        "heavy = ('numba', 'llvmlite', 'onnx', 'cupy', 'onnxruntime', 'torch');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_table_of_the_document_is_current(compared_version):
    assert DOCUMENT.read_text(encoding="utf-8") == current_document(), "run make docs/onnxruntime.md"


def test_the_version_is_the_one_compared_with(compared_version):
    assert onnxplan.onnxruntime.__version__ == onnxruntime.__version__
    assert onnxplan.onnxruntime.get_version_string() == onnxruntime.get_version_string()
