"""Execution providers, beside onnxruntime, and devices without one."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from both_modules import X, outcome, sums

import onnxplan.onnxruntime
from onnxplan.compiler.errors import DeviceUnavailableError
from onnxplan.onnxruntime import providers

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"

ASKED = {
    "none": {},
    "empty": {"providers": []},
    "CPU": {"providers": [CPU]},
    "in a tuple": {"providers": (CPU,)},
    "CUDA": {"providers": [CUDA]},
    "CUDA and CPU": {"providers": [CUDA, CPU]},
    "CUDA with options": {"providers": [(CUDA, {"device_id": 0}), CPU]},
    "TensorRT": {"providers": ["TensorrtExecutionProvider", CUDA, CPU]},
    "options": {"providers": [CPU], "provider_options": [{"use_arena": 1}]},
    "unknown": {"providers": ["FooExecutionProvider"]},
    "unknown without fallback": {"providers": ["FooExecutionProvider"], "enable_fallback": 0},
    "twice": {"providers": [CPU, CPU]},
    "a set": {"providers": {CPU}},
    "a string": {"providers": "CPU"},
    "a number": {"providers": [3]},
    "a number without fallback": {"providers": [3], "enable_fallback": 0},
    "other lengths": {"providers": [CPU], "provider_options": [], "enable_fallback": 0},
    "options that are none": {"providers": [CPU], "provider_options": [3], "enable_fallback": 0},
    "options twice": {"providers": [(CPU, {})], "provider_options": [{}], "enable_fallback": 0},
}


@pytest.fixture(autouse=True)
def without_cuda(monkeypatch):
    monkeypatch.setattr(providers, "cuda_failure", lambda: "there is no driver")


@pytest.mark.parametrize("name", ASKED)
def test_providers_asked_for(name, capsys):
    def call(ort):
        session = ort.InferenceSession(sums(), **ASKED[name])
        return session.get_providers(), session.get_provider_options(), session.run(["z"], {"x": X})

    found = []
    for ort in (onnxruntime, onnxplan.onnxruntime):
        result = outcome(call, ort)
        # Where a fallback is, both say so on the standard output.
        found.append((result, "Falling back" in capsys.readouterr().out))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["CUDA", "CUDA and CPU", "TensorRT"])
def test_without_fallback_a_missing_device_is_an_error_that_says_why(name):
    with (
        pytest.warns(UserWarning, match="not in available provider names"),
        pytest.raises(RuntimeError, match="there is no driver"),
    ):
        onnxplan.onnxruntime.InferenceSession(sums(), enable_fallback=0, **ASKED[name])


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_missing_device_after_the_cpu_is_none():
    session = onnxplan.onnxruntime.InferenceSession(sums(), enable_fallback=0, providers=[CPU, CUDA])
    assert session.get_providers() == [CPU]


def test_the_configuration_entry_forbids_the_fallback_too():
    ort = onnxplan.onnxruntime
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    with (
        pytest.warns(UserWarning, match="Specified"),
        pytest.raises(DeviceUnavailableError, match="there is no driver"),
    ):
        ort.InferenceSession(sums(), options, [CUDA])
    with pytest.warns(UserWarning, match="Specified"):
        session = ort.InferenceSession(sums(), None, [CUDA])
    assert session.get_providers() == [CPU]


def test_providers_are_set_anew(ort):
    session = ort.InferenceSession(sums())
    session.set_providers([CPU])
    assert session.get_providers() == [CPU]
    np.testing.assert_array_equal(session.run(None, {"x": X})[0], X + 1)
    session.disable_fallback()
    with (
        pytest.raises(RuntimeError, match="Unknown Provider Type"),
        pytest.warns(UserWarning, match="Specified"),
    ):
        session.set_providers(["Foo"])


def test_providers_of_session_options():
    def call(ort):
        options = ort.SessionOptions()
        options.add_provider(CPU, {})
        return options.has_providers(), ort.InferenceSession(sums(), options).get_providers()

    assert outcome(call, onnxplan.onnxruntime) == outcome(call, onnxruntime)
    for name in (CUDA, "Foo"):
        add = lambda ort, name=name: ort.SessionOptions().add_provider(name, {})  # noqa: E731
        assert outcome(add, onnxplan.onnxruntime) == outcome(add, onnxruntime)


def test_what_is_available():
    ort = onnxplan.onnxruntime
    assert ort.get_available_providers() == [CPU]
    assert ort.get_device() == onnxruntime.get_device() == "CPU"
    assert set(ort.get_available_providers()) <= set(onnxruntime.get_available_providers())


def test_options_of_cuda(monkeypatch):
    monkeypatch.setattr(providers, "cuda_failure", lambda: None)
    options = {
        "device_id": "1",
        "gpu_mem_limit": "1000000",
        "cudnn_conv_algo_search": "DEFAULT",
        "use_tf32": "1",
    }
    placement = providers.place([CUDA, CPU], [options, {}], fallback=True)
    assert (placement.device, placement.providers) == ("cuda:1", (CUDA, CPU))
    assert placement.memory_limit == 1_000_000
    assert providers.place([CPU, CUDA], [{}, options], fallback=True).device == "cpu"
    assert providers.place([CUDA], [{}], fallback=True).options[CUDA] == {"device_id": "0"}
    assert (
        providers.place([CUDA], [{"gpu_mem_limit": str((1 << 64) - 1)}], fallback=True).memory_limit is None
    )
    with pytest.raises(NotImplementedError, match="user_compute_stream"):
        providers.place([CUDA], [{"user_compute_stream": "1234"}], fallback=True)
    with pytest.raises(RuntimeError, match="no_such_option"):
        providers.place([CUDA], [{"no_such_option": "1"}], fallback=True)
