"""No case of the installed suite disappears in silence."""

import re

import onnx
import pytest
from onnx.backend.test.loader import load_model_tests

from tests.backend import test_official_suite, test_official_suite_cuda
from tests.backend.suite import KNOWN_FAILURES, SLOW_IF_EMULATED, SuiteBackend

KINDS = ("node", "real", "simple", "pytorch-converted", "pytorch-operator")

# Cases of a release of onnx, and how many of them KNOWN_FAILURES leaves out.
RELEASES = {"1.23.2": (2033, 8)}


@pytest.fixture(scope="module")
def names():
    return [case.name for kind in KINDS for case in load_model_tests(kind=kind)]


@pytest.mark.parametrize(
    ("module", "device", "slow"),
    [(test_official_suite, "cpu", ""), (test_official_suite_cuda, "cuda", SLOW_IF_EMULATED)],
)
def test_all_cases_are_collected_and_run_but_the_listed(module, device, slow, names):
    tests = {
        name: test
        for case in vars(module).values()
        if isinstance(case, type) and case.__name__.startswith("OnnxBackend")
        for name, test in vars(case).items()
        if name.startswith("test_")
    }
    assert sorted(tests) == sorted(f"{name}_{device}" for name in names)
    listed = [*KNOWN_FAILURES, *([slow] if slow else [])]
    skipped = {name for name, test in tests.items() if getattr(test, "__unittest_skip__", False)}
    assert skipped == {name for name in tests if any(re.search(pattern, name) for pattern in listed)}


def test_known_failures_grow_no_more(names):
    failing = [name for name in names if any(re.search(p, f"{name}_cpu") for p in KNOWN_FAILURES)]
    if onnx.__version__ in RELEASES:
        assert (len(names), len(failing)) == RELEASES[onnx.__version__]


def test_the_runner_leaves_out_no_model():
    assert SuiteBackend.is_compatible(onnx.ModelProto())
