"""Gradients that cannot be computed, and why."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower

DOMAIN = "ai.onnx.preview.training"


def graph_of(nodes, gradient, shape=(1, 2, 4, 4)):
    attributes, inputs = gradient
    node = helper.make_node(
        "Gradient", inputs, [f"d{name}" for name in attributes["xs"]], "slope", domain=DOMAIN, **attributes
    )
    infos = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("z", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("n", TensorProto.INT64, [2]),
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([*nodes, node], "gradient", infos, outputs)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    return load_model(helper.make_model(graph, opset_imports=imports))


PRODUCT = [helper.make_node("Mul", ["x", "z"], ["y"])]


@pytest.mark.parametrize(
    ("nodes", "gradient", "reason"),
    [
        (
            [helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2])],
            ({"xs": ["x"], "y": "y"}, ["x"]),
            "there is no gradient of pool",
        ),
        (
            [helper.make_node("ReduceProd", ["x"], ["y"])],
            ({"xs": ["x"], "y": "y"}, ["x"]),
            "no derivative of reduce_prod",
        ),
        (PRODUCT, ({"xs": ["x"], "y": "y"}, ["x"]), "'y' depends on 'z', which is not among the inputs"),
        (PRODUCT, ({"xs": ["x"], "zs": ["z"], "y": "w"}, ["x", "z"]), "no value 'w'"),
        (PRODUCT, ({"xs": ["x"], "zs": ["z"], "y": "y"}, ["x"]), "1 inputs for 1 xs and 1 zs"),
        (PRODUCT, ({"xs": ["n"], "y": "y"}, ["n"]), "'n' is of int64"),
        (
            [helper.make_node("ArgMax", ["x"], ["y"])],
            ({"xs": ["x"], "y": "y"}, ["x"]),
            "y is of int64",
        ),
        (
            [
                helper.make_node("NonZero", ["x"], ["columns"]),
                helper.make_node("Transpose", ["columns"], ["rows"]),
                helper.make_node("GatherND", ["x", "rows"], ["y"]),
            ],
            ({"xs": ["x"], "y": "y"}, ["x"]),
            "that a run computes decide what is derived",
        ),
    ],
)
def test_reason(nodes, gradient, reason):
    model = graph_of(nodes, gradient)
    shapes = {"x": (1, 2, 4, 4), "z": (1, 2, 4, 4), "n": (2,)}
    # The answer to the question how many elements are not zero.
    answers = [np.array(32)] if "decide" in reason else []
    with pytest.raises(InvalidModelError, match=reason):
        lower(model, shapes, answers)
