"""Turning what callers feed into arrays that kernels can read."""

from __future__ import annotations

import array as array_module
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import InvalidFeedsError, OnnxPlanError
from onnxplan.runtime.device import AnyArray, Array, Device, DeviceTensor
from onnxplan.tensor import Tensor, unwrap

if TYPE_CHECKING:
    from onnxplan.infos import TensorInfo

_PYTHON = (bool, int, float, complex, str, bytes, list, tuple)
_BUFFERS = (bytearray, memoryview, array_module.array)
_FITTING_KINDS = {"b": "b", "i": "biu", "u": "biu", "f": "biuf", "c": "biufc"}
"""Kinds of NumPy arrays that Python values become, by the kind of element type that may take them."""


def to_array(value: Any, info: TensorInfo, device: Device) -> AnyArray:
    """``value`` as an aligned, C-contiguous array in native byte order of the type of the input ``info``.

    Arrays in the memory of ``device`` stay there, all others become NumPy arrays. No copy is made where
    ``value`` is so already. Raises :class:`InvalidFeedsError` for other types (only Python lists and scalars,
    which have none of their own, take the input's type) and for arrays of other devices.
    """
    if info.type is None:
        raise InvalidFeedsError(f"input {info.name!r} is not a tensor; such inputs are not supported")
    expected = DType.from_label(info.type)
    if isinstance(value, _PYTHON):
        return _from_python(value, expected, info)
    array = value if type(value) is np.ndarray else _as_array(value, info, device)
    try:
        found = DType.from_numpy(array.dtype)
    except TypeError:
        raise InvalidFeedsError(
            f"input {info}: expected {expected}, got an array of NumPy dtype {array.dtype}"
        ) from None
    if found is not expected:
        raise InvalidFeedsError(
            f"input {info}: expected {expected}, got {found}{list(array.shape)}; "
            "convert it, where that is meant, with .astype"
        )
    if not isinstance(array, np.ndarray):
        return array
    if expected is DType.STRING:
        return _strings(array, info)
    # Contiguity, alignment and byte order; NumPy makes vectors of scalars on the way.
    return np.require(array, expected.numpy, ["C", "A"]).reshape(array.shape)


def on_device(value: Any, device: Device, what: str, *, copy: bool = True) -> DeviceTensor | None:
    """``value`` where it lies in the memory of ``device``; ``None`` where it is the host's or no array.

    Raises :class:`InvalidFeedsError`, which calls it ``what``, for arrays of other devices and, with
    ``copy=False``, for those that cannot be written in place.
    """
    if isinstance(value, Tensor):
        value = unwrap(value)
    if isinstance(value, (np.ndarray, np.generic)):
        return None
    if not (hasattr(value, "__dlpack_device__") or hasattr(value, "__cuda_array_interface__")):
        return None
    try:
        return device.import_array(value, copy=copy)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, OnnxPlanError) and not isinstance(error, InvalidFeedsError):
            raise
        raise InvalidFeedsError(f"{what}: {error}") from error


def _as_array(value: Any, info: TensorInfo, device: Device) -> AnyArray:
    found = on_device(value, device, f"input {info}")
    return _as_numpy(value, info) if found is None else found


def _as_numpy(value: Any, info: TensorInfo) -> Array:
    if isinstance(value, Tensor):
        return value.numpy()
    if isinstance(value, np.ma.MaskedArray):
        raise InvalidFeedsError(f"input {info}: masks are not supported; fill the masked array first")
    if isinstance(value, (np.ndarray, np.generic, *_BUFFERS)):
        return np.asarray(value)
    reasons = []
    # Types that one of the two cannot express may work with the other.
    for protocol, convert in (("__dlpack__", np.from_dlpack), ("__array__", np.asarray)):
        if hasattr(value, protocol):
            try:
                found: Array = convert(value)
                return found
            except (BufferError, RuntimeError, TypeError, ValueError) as error:
                reasons.append(f"{protocol}: {error}")
    kind = type(value)
    if reasons:
        raise InvalidFeedsError(
            f"input {info}: the {kind.__module__}.{kind.__qualname__} cannot be read ({'; '.join(reasons)})"
        )
    raise InvalidFeedsError(
        f"input {info}: expected an array, a Tensor, a DLPack object, a number or nested lists of numbers, "
        f"got {kind.__name__}"
    )


def _from_python(value: Any, expected: DType, info: TensorInfo) -> Array:
    """Lists and scalars take the input's type where that loses nothing but floating-point precision."""
    if isinstance(value, bytes):
        array = np.array(value, object)
    else:
        try:
            array = np.asarray(value)
        except (ValueError, TypeError, OverflowError, RuntimeError) as error:
            raise InvalidFeedsError(f"input {info}: the lists do not form a tensor: {error}") from error
    if expected is DType.STRING:
        return _strings(array, info)
    if array.size == 0:
        return np.empty(array.shape, expected.numpy)
    if array.dtype == object:
        raise InvalidFeedsError(f"input {info}: the lists are ragged or hold something that is no number")
    if array.dtype.kind not in _FITTING_KINDS.get(expected.kind, ""):
        raise InvalidFeedsError(
            f"input {info}: values of type {array.dtype} do not convert to {expected} without loss"
        )
    if expected.is_integer:
        _check_range(array, expected, info)
    with np.errstate(over="ignore"):
        return array.astype(expected.numpy)


def _check_range(array: Array, expected: DType, info: TensorInfo) -> None:
    import ml_dtypes

    limits: Any = ml_dtypes.iinfo(expected.numpy)  # type: ignore[no-untyped-call]
    low, high = int(array.min()), int(array.max())
    if low < limits.min or high > limits.max:
        wrong = low if low < limits.min else high
        raise InvalidFeedsError(
            f"input {info}: the value {wrong} is outside of the range of {expected}, "
            f"{limits.min} to {limits.max}"
        )


def _strings(array: Array, info: TensorInfo) -> Array:
    """An array of ``str`` objects; bytes are taken as UTF-8."""
    texts: Array = np.empty(array.shape, object)
    flat = texts.reshape(-1)
    for position, item in enumerate(array.reshape(-1).tolist()):
        if isinstance(item, bytes):
            item = item.decode("utf-8", "surrogateescape")
        if not isinstance(item, str):
            raise InvalidFeedsError(f"input {info}: expected strings, got {item!r}")
        flat[position] = item
    return texts
