"""The backend suite of the onnx package, through its own runner, on any device.

A case that needs an operator of ``MISSING_OPERATORS``, or a sequence or optional as input or output, is
skipped, and says so. Everything else must pass, but for ``KNOWN_FAILURES``. Both lists may only shrink.
"""

from __future__ import annotations

import unittest
import warnings
from typing import Any

import onnx
import onnx.backend.test

from onnxplan.backend import OnnxPlanBackend, OnnxPlanBackendRep
from onnxplan.compiler.errors import UnsupportedOperatorError

MISSING_OPERATORS = frozenset(
    """
    Optional OptionalGetElement OptionalHasElement
    SequenceAt SequenceConstruct SequenceEmpty SequenceInsert
    SequenceLength SequenceMap SplitToSequence
    """.split()
)

# Regular expression of case names -> why they fail.
KNOWN_FAILURES = {
    "^test_dft_inverse(_opset19)?_c": "where zeros are right the reference leaves 2e-7",
    "^test_bernoulli": "the cases demand the numbers of one generator; Bernoulli `may not produce the same "
    "values in different implementations (even if a seed is specified)`, says the standard",
    "^test_attention_4d_causal_fp16": "the case rounds to float16 after each node, a fused kernel once",
}


class SuiteBackend(OnnxPlanBackend):
    """Skips what is known to be missing."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **options: Any) -> OnnxPlanBackendRep:
        for value in [*model.graph.input, *model.graph.output]:
            kind = value.type.WhichOneof("value")
            if kind not in ("tensor_type", None):
                raise unittest.SkipTest(f"{value.name} is a {kind.removesuffix('_type')}")
        try:
            return super().prepare(model, device, **options)
        except UnsupportedOperatorError as error:
            missing = {op_type for _, op_type, _, _ in error.operators}
            if missing <= MISSING_OPERATORS:
                raise unittest.SkipTest(f"missing operators: {', '.join(sorted(missing))}") from None
            raise

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """True: a device may be there when tests run that is not when they are collected."""
        return True


def suite_cases(backend: type[SuiteBackend], module: str, device: str) -> dict[str, type[unittest.TestCase]]:
    """The test classes of the suite for ``device`` (``cpu`` or ``cuda``), to be put into a test module."""
    with warnings.catch_warnings():
        # Some cases overflow on purpose while they are generated.
        warnings.simplefilter("ignore", RuntimeWarning)
        suite = onnx.backend.test.BackendTest(backend, module)
    for pattern in KNOWN_FAILURES:
        suite.exclude(pattern)
    cases: dict[str, type[unittest.TestCase]] = suite.test_cases
    for case in cases.values():
        tests = [name for name in vars(case) if name.startswith("test_")]
        for name in tests:
            if not name.endswith(f"_{device}"):
                delattr(case, name)
    return cases
