"""Sequences, optionals and maps, as callers feed them and as they get them."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from onnxplan.arrays import to_array
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import InvalidFeedsError
from onnxplan.compiler.ir import MapType, OptionalType, TensorType, ValueType
from onnxplan.compiler.structures import Absent, Key, MapRows, MapValue, SequenceValue, Structure
from onnxplan.infos import StructureInfo, TensorInfo, check_dims, describe
from onnxplan.runtime.device import AnyArray, Array, Device
from onnxplan.tensor import wrap


def to_structure(value: Any, info: StructureInfo, device: Device) -> Structure[AnyArray]:
    """What is fed for an input that is no tensor, with arrays as ``to_array`` makes them.

    A sequence is a list or a tuple, a map a dict, an optional ``None`` or its element. Raises
    :class:`InvalidFeedsError`, which says at which position.
    """
    return _taken(value, info.kind, info.name, device)


def _taken(value: Any, kind: ValueType, name: str, device: Device) -> Structure[AnyArray]:
    if isinstance(kind, OptionalType):
        return Absent(kind.element) if value is None else _taken(value, kind.element, name, device)
    if isinstance(kind, TensorType):
        array = to_array(value, TensorInfo.declared(name, kind), device)
        check_dims({name: array.shape}, {name: TensorInfo.free(name, kind)})
        return array
    if isinstance(kind, MapType):
        return _map(value, kind, name, device)
    if not isinstance(value, list | tuple):
        advice = "; [array] is a sequence of one" if hasattr(value, "__array__") else ""
        raise InvalidFeedsError(
            f"input {name}: {kind}: expected a list of its elements, got {_kind_of(value)}{advice}"
        )
    elements = [
        _taken(item, kind.element, f"{name}[{position}]", device) for position, item in enumerate(value)
    ]
    return SequenceValue(kind.element, tuple(elements))


def _kind_of(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"one array ({describe(str(value.dtype), value.shape)})"
    return "None" if value is None else f"a {type(value).__name__}"


def _map(value: Any, kind: MapType, name: str, device: Device) -> MapValue[AnyArray]:
    what = f"{name}: {kind}"
    if not isinstance(value, Mapping):
        raise InvalidFeedsError(f"input {what}: expected a dict, got {_kind_of(value)}")
    items = {check_key(key, kind, what): item for key, item in value.items()}
    if len(items) < len(value):
        raise InvalidFeedsError(f"input {what}: two keys are equal")
    keys = tuple(sorted(items))
    values: Any = [_scalar(items[key], f"{name}[{key!r}]") for key in keys]
    if kind.value is DType.STRING:
        values = np.array(values, object)
    info = TensorInfo(f"{name} (its values)", kind.value.label, (len(keys),))
    return MapValue(kind, keys, to_array(values, info, device))


def _scalar(value: Any, place: str) -> Any:
    """A NumPy scalar, 0-d array or tensor as Python's own, which is converted as numbers in lists are."""
    if isinstance(value, str | bytes | int | float):
        return value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidFeedsError(f"input {place}: {error}") from error
    if array.shape != ():
        raise InvalidFeedsError(f"input {place}: expected a scalar, got {_kind_of(value)}")
    return array.item()


def check_key(key: Any, kind: MapType, what: str) -> Key:
    """``key``, if it is one of a map of type ``kind``, which ``what`` describes."""
    if kind.key is DType.STRING:
        if isinstance(key, str):
            return str(key)
    elif not isinstance(key, bool | np.bool_) and hasattr(key, "__index__"):
        limits = np.iinfo(kind.key.numpy)
        found = operator.index(key)
        if limits.min <= found <= limits.max:
            return found
    raise InvalidFeedsError(f"input {what}: the key {key!r} is no {kind.key}")


def result(value: Structure[AnyArray]) -> Any:
    """What callers get: a tensor, a list, ``None``, or a dict of Python's own numbers or strings."""
    if isinstance(value, np.ndarray):
        return wrap(value)
    if isinstance(value, SequenceValue):
        return [result(item) for item in value.elements]
    if isinstance(value, MapValue):
        return dict(zip(value.keys, _host(value.values).tolist(), strict=True))
    if isinstance(value, MapRows):
        return [dict(zip(value.keys, row, strict=True)) for row in _host(value.values).tolist()]
    return None if isinstance(value, Absent) else wrap(value)


def _host(array: AnyArray) -> Array:
    return array if isinstance(array, np.ndarray) else array.numpy()


def describe_fed(value: Structure[str] | None, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What was fed for an input, for messages: ``of [2, 3], [4]``, ``with the keys 1, 5``, ``absent``."""
    if isinstance(value, SequenceValue):
        return f"of {', '.join(describe_fed(item, shapes) for item in value.elements) or 'no elements'}"
    if isinstance(value, MapValue | MapRows):
        return f"with the keys {', '.join(map(repr, value.keys))}"
    return str(list(shapes[value])) if isinstance(value, str) else "absent"
