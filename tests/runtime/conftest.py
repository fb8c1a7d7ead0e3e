"""Fixtures of the runtime's tests."""

from __future__ import annotations

import pytest
from runtime_kernels import library

from onnxplan.runtime.cpu.native_executor import load_executor
from onnxplan.runtime.cpu.team import Team
from onnxplan.runtime.store import KernelStore


@pytest.fixture(scope="module")
def kernels():
    return library()


@pytest.fixture(scope="module")
def team():
    """Four cores, whatever the machine has."""
    team = Team(load_executor(KernelStore(None)), 4)
    yield team
    team.stop()
