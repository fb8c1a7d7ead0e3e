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
    for value in (*model.graph.inputs, *model.graph.outputs):
        kind = value.type
        if isinstance(kind, TensorType) and kind.shape is not None:
            shape = [
                dim if isinstance(dim, int) else _fixed(dim, by_name, by_place.get((value.name, axis), -1))
                for axis, dim in enumerate(kind.shape)
            ]
            value.type = replace(kind, shape=tuple(shape))


def _fixed(dim: str | None, by_name: Mapping[str, int], size: int) -> Dim:
    if size < 0 and dim is not None:
        size = by_name.get(dim, -1)
    return size if size >= 0 else dim


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
