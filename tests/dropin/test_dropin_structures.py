"""Sequences, maps and optionals, beside onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from both_modules import X, info, model, same
from onnx import TensorProto, helper

from onnxplan.compiler import ops
from onnxplan.compiler.registry import find

ops.load()
pytestmark = pytest.mark.skipif(
    find("", "SequenceConstruct", 17) is None, reason="onnxplan has no operators on sequences yet"
)

FLOATS = helper.make_tensor_type_proto(TensorProto.FLOAT, ["n"])
MAPS = helper.make_sequence_type_proto(
    helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
)
MODELS = {
    "sequence out": model(
        [helper.make_node("SequenceConstruct", ["x", "x"], ["s"])],
        [info("x", ["n", 2])],
        [helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)],
    ),
    "sequence in": model(
        [helper.make_node("SequenceAt", ["s", "i"], ["x"])],
        [
            helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None),
            info("i", [], TensorProto.INT64),
        ],
        [info("x", None)],
    ),
    "maps out": model(
        [helper.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[4, 5])],
        [info("x", ["n", 2])],
        [helper.make_value_info("z", MAPS)],
    ),
    "optional in": model(
        [helper.make_node("OptionalHasElement", ["x"], ["z"])],
        [helper.make_value_info("x", helper.make_optional_type_proto(FLOATS))],
        [info("z", [], TensorProto.BOOL)],
    ),
}
FEEDS = {
    "sequence out": [{"x": X}],
    "sequence in": [{"s": [X, X + 1], "i": np.array(1)}, {"s": [X, X[0]], "i": np.array(-1)}],
    "maps out": [{"x": X}, {"x": np.zeros((0, 2), np.float32)}],
    "optional in": [{"x": X[0]}, {"x": None}, {}],
}


@pytest.mark.parametrize("name", MODELS)
def test_types_and_values(name):
    def call(ort):
        session = ort.InferenceSession(MODELS[name])
        metas = [(meta.name, meta.type, meta.shape) for meta in session.get_inputs() + session.get_outputs()]
        return metas, [session.run(None, feeds) for feeds in FEEDS[name]]

    same(call)
