"""Reading tensors: inline, sparse, external. External data is mapped, and stays in the model's folder."""

from __future__ import annotations

import math
import os
import stat
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import InvalidModelError

_PACKED = {
    DType.INT4: 4,
    DType.UINT4: 4,
    DType.FLOAT4E2M1: 4,
    DType.INT2: 2,
    DType.UINT2: 2,
}


class TensorReader:
    """Reads the tensors of the model at ``path`` (``None`` for a model that did not come from a file)."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._maps: dict[str, npt.NDArray[np.uint8]] = {}

    def read(self, tensor: TensorProto, what: str) -> npt.NDArray[Any]:
        """The elements of ``tensor`` as an array of its shape; ``what`` names it in errors."""
        dtype = self._dtype(tensor.data_type, what)
        shape = tuple(tensor.dims)
        if any(extent < 0 for extent in shape):
            raise InvalidModelError(f"{what} has a negative dimension: {list(shape)}")
        if tensor.data_location == TensorProto.EXTERNAL:
            return self._decode(self._external(tensor, dtype, shape, what), dtype, shape, what)
        if tensor.HasField("raw_data"):
            return self._decode(np.frombuffer(tensor.raw_data, np.uint8), dtype, shape, what)
        return self._typed(tensor, dtype, shape, what)

    def read_sparse(self, sparse: onnx.SparseTensorProto, what: str) -> npt.NDArray[Any]:
        """The dense array that a sparse tensor stands for."""
        values = self.read(sparse.values, f"the values of {what}")
        indices = self.read(sparse.indices, f"the indices of {what}").astype(np.int64)
        shape = tuple(sparse.dims)
        dense = np.zeros(shape, values.dtype)
        if indices.ndim == 2 and indices.shape == (len(values), len(shape)):
            positions = np.ravel_multi_index(tuple(indices.T), shape, mode="clip") if len(values) else []
            valid = bool(((indices >= 0) & (indices < np.array(shape))).all())
        elif indices.ndim == 1 and len(indices) == len(values):
            positions, valid = indices, bool(((indices >= 0) & (indices < dense.size)).all())
        else:
            raise InvalidModelError(
                f"{what} has {len(values)} values but indices of shape {list(indices.shape)}"
            )
        if not valid:
            raise InvalidModelError(f"{what} has indices outside of its shape {list(shape)}")
        dense.reshape(-1)[positions] = values
        return dense

    @staticmethod
    def _dtype(code: int, what: str) -> DType:
        try:
            return DType.from_code(code)
        except KeyError:
            raise InvalidModelError(f"{what} has the unknown element type {code}") from None

    def _typed(
        self, tensor: TensorProto, dtype: DType, shape: tuple[int, ...], what: str
    ) -> npt.NDArray[Any]:
        field = onnx.helper.tensor_dtype_to_field(tensor.data_type)
        found = len(getattr(tensor, field))
        expected = math.prod(shape)
        if dtype in _PACKED:
            expected = -(-expected * _PACKED[dtype] // 8)
        elif dtype.kind == "c":
            expected *= 2
        if found != expected:
            raise InvalidModelError(
                f"{what} has {found} elements of data; its shape {list(shape)} needs {expected}"
            )
        if dtype is DType.STRING:
            texts = [item.decode("utf-8", "surrogateescape") for item in tensor.string_data]
            return np.array(texts, object).reshape(shape)
        return numpy_helper.to_array(tensor).astype(dtype.numpy, copy=False).reshape(shape)

    @staticmethod
    def _decode(
        data: npt.NDArray[np.uint8], dtype: DType, shape: tuple[int, ...], what: str
    ) -> npt.NDArray[Any]:
        count = math.prod(shape)
        if dtype is DType.STRING:
            raise InvalidModelError(f"{what}: strings cannot be stored as raw data")
        bits = _PACKED.get(dtype)
        expected = count * dtype.itemsize if bits is None else -(-count * bits // 8)
        if data.size != expected:
            raise InvalidModelError(
                f"{what} has {data.size} bytes of data; {dtype}{list(shape)} needs {expected}"
            )
        if bits is None:
            little = data.view(dtype.numpy.newbyteorder("<") if dtype.itemsize > 1 else dtype.numpy)
            return little.astype(dtype.numpy, copy=False).reshape(shape)
        return _sign(_unpack(data, bits, count), bits, dtype).reshape(shape)

    def _external(
        self, tensor: TensorProto, dtype: DType, shape: tuple[int, ...], what: str
    ) -> npt.NDArray[np.uint8]:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if self._path is None:
            raise InvalidModelError(
                f"{what} is stored in the external file {location!r}; give the model as a path, not as bytes"
            )
        data = self._map(location, what)
        bits = _PACKED.get(dtype)
        count = math.prod(shape)
        expected = count * dtype.itemsize if bits is None else -(-count * bits // 8)
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", expected))
        except ValueError:
            raise InvalidModelError(f"{what}: offset and length of external data must be numbers") from None
        if offset < 0 or length < 0 or offset + length > data.size:
            raise InvalidModelError(
                f"{what} lies at bytes {offset} to {offset + length} of {location!r}, which has {data.size}"
            )
        return data[offset : offset + length]

    def _map(self, location: str, what: str) -> npt.NDArray[np.uint8]:
        known = self._maps.get(location)
        if known is None:
            path = self._resolve(location, what)
            size = os.path.getsize(path)
            known = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
            self._maps[location] = known
        return known

    def _resolve(self, location: str, what: str) -> str:
        """The file of external data, after checking that it belongs to the model."""
        assert self._path is not None
        parts = location.replace("\\", "/").split("/")
        if not location or os.path.isabs(location) or ".." in parts or ":" in parts[0] or "\0" in location:
            raise InvalidModelError(
                f"{what} refers to the external file {location!r}; only files below the model's folder may be"
            )
        folder = os.path.dirname(os.path.abspath(self._path))
        path = os.path.join(folder, *parts)
        target = os.path.realpath(path)
        if not any(_is_below(target, root) for root in self._roots(folder)):
            raise InvalidModelError(
                f"{what} refers to {location!r}, a link to {target!r} outside of the model's folder"
            )
        try:
            mode = os.stat(target).st_mode
        except OSError as error:
            raise InvalidModelError(
                f"{what}: its external file {path!r} cannot be opened: {error}"
            ) from error
        if not stat.S_ISREG(mode):
            raise InvalidModelError(f"{what}: its external file {path!r} is not a regular file")
        return target

    def _roots(self, folder: str) -> list[str]:
        """Folders that external data may resolve to.

        The model's own, the one its file resolves to, and the ``blobs`` beside the ``snapshots`` of a Hugging
        Face cache, whose files are links into it.
        """
        assert self._path is not None
        roots = [os.path.realpath(folder), os.path.dirname(os.path.realpath(self._path))]
        parts = os.path.abspath(folder).split(os.sep)
        if "snapshots" in parts:
            position = len(parts) - 1 - parts[::-1].index("snapshots")
            roots.append(os.path.realpath(os.sep.join([*parts[:position], "blobs"])))
        return roots


def _is_below(path: str, root: str) -> bool:
    return os.path.commonpath([path, root]) == root


def _unpack(data: npt.NDArray[np.uint8], bits: int, count: int) -> npt.NDArray[np.uint8]:
    """Elements of ``bits`` bits, the first in the lowest bits of each byte."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((data[:, None] >> shifts) & ((1 << bits) - 1)).reshape(-1)[:count]


def _sign(codes: npt.NDArray[np.uint8], bits: int, dtype: DType) -> npt.NDArray[Any]:
    """The elements that bit patterns of ``bits`` bits stand for."""
    if dtype.kind == "f":
        return codes.view(dtype.numpy)
    if dtype.kind == "i":
        half = 1 << (bits - 1)
        return ((codes.astype(np.int8) ^ half) - half).astype(dtype.numpy)
    return codes.astype(dtype.numpy)
