"""Types of values as JSON: a list of the kind's name and of what it is made of."""

from __future__ import annotations

from typing import Any

from onnxplan.compiler.checked_json import MalformedError, count, each, items, text
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Dim, MapType, OptionalType, SequenceType, TensorType, ValueType

MOST_LEVELS = 32


def type_to_json(kind: ValueType | None) -> Any:
    """``["tensor", "float32", ["batch", 4]]`` and the like; ``None`` for a type that is not known."""
    if kind is None:
        return None
    if isinstance(kind, TensorType):
        return ["tensor", kind.dtype.label, None if kind.shape is None else list(kind.shape)]
    if isinstance(kind, MapType):
        return ["map", kind.key.label, kind.value.label]
    return ["sequence" if isinstance(kind, SequenceType) else "optional", type_to_json(kind.element)]


def read_type(value: Any, where: str, levels: int = MOST_LEVELS) -> ValueType | None:
    """What :func:`type_to_json` wrote; raises :class:`MalformedError`."""
    if value is None:
        return None
    name, *parts = items(value, where) or [None]
    if name == "tensor":
        dtype, shape = items(parts, where, 2)
        return TensorType(read_dtype(dtype, where), None if shape is None else each(shape, where, _dim))
    if name == "map":
        key, element = items(parts, where, 2)
        return MapType(read_dtype(key, where), read_dtype(element, where))
    (part,) = items(parts, where, 1)
    inner = read_type(part, where, levels - 1) if levels else None
    if inner is None or name not in ("sequence", "optional"):
        raise MalformedError(f"{where} is no type")
    return SequenceType(inner) if name == "sequence" else OptionalType(inner)


def read_dtype(value: Any, where: str) -> DType:
    """The element type with this label."""
    try:
        return DType.from_label(text(value, where))
    except KeyError:
        raise MalformedError(f"{where}: {value!r} is no element type") from None


def _dim(value: Any, where: str) -> Dim:
    return value if value is None or isinstance(value, str) else count(value, where)
