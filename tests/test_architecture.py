"""The rules that keep the rooms apart."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"onnxplan": "onnxplan", "compiler": "onnxplan.compiler", "kernels": "onnxplan.kernels"}
ROOMS["runtime"] = "onnxplan.runtime"
KERNELS_MAY_USE = {
    "blocks",
    "dtypes",
    "environment",
    "errors",
    "expression",
    "plan",
    "primitives",
    "program",
    "scalar",
    "selection",
}
KERNELS_MAY_USE |= {"records", "target", "view"}
MEETING_POINT = "runtime/devices.py"


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found.add(str(node.module))
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def room_of(module: str) -> str | None:
    for room in ("compiler", "kernels", "runtime"):
        if module == f"onnxplan.{room}" or module.startswith(f"onnxplan.{room}."):
            return room
    return "onnxplan" if module == "onnxplan" or module.startswith("onnxplan.") else None


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("compiler", {"runtime", "kernels", "onnxplan"}),
        ("kernels", {"runtime", "onnxplan"}),
        ("runtime", {"onnxplan"}),
    ],
)
def test_imports_run_one_way(room, forbidden):
    for path in sources(room):
        for module in imported(path) - {"onnxplan"}:
            assert room_of(module) not in forbidden, f"{path.relative_to(ROOT)} imports {module}"


def test_kernels_know_only_the_plan_side_of_the_compiler():
    for path in sources("kernels"):
        for module in imported(path):
            if room_of(module) == "compiler":
                part = module.removeprefix("onnxplan.compiler").lstrip(".").partition(".")[0]
                assert part in KERNELS_MAY_USE | {""}, f"{path.relative_to(ROOT)} imports {module}"


def test_runtime_and_kernels_meet_in_one_place():
    meeting = [
        str(path.relative_to(ROOT))
        for path in sources("runtime")
        if any(room_of(module) == "kernels" for module in imported(path))
    ]
    assert meeting == [MEETING_POINT]


def test_only_the_importer_reads_protobuf():
    for room in ("compiler", "kernels", "runtime"):
        for path in sources(room):
            if path.is_relative_to(ROOT / "compiler" / "importer"):
                continue
            heads = {module.partition(".")[0] for module in imported(path)}
            assert not heads & {"onnx", "onnx_ir", "google"}, f"{path.relative_to(ROOT)} reads protobuf"


@pytest.mark.parametrize("room", ROOMS)
def test_dataclasses_are_made_in_one_place(room):
    """See :mod:`onnxplan.compiler.records`: those of the standard library take five times as long."""
    for path in sources(room):
        if path != ROOT / "compiler" / "records.py":
            assert "dataclasses.dataclass" not in path.read_text(), path
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module == "dataclasses":
                    assert "dataclass" not in {name.name for name in node.names}, path


@pytest.mark.parametrize("room", [*ROOMS, "tests", "bench", "catalogue", "examples"])
def test_files_hold_one_idea(room):
    long = {
        str(p.relative_to(ROOT)): n for p in sources(room) if (n := len(p.read_text().splitlines())) > 420
    }
    assert not long


def test_importing_the_package_is_light():
    heavy = ("numba", "llvmlite", "onnx", "onnx_ir", "cupy", "cupy_backends", "cuda", "typer", "rich")
    code = (
        "import sys, onnxplan; onnxplan.InferenceSession; onnxplan.Tensor;"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_cupy_is_imported_for_a_cuda_device_only():
    code = (
        "import sys, onnxplan; from examples.demo import reference_model;"
        "onnxplan.InferenceSession(reference_model()).run_sync({'a': [[1.0] * 4] * 3, 'b': [[1.0] * 3] * 4});"
        "print([name for name in ('cupy', 'cupy_backends', 'cuda') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stdout.strip() == "[]"
