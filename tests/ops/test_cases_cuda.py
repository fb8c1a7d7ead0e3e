"""Every operator case through a session on the emulated CUDA device, and some of them without passes."""

import pytest
from cases import discover

import onnxplan

CASES = discover()
# Programs without passes meet fewer kernels, nearly all in many cases.
PLAIN_CASES = CASES[::5]


def check(case, optimize, emulated_cuda):
    with onnxplan.InferenceSession(case.model(), device="cuda", optimize=optimize) as session:
        # The first run launches kernels one by one, the second one captures and launches a graph.
        for _ in range(2):
            results = session.run_sync(case.feeds())
            case.check(results)
    emulated_cuda.check()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case(case, emulated_cuda):
    check(case, 1, emulated_cuda)


@pytest.mark.parametrize("case", PLAIN_CASES, ids=lambda case: case.id)
def test_case_without_passes(case, emulated_cuda):
    check(case, 0, emulated_cuda)
