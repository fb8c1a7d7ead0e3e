"""Opening CUDA: each cause for which it cannot be used, and what is found out about a device."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest
from runtime_plans import Bench, chained, generate, load, run, values
from standin import StandIn

from onnxplan.compiler.errors import CompilerError, DeviceUnavailableError
from onnxplan.compiler.plan import KernelSpec
from onnxplan.runtime.budget import Budget
from onnxplan.runtime.cuda import api as cuda_api
from onnxplan.runtime.cuda.api import check_nvrtc, load_api, use_api, version_text
from onnxplan.runtime.cuda.compiler import choose_architecture, compile_cubin
from onnxplan.runtime.cuda.device import CudaKernelSet, open_cuda
from onnxplan.runtime.cuda.own_kernels import PROBE, OwnSource, copy_spec, copy_words
from onnxplan.runtime.cuda.own_kernels import generate as generate_own
from onnxplan.runtime.devices import open_device

nvrtc = importlib.import_module("cupy_backends.cuda.libs.nvrtc")
ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")


def opened(standin: StandIn, ordinal: int = 0, **options: object):
    kernels = CudaKernelSet(lambda target: target, generate, lambda: "test kernels")
    with use_api(standin.api()):
        return open_cuda(ordinal, kernels, cache=False, **options)


def machine(**options: object) -> StandIn:
    return StandIn(**{"compile_source": str.encode, "load_kernel": load, **options})


def unavailable(standin: StandIn, ordinal: int = 0) -> str:
    with pytest.raises(DeviceUnavailableError) as caught:
        opened(standin, ordinal)
    return str(caught.value)


def test_no_driver():
    assert "no NVIDIA driver" in unavailable(machine(driver_version=0))


def test_a_driver_that_is_too_old():
    text = unavailable(machine(driver_version=12040))
    assert "it supports CUDA 12.4, CuPy is built for CUDA 13" in text
    assert "series 580 or newer" in text
    assert "pip install 'onnxplan[cuda12]'" in text


def test_no_device():
    assert "CUDA_VISIBLE_DEVICES" in unavailable(machine(devices=0))


def test_another_device_than_there_are():
    assert unavailable(machine(), 1) == "there is no cuda:1: the driver sees only cuda:0"
    assert unavailable(machine(devices=3), 3) == "there is no cuda:3: the driver sees cuda:0 to cuda:2"


def test_a_compute_capability_without_a_compiler():
    text = unavailable(machine(compute_capability=(6, 1)))
    assert "compute capability 6.1 is not supported by NVRTC" in text
    assert "onnxplan[cuda12]" in text
    assert "install a newer nvidia-cuda-nvrtc" in unavailable(machine(compute_capability=(99, 0)))


def test_a_probe_kernel_that_does_not_compile():
    standin = machine()
    standin.faults.fail_compilation("kernel.cu(3): error: no")
    text = unavailable(standin)
    assert text.startswith("cuda:0 does not run a probe kernel: the CUDA kernel onnxplan_probe")


def test_a_probe_kernel_that_fails():
    standin = machine()
    kernels = CudaKernelSet(lambda target: target, generate, lambda: "test kernels")
    standin.faults.fail_kernel()
    with use_api(standin.api()):
        with pytest.raises(DeviceUnavailableError, match="a probe kernel: cuda:0 failed while running it: "):
            open_cuda(0, kernels, cache=False)
        # The next attempt resets the device.
        assert open_cuda(0, kernels, cache=False).name == "cuda:0"


def test_a_probe_kernel_that_computes_wrong():
    standin = machine()
    standin.faults.corrupt_kernel()
    assert "which is wrong" in unavailable(standin)
    assert opened(standin).name == "cuda:0"


def test_a_probe_kernel_that_cannot_be_launched():
    standin = machine()
    standin.faults.fail_call("launchKernel", 1)
    assert "does not run a probe kernel: cuda:0: " in unavailable(standin)


def test_nvrtc_that_cannot_be_loaded():
    class Missing:
        def getVersion(self):
            raise RuntimeError("CuPy failed to load libnvrtc.so.13")

    with pytest.raises(DeviceUnavailableError, match="NVRTC, which compiles kernels, cannot be loaded"):
        check_nvrtc(Missing())


def loading_without(monkeypatch, missing: str, error: Exception) -> str:
    real = importlib.import_module

    def fake(name):
        if name == missing:
            raise error
        if name == "cupy_backends.cuda.api.runtime":
            return machine().runtime
        return real(name)

    monkeypatch.setattr(cuda_api.importlib, "import_module", fake)
    monkeypatch.setattr(cuda_api, "_installed", None)
    with pytest.raises(DeviceUnavailableError) as caught:
        load_api()
    return str(caught.value)


def test_no_cupy(monkeypatch):
    error = ModuleNotFoundError("No module named 'cupy_backends'")
    text = loading_without(monkeypatch, "cupy_backends.cuda.api.runtime", error)
    assert text.startswith("CuPy is not installed")
    assert "pip install 'onnxplan[cuda13]'" in text


def test_a_broken_cupy(monkeypatch):
    text = loading_without(monkeypatch, "cupy.cuda", ImportError("two CuPys"))
    assert text.startswith("CuPy cannot be imported: two CuPys")


def test_no_pathfinder(monkeypatch):
    text = loading_without(monkeypatch, "cuda.pathfinder", ImportError("nothing"))
    assert "pip install cuda-pathfinder" in text


def test_no_cublaslt(monkeypatch):
    pathfinder = importlib.import_module("cuda.pathfinder")

    def fail(name):
        raise pathfinder.DynamicLibNotFoundError(name)

    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", fail)
    text = loading_without(monkeypatch, "nothing", ImportError())
    assert text.startswith("cuBLASLt cannot be loaded; pip install nvidia-cublas,")


def test_this_machine_either_works_or_says_why():
    """Without a stand-in: on a machine with a GPU this opens it."""
    try:
        name = open_device("cuda").name
    except DeviceUnavailableError as error:
        name = str(error)
    assert name == "cuda:0" or len(name) > 40


def test_cupy_is_not_imported_for_the_cpu():
    code = (
        "import sys, onnxplan; from onnxplan.runtime.devices import open_device; open_device('cpu');"
        "print([name for name in sys.modules if name.startswith('cupy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_target_tells():
    target = opened(machine()).selector
    assert (target.device, target.isa, target.alignment, target.threads) == ("cuda", "sm_90", 256, 4)
    assert target.cache_bytes == (227 << 10, 50 << 20)
    assert target.flops == pytest.approx(2 * 128 * 4 * 1.98e9)
    assert target.bandwidth == pytest.approx(2 * 2.619e9 * 640)


def test_a_target_without_clocks():
    standin = machine(compute_capability=(8, 0))
    runtime = standin.runtime
    for number in (runtime.cudaDevAttrClockRate, runtime.cudaDevAttrMemoryClockRate):
        standin.devices[0].attributes[number] = 0
    target = opened(standin).selector
    assert target.flops == pytest.approx(2 * 64 * 4 * 1.5e9)
    assert target.bandwidth == pytest.approx(9e11)


def test_architectures():
    class Known:
        def __init__(self, *numbers: int) -> None:
            self.numbers = numbers

        def getSupportedArchs(self) -> tuple[int, ...]:
            return self.numbers

        def getVersion(self) -> tuple[int, int]:
            return 13, 0

    known = Known(75, 80, 86, 90, 100, 120)
    found = {
        capability: choose_architecture(known, capability)
        for capability in [(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 3), (12, 1)]
    }
    assert list(found.values()) == ["sm_75", "sm_80", "sm_86", "sm_86", "sm_90", "sm_100", "sm_120"]
    for capability in ((7, 0), (11, 0), (13, 0)):
        with pytest.raises(DeviceUnavailableError, match="compute capability"):
            choose_architecture(known, capability)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_own_kernels_compile(architecture):
    for spec in (PROBE, *(copy_spec(itemsize) for itemsize in (1, 2, 4, 8, 16))):
        source = generate_own(spec, None)
        code = compile_cubin(nvrtc, source.text, source.symbol, architecture)
        assert code.startswith(b"\x7fELF")
        assert source.symbol.encode() in code


def test_a_kernel_that_does_not_compile_shows_the_line_and_keeps_the_source(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXPLAN_CACHE_DIR", str(tmp_path))
    text = 'extern "C" __global__ void wrong(float* y) {\n    int fine = 1;\n    y[0] = nothing;\n}\n'
    with pytest.raises(CompilerError) as caught:
        compile_cubin(nvrtc, text, "wrong", "sm_90")
    message = str(caught.value)
    assert "the CUDA kernel wrong does not compile for sm_90" in message
    assert 'identifier "nothing" is undefined' in message
    assert ">    3      y[0] = nothing;" in message
    path = message.rsplit(" ", 1)[1]
    assert path.startswith(str(tmp_path))
    with open(path) as file:
        assert file.read() == text
    monkeypatch.setenv("ONNXPLAN_CACHE_DIR", "/dev/null/nowhere")
    with pytest.raises(CompilerError, match=r"its source is kept in .*\.cu"):
        compile_cubin(nvrtc, text, "wrong", "sm_90")


def test_a_plan_whose_kernel_does_not_compile_leaves_the_device_usable():
    bench = Bench()
    bench.standin.faults.fail_compilation("kernel.cu(4): error: wrong")
    with pytest.raises(CompilerError, match="onnxplan_add_number does not compile"):
        bench.chain()
    np.testing.assert_array_equal(run(bench.chain(), values())[0], chained(values()))


def test_kernels_come_from_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXPLAN_CACHE_DIR", str(tmp_path))
    kernels = CudaKernelSet(lambda target: target, generate, lambda: "test kernels")
    counts = []
    for capability in ((9, 0), (9, 0), (8, 0)):
        standin = machine(compute_capability=capability)
        with use_api(standin.api()):
            device = open_cuda(0, kernels)
            device.library.addresses([KernelSpec("add", (128,))])
        counts.append((standin.counters.compilations, device.compiled_kernels))
    assert counts == [(2, 1), (0, 0), (2, 1)]


def test_damaged_stored_kernels_are_built_again(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXPLAN_CACHE_DIR", str(tmp_path))
    kernels = CudaKernelSet(lambda target: target, generate, lambda: "test kernels")
    standin = machine()
    with use_api(standin.api()):
        open_cuda(0, kernels)
    for path in tmp_path.rglob("*.kernel"):
        path.write_bytes(path.read_bytes()[:-9])
    standin = machine()
    with use_api(standin.api()):
        assert open_cuda(0, kernels).name == "cuda:0"
    assert standin.counters.compilations == 1


def test_sessions_share_the_kernels_of_a_device():
    standin = machine()
    api = standin.api()
    kernels = CudaKernelSet(lambda target: target, generate, lambda: "test kernels")
    with use_api(api):
        one, two = (open_cuda(0, kernels, cache=False) for _ in range(2))
        fast = open_cuda(0, kernels, cache=False, math="fast")
    assert one.library is two.library
    assert fast.library is not one.library
    assert standin.counters.compilations == 1, "that of the probe"


def test_progress_is_reported():
    standin = machine()
    calls = []
    with use_api(standin.api()):
        kernels = CudaKernelSet(lambda target: target, generate, lambda: "test kernels")
        device = open_cuda(0, kernels, cache=False, progress=lambda *call: calls.append(call))
        from runtime_plans import plus_constant

        device.bind(plus_constant(device.selector, values()), Budget())
    assert calls == [(0, 1), (1, 1)]


def test_several_kernels_are_compiled_at_once_and_in_order():
    bench = Bench()
    specs = [KernelSpec("add", (128,)), KernelSpec("add_number", (128,)), KernelSpec("add", (64,))]
    with bench.device.context.active("a test"):
        handles = bench.device.library.addresses(specs)
    assert len(set(handles)) == 3
    assert bench.device.compiled_kernels == 3


def test_words_of_a_copy():
    blocks, words = copy_words(1, 2, (2, 3, 4), (12, 4, 1))
    assert words == (1, 2, 24, *[1] * 7, 24, *[0] * 7, 1)
    assert blocks == 1
    blocks, words = copy_words(1, 2, (5000, 1, 300), (1, 77, 5000))
    assert words[2:] == (1_500_000, *[1] * 6, 5000, 300, *[0] * 6, 1, 5000)
    assert blocks == 4096
    many = tuple(range(2, 12))
    with pytest.raises(ValueError, match="10 axes"):
        copy_words(1, 2, many, tuple(7**n for n in range(10)))


def test_versions():
    assert version_text(12040) == "12.4"
    assert version_text(13000) == "13.0"


def test_own_sources_name_their_kernels():
    source = generate_own(copy_spec(2), None)
    assert isinstance(source, OwnSource)
    assert "unsigned short" in source.text
