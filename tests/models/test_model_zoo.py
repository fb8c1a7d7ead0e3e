"""Real architectures against onnxruntime, and what their plans may cost.

They are exported by PyTorch, an optional dependency: ``make test-models`` brings it.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import onnxruntime
import pytest

import onnxplan
from bench import models

MAXIMUM_STEPS = {"resnet50": 60, "bert_base": 105, "vit_base": 105, "whisper_tiny_encoder": 42}
OTHER_DIMS = ({"batch": 2, "sequence": 17}, {"batch": 5, "sequence": 20})
NEW_DIMS = {"batch": 6, "sequence": 24}
SMALL_DIMS = {"batch": 1, "sequence": 6}
LONG_WHEN_EMULATED = {"vit_base", "whisper_tiny_encoder"}


def model_path(name: str, *, dynamic: bool):
    """The exported model, or a skip with the reason."""
    recipe = models.ZOO[name]
    if not models.is_exported(name, dynamic=dynamic) and importlib.util.find_spec("torch") is None:
        pytest.skip(f"{recipe.name} is not exported and PyTorch is not installed: run make test-models")
    return models.path(name, dynamic=dynamic)


def compare(path, session, feeds) -> None:
    """Outputs within 2e-4 of the scale of onnxruntime's."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    peer = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    results = session.run_sync(feeds)
    for name, expected in zip(session.output_names, peer.run(None, feeds), strict=True):
        found = results[name].numpy()
        assert found.shape == expected.shape
        scale = np.sqrt(np.mean(np.square(expected, dtype=np.float64)))
        assert np.abs(found - expected).max() <= 2e-4 * max(scale, 1e-6), name


@pytest.mark.parametrize("name", list(models.ZOO))
def test_static_model(name):
    path = model_path(name, dynamic=False)
    with onnxplan.InferenceSession(path) as session:
        compare(path, session, models.feeds(name))
        plan = session.plan()
        assert plan.arena_bytes <= 1.05 * plan.arena_lower_bound
        if name in MAXIMUM_STEPS:
            assert len(plan.steps) <= MAXIMUM_STEPS[name]
        compiled = session.compiled_kernels
        with onnxplan.InferenceSession(path) as again:
            assert again.plan() == plan
            assert again.compiled_kernels == compiled, "a second session compiled kernels"


@pytest.mark.parametrize("name", list(models.ZOO))
def test_dynamic_model_at_several_shapes(name):
    """Axes of extent 1 are left out of kernels, so code differs between one and several, but no further."""
    path = model_path(name, dynamic=True)
    known = models.ZOO[name].dims
    with onnxplan.InferenceSession(path) as session:
        compare(path, session, models.feeds(name))
        for dims in OTHER_DIMS:
            compare(path, session, models.feeds(name, **{k: v for k, v in dims.items() if k in known}))
        compiled = session.compiled_kernels
        compare(path, session, models.feeds(name, **{k: v for k, v in NEW_DIMS.items() if k in known}))
        assert session.compiled_kernels == compiled, "a new shape compiled new code"


@pytest.mark.parametrize("name", [name for name in models.ZOO if name not in LONG_WHEN_EMULATED])
def test_dynamic_model_on_the_emulated_cuda_device(name, emulated_cuda):
    path = model_path(name, dynamic=True)
    dims = {dim: extent for dim, extent in SMALL_DIMS.items() if dim in models.ZOO[name].dims}
    with onnxplan.InferenceSession(path, device="cuda") as session:
        feeds = models.feeds(name, **dims)
        for _ in ("step by step", "by a graph"):
            compare(path, session, feeds)
    emulated_cuda.check()
