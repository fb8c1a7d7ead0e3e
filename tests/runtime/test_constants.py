"""What an engine keeps of a model's constants once a plan is bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxplan.compiler.constant_pool import RELEASE_BYTES, ConstantPool
from onnxplan.compiler.importer import load_model, sources
from onnxplan.runtime.devices import open_device
from onnxplan.runtime.engine import Engine
from onnxplan.runtime.model_planner import ModelPlanner
from onnxplan.runtime.planner import Request

ROWS, DEPTH, COLUMNS = 5, 70, 300


def scaled_product(
    rows: int | str,
) -> tuple[onnx.ModelProto, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """``(x @ w) * s``, which scales and packs the weights while planning; ``w`` and ``s``."""
    random = np.random.default_rng(3)
    weights, scale = random.normal(size=(DEPTH, COLUMNS)), random.uniform(1, 2, COLUMNS)
    initializers = [
        numpy_helper.from_array(array.astype(np.float32), name)
        for name, array in {"w": weights, "s": scale}.items()
    ]
    float32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Mul", ["p", "s"], ["y"])],
        "scaled product",
        [helper.make_tensor_value_info("x", float32, [rows, DEPTH])],
        [helper.make_tensor_value_info("y", float32, [rows, COLUMNS])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), weights, scale


def open_engine(source) -> Engine:
    device, model = open_device("cpu"), load_model(source)
    required = tuple(value.name for value in model.graph.inputs)
    return Engine(ModelPlanner(model, device.selector), device, required)


def test_a_model_of_fixed_shapes_keeps_what_its_plan_reads_and_nothing_twice() -> None:
    model, weights, scale = scaled_product(ROWS)
    engine = open_engine(model)
    stage = engine.first_stage(Request(("x",), ((ROWS, DEPTH),)))
    assert engine.planner.pool.nbytes <= sum(stage.constants.values())
    assert sum(stage.constants.values()) < 2 * weights.astype(np.float32).nbytes
    # A later plan reads the original weights again, and shares what was packed.
    again = engine.first_stage(Request(("x",), ((ROWS, DEPTH),), ("y",)))
    assert again is not stage
    largest = max(stage.constants, key=lambda constant: stage.constants[constant])
    assert largest in again.constants
    x = np.random.default_rng(4).normal(size=(ROWS, DEPTH)).astype(np.float32)
    for plan in (stage, again):
        found = engine.run(plan, (x,))["y"]
        np.testing.assert_allclose(np.asarray(found), x @ weights * scale, rtol=1e-4, atol=1e-4)
    engine.close()


def test_a_model_of_changing_shapes_keeps_what_later_plans_fold_again() -> None:
    model, _, _ = scaled_product("rows")
    engine = open_engine(model)
    stage = engine.first_stage(Request(("x",), ((ROWS, DEPTH),)))
    held = engine.planner.pool.nbytes
    assert held > sum(stage.constants.values())
    engine.first_stage(Request(("x",), ((ROWS + 1, DEPTH),)))
    assert engine.planner.pool.nbytes == held
    engine.close()


@pytest.mark.parametrize("shift", range(4))
def test_tables_stay_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shift: int) -> None:
    """A table that is only gathered from is read in the mapped file, at whatever address it lies."""
    monkeypatch.setattr(sources, "MAPPED_BYTES", 1)
    random = np.random.default_rng(5)
    table, weights = random.normal(size=(700, 33)).astype(np.float32), np.eye(33, dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "i"], ["rows"]),
            helper.make_node("Gather", ["both", "i"], ["others"]),
            helper.make_node("MatMul", ["rows", "w"], ["y"]),
            helper.make_node("Add", ["others", "both"], ["z"]),
        ],
        "tables",
        [helper.make_tensor_value_info("i", onnx.TensorProto.INT64, [5])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [5, 33]) for name in ("y", "z")],
        [
            numpy_helper.from_array(array, name)
            for name, array in {"table": table, "both": table[:5], "w": weights}.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_name = "x" * (10 + shift)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    engine = open_engine(path)
    stage = engine.first_stage(Request(("i",), ((5,),)))
    places = {constant.name: constant.anywhere for constant in stage.executor.plan.constants}
    assert places["table"]
    assert not places["both"]
    indices = np.array([0, 1, 4, -1, 2])
    found = engine.run(stage, (indices,))
    np.testing.assert_allclose(np.asarray(found["y"]), table[indices], rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(found["z"]), table[:5][indices] + table[:5])
    initializer = next(n.inputs[0] for n in engine.planner.model.graph.nodes if n.inputs[0].name == "table")
    bound = stage.executor._bound.constants[list(places).index("table")]
    assert bound.ctypes.data == initializer.constant.ctypes.data
    engine.close()


def test_sources_are_released_while_constants_are_made() -> None:
    released: list[int] = []
    pool = ConstantPool(lambda: released.append(pool.nbytes))
    half = RELEASE_BYTES // 2
    for number in range(5):
        pool.get(f"part {number}", lambda: np.zeros(half, np.uint8))
        pool.get(f"part {number}", lambda: np.zeros(half, np.uint8))
    assert released == [2 * half, 4 * half]
