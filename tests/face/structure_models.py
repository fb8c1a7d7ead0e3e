"""Models with sequences, optionals and maps for the tests of the face."""

from __future__ import annotations

import numpy as np
from face_models import FLOAT
from onnx import helper

import onnxplan

X, Y = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(3, dtype=np.float32).reshape(1, 3)


def tensor(code=FLOAT, dims=None):
    return helper.make_tensor_type_proto(code, dims)


def sequence(code=FLOAT, dims=None):
    return helper.make_sequence_type_proto(tensor(code, dims))


def optional(element):
    return helper.make_optional_type_proto(element)


def mapping(key, code):
    return helper.make_map_type_proto(key, tensor(code, []))


def node(op_type, inputs, outputs, **attributes):
    domain = "ai.onnx.ml" if op_type in ("ZipMap", "CastMap", "DictVectorizer") else ""
    return helper.make_node(op_type, inputs.split(), outputs.split(), domain=domain, **attributes)


def session(nodes, inputs, outputs, **options):
    """``inputs`` and ``outputs`` map names to types; ``None`` leaves that of an output open."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_value_info(name, kind) for name, kind in inputs.items()],
        [
            helper.make_empty_tensor_value_info(name) if kind is None else helper.make_value_info(name, kind)
            for name, kind in outputs.items()
        ],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return onnxplan.InferenceSession(helper.make_model(graph, opset_imports=imports), **options)


def same(found, right):
    """Equal, whatever is nested in lists; arrays of the same type and shape."""
    if isinstance(right, list):
        assert type(found) is list
        assert len(found) == len(right)
        for one, other in zip(found, right, strict=True):
            same(one, other)
    elif right is None or isinstance(right, dict):
        assert found == right
    else:
        assert found.numpy().dtype == right.dtype
        assert found.dims == right.shape
        np.testing.assert_array_equal(found.numpy(), right)
