"""The wheel: what is in it, and that it works in a clean environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SAMPLE = """
import asyncio
import numpy as np
from onnx import TensorProto, helper
import onnxplan

def info(name, dims):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)

nodes = [helper.make_node("MatMul", ["a", "b"], ["c"])]
graph = helper.make_graph(nodes, "sample", [info("a", [3, 4]), info("b", [4, 3])], [info("c", [3, 3])])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

async def main():
    async with await onnxplan.InferenceSession.create(model) as session:
        a = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
        b = np.arange(10, 130, 10, dtype=np.float32).reshape(4, 3)
        results = await session.run({"a": a, "b": b})
        print(onnxplan.__file__)
        print(",".join(f"{value:g}" for value in results["c"].data))

asyncio.run(main())
"""


ROOMS = ("onnxplan", "compiler", "kernels", "runtime")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: setuptools leaves files behind, and other processes may be building too."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source]
    subprocess.run(command, check=True)
    (file,) = folder.glob("*.whl")
    return file


def test_wheel_is_small_pure_python_of_the_package_alone(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    assert wheel.stat().st_size < 1_250_000
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"onnxplan"}
    packaged = {name for name in names if name.startswith("onnxplan/") and name.endswith(".py")}
    for room in ROOMS:
        prefix = "onnxplan" if room == "onnxplan" else f"onnxplan/{room}"
        for path in (ROOT / room).rglob("*.py"):
            assert f"{prefix}/{path.relative_to(ROOT / room).as_posix()}" in packaged
    assert "onnxplan/py.typed" in names
    for path in (ROOT / "onnxplan" / "report" / "assets").iterdir():
        assert f"onnxplan/report/assets/{path.name}" in names
    assert not any("report/vendor" in name for name in names)


def test_wheel_runs_the_sample_in_a_clean_environment(wheel, tmp_path):
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)],
        check=True,
    )
    # Dependencies come from the test environment, behind the new one; a .pth entry does not run its own .pth
    # files, so the development install of onnxplan stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    script = tmp_path / "sample.py"
    script.write_text(SAMPLE)
    result = subprocess.run([python, str(script)], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    where, values = result.stdout.split()
    assert Path(where).is_relative_to(site)
    assert values == "700,800,900,1580,1840,2100,2460,2880,3300"
