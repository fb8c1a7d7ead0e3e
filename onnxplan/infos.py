"""What is known of a model's inputs and outputs: names, types, dims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import InvalidFeedsError
from onnxplan.compiler.ir import Dim, MapType, OptionalType, SequenceType, TensorType, Value, standard_name
from onnxplan.compiler.records import dataclass


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, element type and dims of an input or output.

    A dim is an int, the name of a symbolic dimension, or ``None`` where the model says nothing; ``dims`` is
    ``None`` where it does not even give the rank, ``type`` where it declares no tensor.
    """

    name: str
    type: str | None
    dims: tuple[Dim, ...] | None

    @staticmethod
    def declared(name: str, kind: TensorType) -> TensorInfo:
        """Of a tensor of the model's interface, with what its type says."""
        return TensorInfo(name, kind.dtype.label, kind.shape)

    @staticmethod
    def free(name: str, kind: TensorType) -> TensorInfo:
        """Of a tensor in a sequence: symbolic dimensions may differ from element to element."""
        dims = kind.shape and tuple([dim if isinstance(dim, int) else None for dim in kind.shape])
        return TensorInfo(name, kind.dtype.label, dims)

    def completed(self, planned: tuple[tuple[int, ...], np.dtype[Any]] | None) -> TensorInfo:
        """With what a plan tells about it, where the model itself leaves something open."""
        if planned is None:
            return self
        shape, dtype = planned
        return TensorInfo(self.name, DType.from_numpy(dtype).label, shape)

    def __str__(self) -> str:
        return f"{self.name}: {describe(self.type, self.dims)}"


@dataclass(frozen=True, slots=True)
class StructureInfo:
    """An input or output that is a sequence, an optional or a map.

    ``kind`` is its type with the types and shapes of what is in it.
    """

    name: str
    kind: SequenceType | OptionalType | MapType

    @property
    def type(self) -> str:
        """The type as onnxruntime writes it: ``seq(tensor(float))``, ``optional(tensor(int64))``."""
        return standard_name(self.kind)

    @property
    def dims(self) -> None:
        """Only tensors have dims."""
        return None

    def completed(self, planned: object) -> StructureInfo:
        """Itself: no plan tells more about it."""
        return self

    def __str__(self) -> str:
        return f"{self.name}: {self.kind}"


ValueInfo: TypeAlias = "TensorInfo | StructureInfo"


def info_of(value: Value) -> ValueInfo:
    """What the model declares of one of its inputs or outputs."""
    if value.type is None:
        return TensorInfo(value.name, None, None)
    if isinstance(value.type, TensorType):
        return TensorInfo.declared(value.name, value.type)
    return StructureInfo(value.name, value.type)


def may_be_absent(info: ValueInfo) -> bool:
    """Need nothing be fed for an input, because its type is that of an optional?"""
    return isinstance(info, StructureInfo) and isinstance(info.kind, OptionalType)


def describe(dtype: str | None, dims: Sequence[Dim] | None) -> str:
    """``float32[batch, 4]``"""
    if dims is None:
        return f"{dtype or '?'}[...]"
    return f"{dtype or '?'}[{', '.join('?' if dim is None else str(dim) for dim in dims)}]"


def check_dims(shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, TensorInfo]) -> None:
    """Ranks, fixed dimensions, and symbolic dimensions that several inputs share."""
    sizes: dict[str, tuple[int, str]] = {}
    for name, shape in shapes.items():
        info = known[name]
        if info.dims is None:
            continue
        if len(shape) != len(info.dims):
            raise InvalidFeedsError(
                f"input {info} has rank {len(info.dims)}, but a tensor of shape {list(shape)} "
                f"(rank {len(shape)}) was given"
            )
        for axis, (found, dim) in enumerate(zip(shape, info.dims, strict=True)):
            if isinstance(dim, int) and found != dim:
                raise InvalidFeedsError(
                    f"input {info}: dimension {axis} is {found} in the given shape {list(shape)}, "
                    f"expected {dim}"
                )
            if isinstance(dim, str):
                size, owner = sizes.setdefault(dim, (found, name))
                if size != found:
                    where = "the same input" if owner == name else f"input {owner!r}"
                    raise InvalidFeedsError(
                        f"input {info}: {dim!r} is {found} in the given shape {list(shape)}, "
                        f"but {size} in {where}"
                    )
