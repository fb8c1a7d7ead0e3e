"""The backend suite of the onnx package on the emulated CUDA device."""

import pytest

from tests.backend.suite import SuiteBackend, suite_cases

pytestmark = pytest.mark.usefixtures("emulated_cuda")


class EmulatedBackend(SuiteBackend):
    """The device is there when tests run, not yet when they are collected."""

    @classmethod
    def supports_device(cls, device):
        return device == "CUDA"


globals().update(suite_cases(EmulatedBackend, __name__, "cuda"))
