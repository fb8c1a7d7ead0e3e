"""The backend suite of the onnx package, through its own runner, on any device.

All cases must pass but those that ``KNOWN_FAILURES`` names, which may only shrink. Cases that it does not
name are never left out: ``tests/backend/test_suite_count.py``.

Nine cases are whole networks: their files hold no weights but constants of one value, the runner feeds them
ramps from 0 to 1, and the results that are right come with the package.
"""

from __future__ import annotations

import os
import tempfile
import unittest
import warnings
from typing import Any

import onnx
import onnx.backend.test

from onnxplan.backend import OnnxPlanBackend

# Regular expression of case names -> why they fail.
KNOWN_FAILURES = {
    "^test_bernoulli": "the cases demand the numbers of one generator; Bernoulli `may not produce the same "
    "values in different implementations (even if a seed is specified)`, says the standard",
    "^test_attention_4d_causal_fp16": "4 of 192 elements (2 in the expanded form) are two units of float16 "
    "from the reference, one more than 1e-3 allows: it rounds exponentials and their sum to float16",
}

# Regular expression of the cases that the emulated CUDA device takes a minute or more for.
SLOW_IF_EMULATED = "^test_(bvlc_alexnet|densenet121|inception_v1|inception_v2|resnet50|vgg19|zfnet512)_cuda"

# The runner writes what it feeds to networks there.
_models = tempfile.TemporaryDirectory(prefix="onnxplan-suite-")


class SuiteBackend(OnnxPlanBackend):
    """The backend, which takes every case."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **_: Any) -> bool:
        """True: the runner would pass over others in silence."""
        return True

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """True: a device may be there when tests run that is not when they are collected."""
        return True


class Suite(onnx.backend.test.BackendTest):
    """The runner, which compares the rows of a sequence's elements one by one: scalars have none."""

    @classmethod
    def assert_similar_outputs(
        cls, ref_outputs: Any, outputs: Any, rtol: float, atol: float, model_dir: str | None = None
    ) -> None:
        assert len(outputs) == len(ref_outputs)
        for found, right in zip(outputs, ref_outputs, strict=True):
            if isinstance(right, list):
                assert isinstance(found, list)
                cls.assert_similar_outputs(right, found, rtol, atol, model_dir)
            else:
                super().assert_similar_outputs([right], [found], rtol, atol, model_dir)


def suite_cases(
    backend: type[SuiteBackend], module: str, device: str, *, exclude: str = ""
) -> dict[str, type[unittest.TestCase]]:
    """The test classes of the suite for ``device`` (``cpu`` or ``cuda``), to be put into a test module.

    Known failures and what matches the regular expression ``exclude`` are marked as skipped.
    """
    os.environ["ONNX_MODELS"] = _models.name
    with warnings.catch_warnings():
        # Some cases overflow on purpose while they are generated.
        warnings.simplefilter("ignore", RuntimeWarning)
        suite = Suite(backend, module)
    for pattern in [*KNOWN_FAILURES, *([exclude] if exclude else [])]:
        suite.exclude(pattern)
    cases: dict[str, type[unittest.TestCase]] = suite.test_cases
    for case in cases.values():
        tests = [name for name in vars(case) if name.startswith("test_")]
        for name in tests:
            if not name.endswith(f"_{device}"):
                delattr(case, name)
    return cases
