"""Sessions whose convolutions cuDNN computes on the stand-in, and what happens where it does not."""

from __future__ import annotations

import logging

import emulator
import numpy as np
import onnx
import pytest
from emulated import EmulatedCuda
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from standin_cudnn import Engine

import onnxplan

pytestmark = pytest.mark.skipif(emulator.COMPILER is None, reason="kernels cannot be emulated without g++")

TYPES = {
    "float16": (np.float16, TensorProto.FLOAT16, 5e-3),
    "float32": (np.float32, TensorProto.FLOAT, 2e-3),
    "float64": (np.float64, TensorProto.DOUBLE, 0.0),
}
CHANNELS = 32
SERVED = 4
"""Convolutions of :func:`model` behind the first one that cuDNN is asked for."""
SERVED_STRICTLY = 2
"""Those without the ones that are matrix products, in ``math="strict"``."""
STRICT = 1e-6
"""Tolerance of float32; products of TF32 differ by 1e-4 and more."""


@pytest.fixture
def device():
    device = EmulatedCuda(cudnn=True)
    with device.used():
        yield device
    device.check()


def model(name: str, seed: int = 0) -> onnx.ModelProto:
    """A residual block with a product behind it, a strided one, and a grouped one with uneven paddings."""
    dtype, number, _ = TYPES[name]
    rng = np.random.default_rng(seed)
    tensors, nodes = [], []

    def conv(source: str, result: str, shape: tuple[int, ...], *, bias: bool = True, **attributes: object):
        w = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        made = [("w", w), ("b", rng.standard_normal(shape[0]))][: 1 + bias]
        for kind, array in made:
            # All types have the same numbers.
            tensors.append(numpy_helper.from_array(array.astype(np.float16).astype(dtype), kind + result))
        nodes.append(
            helper.make_node("Conv", [source, *(k + result for k, _ in made)], [result], **attributes)
        )

    def node(operator: str, inputs: list[str], result: str) -> None:
        nodes.append(helper.make_node(operator, inputs, [result]))

    c = CHANNELS
    conv("x", "c0", (c, 3, 3, 3), pads=[1, 1, 1, 1])
    node("Relu", ["c0"], "a")
    conv("a", "c1", (c, c, 3, 3), pads=[1, 1, 1, 1])
    node("Add", ["c1", "a"], "s1")
    node("Relu", ["s1"], "y1")
    conv("y1", "c2", (c, c, 1, 1), bias=False)
    node("Add", ["a", "c2"], "y2")
    conv("y2", "c3", (c, c, 1, 1), strides=[2, 2])
    node("Relu", ["c3"], "y3")
    conv("y3", "y", (2 * c, c // 2, 3, 2), group=2, pads=[0, 1, 2, 0], dilations=[1, 2], bias=False)
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("x", number, [2, 3, 9, 11])],
        [helper.make_tensor_value_info("y", number, None)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def feeds(name: str) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(7).standard_normal((2, 3, 9, 11)).astype(np.float16)
    return {"x": drawn.astype(TYPES[name][0])}


def run(session: onnxplan.InferenceSession, name: str, runs: int = 3, tolerance: float | None = None) -> None:
    """Runs a session, step by step and by its graph, and compares with the sums in float64."""
    tolerance = TYPES[name][2] if tolerance is None else tolerance
    (wanted,) = ReferenceEvaluator(model("float64")).run(None, feeds("float64"))
    for _ in range(runs):
        found = np.asarray(session.run_sync(feeds(name))["y"]).astype(np.float64)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def families(session: onnxplan.InferenceSession) -> int:
    text = str(session.plan({"x": (2, 3, 9, 11)}))
    return text.count("cudnn[") + text.count("cudnn_float32[")


@pytest.mark.parametrize("name", ["float16", "float32"])
def test_convolutions_go_to_cudnn(device, name):
    with onnxplan.InferenceSession(model(name).SerializeToString(), device="cuda", math="fast") as session:
        run(session, name)
        assert families(session) == SERVED
        # The first run and the capture call; graphs do not.
        assert device.standin.counters.convolutions == 2 * SERVED
    assert not [leak for leak in device.standin.cudnn.leaks() if "descriptor" in leak]


def test_strict_sessions_keep_to_our_kernels_for_small_floats(device):
    with onnxplan.InferenceSession(model("float16").SerializeToString(), device="cuda") as session:
        run(session, "float16", 1)
        assert families(session) == 0


def test_strict_sessions_get_products_of_float32(device):
    """Engines that round factors to TF32 are offered first."""
    with onnxplan.InferenceSession(model("float32").SerializeToString(), device="cuda") as session:
        run(session, "float32", tolerance=STRICT)
        assert families(session) == SERVED_STRICTLY
    assert device.standin.counters.convolutions == 2 * SERVED_STRICTLY
    assert not [leak for leak in device.standin.cudnn.leaks() if "descriptor" in leak]


def test_our_kernel_computes_where_all_engines_round_factors(device, caplog):
    device.standin.cudnn.engines = [
        Engine(),
        Engine((0, 1), mode=2),
        Engine((1,)),
        Engine((2,)),
        Engine((4,)),
    ]
    with (
        caplog.at_level(logging.WARNING, "onnxplan.cuda"),
        onnxplan.InferenceSession(model("float32").SerializeToString(), device="cuda") as session,
    ):
        run(session, "float32", tolerance=STRICT)
        assert families(session) == SERVED_STRICTLY
    assert not device.standin.counters.convolutions
    assert sum("our own kernel computes it" in record.message for record in caplog.records) == SERVED_STRICTLY


@pytest.mark.parametrize("engines", [[], None])
def test_strict_sessions_keep_what_is_not_a_number(device, engines):
    if engines is not None:
        device.standin.cudnn.engines = engines
    given = feeds("float32")["x"]
    given[0, 1, 4, 5] = np.nan
    (wanted,) = ReferenceEvaluator(model("float64")).run(None, {"x": given.astype(np.float64)})
    with onnxplan.InferenceSession(model("float32").SerializeToString(), device="cuda") as session:
        found = np.asarray(session.run_sync({"x": given})["y"])
    assert np.isnan(wanted).any()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))


def test_strict_artifacts_run_without_cudnn(device, tmp_path):
    path = tmp_path / "model.onnxplan"
    onnxplan.compile(model("float32").SerializeToString(), path, device="cuda", include_model=False)
    other = EmulatedCuda()
    with other.used(), onnxplan.InferenceSession(path, device="cuda") as session:
        run(session, "float32", 2, STRICT)
        assert families(session) == SERVED_STRICTLY
    other.check()
    assert not other.standin.counters.convolutions


def test_a_setting_turns_cudnn_off(device, monkeypatch):
    monkeypatch.setenv("ONNXPLAN_CUDNN", "0")
    with onnxplan.InferenceSession(
        model("float16").SerializeToString(), device="cuda", math="fast"
    ) as session:
        run(session, "float16", 1)
        assert families(session) == 0
    assert not device.standin.counters.convolutions


@pytest.mark.parametrize("engines", [[], [Engine(refuses=True)], [Engine((5,))]])
def test_our_kernel_computes_what_cudnn_refuses(device, engines, caplog):
    device.standin.cudnn.engines = engines
    with (
        caplog.at_level(logging.WARNING, "onnxplan.cuda"),
        onnxplan.InferenceSession(
            model("float16").SerializeToString(), device="cuda", math="fast"
        ) as session,
    ):
        run(session, "float16")
        assert families(session) == SERVED
    assert not device.standin.counters.convolutions
    lines = [record.message for record in caplog.records]
    assert len(lines) == SERVED
    assert all("cuDNN does not take" in line and "our own kernel computes it" in line for line in lines)
    assert not [leak for leak in device.standin.cudnn.leaks() if "descriptor" in leak]


def test_a_cudnn_that_does_not_start_is_not_planned_with(device, caplog, monkeypatch):
    def fail(out: int) -> int:
        return 1008

    monkeypatch.setattr(device.standin.cudnn, "_functions", {"cudnnCreate": fail})
    with (
        caplog.at_level(logging.WARNING, "onnxplan.cuda"),
        onnxplan.InferenceSession(
            model("float16").SerializeToString(), device="cuda", math="fast"
        ) as session,
    ):
        run(session, "float16", 1)
        assert families(session) == 0
    assert next(record.message for record in caplog.records).startswith("cuDNN is not used on cuda:0")


def test_artifacts_run_with_and_without_cudnn(device, tmp_path):
    path = tmp_path / "model.onnxplan"
    onnxplan.compile(
        model("float16").SerializeToString(), path, device="cuda", math="fast", include_model=False
    )
    with onnxplan.InferenceSession(path, device="cuda", math="fast") as session:
        run(session, "float16", 2)
        assert device.standin.counters.convolutions == 2 * SERVED
    other = EmulatedCuda()
    with other.used(), onnxplan.InferenceSession(path, device="cuda", math="fast") as session:
        run(session, "float16", 2)
        assert families(session) == SERVED
    other.check()
    assert not other.standin.counters.convolutions
