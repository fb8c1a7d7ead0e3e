"""The backend suite of the onnx package on the emulated CUDA device."""

import pytest

from tests.backend.suite import SLOW_IF_EMULATED, SuiteBackend, suite_cases

pytestmark = pytest.mark.usefixtures("emulated_cuda")

globals().update(suite_cases(SuiteBackend, __name__, "cuda", exclude=SLOW_IF_EMULATED))
