"""Tensors at addresses that callers give, and on devices that callers name."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import DeviceUnavailableError
from onnxplan.runtime.device import AnyArray, Device
from onnxplan.runtime.devices import open_device

_NO_ALLOCATOR = (
    "Can't allocate memory on the CUDA device using this package of OnnxRuntime. "
    "Please use the CUDA package of OnnxRuntime to use this feature. ({})"
)


class _CudaMemory:
    """Memory of a CUDA device that a caller gave the address of, as ``__cuda_array_interface__`` tells it."""

    def __init__(self, address: int, shape: Sequence[int], dtype: DType) -> None:
        if dtype.numpy.kind not in "biufc":
            raise RuntimeError(f"addresses of {dtype} tensors on a CUDA device are not supported; use DLPack")
        self.__cuda_array_interface__ = {
            "shape": tuple(shape),
            "typestr": dtype.numpy.str,
            "data": (address, False),
            "version": 3,
            "strides": None,
        }


def at_address(address: int, shape: Sequence[int], dtype: DType, name: str) -> AnyArray:
    """The tensor at ``address`` in the memory of the device called ``name`` (``cpu``, ``cuda:0``).

    The caller keeps the memory alive.
    """
    if name != "cpu":
        tensor = device_called(name).import_array(_CudaMemory(address, shape, dtype), copy=False)
        assert tensor is not None
        return tensor
    if dtype is DType.STRING:
        raise RuntimeError("Only binding of non-string Tensors is currently supported")
    nbytes = math.prod(shape) * dtype.itemsize
    if not nbytes:
        return np.empty(tuple(shape), dtype.numpy)
    memory: Any = (ctypes.c_char * nbytes).from_address(address)
    return np.frombuffer(memory, dtype.numpy).reshape(tuple(shape))


def device_called(name: str) -> Device:
    """The open device ``cpu`` or ``cuda:0``; ``RuntimeError`` where there is none."""
    try:
        return open_device(name)
    except DeviceUnavailableError as error:
        raise RuntimeError(_NO_ALLOCATOR.format(error)) from error


def allocate(shape: Sequence[int], dtype: DType, name: str) -> AnyArray:
    """A new tensor on the device called ``name``, of zeros on the CPU."""
    extents = tuple(int(extent) for extent in shape)
    if any(extent < 0 for extent in extents):
        raise RuntimeError(f"Tensor shape.Size() must be >= 0, the shape is {list(extents)}")
    if dtype is DType.STRING:
        raise RuntimeError("Creation of OrtValues is currently only supported from non-string numpy arrays")
    if name == "cpu":
        return np.zeros(extents, dtype.numpy)
    return device_called(name).allocate(extents, dtype.numpy, host=False)


def copy_to(array: npt.NDArray[Any], name: str) -> AnyArray:
    """A copy of ``array`` on the CUDA device called ``name``."""
    tensor = device_called(name).allocate(array.shape, array.dtype, host=False)
    write(tensor, array)
    return tensor


def write(target: AnyArray, source: npt.NDArray[Any]) -> None:
    """Copies the elements of ``source``, as many as ``target`` has, into the memory of ``target``."""
    if isinstance(target, np.ndarray):
        np.copyto(target, source.reshape(target.shape), casting="unsafe")
    else:
        target.write(np.ascontiguousarray(source, target.dtype))
