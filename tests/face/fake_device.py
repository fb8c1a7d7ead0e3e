"""A device with memory of its own, made of NumPy: every copy between the two memories is counted."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import onnxplan
from onnxplan.compiler.plan import CompiledPlan
from onnxplan.runtime.budget import Budget
from onnxplan.runtime.device import AnyArray
from onnxplan.runtime.devices import CpuDevice, open_device
from onnxplan.runtime.elsewhere import cuda_location


@dataclass
class Traffic:
    """Tensors that crossed between the memories, and arrays that runs were given where they are."""

    to_host: int = 0
    to_device: int = 0
    in_place: int = 0
    threads: set[str] = field(default_factory=set)
    running: int = 0
    most_running: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()


class FakeArray:
    """A tensor in the fake device's memory, which nobody reads but through its methods."""

    def __init__(self, memory: np.ndarray, traffic: Traffic, location: str = "cuda:0") -> None:
        self.memory = memory
        self.traffic = traffic
        self.shape = memory.shape
        self.dtype = memory.dtype
        self.location = location

    @property
    def pointer(self) -> int:
        return int(self.memory.ctypes.data)

    def numpy(self) -> np.ndarray:
        self.traffic.to_host += 1
        return self.memory.copy()

    def __dlpack__(self, **options: Any) -> Any:
        return self.memory.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, int(self.location.removeprefix("cuda:"))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.memory.__array_interface__, "version": 3, "stream": None}

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise AssertionError("the device's memory must not become a NumPy array unasked")


class ForeignArray:
    """An array of another library on a CUDA device, in the manner of CuPy."""

    def __init__(self, memory: np.ndarray, location: str = "cuda:0") -> None:
        self.memory = memory
        self._location = location

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, int(self._location.removeprefix("cuda:"))

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("only the fake device can read this")

    def get(self) -> np.ndarray:
        return self.memory.copy()


class InterfaceOnly:
    """An array of another library that has nothing but the CUDA array interface."""

    def __init__(self, memory: np.ndarray) -> None:
        self.memory = memory

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.memory.__array_interface__, "version": 3, "stream": None}

    def copy_to_host(self) -> np.ndarray:
        return self.memory.copy()


class FakeExecutor:
    """The CPU's executor on arrays of either memory."""

    def __init__(self, inner: Any, traffic: Traffic) -> None:
        self.inner = inner
        self.traffic = traffic
        self.plan = inner.plan
        self.process = os.getpid()

    @property
    def peak_bytes(self) -> int:
        return self.inner.peak_bytes

    def run(self, inputs: Any, outputs: Any, cancel: Any = None) -> None:
        traffic = self.traffic
        if os.getpid() != self.process:
            raise onnxplan.DeviceUnavailableError("the process was forked")
        with traffic.lock:
            traffic.threads.add(threading.current_thread().name)
            traffic.running += 1
            traffic.most_running = max(traffic.most_running, traffic.running)
            for array in inputs:
                if isinstance(array, FakeArray):
                    traffic.in_place += 1
                else:
                    traffic.to_device += 1
            traffic.to_host += sum(isinstance(array, np.ndarray) for array in outputs)
        try:
            assert traffic.gate.wait(60)
            self.inner.run(tuple(map(raw, inputs)), tuple(map(raw, outputs)), cancel)
        finally:
            with traffic.lock:
                traffic.running -= 1

    def try_run(self, inputs: Any, outputs: Any) -> bool:
        return False

    def trim(self) -> int:
        return self.inner.trim()

    def close(self) -> None:
        self.inner.close()


def raw(array: AnyArray) -> np.ndarray:
    return array.memory if isinstance(array, FakeArray) else array


class FakeDevice:
    """Works as ``cuda:0``."""

    name = "cuda:0"
    concurrency = 16
    runs_inline = False

    def __init__(self) -> None:
        inner = open_device("cpu")
        assert isinstance(inner, CpuDevice)
        self.inner = inner
        self.selector = inner.selector
        self.traffic = Traffic()

    @property
    def compiled_kernels(self) -> int:
        return self.inner.compiled_kernels

    def expect_runs(self, count: int) -> None:
        pass

    def expect_plans(self) -> None:
        pass

    @property
    def loaded_kernels(self) -> int:
        return self.inner.loaded_kernels

    @property
    def missing_kernels(self) -> int:
        return self.inner.missing_kernels

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype, *, host: bool) -> AnyArray:
        memory = np.empty(shape, dtype)
        return memory if host else FakeArray(memory, self.traffic)

    def import_array(self, value: object, *, copy: bool = True) -> FakeArray | None:
        location = cuda_location(value)
        if location is None:
            return None
        if location not in (self.name, "a CUDA device"):
            raise ValueError(f"the array is on {location}, the session runs on {self.name}")
        if isinstance(value, FakeArray):
            return value
        memory = value.memory
        if not copy and not (memory.flags.c_contiguous and memory.flags.writeable):
            raise ValueError("the array is not writable, or not C-contiguous")
        return FakeArray(np.ascontiguousarray(memory).reshape(memory.shape), self.traffic)

    def bind(self, compiled: CompiledPlan, budget: Budget) -> FakeExecutor:
        return FakeExecutor(self.inner.bind(compiled, budget), self.traffic)


def fake_session(monkeypatch: pytest.MonkeyPatch, model: Any, **options: Any) -> Any:
    """A session on a fake device, and the traffic of that device."""
    device = FakeDevice()
    with monkeypatch.context() as patch:
        patch.setattr("onnxplan.session.open_device", lambda name, **_: device)
        return onnxplan.InferenceSession(model, device="cuda", **options), device.traffic
