"""Opening devices, and hearing what they compile."""

from __future__ import annotations

import logging

import pytest
from onnx import TensorProto, helper

from onnxplan import DeviceUnavailableError, InferenceSession
from onnxplan.runtime import devices
from onnxplan.runtime.devices import compilation_progress, open_device


@pytest.fixture
def model():
    def tensor(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 3])

    nodes = [helper.make_node("MatMul", ["a", "a"], ["c"])]
    graph = helper.make_graph(nodes, "graph", [tensor("a")], [tensor("c")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture(autouse=True)
def fresh_libraries():
    """No kernel is known to the process, and the test's own are forgotten."""
    devices._cpu_library.cache_clear()
    yield
    devices._cpu_library.cache_clear()


def test_progress_is_reported_from_none_to_all(model, caplog):
    caplog.set_level(logging.INFO, "onnxplan")
    calls = []
    with compilation_progress(lambda done, total: calls.append((done, total))):
        first = InferenceSession(model, cache=False)
    with first, InferenceSession(model, cache=False):
        total = calls[0][1]
        assert total >= 1
        assert calls == [(done, total) for done in range(total + 1)]
        assert first.compiled_kernels == total
    assert not [record for record in caplog.records if record.name == "onnxplan.compile"]


def test_progress_is_logged_by_default(model, caplog):
    caplog.set_level(logging.INFO, "onnxplan")
    with InferenceSession(model, cache=False) as session:
        total = session.compiled_kernels
    messages = [record.message for record in caplog.records if record.name == "onnxplan.compile"]
    assert messages == [f"compiling {total} kernels", f"compiled {total} kernels"]


def test_sessions_share_kernels_whatever_their_threads():
    one, two = (open_device("cpu", threads=threads) for threads in (1, 2))
    assert one.library is two.library
    assert one.selector.target.threads == 1
    assert two.selector.target.threads == 2
    assert open_device("cpu", math="fast").library is not one.library
    assert open_device("cpu", cache=False).library is not one.library


@pytest.fixture
def no_driver(monkeypatch):
    """A machine where no CUDA device can be used."""

    def fail():
        raise DeviceUnavailableError("no NVIDIA driver")

    monkeypatch.setattr("onnxplan.runtime.cuda.device.load_api", fail)


def test_names(no_driver):
    assert open_device("cpu").name == "cpu"
    for name in ("cuda", "cuda:1"):
        with pytest.raises(DeviceUnavailableError, match="no NVIDIA driver"):
            open_device(name)
    for name in ("", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0"):
        with pytest.raises(ValueError, match="unknown device"):
            open_device(name)


def test_auto_says_in_the_log_what_it_chose_and_why(no_driver, caplog):
    caplog.set_level(logging.INFO, "onnxplan")
    assert open_device("auto").name == "cpu"
    assert "chose the CPU: no NVIDIA driver" in caplog.text
