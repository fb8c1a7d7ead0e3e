"""A model of one layer in a file, for the tests of models that were seen before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from face_models import node, value
from onnx import TensorProto, helper, numpy_helper

import onnxplan
from onnxplan.runtime import model_keeper, origin
from onnxplan.runtime.artifact_planner import ArtifactPlanner

DEPTH, COLUMNS = 24, 17


@pytest.fixture(name="store")
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of its own, and identities of files that were just written."""
    monkeypatch.delenv("ONNXPLAN_VERIFY", raising=False)
    monkeypatch.setenv("ONNXPLAN_CACHE_DIR", str(tmp_path / "store"))
    monkeypatch.setattr(origin, "RACY_SECONDS", -5.0)
    monkeypatch.setattr(model_keeper, "START_SECONDS", 0.0)
    return tmp_path / "store"


def layer(seed: int = 0, rows: int | str = "rows") -> onnx.ModelProto:
    """A product, a bias that may be fed, and texts."""
    draw = np.random.default_rng(seed)
    weights = draw.normal(size=(DEPTH, COLUMNS)).astype(np.float32)
    nodes = [
        node("MatMul", "x w", "p"),
        node("Add", "p bias", "y"),
        helper.make_node("Constant", [], ["labels"], value_strings=["left", "right"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [value("x", [rows, DEPTH]), value("bias", [COLUMNS])],
        [value("y", [rows, COLUMNS]), value("labels", [2], TensorProto.STRING)],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.full(COLUMNS, 0.5, np.float32), "bias"),
        ],
        doc_string="of the graph",
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="somebody",
        domain="test",
        doc_string="of the model",
        model_version=7,
    )
    helper.set_model_props(model, {"author": "me"})
    return model


def save(folder: Path, model: onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def sample(rows: int = 3) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, DEPTH)).astype(np.float32)


def keep(path: Path, *rows: int, **options: Any) -> None:
    """Opens a model and runs it on inputs of so many rows, and waits until all is written."""
    with onnxplan.InferenceSession(path, **options) as session:
        for count in rows or (3,):
            session.run_sync({"x": sample(count)})
        session._engine.settle(wait=True)


def is_seen(session: onnxplan.InferenceSession) -> bool:
    return isinstance(session._engine.planner, ArtifactPlanner)


def opens_seen(path: Path, **options: Any) -> bool:
    with onnxplan.InferenceSession(path, **options) as session:
        return is_seen(session)


def entries(store: Path) -> list[Path]:
    return sorted(store.rglob("*.model"))


def reference(model: onnx.ModelProto, feeds: dict[str, Any]) -> np.ndarray:
    with onnxplan.InferenceSession(model) as session:
        return session.run_sync(feeds)["y"].numpy()
