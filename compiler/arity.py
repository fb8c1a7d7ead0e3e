"""Inputs of nodes against the parameters of their rules: the check for operators that have no schema."""

from __future__ import annotations

import functools
import inspect

from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.ir import Node
from onnxplan.compiler.registry import Rule


@functools.cache
def _parameters(rule: Rule) -> tuple[tuple[tuple[str, bool], ...], bool | None]:
    """Name of each input and whether it is needed; the same of a variable number after them, if there is.

    Those annotated as ``View`` and without a default are needed.
    """
    named, rest = [], None
    for parameter in list(inspect.signature(rule).parameters.values())[2:]:
        needed = parameter.annotation == "View" and parameter.default is parameter.empty
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = needed
        elif parameter.kind is not parameter.KEYWORD_ONLY:
            named.append((parameter.name, needed))
    return tuple(named), rest


def check_inputs(rule: Rule, node: Node) -> None:
    """Raises :class:`InvalidModelError` where ``node`` lacks inputs that ``rule`` needs, or has too many."""
    named, rest = _parameters(rule)
    for position, (name, needed) in enumerate(named):
        if needed and node.input(position) is None:
            raise InvalidModelError(f"node {node.label!r} ({node.op_type}) lacks its input {name!r}")
    further = node.inputs[len(named) :]
    if further and rest is None:
        raise InvalidModelError(
            f"node {node.label!r} ({node.op_type}) has {len(node.inputs)} inputs; "
            f"expected at most {len(named)}"
        )
    if rest and None in further:
        position = len(named) + further.index(None)
        raise InvalidModelError(f"node {node.label!r} ({node.op_type}) lacks its input {position}")
