"""Types and structures of inputs and outputs as JSON, in the headers of artifacts.

A type is ``["tensor", element type, dims or null]``, ``["seq", type]``, ``["optional", type]`` or
``["map", key type, value type]``. A structure is the name of a tensor, ``["seq", type of its elements,
structures]``, ``["map", type, keys, name]``, ``["rows", type, keys, name]`` or ``["absent", type]``.
"""

from __future__ import annotations

from typing import Any

from onnxplan.compiler.checked_json import MalformedError, count, demand, each, integer, items, text
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import MapType, OptionalType, SequenceType, TensorType, ValueType
from onnxplan.compiler.structures import Absent, Key, MapRows, MapValue, SequenceValue, Structure

_DEPTH = 8
"""Of types within types; those of operators have three at most."""


def write_type(kind: ValueType) -> list[Any]:
    if isinstance(kind, TensorType):
        return ["tensor", kind.dtype.label, None if kind.shape is None else list(kind.shape)]
    if isinstance(kind, MapType):
        return ["map", kind.key.label, kind.value.label]
    return ["seq" if isinstance(kind, SequenceType) else "optional", write_type(kind.element)]


def read_type(value: Any, where: str, depth: int = _DEPTH) -> ValueType:
    """The type; raises :class:`MalformedError`."""
    demand(depth > 0, f"{where} is nested too deep")
    form = text(items(value, where)[0] if value else value, where)
    if form == "tensor":
        _, label, dims = items(value, where, 3)
        return TensorType(_dtype(label, where), None if dims is None else each(dims, where, read_dim))
    if form == "map":
        return _map_type(value, where)
    demand(form in ("seq", "optional"), f"{where} is of the unknown form {form!r}")
    element = read_type(items(value, where, 2)[1], where, depth - 1)
    return SequenceType(element) if form == "seq" else OptionalType(element)


def read_dim(value: Any, where: str) -> int | str | None:
    return value if value is None or isinstance(value, str) else count(value, where)


def _map_type(value: Any, where: str) -> MapType:
    form, key, element = items(value, where, 3)
    found = MapType(_dtype(key, where), _dtype(element, where))
    demand(form == "map" and found.key.kind in "ius", f"{where} is no map by integers or strings")
    return found


def _dtype(label: Any, where: str) -> DType:
    try:
        return DType.from_label(text(label, where))
    except KeyError:
        raise MalformedError(f"{where}: {label!r} is no element type") from None


def write_structure(value: Structure[str]) -> str | list[Any]:
    if isinstance(value, SequenceValue):
        return ["seq", write_type(value.element), [write_structure(item) for item in value.elements]]
    if isinstance(value, MapValue | MapRows):
        form = "map" if isinstance(value, MapValue) else "rows"
        return [form, write_type(value.type), list(value.keys), value.values]
    return ["absent", write_type(value.type)] if isinstance(value, Absent) else value


def read_structure(value: Any, where: str, depth: int = _DEPTH) -> Structure[str]:
    """The structure; raises :class:`MalformedError`."""
    if isinstance(value, str):
        return value
    demand(depth > 0, f"{where} is nested too deep")
    form = text(items(value, where)[0] if value else value, where)
    if form == "absent":
        return Absent(read_type(items(value, where, 2)[1], where))
    if form == "seq":
        _, element, parts = items(value, where, 3)
        of = read_type(element, where)
        return SequenceValue(of, each(parts, where, lambda item, at: read_structure(item, at, depth - 1)))
    demand(form in ("map", "rows"), f"{where} is of the unknown form {form!r}")
    _, declared, listed, name = items(value, where, 4)
    kind = _map_type(declared, where)
    keys = each(listed, where, lambda item, at: _key(item, at, kind))
    values = text(name, where)
    return MapValue(kind, keys, values) if form == "map" else MapRows(kind, keys, values)


def _key(value: Any, where: str, kind: MapType) -> Key:
    return text(value, where) if kind.key is DType.STRING else integer(value, where)
