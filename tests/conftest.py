"""For all tests: programs are verified after each pass, and kernels are kept apart from the user's."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("ONNXPLAN_VERIFY", "1")
# Kept between runs, since compiling everything anew takes minutes; any number of processes may share it.
os.environ.setdefault("ONNXPLAN_CACHE_DIR", str(Path(__file__).parent.parent / "build" / "test-kernels"))


def pytest_addoption(parser):
    parser.addoption(
        "--sweep", action="store_true", help="run every element type of every operator on devices"
    )
    parser.addoption(
        "--all-architectures", action="store_true", help="compile every CUDA kernel for every architecture"
    )


def pytest_collection_finish():
    """Takes what was collected out of the garbage collector's sight: walking a million objects of tests takes
    it most of a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def emulated_device():
    """One stand-in for all tests, whose kernels run on the CPU."""
    import emulator

    if emulator.COMPILER is None:
        pytest.skip("kernels cannot be emulated without g++")
    pytest.importorskip("cupy_backends", reason="the stand-in takes CuPy's error types")
    from emulated import EmulatedCuda

    return EmulatedCuda()


@pytest.fixture
def emulated_cuda(emulated_device):
    """The stand-in, which ``device="cuda"`` is during the test."""
    with emulated_device.used():
        yield emulated_device
