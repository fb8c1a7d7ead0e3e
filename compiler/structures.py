"""Values that are no tensors: sequences, maps, and optionals that hold nothing.

All of them but the elements of their tensors is known when a run is planned, so they cost nothing when it
runs. What their tensors are depends on where they occur: views while a graph is lowered, names of inputs
and outputs around a plan, arrays around a run. An optional that holds something is just that.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import Any, Generic, TypeAlias, TypeVar

from onnxplan.compiler.ir import MapType, SequenceType, ValueType, standard_name
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import View

T = TypeVar("T")
U = TypeVar("U")

Key = int | str


@dataclass(frozen=True, slots=True)
class SequenceValue(Generic[T]):
    """A sequence of values of type ``element``."""

    element: ValueType
    elements: tuple[Structure[T], ...]


@dataclass(frozen=True, slots=True)
class MapValue(Generic[T]):
    """A map: ``values`` is a vector with an element for each of ``keys``, which ascend."""

    type: MapType
    keys: tuple[Key, ...]
    values: T


@dataclass(frozen=True, slots=True)
class MapRows(Generic[T]):
    """A sequence of maps with the same keys: ``values`` is a matrix with a row for each map."""

    type: MapType
    keys: tuple[Key, ...]
    values: T


@dataclass(frozen=True, slots=True)
class Absent:
    """An optional that holds nothing, where it could hold a ``type``."""

    type: ValueType


Structure: TypeAlias = "T | SequenceValue[T] | MapValue[T] | MapRows[T] | Absent"
Lowered: TypeAlias = "Structure[View]"


def map_tensors(function: Callable[[T], U], value: Structure[T]) -> Structure[U]:
    """``value`` with ``function`` of each of its tensors in that one's place."""
    if isinstance(value, SequenceValue):
        return SequenceValue(value.element, tuple([map_tensors(function, item) for item in value.elements]))
    if isinstance(value, MapValue):
        return MapValue(value.type, value.keys, function(value.values))
    if isinstance(value, MapRows):
        return MapRows(value.type, value.keys, function(value.values))
    return value if isinstance(value, Absent) else function(value)


def tensors(value: Structure[T]) -> Iterator[T]:
    """The tensors of ``value``, in order."""
    if isinstance(value, SequenceValue):
        for item in value.elements:
            yield from tensors(item)
    elif isinstance(value, MapValue | MapRows):
        yield value.values
    elif not isinstance(value, Absent):
        yield value


def name_tensors(
    name: str, value: Structure[T], taken: Container[str]
) -> tuple[Structure[str], dict[str, T]]:
    """``value``, called ``name``, with a name for each of its tensors, and the tensors by these names.

    The names are like ``name[2]``, and none of ``taken``. A ``value`` that is a tensor has just ``name``.
    """
    found: dict[str, T] = {}

    def enter(label: str, part: T) -> str:
        while label in found or (label in taken and label != name):
            label += "'"
        found[label] = part
        return label

    def walk(label: str, part: Structure[T]) -> Structure[str]:
        if not isinstance(part, SequenceValue):
            return map_tensors(lambda leaf: enter(label, leaf), part)
        items = enumerate(part.elements)
        return SequenceValue(part.element, tuple([walk(f"{label}[{i}]", item) for i, item in items]))

    return walk(name, value), found


def type_of(value: Structure[Any]) -> ValueType | None:
    """The type of what is no tensor; ``None`` for tensors, and where it may be any optional."""
    if isinstance(value, SequenceValue):
        return SequenceType(value.element)
    if isinstance(value, MapRows):
        return SequenceType(value.type)
    return value.type if isinstance(value, MapValue) else None


def describe_lowered(value: Lowered | None) -> str:
    """``float32[2, 3]``, ``seq(tensor(float)) of 2``; for messages."""
    if isinstance(value, View):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, SequenceValue):
        return f"{standard_name(SequenceType(value.element))} of {len(value.elements)}"
    if isinstance(value, MapValue):
        return f"{standard_name(value.type)} of {len(value.keys)}"
    if isinstance(value, MapRows):
        return f"{standard_name(SequenceType(value.type))} of {value.values.shape[0]}"
    return "none" if value is None else f"an absent {standard_name(value.type)}"


_KINDS: dict[type, str] = {
    View: "a tensor",
    SequenceValue: "a sequence",
    MapRows: "a sequence of maps",
    MapValue: "a map",
    Absent: "an optional without a value",
}


def what_is(value: Lowered) -> str:
    """``a tensor``, ``a sequence``; for messages."""
    return _KINDS[type(value)]


def tensor(value: Lowered, what: str) -> View:
    """``value``; raises ``TypeError``, which calls it ``what``, where it is no tensor."""
    if not isinstance(value, View):
        raise TypeError(f"{what} is {what_is(value)}; a tensor is expected")
    return value
