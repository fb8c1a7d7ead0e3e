"""The official backend suite of the onnx package on a device, test by test."""

from __future__ import annotations

import functools
import unittest
import warnings
from typing import Any
from unittest import SkipTest

from bench.supervised import Settings
from tests.backend.suite import SuiteBackend, suite_cases


@functools.cache
def tests(device: str) -> dict[str, Any]:
    """The suite's test classes by the names of their tests, for ``cpu`` or ``cuda``."""
    classes = suite_cases(SuiteBackend, __name__, device).values()
    return {name: case for case in classes for name in vars(case) if name.startswith("test_")}


def names(settings: Settings) -> list[str]:
    return sorted(tests(_kind(settings)))


def _kind(settings: Settings) -> str:
    return settings.device.partition(":")[0]


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
        tests(_kind(settings))[name](name).run(result)
    for error in result.caught:
        raise error
    for _, reason in result.skipped:
        raise SkipTest(reason)
