"""What session options change about a model before it is planned: dimensions and initializers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from onnxplan.compiler.ir import Dim, Model, TensorType, Value
from onnxplan.onnxruntime.errors import Fail
from onnxplan.onnxruntime.values import OrtValue


def override_dimensions(
    model: Model, by_name: Mapping[str, int], by_place: Mapping[tuple[str, int], int]
) -> None:
    """Fixes dimensions of inputs: symbolic ones by their names, and those at ``(input, axis)``.

    A name that is fixed is so in the types of outputs too. Negative sizes fix nothing.
    """
    sizes = {name: size for name, size in by_name.items() if size >= 0}
    inputs = [(value, value.type) for value in model.graph.inputs if isinstance(value.type, TensorType)]
    for value, kind in inputs:
        for axis, dim in enumerate(kind.shape or ()):
            if isinstance(dim, str) and by_place.get((value.name, axis), -1) >= 0:
                sizes.setdefault(dim, by_place[value.name, axis])
    for value, kind in inputs:
        if kind.shape is not None:
            places = [by_place.get((value.name, axis), -1) for axis in range(len(kind.shape))]
            shape = tuple([_fixed(dim, sizes, size) for dim, size in zip(kind.shape, places, strict=True)])
            value.type = replace(kind, shape=shape)
    for value in model.graph.outputs:
        if isinstance(value.type, TensorType) and value.type.shape is not None:
            value.type = replace(value.type, shape=tuple(_fixed(dim, sizes, -1) for dim in value.type.shape))


def _fixed(dim: Dim, sizes: Mapping[str, int], size: int) -> Dim:
    if isinstance(dim, str):
        return sizes.get(dim, dim)
    return size if dim is None and size >= 0 else dim


def override_initializers(model: Model, values: Mapping[str, OrtValue]) -> None:
    """Gives initializers and defaults of inputs other elements, of the same type and shape.

    Names of no initializer are ignored, as onnxruntime does. Raises ``Fail`` where type or shape differ.
    """
    arrays = {name: np.asarray(value._tensor()) for name, value in values.items()}
    for value in model.graph.inputs:
        if value.default is not None and value.name in arrays:
            value.default = _same(value, value.default, arrays[value.name])
    for value in _constants(model):
        if value.constant is not None and value.name in arrays:
            value.constant = _same(value, value.constant, arrays[value.name])


def _constants(model: Model) -> list[Value]:
    reads = [value for node in model.graph.walk() for value in node.inputs]
    found: dict[int, Value] = {id(v): v for v in [*reads, *model.graph.outputs] if v is not None}
    return list(found.values())


def _same(value: Value, old: Any, new: Any) -> Any:
    if old.dtype != new.dtype or old.shape != new.shape:
        raise Fail(
            f"the initializer {value.name!r} is {old.dtype}{list(old.shape)}, but the value given for it by "
            f"SessionOptions.add_initializer is {new.dtype}{list(new.shape)}"
        )
    return new
