"""Inputs of nodes against the parameters of their rules: how many there are, and of which kind."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Sequence

from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.ir import Node
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.registry import Rule
from onnxplan.compiler.structures import Absent, Lowered, MapRows, MapValue, SequenceValue, what_is
from onnxplan.compiler.view import View

_EXPECTED: dict[str, tuple[tuple[type, ...], str]] = {
    "View": ((View,), "a tensor"),
    "SequenceValue": ((SequenceValue,), "a sequence of tensors"),
    "MapValue": ((MapValue,), "a map"),
    "Lowered": ((View, SequenceValue, MapValue, MapRows, Absent), "a value"),
}
"""By the annotation of a parameter: what it may be handed, and what messages call that."""


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    needed: bool
    kinds: tuple[type, ...]
    expected: str


@functools.cache
def _parameters(rule: Rule) -> tuple[tuple[_Parameter, ...], _Parameter | None]:
    """The parameter of each input, and that of a variable number after them, if there is one.

    Those that are annotated without ``None`` and have no default are needed.
    """
    named, rest = [], None
    for parameter in list(inspect.signature(rule).parameters.values())[2:]:
        annotation = "" if parameter.annotation is parameter.empty else parameter.annotation
        kinds, expected = _EXPECTED.get(re.split(r"[\[ ]", annotation)[0], _EXPECTED["View"])
        needed = bool(annotation) and "None" not in annotation and parameter.default is parameter.empty
        found = _Parameter(parameter.name, needed, kinds, expected)
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = found
        elif parameter.kind is not parameter.KEYWORD_ONLY:
            named.append(found)
    return tuple(named), rest


def check_inputs(rule: Rule, node: Node) -> None:
    """Raises :class:`InvalidModelError` where ``node`` lacks inputs that ``rule`` needs, or has too many."""
    named, rest = _parameters(rule)
    if len(node.inputs) == len(named) and None not in node.inputs:
        return
    for position, parameter in enumerate(named):
        if parameter.needed and node.input(position) is None:
            raise InvalidModelError(
                f"node {node.label!r} ({node.op_type}) lacks its input {parameter.name!r}"
            )
    further = node.inputs[len(named) :]
    if further and rest is None:
        raise InvalidModelError(
            f"node {node.label!r} ({node.op_type}) has {len(node.inputs)} inputs; "
            f"expected at most {len(named)}"
        )
    if rest is not None and rest.needed and None in further:
        position = len(named) + further.index(None)
        raise InvalidModelError(f"node {node.label!r} ({node.op_type}) lacks its input {position}")


def check_kinds(rule: Rule, inputs: Sequence[Lowered | None]) -> None:
    """Raises ``TypeError`` where ``rule`` takes a tensor and is given a sequence, or the other way round."""
    named, rest = _parameters(rule)
    for position, value in enumerate(inputs):
        parameter = named[position] if position < len(named) else rest
        if value is not None and parameter is not None and not isinstance(value, parameter.kinds):
            raise TypeError(f"input {position} is {what_is(value)}; {parameter.expected} is expected")
