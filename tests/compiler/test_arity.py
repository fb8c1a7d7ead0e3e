"""Inputs against the parameters of rules, for operators without a schema."""

from __future__ import annotations

import pytest

from onnxplan.compiler.arity import check_inputs
from onnxplan.compiler.builder import Builder
from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.ir import Node, Value
from onnxplan.compiler.view import View

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
