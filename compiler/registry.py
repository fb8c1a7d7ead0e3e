"""Which lowering rule serves an operator in an opset version."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.ir import Node
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.structures import Lowered

Rule = Callable[..., "Lowered | Sequence[Lowered]"]
"""``rule(builder, node, *inputs)``; a missing optional input is ``None``. Returns the outputs in order.

The annotation of a parameter says what it takes: ``View`` a tensor, ``SequenceValue[View]`` a sequence,
``MapValue[View]`` a map, ``Lowered`` any of them. Nothing else is handed to it.

A rule raises ``ValueError`` or ``TypeError`` with a text about shapes, types or attributes where the node
breaks the standard; the caller adds which node it was. Trailing outputs that nobody wants may be left out.
"""

R = TypeVar("R", bound=Rule)


@dataclass(frozen=True, slots=True)
class OperatorEntry:
    """A rule for the versions from ``since`` up to the next entry's; ``None`` if it was removed."""

    domain: str
    op_type: str
    since: int
    rule: Rule | None


_ENTRIES: dict[tuple[str, str], list[OperatorEntry]] = {}


def operator(op_type: str, *, since: int = 1, domain: str = "") -> Callable[[R], R]:
    """Registers a rule for ``op_type`` from opset version ``since`` on.

    Only versions whose *meaning* differs get rules of their own; where a version merely allows more types or
    spells an attribute as an input, one rule handles both. The docstring of the rule links the specification.
    """

    def register(rule: R) -> R:
        entries = _ENTRIES.setdefault((domain, op_type), [])
        entries[:] = [entry for entry in entries if not _is_left_over(entry.rule)]
        if any(entry.since == since for entry in entries):
            raise ValueError(f"operator {op_type} has two rules for version {since}")
        entries.append(OperatorEntry(domain, op_type, since, rule))
        entries.sort(key=lambda entry: -entry.since)
        return rule

    return register


def _is_left_over(rule: Rule | None) -> bool:
    """Is ``rule`` of an import of its file that something cut off, such as an interrupt from the keyboard?"""
    module = sys.modules.get(getattr(rule, "__module__", ""))
    return rule is not None and (module is None or vars(module) is not getattr(rule, "__globals__", None))


def find(domain: str, op_type: str, version: int) -> Rule | None:
    """The rule for an operator in an opset version of its domain, or ``None``."""
    for entry in _ENTRIES.get(("" if domain == "ai.onnx" else domain, op_type), ()):
        if entry.since <= version:
            return entry.rule
    return None


def entries() -> list[OperatorEntry]:
    """All entries, by domain and name, newest version first."""
    return [entry for key in sorted(_ENTRIES) for entry in _ENTRIES[key]]


__all__ = ["Builder", "Node", "OperatorEntry", "Rule", "entries", "find", "operator"]
