"""What ``onnxplan doctor`` finds where parts of CUDA are missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import onnxplan.cli.doctor
from onnxplan.cli.commands import application
from onnxplan.compiler.errors import DeviceUnavailableError
from onnxplan.runtime.cuda.inventory import Machine, take_inventory


class FakeDriver:
    """The driver's functions as ctypes calls them; ``error`` is the status of ``cuInit``."""

    def __init__(self, version: int, devices: int, error: int = 0) -> None:
        self.version, self.devices, self.error = version, devices, error

    def cuInit(self, flags):
        assert flags == 0
        return self.error

    def cuDriverGetVersion(self, version):
        version._obj.value = self.version
        return 0

    def cuDeviceGetCount(self, count):
        count._obj.value = self.devices
        return 0

    def cuDeviceGet(self, handle, number):
        handle._obj.value = 100 + number
        return 0

    def cuDeviceGetName(self, name, length, handle):
        name.value = f"GPU {handle.value - 100}".encode()
        assert length == len(name)
        return 0

    def cuDeviceTotalMem_v2(self, memory, handle):
        memory._obj.value = 80 << 30
        return 0

    def cuDeviceGetAttribute(self, value, attribute, handle):
        value._obj.value = {75: 9, 76: 0}[attribute]
        return 0

    def cuGetErrorString(self, status, text):
        text._obj.value = b"no CUDA-capable device is detected"
        return 0


class FakeLibrary:
    """Version functions of NVRTC, cuBLASLt, cudart and cuDNN."""

    def __init__(self) -> None:
        # ctypes sets the result's type on the function itself.
        self.cublasLtGetVersion = type("F", (), {"__call__": lambda self: 131002})()
        self.cudnnGetVersion = type("F", (), {"__call__": lambda self: 92801})()

    def nvrtcVersion(self, major, minor):
        major._obj.value, minor._obj.value = 13, 5

    def cudaRuntimeGetVersion(self, version):
        version._obj.value = 13050


class FakeMachine(Machine):
    """A machine with a driver, or the error of loading it, these packages, and all libraries but some."""

    def __init__(self, driver=None, packages=(), missing=(), pathfinder=True):
        self.driver, self.packages, self.missing, self.pathfinder = driver, packages, missing, pathfinder

    def open_driver(self):
        if self.driver is None:
            raise OSError("libcuda.so.1: cannot open shared object file")
        return self.driver

    def driver_release(self):
        return "580.82.07"

    def open_toolkit(self, name):
        if not self.pathfinder:
            raise ImportError("No module named 'cuda'")
        if name in self.missing:
            raise RuntimeError(f"Failure finding {name}\nwith many lines")
        return f"/lib/lib{name}.so", FakeLibrary()

    def open_cudnn(self):
        if "cudnn" in self.missing:
            raise OSError("libcudnn.so.9: cannot open shared object file")
        return "/lib/libcudnn.so.9", FakeLibrary()

    def version(self, package):
        return "14.2.0" if package in self.packages else None

    def module_path(self, module):
        return f"/site/{module}/__init__.py"


WHOLE = ("cupy-cuda13x", "nvidia-cudnn-frontend")


def problems(inventory) -> dict[str, str]:
    return {library.name: library.problem for library in inventory.libraries if not library.found}


def test_a_whole_machine():
    found = take_inventory(FakeMachine(FakeDriver(13000, 2), WHOLE))
    assert found.driver == (13, 0)
    assert found.driver_release == "580.82.07"
    assert [device.name for device in found.devices] == ["GPU 0", "GPU 1"]
    assert found.devices[0].capability == (9, 0)
    assert found.devices[0].memory == 80 << 30
    assert not problems(found)
    versions = {library.name: library.version for library in found.libraries}
    assert versions["CuPy"] == "cupy-cuda13x 14.2.0"
    assert versions["NVRTC"] == versions["cudart"] == "13.5"
    assert versions["cuBLASLt"] == "13.10.2"
    assert versions["cuDNN (optional)"] == "9.28.1"
    assert found.fix == found.option == ""


@pytest.mark.parametrize(
    ("machine", "fix"),
    [
        (FakeMachine(FakeDriver(13000, 1)), "pip install 'onnxplan[cuda13]'"),
        (FakeMachine(FakeDriver(12080, 1)), "pip install 'onnxplan[cuda12]'"),
        (FakeMachine(FakeDriver(14010, 1)), "pip install 'onnxplan[cuda13]'"),
        (FakeMachine(), "install NVIDIA's driver; pip install 'onnxplan[cuda13]'"),
        (FakeMachine(None, ["cupy-cuda12x"]), "install NVIDIA's driver"),
        (FakeMachine(FakeDriver(13000, 1), WHOLE, ["cublasLt"]), "pip install 'onnxplan[cuda13]'"),
        (FakeMachine(FakeDriver(13000, 1), WHOLE, pathfinder=False), "pip install 'onnxplan[cuda13]'"),
        (FakeMachine(FakeDriver(13000, 1), ["cupy"]), ""),
        (FakeMachine(FakeDriver(13000, 1), WHOLE, ["cudnn"]), ""),
        (
            FakeMachine(FakeDriver(12080, 1), WHOLE),
            "pip uninstall --yes cupy-cuda13x; pip install 'onnxplan[cuda12]'",
        ),
        (
            FakeMachine(FakeDriver(13000, 1), ["cupy-cuda13x", "cupy-cuda12x"]),
            "pip uninstall --yes cupy-cuda13x cupy-cuda12x; pip install 'onnxplan[cuda13]'",
        ),
        (
            FakeMachine(FakeDriver(13000, 0), WHOLE),
            "make a device visible (nvidia-smi lists them, CUDA_VISIBLE_DEVICES may hide them)",
        ),
        (
            FakeMachine(FakeDriver(11040, 1), ["cupy-cuda12x"]),
            "update the driver: it supports CUDA 11.4, 12.0 is needed",
        ),
    ],
)
def test_the_fix_is_what_is_missing(machine, fix):
    assert take_inventory(machine).fix == fix


def test_what_is_missing_is_named():
    found = take_inventory(FakeMachine(None, (), ["nvrtc", "cudnn"]))
    assert found.driver is None
    assert found.driver_release == ""
    assert found.driver_problem == "libcuda.so.1: cannot open shared object file"
    assert problems(found) == {
        "CuPy": "not installed",
        "NVRTC": "cannot be loaded: Failure finding nvrtc",
        "cuDNN (optional)": "cannot be loaded: libcudnn.so.9: cannot open shared object file",
        "cuDNN frontend (optional)": "not installed",
    }
    assert found.option == "pip install 'onnxplan[cuda13,cudnn]'"
    assert take_inventory(FakeMachine(FakeDriver(12000, 1), (), ["cudnn"])).option == (
        "pip install 'onnxplan[cuda12,cudnn12]'"
    )


def test_a_driver_that_does_not_start():
    found = take_inventory(FakeMachine(FakeDriver(13000, 1, error=100), WHOLE))
    assert found.driver == (13, 0)
    assert found.devices == ()
    assert found.driver_problem == (
        "the driver does not start: error 100, no CUDA-capable device is detected"
    )


def test_this_machine_is_looked_at_without_importing_cupy():
    before = set(sys.modules)
    found = take_inventory()
    assert "cupy" not in set(sys.modules) - before
    for library in found.libraries:
        assert bool(library.version) == library.found
        assert not library.path.startswith("/") or Path(library.path).exists()


def show(monkeypatch, machine, *arguments, error=None):
    """The output of ``onnxplan doctor`` on ``machine``, and its exit status."""
    monkeypatch.setattr(onnxplan.cli.doctor, "take_inventory", lambda: take_inventory(machine))

    def open_device(name):
        assert name == "cuda"
        if error:
            raise DeviceUnavailableError(error)

    monkeypatch.setattr(onnxplan.cli.doctor, "open_device", open_device)
    result = CliRunner().invoke(application, ["doctor", *arguments])
    return result.stdout, result.exit_code


def test_doctor_on_a_whole_machine(monkeypatch):
    text, status = show(monkeypatch, FakeMachine(FakeDriver(13000, 1), WHOLE), "--json")
    sections = json.loads(text)
    assert status == 0
    assert sections["devices"]["cuda"] == "usable: device='cuda' works"
    assert sections["cuda"]["driver"] == "580.82.07, for CUDA 13.0"
    assert sections["cuda"]["cuda:0"] == "GPU 0, compute capability 9.0, 80.0 GiB"
    assert sections["cuda"]["cuBLASLt"] == "13.10.2, /lib/libcublasLt.so"
    assert "to use device='cuda'" not in sections["cuda"]


def test_doctor_without_cuda_is_no_failure(monkeypatch):
    reason = "CuPy is not installed: pip install 'onnxplan[cuda13]'"
    text, status = show(monkeypatch, FakeMachine(), error=reason)
    assert status == 0
    assert f"unavailable, device='cuda' does not work: {reason}" in text
    assert "not found: libcuda.so.1" in text
    assert "install NVIDIA's driver; pip install 'onnxplan[cuda13]'" in text
    assert "pip install 'onnxplan[cuda13,cudnn]'" in text
