"""Inputs against the parameters of rules, for operators without a schema."""

from __future__ import annotations

import pytest

from onnxplan.compiler.arity import check_inputs, check_kinds
from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.ir import MapType, Node, TensorType, Value
from onnxplan.compiler.structures import Absent, Lowered, MapRows, MapValue, SequenceValue
from onnxplan.compiler.view import Storage, View

X = Value("x")


def fixed(b: Builder, node: Node, data: View, bias: View | None = None) -> View:
    return data


def optional_first(b: Builder, node: Node, mask: View | None, data: View) -> View:
    return data


def variadic(b: Builder, node: Node, data: View, *others: View) -> View:
    return data


def open_variadic(b: Builder, node: Node, *others: View | None) -> View | None:
    return others[0]


@pytest.mark.parametrize(
    ("rule", "inputs"),
    [
        (fixed, (X,)),
        (fixed, (X, None)),
        (fixed, (X, X)),
        (optional_first, (None, X)),
        (variadic, (X,)),
        (variadic, (X, X, X)),
        (open_variadic, ()),
        (open_variadic, (None, X)),
    ],
)
def test_what_fits(rule, inputs):
    check_inputs(rule, Node("Op", "", 1, inputs, (), name="n"))


@pytest.mark.parametrize(
    ("rule", "inputs", "part"),
    [
        (fixed, (), "'n' (Op) lacks its input 'data'"),
        (fixed, (None,), "lacks its input 'data'"),
        (fixed, (X, X, X), "has 3 inputs; expected at most 2"),
        (optional_first, (X,), "lacks its input 'data'"),
        (variadic, (None, X), "lacks its input 'data'"),
        (variadic, (X, X, None), "lacks its input 2"),
    ],
)
def test_what_does_not(rule, inputs, part):
    with pytest.raises(InvalidModelError) as caught:
        check_inputs(rule, Node("Op", "", 1, inputs, (), name="n"))
    assert part in str(caught.value)


TENSOR = TensorType(DType.FLOAT32, None)
VIEW = View.dense(Storage(DType.FLOAT32, 2), (2,))
SEQUENCE = SequenceValue(TENSOR, (VIEW,))
KIND = MapType(DType.INT64, DType.FLOAT32)
MAP = MapValue(KIND, (1, 2), VIEW)
ROWS = MapRows(KIND, (1, 2), VIEW.unsqueeze((0,)))
ABSENT = Absent(TENSOR)


def of_sequence(b: Builder, node: Node, data: SequenceValue[View], place: View | None = None) -> View:
    return VIEW


def of_map(b: Builder, node: Node, data: MapValue[View] | None) -> View:
    return VIEW


def of_anything(b: Builder, node: Node, data: View, *others: Lowered) -> View:
    return VIEW


def of_what_it_does_not_say(b, node, data):
    return VIEW


@pytest.mark.parametrize(
    ("rule", "inputs"),
    [
        (of_sequence, [SEQUENCE, VIEW]),
        (of_sequence, [SEQUENCE, None]),
        (of_map, [MAP]),
        (of_map, [None]),
        (of_anything, [VIEW, VIEW, SEQUENCE, MAP, ROWS, ABSENT]),
        (of_what_it_does_not_say, [VIEW]),
    ],
)
def test_kinds_that_fit(rule, inputs):
    check_kinds(rule, inputs)


@pytest.mark.parametrize(
    ("rule", "inputs", "part"),
    [
        (fixed, [SEQUENCE], "input 0 is a sequence; a tensor is expected"),
        (fixed, [VIEW, MAP], "input 1 is a map; a tensor is expected"),
        (variadic, [VIEW, VIEW, ABSENT], "input 2 is an optional without a value; a tensor is expected"),
        (of_what_it_does_not_say, [ROWS], "input 0 is a sequence of maps; a tensor is expected"),
        (of_sequence, [VIEW], "input 0 is a tensor; a sequence of tensors is expected"),
        (of_sequence, [ROWS], "input 0 is a sequence of maps; a sequence of tensors is expected"),
        (of_sequence, [SEQUENCE, SEQUENCE], "input 1 is a sequence; a tensor is expected"),
        (of_map, [SEQUENCE], "input 0 is a sequence; a map is expected"),
    ],
)
def test_kinds_that_do_not(rule, inputs, part):
    with pytest.raises(TypeError) as caught:
        check_kinds(rule, inputs)
    assert str(caught.value) == part


@pytest.mark.parametrize("rule", [of_sequence, of_anything])
def test_inputs_of_any_kind_are_needed(rule):
    with pytest.raises(InvalidModelError, match="lacks its input 'data'"):
        check_inputs(rule, Node("Op", "", 1, (None,), (), name="n"))
