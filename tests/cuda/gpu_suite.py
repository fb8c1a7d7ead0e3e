"""The official backend suite of the onnx package on a device, test by test."""

from __future__ import annotations

import functools
import unittest
import warnings
from typing import Any
from unittest import SkipTest

import onnx.backend.test

from bench.supervised import Settings
from tests.backend.test_official_suite import ELSEWHERE, KNOWN_FAILURES, SuiteBackend


@functools.cache
def tests(suffix: str) -> dict[str, Any]:
    """The suite's tests by name: those for the CPU or for CUDA, less those that are known not to pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        suite = onnx.backend.test.BackendTest(SuiteBackend, __name__)
    for pattern in [*KNOWN_FAILURES, ELSEWHERE]:
        suite.exclude(pattern.removesuffix("_cpu"))
    return {
        name: cases
        for cases in suite.test_cases.values()
        for name in dir(cases)
        if name.startswith("test_") and name.endswith(suffix)
    }


def names(settings: Settings) -> list[str]:
    return sorted(tests(_suffix(settings)))


def _suffix(settings: Settings) -> str:
    return "_cuda" if settings.device.startswith("cuda") else "_cpu"


class Outcome(unittest.TestResult):
    """Keeps the exceptions themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.caught: list[BaseException] = []

    def addError(self, test: Any, err: Any) -> None:
        self.caught.append(err[1])

    addFailure = addError


def check(name: str, settings: Settings) -> None:
    """Runs a test through unittest; raises what it raised."""
    result = Outcome()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tests(_suffix(settings))[name](name).run(result)
    for error in result.caught:
        raise error
    for _, reason in result.skipped:
        raise SkipTest(reason)
