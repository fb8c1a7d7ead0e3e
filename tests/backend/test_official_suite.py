"""The backend suite of the onnx package, through its own runner.

Cases whose operators onnxplan does not have, or whose inputs are no tensors, are skipped by the runner as
"Not compatible with backend"; ``docs/status.md`` counts them. Everything else must pass, but for
``KNOWN_FAILURES``, which may only shrink.
"""

from __future__ import annotations

import warnings

import onnx.backend.test

import onnxplan.backend

# Regular expression of case names -> why they fail.
KNOWN_FAILURES = {
    "^test_training_dropout": "dropout in training mode needs the random primitive",
}

# The light networks are compared with onnxruntime, on random weights, in tests/models; here their weights
# are constants of one value, and the runner computes some expectations in pure Python for minutes.
ELSEWHERE = "^test_(bvlc_alexnet|densenet121|inception_v1|inception_v2|resnet50|shufflenet|squeezenet|vgg19|zfnet512)"

with warnings.catch_warnings():
    # Some cases overflow on purpose while they are generated.
    warnings.simplefilter("ignore", RuntimeWarning)
    backend_test = onnx.backend.test.BackendTest(onnxplan.backend, __name__)
for pattern in [*KNOWN_FAILURES, ELSEWHERE]:
    backend_test.exclude(pattern)
backend_test.exclude("_cuda$")
globals().update(backend_test.test_cases)
