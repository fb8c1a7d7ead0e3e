"""Reading JSON that nobody vouches for: each function gives a value of the type it is named for, or raises.

``where`` names the place in the document for the message of :class:`MalformedError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")
_WORD = 1 << 63


class MalformedError(ValueError):
    """The document does not have the form it should have; the message says where."""


def parse(text: str | bytes) -> Any:
    """The document, of any JSON type."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MalformedError(str(error)) from None


def fail(text: str) -> None:
    raise MalformedError(text)


def demand(condition: bool, text: str) -> None:
    if not condition:
        fail(text)


def mapping(value: Any, where: str, names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """An object, with just the fields ``names`` if they are given."""
    demand(isinstance(value, dict), f"{where} is not an object")
    demand(
        names is None or set(value) == set(names), f"{where} has other fields than {', '.join(names or ())}"
    )
    result: dict[str, Any] = value
    return result


def items(value: Any, where: str, length: int | None = None) -> list[Any]:
    """A list, of ``length`` items if that is given."""
    if not isinstance(value, list):
        fail(f"{where} is not a list")
    if length is not None and len(value) != length:
        fail(f"{where} has {len(value)} items, not {length}")
    result: list[Any] = value
    return result


def each(value: Any, where: str, read: Callable[[Any, str], _T]) -> tuple[_T, ...]:
    """``read`` of all items of a list."""
    return tuple([read(item, f"{where}[{number}]") for number, item in enumerate(items(value, where))])


def text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        fail(f"{where} is not a text")
    return str(value)


def truth(value: Any, where: str) -> bool:
    demand(type(value) is bool, f"{where} is not true or false")
    return bool(value)


def integer(value: Any, where: str) -> int:
    """An integer of 64 bits."""
    if type(value) is not int or not -_WORD <= value < _WORD:
        fail(f"{where} is not a 64-bit integer")
    return int(value)


def integers(value: Any, where: str) -> tuple[int, ...]:
    """A list of integers of 64 bits."""
    for item in items(value, where):
        if type(item) is not int or not -_WORD <= item < _WORD:
            return each(value, where, integer)
    return tuple(value)


def counts(value: Any, where: str) -> tuple[int, ...]:
    """A list of integers of 64 bits that are not negative."""
    for item in items(value, where):
        if type(item) is not int or not 0 <= item < _WORD:
            return each(value, where, count)
    return tuple(value)


def count(value: Any, where: str) -> int:
    """An integer of 64 bits that is not negative."""
    if type(value) is not int or not 0 <= value < _WORD:
        fail(f"{where} is not a count")
    return int(value)


def index(value: Any, where: str, length: int) -> int:
    """The number of an item of a table with ``length`` items."""
    if type(value) is not int or not 0 <= value < length:
        fail(f"{where} is not a number below {length}")
    return int(value)


def indices(value: Any, where: str, length: int) -> tuple[int, ...]:
    """A list of such numbers."""
    for item in items(value, where):
        if type(item) is not int or not 0 <= item < length:
            return each(value, where, lambda item, place: index(item, place, length))
    return tuple(value)
