"""Every operator case through a session on the emulated CUDA device, with all passes and without any."""

import pytest
from cases import discover

import onnxplan

CASES = discover()


@pytest.mark.parametrize("optimize", [1, 0], ids=["optimized", "plain"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_case(case, optimize, emulated_cuda):
    with onnxplan.InferenceSession(case.model(), device="cuda", optimize=optimize) as session:
        # The first run launches kernels one by one, the second one captures and launches a graph.
        for _ in range(2):
            results = session.run_sync(case.feeds())
            case.check({name: tensor.numpy() for name, tensor in results.items()})
    emulated_cuda.check()
