"""Which kernels convolutions and pooling take, and where the layout changes."""

import numpy as np
import pytest
from face_models import model, node, value

import onnxplan


def families(nodes, shape, **weights):
    """The kernels of a plan from ``x`` to ``y``, which must compute what a plan without passes does."""
    rng = np.random.default_rng(0)
    constants = {name: rng.standard_normal(extents, np.float32) for name, extents in weights.items()}
    proto = model(nodes, [value("x", shape)], ["y"], **constants)
    feeds = {"x": rng.standard_normal(shape, np.float32)}
    with (
        onnxplan.InferenceSession(proto, threads=1) as session,
        onnxplan.InferenceSession(proto, threads=1, optimize=0) as plain,
    ):
        found, expected = (each.run_sync(feeds)["y"].numpy() for each in (session, plain))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        return [step.kernel.family for step in session.plan().steps]


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_lone_pooling_reads_and_writes_rows(op):
    pool = node(op, "x", "y", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    assert families([pool], (2, 3, 15, 15)) == ["pool_rows"]


def test_pooling_behind_a_convolution_stays_channels_last():
    nodes = [
        node("Conv", "x w", "a", pads=[1] * 4),
        node("MaxPool", "a", "b", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "b v", "y", pads=[1] * 4),
    ]
    found = families(nodes, (1, 16, 8, 8), w=(20, 16, 3, 3), v=(18, 20, 3, 3))
    assert found == ["transpose", "conv", "pool", "conv", "transpose"]


def test_lone_depthwise_convolutions_keep_the_layout():
    nodes = [node("Conv", "x w b", "a", pads=[1] * 4, group=6), node("Relu", "a", "y")]
    assert families(nodes, (2, 6, 17, 20), w=(6, 1, 3, 3), b=(6,)) == ["depthwise_rows"]


def test_lone_small_convolutions_of_one_tap_are_products():
    nodes = [node("Conv", "x w b", "a"), node("Relu", "a", "y")]
    assert families(nodes, (2, 16, 8, 8), w=(24, 16, 1, 1), b=(24,)) == ["matmul"]


def test_convolutions_between_convolutions_stay_channels_last():
    nodes = [
        node("Conv", "x w", "a", pads=[1] * 4),
        node("Conv", "a u", "b", pads=[1] * 4, group=24),
        node("Conv", "b v", "y"),
    ]
    found = families(nodes, (1, 16, 20, 20), w=(24, 16, 3, 3), u=(24, 1, 3, 3), v=(18, 24, 1, 1))
    assert found == ["transpose", "winograd", "depthwise", "matmul", "transpose"]
