"""Devices in the notation of the onnx package."""

from __future__ import annotations

import numpy as np
import pytest
from face_models import A, B, C, product_model
from fake_device import FakeDevice

import onnxplan
from onnxplan import backend
from onnxplan.runtime.devices import open_device


@pytest.fixture
def opened(monkeypatch):
    """Names of devices that were asked for; there is one CUDA device."""
    names = []

    def fake_open(name, **options):
        names.append(name)
        if name in ("cuda", "cuda:0"):
            return FakeDevice()
        if name.startswith("cuda"):
            raise onnxplan.DeviceUnavailableError(f"there is no {name}")
        return open_device(name, **options)

    monkeypatch.setattr("onnxplan.backend.open_device", fake_open)
    monkeypatch.setattr("onnxplan.session.open_device", fake_open)
    return names


@pytest.mark.parametrize(
    ("device", "name", "there"),
    [
        ("CPU", "cpu", True),
        ("CUDA", "cuda", True),
        ("CUDA:0", "cuda:0", True),
        ("CUDA:1", "cuda:1", False),
    ],
)
def test_devices_by_their_names_there(opened, device, name, there):
    assert backend.supports_device(device) is there
    assert opened == [name]
    if not there:
        with pytest.raises(onnxplan.DeviceUnavailableError):
            backend.prepare(product_model(), device)
        return
    prepared = backend.prepare(product_model(), device)
    assert opened == [name] * 2
    (result,) = prepared.run([A, B])
    assert isinstance(result, np.ndarray)
    np.testing.assert_array_equal(result, C)


@pytest.mark.parametrize("device", ["TPU", "cuda", "CUDA:x", ""])
def test_names_that_are_none(opened, device):
    assert backend.supports_device(device) is False
    assert not opened


def test_a_device_that_fails_in_another_way_is_not_hidden(monkeypatch):
    def broken(name, **options):
        raise onnxplan.DeviceError("the device refused a call")

    monkeypatch.setattr("onnxplan.backend.open_device", broken)
    with pytest.raises(onnxplan.DeviceError):
        backend.supports_device("CUDA")
