"""The nine light networks, with random weights, against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

import onnxplan
from tests.models.light_networks import NAMES, softened, with_random_weights

# The emulated device takes seconds for these, and minutes for some of the others.
EMULATED = ("densenet121", "shufflenet", "squeezenet")


@pytest.mark.parametrize("name", NAMES)
def test_light_network_agrees_with_onnxruntime(name):
    check(name, "cpu")


@pytest.mark.parametrize("name", EMULATED)
def test_light_network_on_the_emulated_cuda_device(name, emulated_cuda):
    check(name, "cuda")
    emulated_cuda.check()


def check(name, device):
    model = softened(with_random_weights(name))
    given = {tensor.name for tensor in model.graph.initializer}
    generator = np.random.default_rng(1)
    feeds = {
        value.name: generator.standard_normal([d.dim_value for d in value.type.tensor_type.shape.dim]).astype(
            np.float32
        )
        for value in model.graph.input
        if value.name not in given
    }
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    peer = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    expected = peer.run(None, feeds)
    with onnxplan.InferenceSession(model, device=device) as session:
        results = session.run_sync(feeds)
        plan = session.plan()
    for value, name_ in zip(expected, session.output_names, strict=True):
        found = results[name_].numpy()
        scale = np.abs(value).max()
        assert found.shape == value.shape
        assert np.abs(found - value).max() <= 1e-4 * scale
        assert np.unique(value).size > 100, "the reference is degenerate"
    assert plan.arena_bytes <= 1.05 * plan.arena_lower_bound
