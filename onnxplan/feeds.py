"""Checking feeds: every complaint names the input and says what was expected and what came."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import InvalidFeedsError
from onnxplan.compiler.ir import Dim, Value
from onnxplan.tensor import Tensor

Array = npt.NDArray[Any]


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
    def of(value: Value) -> TensorInfo:
        if value.type is None:
            return TensorInfo(value.name, None, None)
        return TensorInfo(value.name, value.type.dtype.label, value.type.shape)

    def __str__(self) -> str:
        return f"{self.name}: {describe(self.type, self.dims)}"


def describe(dtype: str | None, dims: Sequence[Dim] | None) -> str:
    """``float32[batch, 4]``"""
    if dims is None:
        return f"{dtype}[...]"
    return f"{dtype}[{', '.join('?' if dim is None else str(dim) for dim in dims)}]"


def suggest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` where a known name is close, and the list of all."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"{hint} (known: {', '.join(map(repr, names))})"


def check_feeds(
    feeds: Mapping[str, Any], inputs: Sequence[TensorInfo], optional: Sequence[TensorInfo]
) -> dict[str, Array]:
    """The feeds as C-contiguous arrays of the inputs' types, in the inputs' order.

    ``optional`` are inputs with a default. Raises :class:`InvalidFeedsError`.
    """
    if not isinstance(feeds, Mapping):
        raise InvalidFeedsError(
            f"feeds must be a mapping from input names to tensors, not {type(feeds).__name__}"
        )
    known = {info.name: info for info in [*inputs, *optional]}
    for name in feeds:
        if name not in known:
            raise InvalidFeedsError(f"the model has no input {name!r}{suggest(str(name), known)}")
    for info in inputs:
        if info.name not in feeds:
            raise InvalidFeedsError(f"input {info} is missing in the feeds")
    arrays = {name: _array(feeds[name], info) for name, info in known.items() if name in feeds}
    check_dims({name: array.shape for name, array in arrays.items()}, known)
    return arrays


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
                    f"input {info}: dimension {axis} is {found} in the given shape {list(shape)}, expected {dim}"
                )
            if isinstance(dim, str):
                size, owner = sizes.setdefault(dim, (found, name))
                if size != found:
                    where = "the same input" if owner == name else f"input {owner!r}"
                    raise InvalidFeedsError(
                        f"input {info}: {dim!r} is {found} in the given shape {list(shape)}, "
                        f"but {size} in {where}"
                    )


def _array(value: Any, info: TensorInfo) -> Array:
    array = _as_numpy(value, info)
    if info.type is None:
        raise InvalidFeedsError(f"input {info.name!r} is not a tensor; such inputs are not supported")
    expected = DType.from_label(info.type)
    try:
        found = DType.from_numpy(array.dtype)
    except TypeError:
        raise InvalidFeedsError(
            f"input {info}: expected {expected}, got an array of NumPy dtype {array.dtype}"
        ) from None
    if found is not expected:
        raise InvalidFeedsError(f"input {info}: expected {expected}, got {found}{list(array.shape)}")
    return np.ascontiguousarray(array, expected.numpy).reshape(array.shape)


def _as_numpy(value: Any, info: TensorInfo) -> Array:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, Tensor):
        return value.numpy()
    if isinstance(value, np.generic):
        return np.asarray(value)
    if isinstance(value, bool | int | float | str | list | tuple):
        return _from_python(value, info)
    if hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise InvalidFeedsError(
                f"input {info}: the {type(value).__name__} cannot be read by the CPU without a copy: {error}"
            ) from error
    if hasattr(value, "__array__"):
        return np.asarray(value)
    raise InvalidFeedsError(
        f"input {info}: expected an array, a Tensor, a DLPack object or nested lists, "
        f"got {type(value).__name__}"
    )


def _from_python(value: Any, info: TensorInfo) -> Array:
    """Lists and scalars take the input's type where that loses nothing but floating-point precision."""
    import ml_dtypes

    expected = DType.from_label(info.type or "float32")
    try:
        array = np.asarray(value)
        if array.dtype == object:
            raise ValueError("the nested lists are ragged or hold something that is no number")
        if array.size == 0:
            return np.empty(array.shape, expected.numpy)
        if expected is DType.STRING:
            return array.astype(object)
        if expected.is_integer and array.dtype.kind in "iu":
            limits = ml_dtypes.iinfo(expected.numpy)
            if int(array.min()) < limits.min or int(array.max()) > limits.max:
                raise ValueError(f"a value is outside of the range of {expected}")
            return array.astype(expected.numpy)
        fits = {"b": "b", "i": "biu", "u": "biu", "f": "biuf", "c": "biufc"}.get(expected.kind, "")
        if array.dtype.kind not in fits:
            raise ValueError(f"values of type {array.dtype} do not convert to {expected} without loss")
        return array.astype(expected.numpy)
    except (ValueError, OverflowError) as error:
        raise InvalidFeedsError(f"input {info}: {error}") from error


def check_fetches(fetches: Sequence[str] | None, outputs: Sequence[TensorInfo]) -> tuple[str, ...] | None:
    """The wanted outputs' names, ``None`` for all. Raises :class:`InvalidFeedsError`."""
    if fetches is None:
        return None
    if isinstance(fetches, str):
        raise InvalidFeedsError(f"fetches must be a list of output names, not the string {fetches!r}")
    names = tuple(dict.fromkeys(fetches))
    if not names:
        raise InvalidFeedsError("fetches is empty; leave it out to get all outputs")
    known = [info.name for info in outputs]
    for name in names:
        if name not in known:
            raise InvalidFeedsError(f"the model has no output {name!r}{suggest(str(name), known)}")
    return None if names == tuple(known) else names
