"""Tensors of other libraries on the device, through DLPack or the CUDA array interface."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import InvalidFeedsError
from onnxplan.compiler.plan import KernelSpec
from onnxplan.runtime.cuda.array import DeviceArray
from onnxplan.runtime.cuda.context import LEGACY_STREAM, CudaContext
from onnxplan.runtime.cuda.dlpack import KDL_CUDA, KDL_CUDA_MANAGED, Imported, consume
from onnxplan.runtime.cuda.modules import Modules
from onnxplan.runtime.cuda.own_kernels import COPY_THREADS, copy_spec, copy_words
from onnxplan.runtime.cuda.streams import ImportStream


class Importer:
    """Takes in tensors on one device; ``kernel`` gives handles of the runtime's own kernels.

    Later work on the tensors' ``stream`` finds them complete: the producer's stream is waited for on the
    device, never by the host.
    """

    def __init__(self, context: CudaContext, kernel: Callable[[KernelSpec], int]) -> None:
        self._context = context
        self._kernel = kernel

    def take(self, value: Any, *, copy: bool = True) -> DeviceArray | None:
        """The tensor that ``value`` is, without a copy if it is contiguous; None if it is none on a device.

        Raises ``InvalidFeedsError`` for a tensor on another device or of a type that ONNX has not, and with
        ``copy=False`` for one that is not contiguous or may not be written.
        """
        self._context.check()
        if isinstance(value, DeviceArray):
            value.device.check()
            if value.device is not self._context:
                raise self._elsewhere(value.location)
            return value
        if hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__"):
            kind, number = (int(part) for part in value.__dlpack_device__())
            if kind not in (KDL_CUDA, KDL_CUDA_MANAGED):
                return None
            if number != self._context.ordinal and kind == KDL_CUDA:
                raise self._elsewhere(f"cuda:{number}")
            with self._context.active("importing a tensor"):
                stream = ImportStream.of(self._context).handle
                try:
                    imported = consume(_capsule(value, stream))
                except BufferError as error:
                    raise InvalidFeedsError(f"{type(value).__name__} cannot be imported: {error}") from error
                return self._array(imported, stream, copy)
        interface = getattr(value, "__cuda_array_interface__", None)
        return None if interface is None else self._from_interface(value, interface, copy)

    def _from_interface(self, value: Any, interface: dict[str, Any], copy: bool) -> DeviceArray:
        """Source: https://nvidia.github.io/numba-cuda/user/cuda_array_interface.html."""
        with self._context.active("importing a tensor"):
            if interface.get("mask") is not None:
                raise InvalidFeedsError(f"{type(value).__name__} has a mask, which ONNX has not")
            try:
                dtype = DType.from_numpy(interface["typestr"]).numpy
            except TypeError as error:
                raise InvalidFeedsError(f"{type(value).__name__} cannot be imported: {error}") from error
            if np.dtype(interface["typestr"]) != dtype:
                raise InvalidFeedsError(f"{type(value).__name__} has the byte order of another machine")
            shape = tuple(int(extent) for extent in interface["shape"])
            pointer = int(interface["data"][0] or 0)
            if math.prod(shape):
                self._check_pointer(pointer)
            given = interface.get("strides")
            strides = _dense(shape) if given is None else tuple(int(n) // dtype.itemsize for n in given)
            # Before version 3 nothing was said about streams.
            before = interface.get("stream", LEGACY_STREAM)
            stream = None
            if before is not None or not _is_dense(shape, strides):
                own = ImportStream.of(self._context)
                stream = own.handle
                if before is not None:
                    own.order(int(before), stream)
            place = KDL_CUDA, self._context.ordinal
            read_only = bool(interface["data"][1])
            return self._array(
                Imported(pointer, shape, strides, dtype, place, read_only, value), stream, copy
            )

    def _check_pointer(self, pointer: int) -> None:
        attributes = self._context.api.runtime.pointerGetAttributes(pointer)
        if attributes.device != self._context.ordinal:
            raise self._elsewhere(f"cuda:{attributes.device}")

    def _array(self, imported: Imported, stream: int | None, copy: bool) -> DeviceArray:
        shape, dtype = imported.shape, imported.dtype
        if not copy and (imported.read_only or not _is_dense(shape, imported.strides)):
            raise InvalidFeedsError(
                "the array cannot be written in place: it is read-only or not C-contiguous"
            )
        if _is_dense(shape, imported.strides):
            return DeviceArray(imported.pointer, shape, dtype, self._context, imported.owner, stream)
        assert stream is not None
        nbytes = math.prod(shape) * dtype.itemsize
        memory = self._context.allocate(nbytes, "a contiguous copy of a tensor")
        try:
            blocks, words = copy_words(imported.pointer, memory.ptr, shape, imported.strides)
        except ValueError as error:
            raise InvalidFeedsError(str(error)) from error
        function = self._kernel(copy_spec(dtype.itemsize))
        Modules.of(self._context).launch(function, blocks, COPY_THREADS, words, stream)
        # The copy happens when the device comes to it, and either end may be dropped before.
        ImportStream.of(self._context).order(stream, LEGACY_STREAM)
        memory.mark_exported()
        owner = memory, _InUse(self._context, imported.owner)
        return DeviceArray(memory.ptr, shape, dtype, self._context, owner, stream)

    def _elsewhere(self, place: str) -> InvalidFeedsError:
        own = self._context.name
        return InvalidFeedsError(f"the tensor is on {place}, the session runs on {own}; copy it there first")


class _InUse:
    """Keeps what work queued before reads, until the default stream has come past that work."""

    __slots__ = ("_context", "_owner")

    def __init__(self, context: CudaContext, owner: object) -> None:
        self._context = context
        self._owner = owner

    def __del__(self) -> None:
        self._context.retired.add(self._owner)


def _capsule(value: Any, stream: int) -> Any:
    try:
        return value.__dlpack__(stream=stream, max_version=(1, 0))
    except TypeError:
        # A producer from before DLPack 1.0.
        return value.__dlpack__(stream=stream)


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= extent
    return tuple(reversed(strides))


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    if 0 in shape:
        return True
    own = _dense(shape)
    return all(extent == 1 or a == b for extent, a, b in zip(shape, strides, own, strict=True))
