"""Types as onnxruntime writes them, and what it tells about inputs, outputs and models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType

_NAMES = {DType.FLOAT32: "float", DType.FLOAT64: "double"}


def type_name(dtype: DType) -> str:
    """``tensor(float)``"""
    return f"tensor({_NAMES.get(dtype, dtype.label)})"


def element_dtype(element_type: Any) -> DType:
    """The element type that a NumPy type or an ONNX code (``TensorProto.FLOAT``) stands for.

    Raises ``RuntimeError`` for what is none, as onnxruntime does.
    """
    if isinstance(element_type, int):
        try:
            return DType.from_code(element_type)
        except KeyError:
            raise RuntimeError(f"tensor type {element_type} is not supported") from None
    try:
        return DType.from_numpy(np.dtype(element_type))
    except TypeError:
        raise RuntimeError(f"{element_type!r} can't be converted to an ONNX element type") from None


def dtype_of(array: npt.NDArray[Any]) -> DType:
    """The element type of an array; ``RuntimeError`` where ONNX has none."""
    return element_dtype(array.dtype)


class NodeArg:
    """An input or output: ``name``, ``type`` and ``shape``.

    A dimension is an int, the name of a symbolic one, or ``None``; the shape is empty where the model does
    not declare even a rank.
    """

    __slots__ = ("_name", "_shape", "_type")

    def __init__(self, name: str, type: str, shape: Callable[[], Sequence[int | str | None]]) -> None:  # noqa: A002
        self._name = name
        self._type = type
        self._shape = shape

    @property
    def name(self) -> str:
        return self._name

    @property
    def type(self) -> str:
        return self._type

    @property
    def shape(self) -> list[int | str | None]:
        return list(self._shape())

    def __repr__(self) -> str:
        return f"NodeArg(name='{self.name}', type='{self.type}', shape={self.shape})"


class ModelMetadata:
    """What the model tells about itself."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    @property
    def producer_name(self) -> str:
        return str(self._fields["producer_name"])

    @property
    def graph_name(self) -> str:
        return str(self._fields["graph_name"])

    @property
    def domain(self) -> str:
        return str(self._fields["domain"])

    @property
    def description(self) -> str:
        return str(self._fields["description"])

    @property
    def graph_description(self) -> str:
        return str(self._fields["graph_description"])

    @property
    def version(self) -> int:
        return int(self._fields["version"])

    @property
    def custom_metadata_map(self) -> dict[str, str]:
        """The model's own key-value pairs."""
        return dict(self._fields["custom_metadata_map"])
