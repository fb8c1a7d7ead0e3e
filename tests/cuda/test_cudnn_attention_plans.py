"""Sessions whose attention cuDNN computes on the stand-in, and what happens where it does not."""

from __future__ import annotations

import logging

import emulator
import numpy as np
import pytest
from emulated import EmulatedCuda
from onnx import TensorProto, helper, numpy_helper
from standin_cudnn import Engine

import onnxplan
from bench.cuda_plans import executor_of
from onnxplan.runtime.cuda.bound_plan import CudnnLaunch

pytestmark = pytest.mark.skipif(emulator.COMPILER is None, reason="kernels cannot be emulated without g++")

BATCH, TOKENS, HEADS, GROUPS, WIDTH = 2, 72, 4, 2, 16
TOLERANCE = 5e-3
SERVED = 3
"""Of the attentions of :func:`model`; the last one has few queries."""


@pytest.fixture
def device():
    device = EmulatedCuda(cudnn=True)
    with device.used():
        yield device
    device.check()


def model() -> bytes:
    """Causal attention of grouped heads, decomposed with a mask, plain, and that of few queries."""
    nodes = []

    def node(operator: str, inputs: list[str], result: str, **attributes: object) -> None:
        nodes.append(helper.make_node(operator, inputs, [result], **attributes))

    node("Attention", ["q", "k", "v"], "a", is_causal=1, q_num_heads=HEADS, kv_num_heads=GROUPS)
    node("Reshape", ["a", "split"], "a4")
    node("Transpose", ["a4"], "query", perm=[0, 2, 1, 3])
    node("Transpose", ["a4"], "key", perm=[0, 2, 3, 1])
    node("MatMul", ["query", "key"], "products")
    node("Mul", ["products", "scale"], "scaled")
    node("Add", ["scaled", "mask"], "scores")
    node("Softmax", ["scores"], "weights", axis=-1)
    node("MatMul", ["weights", "query"], "b4")
    node("Attention", ["b4", "b4", "b4"], "c4")
    node("Slice", ["c4", "first", "last", "axis"], "few")
    node("Attention", ["few", "c4", "c4"], "y")
    constants = {
        "split": np.array([0, 0, HEADS, WIDTH], np.int64),
        "scale": np.array(0.25, np.float16),
        "first": np.array([0], np.int64),
        "last": np.array([5], np.int64),
        "axis": np.array([2], np.int64),
    }
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "attentions",
        [value(name, TensorProto.FLOAT16, array.shape) for name, array in feeds().items()],
        [value("y", TensorProto.FLOAT16, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 23)]
    made: bytes = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    return made


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    found = {
        name: rng.standard_normal((BATCH, TOKENS, heads * WIDTH)).astype(np.float16)
        for name, heads in (("q", HEADS), ("k", GROUPS), ("v", GROUPS))
    }
    found["mask"] = np.where(rng.random((BATCH, 1, 1, TOKENS)) < 0.3, -10000, 0).astype(np.float16)
    return found


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, added: np.ndarray | float = 0.0) -> np.ndarray:
    scores = q @ np.swapaxes(k, 2, 3) / np.sqrt(WIDTH) + added
    powers = np.exp(scores - scores.max(3, keepdims=True))
    return powers / powers.sum(3, keepdims=True) @ v


def expected() -> np.ndarray:
    wide = {name: array.astype(np.float64) for name, array in feeds().items()}
    q, k, v = (wide[name].reshape(BATCH, TOKENS, -1, WIDTH).transpose(0, 2, 1, 3) for name in ("q", "k", "v"))
    k, v = (np.repeat(array, HEADS // GROUPS, 1) for array in (k, v))
    hidden = np.where(np.tril(np.ones((TOKENS, TOKENS))), 0, -np.inf)
    a = attention(q, k, v, hidden)
    b = attention(a, a, a, wide["mask"])
    c = attention(b, b, b)
    return attention(c[:, :, :5], c, c)


def run(session: onnxplan.InferenceSession, runs: int = 3) -> None:
    """Runs a session, step by step and by its graph."""
    wanted = expected()
    for _ in range(runs):
        found = np.asarray(session.run_sync(feeds())["y"]).astype(np.float64)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())


def steps(session: onnxplan.InferenceSession) -> int:
    return str(session.plan({name: array.shape for name, array in feeds().items()})).count("cudnn_attention[")


def test_the_fastest_engine_is_taken(device, tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXPLAN_CACHE_DIR", str(tmp_path))
    device.standin.cudnn.engines = [
        Engine(workspace_bytes=16, number=1, milliseconds=3.0),
        Engine(workspace_bytes=32, number=2, milliseconds=1.0),
    ]
    with onnxplan.InferenceSession(model(), device="cuda", math="fast", autotune=True) as session:
        run(session)
        executor = executor_of(session, {name: array.shape for name, array in feeds().items()})
        count = steps(session)
    launches = executor._shared.bound.launches
    chosen = [launch.graph.workspace_bytes for launch in launches if isinstance(launch, CudnnLaunch)]
    assert count
    assert chosen == [32] * count


def fast(source: object) -> onnxplan.InferenceSession:
    return onnxplan.InferenceSession(source, device="cuda", math="fast")


@pytest.mark.parametrize("version", [91002, 92801])
def test_attention_goes_to_cudnn(device, version):
    device.standin.cudnn.version = version
    with fast(model()) as session:
        run(session)
        assert steps(session) == SERVED
        # The first run and the capture call; graphs do not.
        assert device.standin.counters.attentions == 2 * SERVED
    assert not [leak for leak in device.standin.cudnn.leaks() if "descriptor" in leak]


def test_strict_sessions_keep_to_our_kernels(device):
    with onnxplan.InferenceSession(model(), device="cuda") as session:
        run(session, 1)
        assert steps(session) == 0


def test_a_setting_turns_cudnn_off(device, monkeypatch):
    monkeypatch.setenv("ONNXPLAN_CUDNN", "0")
    with fast(model()) as session:
        run(session, 1)
        assert steps(session) == 0
    assert not device.standin.counters.attentions


@pytest.mark.parametrize(("engines", "version"), [([], 92801), ([Engine(refuses=True)], 92801), ([], 90700)])
def test_our_kernel_computes_what_cudnn_refuses(device, engines, version, caplog):
    device.standin.cudnn.engines, device.standin.cudnn.version = engines, version
    with caplog.at_level(logging.WARNING, "onnxplan.cuda"), fast(model()) as session:
        run(session)
        assert steps(session) == SERVED
    assert not device.standin.counters.attentions
    lines = [record.message for record in caplog.records]
    assert len(lines) == SERVED
    assert all("cuDNN" in line and "our own kernel computes it" in line for line in lines)
    assert not [leak for leak in device.standin.cudnn.leaks() if "descriptor" in leak]


def test_workspaces_are_those_of_the_slot(device):
    device.standin.cudnn.engines = [Engine(workspace_bytes=1 << 20)]
    with fast(model()) as session:
        run(session)
        assert device.standin.counters.attentions == 2 * SERVED


def test_artifacts_run_with_and_without_cudnn(device, tmp_path):
    path = tmp_path / "model.onnxplan"
    onnxplan.compile(model(), path, device="cuda", math="fast", include_model=False)
    with fast(path) as session:
        run(session, 2)
        assert device.standin.counters.attentions == 2 * SERVED
    other = EmulatedCuda()
    with other.used(), fast(path) as session:
        run(session, 2)
        assert steps(session) == SERVED
    other.check()
    assert not other.standin.counters.attentions
