"""Gradient, against central differences of the reference evaluator's results in float64."""

import numpy as np
from cases import FLOAT32, FLOAT64, OPSET, Case, uniform
from onnx import helper
from onnx.reference import ReferenceEvaluator

DOMAIN = "ai.onnx.preview.training"
STEP = 1e-5

make = helper.make_node


def differences(nodes, xs, inputs):
    """The derivatives of the sum of ``y`` by each element of the inputs ``xs``."""
    graph = helper.make_graph(
        list(nodes),
        "forward",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in inputs.items()
        ],
        [helper.make_empty_tensor_value_info("y")],
    )
    evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)]))

    def total(name, moved):
        return np.sum(evaluator.run(None, {**inputs, name: moved})[0], dtype=np.float64)

    results = []
    for name in xs:
        array = inputs[name]
        result = np.empty(array.shape)
        for place in np.ndindex(array.shape):
            moved = [array.copy(), array.copy()]
            moved[0][place] += STEP
            moved[1][place] -= STEP
            result[place] = (total(name, moved[0]) - total(name, moved[1])) / (2 * STEP)
        results.append(result)
    return results


def gradient(name, nodes, inputs, xs, *, dtype=FLOAT64, constants=(), tolerance=(1e-6, 1e-7)) -> Case:
    zs = [each for each in inputs if each not in xs]
    outputs = [f"d{each}" for each in xs]
    attributes = {"xs": list(xs), "y": "y", **({"zs": zs} if zs else {})}
    node = make("Gradient", [*xs, *zs], outputs, domain=DOMAIN, **attributes)

    def reference(*values):
        return differences(nodes, xs, dict(zip(inputs, values, strict=True)))

    return Case(
        f"Gradient-{name}",
        (*nodes, node),
        inputs,
        tuple(outputs),
        constants=constants,
        reference=reference,
        dtypes=(dtype,) * len(xs),
        opsets={DOMAIN: 1},
        tolerance=tolerance,
        folds=False,
    )


def elementwise_cases() -> list[Case]:
    nodes = [make("Div", ["a", "b"], ["q"]), make("Max", ["q", "b"], ["m"]), make("Mul", ["m", "q"], ["y"])]
    inputs = {"a": uniform(FLOAT64, 2, 3, low=1, high=4), "b": uniform(FLOAT64, 3, low=0.6, high=2)}
    single = {name: uniform(FLOAT32, 2, 3, low=1, high=4) for name in "ab"}
    return [
        gradient("spread", nodes, inputs, ["a", "b"]),
        gradient("of one", nodes, inputs, ["b"]),
        gradient("at constants", nodes, inputs, ["a", "b"], constants=("a", "b")),
        gradient("float32", nodes, single, ["a"], dtype=FLOAT32, tolerance=(1e-2, 1e-2)),
    ]


def structural_cases() -> list[Case]:
    x = uniform(FLOAT64, 2, 3, 4)
    square = make("Mul", ["moved", "moved"], ["y"])
    axes = {"axes": np.array([1])}
    table = {
        "softmax": ([make("Softmax", ["x"], ["s"], axis=1), make("Mul", ["s", "x"], ["y"])], {"x": x}),
        "mean": (
            [make("ReduceMean", ["x", "axes"], ["m"]), make("Sub", ["x", "m"], ["moved"]), square],
            {"x": x, **axes},
        ),
        "extremes": (
            [
                make("ReduceMax", ["x", "axes"], ["top"]),
                make("ReduceMin", ["x", "axes"], ["low"], keepdims=0),
                make("Mul", ["top", "x"], ["a"]),
                make("ReduceL2", ["low"], ["b"], keepdims=0),
                make("Mul", ["a", "b"], ["y"]),
            ],
            {"x": x, **axes},
        ),
        "normalized": (
            [make("LayerNormalization", ["x", "w", "b"], ["n"]), make("Tanh", ["n"], ["y"])],
            {"x": x, "w": uniform(FLOAT64, 4), "b": uniform(FLOAT64, 4)},
        ),
        "moves": (
            [
                make("Transpose", ["x"], ["t"], perm=[2, 0, 1]),
                make("Slice", ["t", "one", "three"], ["cut"]),
                make("Concat", ["cut", "t", "cut"], ["joined"], axis=0),
                make("Expand", ["joined", "wide"], ["moved"]),
                square,
            ],
            {"x": x, "one": np.array([1]), "three": np.array([3]), "wide": np.array([2, 1, 1, 1])},
        ),
        "gathered": (
            [make("Gather", ["x", "i"], ["moved"], axis=1), square],
            {"x": x, "i": np.array([[2, 0, -1], [2, 2, 1]])},
        ),
        "chosen": (
            [make("Where", ["c", "x", "v"], ["moved"]), square],
            {"x": x, "c": np.array([True, False, False, True]), "v": uniform(FLOAT64, 4)},
        ),
    }
    return [
        gradient(
            name,
            nodes,
            inputs,
            [each for each in inputs if each in "xwbv"],
            constants=tuple(each for each in inputs if each not in "xwbvc"),
        )
        for name, (nodes, inputs) in table.items()
    ]


def product_cases() -> list[Case]:
    """Products and convolutions, by both of their operands."""
    cases = []
    for name, op, a, b, attributes in (
        ("matrices", "MatMul", (3, 4), (4, 2), {}),
        ("batches", "MatMul", (2, 1, 3, 4), (3, 4, 2), {}),
        ("vectors", "MatMul", (4,), (2, 4, 3), {}),
        ("Gemm", "Gemm", (4, 3), (5, 4), {"transA": 1, "transB": 1, "alpha": 0.5}),
        ("Conv", "Conv", (2, 4, 6, 5), (6, 2, 3, 2), {"group": 2, "strides": [2, 1], "pads": [1, 0, 2, 1]}),
        ("Conv dilated", "Conv", (1, 2, 9), (3, 2, 3), {"dilations": [2], "pads": [3, 2], "strides": [3]}),
    ):
        nodes = [make(op, ["a", "b"], ["p"], **attributes), make("Tanh", ["p"], ["y"])]
        inputs = {"a": uniform(FLOAT64, *a, low=-1, high=1), "b": uniform(FLOAT64, *b, low=-1, high=1)}
        cases.append(gradient(name, nodes, inputs, ["a", "b"]))
    return cases


def second_order() -> Case:
    """The derivative of a derivative: of ``x**3 + x y`` it is ``6 x``, and 1 by ``y``."""
    nodes = (
        make("Mul", ["x", "x"], ["square"]),
        make("Add", ["square", "y"], ["sum"]),
        make("Mul", ["sum", "x"], ["value"]),
        make("Gradient", ["x", "y"], ["first"], domain=DOMAIN, xs=["x"], zs=["y"], y="value"),
        make("Gradient", ["x", "y"], ["xx", "xy"], domain=DOMAIN, xs=["x", "y"], y="first"),
    )
    return Case(
        "Gradient-second order",
        nodes,
        {"x": uniform(FLOAT64, 5), "y": uniform(FLOAT64, 5)},
        ("first", "xx", "xy"),
        reference=lambda x, y: (3 * x * x + y, 6 * x, np.ones_like(x)),
        dtypes=(FLOAT64,) * 3,
        opsets={DOMAIN: 1},
        folds=False,
    )


def elsewhere() -> Case:
    """At other points than those of the graph, by an intermediate value, and by one without a part in it."""
    nodes = (
        make("Exp", ["x"], ["h"]),
        make("Mul", ["h", "h"], ["y"]),
        make("Gradient", ["p", "x"], ["dh", "dx"], domain=DOMAIN, xs=["h", "x"], y="y"),
    )
    return Case(
        "Gradient-elsewhere",
        nodes,
        {"x": uniform(FLOAT64, 4), "p": uniform(FLOAT64, 4)},
        ("y", "dh", "dx"),
        reference=lambda x, p: (np.exp(2 * x), 2 * p, np.zeros_like(x)),
        dtypes=(FLOAT64,) * 3,
        opsets={DOMAIN: 1},
        folds=False,
    )


CASES = [
    *elementwise_cases(),
    *structural_cases(),
    *product_cases(),
    second_order(),
    elsewhere(),
]
