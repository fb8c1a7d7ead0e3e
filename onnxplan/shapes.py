"""Checking the shapes that plans are asked for."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from onnxplan.compiler.errors import InvalidFeedsError
from onnxplan.compiler.ir import MapType, OptionalType, TensorType, ValueType
from onnxplan.compiler.structures import Absent, MapValue, SequenceValue, Structure, name_tensors
from onnxplan.feeds import suggest
from onnxplan.infos import StructureInfo, TensorInfo, ValueInfo, check_dims, may_be_absent
from onnxplan.runtime.planner import Request
from onnxplan.structures import check_key

Shapes = Mapping[str, Any]
"""By input name: the shape of a tensor, a list of what elements of a sequence have (shapes), the keys of a
map, or ``None`` for an optional without a value.
"""
Shape = tuple[int, ...]


def static_shapes(inputs: Sequence[ValueInfo]) -> tuple[Shape, ...] | None:
    """The shapes of all ``inputs``, if they are tensors and the model fixes them."""
    shapes = []
    for info in inputs:
        if info.dims is None:
            return None
        shape = tuple(dim for dim in info.dims if isinstance(dim, int))
        if len(shape) < len(info.dims):
            return None
        shapes.append(shape)
    return tuple(shapes)


def check_shapes(
    shapes: Shapes | None, inputs: Sequence[ValueInfo], optional: Sequence[ValueInfo]
) -> Request:
    """Names and shapes of the inputs to plan for; inputs whose shapes are fixed may be left out.

    ``optional`` are inputs with a default. Raises :class:`InvalidFeedsError`.
    """
    if shapes is not None and not isinstance(shapes, Mapping):
        raise InvalidFeedsError(
            f"shapes must be a mapping from input names to shapes, not {type(shapes).__name__}"
        )
    given = dict(shapes or {})
    known = {info.name: info for info in [*inputs, *optional]}
    for name in given:
        if name not in known:
            raise InvalidFeedsError(f"the model has no input {name!r}{suggest(str(name), known)}")
    missing = []
    for info in inputs:
        if info.name not in given and not may_be_absent(info):
            fixed = static_shapes([info])
            if fixed is None:
                missing.append(str(info))
            else:
                given[info.name] = fixed[0]
    if missing:
        raise InvalidFeedsError(
            f"these inputs have no fixed shape, so it must be given: {'; '.join(missing)}"
        )
    ordered: dict[str, Shape] = {}
    infos: dict[str, TensorInfo] = {}
    structures = []
    for name, info in known.items():
        if name not in given:
            continue
        if isinstance(info, TensorInfo):
            ordered[name] = _shape(given[name], str(info))
            infos[name] = info
            continue
        structure, found = name_tensors(name, _structure(given[name], info.kind, info), {*known, *ordered})
        ordered.update(found)
        if not isinstance(structure, str | Absent):
            structures.append((name, structure))
    check_dims({name: ordered[name] for name in infos}, infos)
    return Request(tuple(ordered), tuple(ordered.values()), structures=tuple(structures))


def _structure(given: Any, kind: ValueType, info: StructureInfo) -> Structure[Shape]:
    """What is to be planned for in place of an input that is no tensor."""
    if isinstance(kind, OptionalType):
        return Absent(kind.element) if given is None else _structure(given, kind.element, info)
    if isinstance(kind, TensorType):
        shape = _shape(given, str(info))
        check_dims({info.name: shape}, {info.name: TensorInfo.free(info.name, kind)})
        return shape
    if isinstance(given, str) or not isinstance(given, Iterable):
        expected = "the keys" if isinstance(kind, MapType) else "a list of the elements' shapes"
        raise InvalidFeedsError(f"input {info}: expected {expected}, not {given!r}")
    if isinstance(kind, MapType):
        keys = tuple(sorted({check_key(key, kind, str(info)) for key in given}))
        return MapValue(kind, keys, (len(keys),))
    return SequenceValue(kind.element, tuple([_structure(item, kind.element, info) for item in given]))


def _shape(given: Any, what: str) -> Shape:
    try:
        shape = tuple(operator.index(extent) for extent in given)
    except TypeError:
        raise InvalidFeedsError(
            f"input {what}: a shape is a sequence of integers, such as (1, 3), not {given!r}"
        ) from None
    if any(extent < 0 for extent in shape):
        raise InvalidFeedsError(f"input {what}: the shape {list(shape)} has a negative dimension")
    return shape
