"""Every operator case through a session on the CPU, with all passes and without any."""

import pytest
from cases import discover

import onnxplan

CASES = discover()


@pytest.mark.parametrize("optimize", [1, 0], ids=["optimized", "plain"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case(case, optimize):
    with onnxplan.InferenceSession(case.model(), threads=1, optimize=optimize) as session:
        results = session.run_sync(case.feeds())
    case.check(results)
