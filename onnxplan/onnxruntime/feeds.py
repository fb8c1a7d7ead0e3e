"""Feeds as onnxruntime takes them: arrays of the exact type, lists that are converted, and OrtValues."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.onnxruntime.errors import Fail, InvalidArgument
from onnxplan.onnxruntime.types import element_dtype, type_name
from onnxplan.onnxruntime.values import OrtValue

Dims = Sequence[int | str | None]


def read_feeds(feeds: Mapping[str, Any], types: Mapping[str, tuple[DType | None, Dims]]) -> dict[str, Any]:
    """``feeds`` as :class:`~onnxplan.InferenceSession` takes them.

    ``types`` has the element type and dims of each input; no type for those that are no tensors. Raises
    ``InvalidArgument`` for unknown names and for tensors that do not fit, and ``RuntimeError`` for values
    that are none, in onnxruntime's words.
    """
    found = {}
    for name, value in feeds.items():
        if not isinstance(name, str):
            raise TypeError(f"run(): incompatible function arguments: the name of an input is {name!r}")
        dtype = types[name][0] if name in types else None
        found[name] = _read(name, value, dtype)
    for name, value in found.items():
        if name not in types:
            raise InvalidArgument(f"Invalid input name: {name}")
        dtype, dims = types[name]
        if dtype is not None:
            check_tensor(name, value, dtype, dims)
    return found


def check_tensor(name: str, value: Any, dtype: DType, dims: Dims) -> None:
    """Raises ``InvalidArgument`` where an array is not of the type and shape of the input ``name``."""
    actual = element_dtype(value.dtype)
    if actual is not dtype:
        raise InvalidArgument(
            f"Unexpected input data type. Actual: ({type_name(actual)}) , expected: ({type_name(dtype)}) "
            f"for input: {name}"
        )
    if not dims:
        # onnxruntime checks no shape against that of a scalar.
        return
    if len(value.shape) != len(dims):
        raise InvalidArgument(
            f"Invalid rank for input: {name} Got: {len(value.shape)} Expected: {len(dims)} "
            "Please fix either the inputs/outputs or the model."
        )
    wrong = [
        f" index: {axis} Got: {extent} Expected: {dim}\n"
        for axis, (extent, dim) in enumerate(zip(value.shape, dims, strict=True))
        if isinstance(dim, int) and extent != dim
    ]
    if wrong:
        raise InvalidArgument(
            f"Got invalid dimensions for input: {name} for the following indices\n{''.join(wrong)}"
            " Please fix either the inputs/outputs or the model."
        )


def _read(name: str, value: Any, dtype: DType | None) -> Any:
    if isinstance(value, OrtValue):
        value = value._value
        return value if dtype is None or value is not None else _missing(name)
    if isinstance(value, np.ndarray):
        return _strings(value) if value.dtype.kind in "OUST" and dtype is DType.STRING else np.asarray(value)
    if dtype is None:
        # Of a sequence, a map or an optional, which the session reads itself.
        return value
    if value is None:
        _missing(name)
    if isinstance(value, list):
        return _from_list(value, dtype)
    if isinstance(value, Iterable) and not isinstance(value, np.generic):
        raise RuntimeError(
            f"Input must be a list of dictionaries or a single numpy array for input '{name}'."
        )
    raise RuntimeError(f"Unable to handle object of type {type(value)} for input '{name}'.")


def _missing(name: str) -> None:
    raise Fail(f"Missing Input: {name}")


def _from_list(value: list[Any], dtype: DType) -> npt.NDArray[Any]:
    """A nested list in the input's type, converted as NumPy does it: 1.5 becomes the integer 1."""
    try:
        if dtype is DType.STRING:
            return _strings(np.array(value, object))
        return np.array(value, dtype.numpy)
    except (TypeError, ValueError, OverflowError) as error:
        raise RuntimeError(f"Could not create tensor from given input list: {error}") from error


def _strings(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The elements as ``str``, which onnxruntime makes of all objects; those of byte strings are decoded."""
    texts: npt.NDArray[Any] = np.empty(array.shape, object)
    decode = array.dtype.kind == "S"
    texts.reshape(-1)[:] = [
        item.decode("utf-8", "surrogateescape") if decode else str(item)
        for item in array.reshape(-1).tolist()
    ]
    return texts
