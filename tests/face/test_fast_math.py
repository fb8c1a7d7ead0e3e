"""``math="fast"`` on the CPU: factors of bfloat16 where the processor is faster with them."""

import numpy as np
import pytest
from face_models import model, node, value

import onnxplan
from onnxplan.runtime.cpu.target import detect_target

GENERATOR = np.random.default_rng(0)
HIDDEN, FEATURES, ROWS = 700, 34, 21
UPPER = (GENERATOR.standard_normal((FEATURES, HIDDEN)) / FEATURES**0.5).astype(np.float32)
LOWER = (GENERATOR.standard_normal((HIDDEN, 5)) / HIDDEN**0.5).astype(np.float32)
BIAS = GENERATOR.standard_normal(HIDDEN).astype(np.float32)


def layers():
    nodes = [
        node("MatMul", "x upper", "h"),
        node("Add", "h bias", "b"),
        node("Relu", "b", "r"),
        node("MatMul", "r lower", "y"),
    ]
    inputs = [value("x", ["rows", FEATURES])]
    return model(nodes, inputs, ["y"], upper=UPPER, lower=LOWER, bias=BIAS)


def expected(x):
    return np.maximum(x.astype(np.float64) @ UPPER + BIAS, 0) @ LOWER


@pytest.mark.parametrize("rows", [1, 3, 4, ROWS])
def test_products_are_rounded_where_that_is_faster(rows):
    x = GENERATOR.standard_normal((rows, FEATURES)).astype(np.float32)
    errors = {}
    for math in ("strict", "fast"):
        with onnxplan.InferenceSession(layers(), math=math) as session:
            errors[math] = np.abs(session.run_sync({"x": x})["y"].numpy() - expected(x)).max()
    assert errors["strict"] < 1e-5
    if detect_target(math="fast").bfloat16_tiles:
        assert 1e-5 < errors["fast"] < 0.05
    else:
        assert errors["fast"] == errors["strict"]


def test_without_the_registers_fast_is_strict(monkeypatch):
    monkeypatch.setenv("ONNXPLAN_AMX", "0")
    x = GENERATOR.standard_normal((ROWS, FEATURES)).astype(np.float32)
    results = []
    for math in ("strict", "fast"):
        with onnxplan.InferenceSession(layers(), math=math) as session:
            results.append(session.run_sync({"x": x})["y"].numpy().copy())
    np.testing.assert_array_equal(*results)


def test_an_artifact_keeps_its_arithmetic(tmp_path):
    x = GENERATOR.standard_normal((ROWS, FEATURES)).astype(np.float32)
    path = tmp_path / "layers.plan"
    onnxplan.compile(layers(), path, math="fast", shapes={"x": (ROWS, FEATURES)})
    with (
        onnxplan.InferenceSession(path, math="fast") as opened,
        onnxplan.InferenceSession(layers(), math="fast") as compiled,
    ):
        results = [session.run_sync({"x": x})["y"].numpy().copy() for session in (opened, compiled)]
    np.testing.assert_array_equal(*results)


def test_profiles_know_how_fast_rounded_products_can_be():
    x = GENERATOR.standard_normal((ROWS, FEATURES)).astype(np.float32)
    ideals = {}
    for math in ("strict", "fast"):
        with onnxplan.InferenceSession(layers(), threads=1, math=math) as session:
            found = session.profile({"x": x}, 0.05)
        rows = [row for stage in found.stages for row in stage.rows if row.family == "matmul"]
        assert len(rows) == 2
        ideals[math] = sum(row.ceiling for row in rows)
    if detect_target(math="fast").bfloat16_tiles:
        assert 0 < ideals["fast"] < ideals["strict"]
    else:
        assert ideals["fast"] == ideals["strict"]


QUERIES, KEYS, DEPTH = 40, 90, 24


def attention():
    nodes = [node("MatMul", "q k", "s"), node("Softmax", "s", "w"), node("MatMul", "w v", "y")]
    shapes = {"q": [2, QUERIES, DEPTH], "k": [2, DEPTH, KEYS], "v": [2, KEYS, DEPTH]}
    return model(nodes, [value(name, shape) for name, shape in shapes.items()], ["y"]), {
        name: GENERATOR.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()
    }


def test_factors_of_attention_are_rounded(tmp_path):
    """Also by an artifact, whose kernels are the only ones of their process that use tile registers."""
    proto, feeds = attention()
    q, k, v = (array.astype(np.float64) for array in feeds.values())
    weights = np.exp(q @ k)
    expected = weights / weights.sum(axis=-1, keepdims=True) @ v
    results = {}
    for math in ("strict", "fast"):
        path = tmp_path / f"{math}.plan"
        onnxplan.compile(proto, path, math=math)
        with (
            onnxplan.InferenceSession(path, math=math) as opened,
            onnxplan.InferenceSession(proto, math=math) as compiled,
        ):
            results[math], again = (s.run_sync(feeds)["y"].numpy().copy() for s in (opened, compiled))
        np.testing.assert_array_equal(results[math], again)
    errors = {math: np.abs(result - expected).max() for math, result in results.items()}
    assert errors["strict"] < 1e-5
    if detect_target(math="fast").bfloat16_tiles:
        assert 1e-5 < errors["fast"] < 0.2
    else:
        assert errors["fast"] == errors["strict"]


def test_profiles_know_how_fast_attention_can_be():
    proto, feeds = attention()
    ideals = {}
    for math in ("strict", "fast"):
        with onnxplan.InferenceSession(proto, threads=1, math=math) as session:
            found = session.profile(feeds, 0.05)
        (row,) = (row for stage in found.stages for row in stage.rows if row.family == "attention")
        ideals[math] = row.ceiling
    if detect_target(math="fast").bfloat16_tiles:
        assert 0 < ideals["fast"] < ideals["strict"]
    else:
        assert ideals["fast"] == ideals["strict"]
