"""The backend suite of the onnx package on the CPU."""

from tests.backend.suite import SuiteBackend, suite_cases

globals().update(suite_cases(SuiteBackend, __name__, "cpu"))
