"""Sequences, optionals and maps: what is refused, with the node's name and the reason."""

from __future__ import annotations

import numpy as np
import pytest
from cases import case, flatten, shape_of
from cases_control import graph, node, value
from onnx import TensorProto, helper

from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower

X = np.zeros((2, 3), np.float32)
XS = [X, np.zeros((1, 3), np.float32)]
ML = {"domain": "ai.onnx.ml"}
ADD = graph("add", [node("Add", ["p", "q"], ["r"])], [value("p"), value("q")], [value("r")])
PAIR = graph("pair", [node("SequenceConstruct", ["p"], ["r"])], [value("p")], [value("r")])
OPEN = graph("open", [node("Neg", ["p"], ["r"])], [value("p")], [helper.make_empty_tensor_value_info("r")])
TENSOR = helper.make_tensor_type_proto(TensorProto.DOUBLE, None)


def attributes(**items):
    return {"attributes": items}


KNOWN = {"constants": ("i",)}

BROKEN = [
    ("Neg", {"s": XS}, {}, "input 0 is a sequence; a tensor is expected"),
    ("Concat", {"x": X, "s": XS}, attributes(axis=0), "input 1 is a sequence; a tensor is expected"),
    ("SequenceAt", {"x": X, "i": shape_of(0)}, {}, "input 0 is a tensor; a sequence"),
    ("SequenceAt", {"s": XS, "t": XS}, {}, "input 1 is a sequence; a tensor"),
    (
        "SequenceAt",
        {"s": XS, "i": np.int64(2)},
        KNOWN,
        "position 2 is out of range for 2 elem",
    ),
    ("SequenceAt", {"s": XS, "i": np.int64(-3)}, KNOWN, "position -3 is out of range"),
    ("SequenceAt", {"s": XS, "i": shape_of(0, 1)}, KNOWN, "one element is expected"),
    ("SequenceErase", {"s": XS, "i": np.int64(2)}, KNOWN, "position 2 is out of range"),
    (
        "SequenceInsert",
        {"s": XS, "x": X, "i": np.int64(3)},
        KNOWN,
        "position 3 is out of range",
    ),
    ("SequenceInsert", {"s": XS, "x": X.astype(int)}, {}, "a tensor of int64 does not go into"),
    ("SequenceConstruct", {"x": X, "y": X.astype(np.float64)}, {}, "of the types float32, float64"),
    ("SequenceEmpty", {}, attributes(dtype=99), "99"),
    ("SplitToSequence", {"x": X}, attributes(axis=2), "axis 2"),
    ("SplitToSequence", {"x": X[0, 0]}, {}, "axis 0"),
    ("SplitToSequence", {"x": X, "n": np.int64(0)}, {"constants": ("n",)}, "extent 0"),
    ("SplitToSequence", {"x": X, "n": shape_of(1, 2)}, {"constants": ("n",)}, "do not add up to 2"),
    ("SplitToSequence", {"x": X, "n": shape_of(-1, 3)}, {"constants": ("n",)}, "do not add up to 2"),
    ("ConcatFromSequence", {"s": XS}, attributes(axis=1), "differ not only along axis 1"),
    ("ConcatFromSequence", {"s": XS}, attributes(axis=2), "axis 2"),
    ("ConcatFromSequence", {"s": XS}, attributes(axis=0, new_axis=1), "cannot be stacked"),
    ("SequenceMap", {"s": XS, "t": XS[:1]}, attributes(body=ADD), "sequences of 2 and of 1 elements"),
    ("SequenceMap", {"s": XS}, attributes(body=ADD), "'add' has 2 inputs, 1 are given"),
    ("SequenceMap", {"s": XS}, attributes(body=PAIR), "an output of the body is a sequence"),
    ("Optional", {}, {}, "the attribute type must name"),
    (
        "Optional",
        {"x": X},
        attributes(type=TENSOR),
        r"tensor\(float\) is given, type says tensor\(double\)",
    ),
    ("ZipMap", {"x": X}, {**ML, **attributes(classlabels_int64s=[1, 2])}, "2 keys for 3 columns"),
    ("ZipMap", {"x": X}, ML, "0 keys for 3 columns"),
    ("ZipMap", {"x": X[0, 0]}, {**ML, **attributes(classlabels_int64s=[1])}, r"\(N, K\) is expected"),
    (
        "ZipMap",
        {"x": X.astype(int)},
        {**ML, **attributes(classlabels_int64s=[1, 2, 3])},
        "not int64",
    ),
    (
        "ZipMap",
        {"x": X},
        {**ML, **attributes(classlabels_int64s=[1, 2, 3], classlabels_strings=["a", "b", "c"])},
        "by both",
    ),
    ("DictVectorizer", {"x": X}, {**ML, **attributes(int64_vocabulary=[1])}, "a map is expected"),
    ("CastMap", {"s": XS}, ML, "input 0 is a sequence; a map is expected"),
]


def lowered(broken):
    feeds, structures = flatten(broken.feeds())
    shapes = {name: array.shape for name, array in feeds.items()}
    return lower(load_model(broken.model()), shapes, structures=structures)


@pytest.mark.parametrize(("op_type", "inputs", "settings", "reason"), BROKEN)
def test_reason(op_type, inputs, settings, reason):
    with pytest.raises(InvalidModelError, match=f"'y0' .{op_type} of .*{reason}"):
        lowered(case("", op_type, inputs, **settings))


def test_nothing_of_an_unknown_type():
    empty = node("SequenceEmpty", [], ["s"])
    for nodes, reason in [
        ([empty, node("SequenceErase", ["s"], ["y"])], "no element to erase"),
        ([empty, node("ConcatFromSequence", ["s"], ["y"], axis=0)], "no elements to concatenate"),
        (
            [empty, node("SequenceMap", ["s"], ["y"], body=OPEN)],
            "output 'r' of the body has no declared",
        ),
        (
            [node("Optional", [], ["s"], type=TENSOR), node("OptionalGetElement", ["s"], ["y"])],
            r"there is no tensor\(double\) in it",
        ),
        (
            [node("Optional", [], ["s"], type=TENSOR), node("Neg", ["s"], ["y"])],
            "an optional without a value; a tensor is expected",
        ),
    ]:
        proto = helper.make_model(
            helper.make_graph(nodes, "g", [], [helper.make_empty_tensor_value_info("y")]),
            opset_imports=[helper.make_opsetid("", 18)],
        )
        with pytest.raises(InvalidModelError, match=f"'y' .*{reason}"):
            lower(load_model(proto), {})


def test_scan_outputs_and_conditions_are_tensors():
    head = [value("i", np.dtype(np.int64), []), value("going", np.dtype(bool), [])]
    nothing = node("SequenceEmpty", [], ["s"])
    for outputs, reason in [
        (["going", "s"], "output 's' of the body is a sequence"),
        (["s", "going"], "the condition is a sequence"),
    ]:
        body = graph("body", [nothing], head, [helper.make_empty_tensor_value_info(name) for name in outputs])
        looped = case("", "Loop", {"n": np.int64(2), "c": None}, attributes={"body": body}, constants=("n",))
        with pytest.raises(InvalidModelError, match=f"'y0' .Loop of .*{reason}"):
            lowered(looped)
