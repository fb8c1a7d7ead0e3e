"""The CUDA provider on the emulated device: placement, values in its memory, bindings, and the fallback."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pytest
from both_modules import X, info, model
from onnx import helper

import onnxplan.onnxruntime as ort
from onnxplan.compiler.errors import DeviceError
from onnxplan.onnxruntime import providers
from onnxplan.onnxruntime.core import Core

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@pytest.fixture
def cuda(emulated_cuda):
    emulated_cuda.standin.counters.clear()
    providers.cuda_failure.cache_clear()
    yield emulated_cuda.standin
    gc.collect()
    emulated_cuda.check()
    providers.cuda_failure.cache_clear()


def double():
    return model([helper.make_node("Add", ["x", "x"], ["z"])], [info("x", ["n", 2])], [info("z", ["n", 2])])


def test_sessions_run_on_the_device(cuda):
    assert ort.get_available_providers() == [CUDA, CPU]
    assert ort.get_device() == "GPU"
    session = ort.InferenceSession(double(), providers=[CUDA, CPU])
    assert session.get_providers() == [CUDA, CPU]
    assert session.get_provider_options()[CUDA]["device_id"] == "0"
    assert session._sess.device == "cuda:0"
    for _ in range(2):
        (z,) = session.run(None, {"x": X})
        np.testing.assert_array_equal(z, 2 * X)
    assert ort.InferenceSession(double(), providers=[CPU])._sess.device == "cpu"


def test_profiles_have_the_nodes_that_ran_on_the_device(cuda, tmp_path):
    cuda.launch_milliseconds = 2.0
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = ort.InferenceSession(double(), options, providers=[CUDA])
    for _ in range(3):
        (z,) = session.run(None, {"x": X})
        np.testing.assert_array_equal(z, 2 * X)
    cuda.launch_milliseconds = 0.0
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event for event in events if event["cat"] == "Node"]
    assert [event["dur"] for event in nodes] == [pytest.approx(2000, abs=1)] * 3
    assert {(event["args"]["op_name"], event["args"]["provider"]) for event in nodes} == {("Add", CUDA)}


def test_values_stay_on_the_device(cuda):
    session = ort.InferenceSession(double(), providers=[CUDA])
    value = ort.OrtValue.ortvalue_from_numpy(X, "cuda", 0)
    assert (value.device_name(), value.shape(), value.data_type()) == ("cuda", [2, 2], "tensor(float)")
    np.testing.assert_array_equal(value.numpy(), X)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", value)
    binding.bind_output("z", "cuda")
    session.run_with_iobinding(binding)
    first = binding.get_outputs()[0]
    assert first.device_name() == "cuda"
    assert first.__dlpack_device__() == (2, 0)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], 2 * X)
    value.update_inplace(X + 1)
    cuda.counters.clear()
    session.run_with_iobinding(binding)
    assert not {"host to device", "device to host"} & set(cuda.counters.copies)
    np.testing.assert_array_equal(first.numpy(), 2 * X + 2)


def test_addresses_on_the_device(cuda):
    session = ort.InferenceSession(double(), providers=[CUDA])
    source = ort.OrtValue.ortvalue_from_numpy(X, "cuda", 0)
    target = ort.OrtValue.ortvalue_from_shape_and_type([2, 2], np.float32, "cuda", 0)
    binding = session.io_binding()
    binding.bind_input("x", "cuda", 0, np.float32, [2, 2], source.data_ptr())
    binding.bind_output("z", "cuda", 0, np.float32, [2, 2], target.data_ptr())
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(target.numpy(), 2 * X)
    binding.bind_input("x", "cuda", 0, np.float64, [2, 2], source.data_ptr())
    with pytest.raises(RuntimeError, match="Unexpected input data type"):
        session.run_with_iobinding(binding)


def test_outputs_in_the_memory_of_an_input(cuda):
    """As caches are that a model reads and extends in place."""
    session = ort.InferenceSession(double(), providers=[CUDA])
    value = ort.OrtValue.ortvalue_from_numpy(X, "cuda", 0)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", value)
    binding.bind_ortvalue_output("z", value)
    for number in (2, 4):
        session.run_with_iobinding(binding)
        np.testing.assert_array_equal(value.numpy(), number * X)


def test_a_failing_device_is_left_for_the_cpu_once(cuda, monkeypatch, capsys):
    compute = Core._run_request

    def failing(self, *arguments, **options):
        if self.device != "cpu":
            raise DeviceError("the device refused")
        return compute(self, *arguments, **options)

    monkeypatch.setattr(Core, "_run_request", failing)
    session = ort.InferenceSession(double(), providers=[CUDA])
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], 2 * X)
    assert "Falling back" in capsys.readouterr().out
    assert session.get_providers() == [CPU]
    session = ort.InferenceSession(double(), providers=[CUDA])
    session.disable_fallback()
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.EPFail, match="the device refused"):
        session.run(None, {"x": X})
