"""Frozen dataclasses as JSON and back: fields by name, tuples as lists, all of it checked when read."""

from __future__ import annotations

import dataclasses
import json
import types
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from onnxplan.compiler.checked_json import demand, each, fail, integer, mapping, parse, text, truth

_T = TypeVar("_T")


def to_json(value: Any) -> str:
    """A dataclass as JSON text. Infinite and undefined numbers, which JSON lacks, raise ``ValueError``."""
    return json.dumps(dataclasses.asdict(value), allow_nan=False, ensure_ascii=False)


def from_json(kind: type[_T], document: str | bytes) -> _T:
    """The value that :func:`to_json` wrote; ``ValueError`` for anything else, which says where it is."""
    found: _T = _read(kind, parse(document), kind.__name__)
    return found


def _read(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        names = tuple(field.name for field in dataclasses.fields(kind))
        given = mapping(value, where, names)
        make: Any = kind
        return make(**{name: _read(hints[name], given[name], f"{where}.{name}") for name in names})
    if get_origin(kind) is tuple:
        element, _ = get_args(kind)
        return each(value, where, lambda item, place: _read(element, item, place))
    if get_origin(kind) in (Union, types.UnionType):
        (inner,) = (item for item in get_args(kind) if item is not type(None))
        return None if value is None else _read(inner, value, where)
    if kind is float:
        return _number(value, where)
    return {str: text, int: integer, bool: truth}[kind](value, where)


def _number(value: Any, where: str) -> float:
    demand(type(value) in (int, float), f"{where} is not a number")
    number = float(value)
    if number - number != 0:
        fail(f"{where} is not finite")
    return number
