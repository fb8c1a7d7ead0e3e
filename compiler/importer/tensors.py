"""Reading tensors: typed or raw, sparse, in the model's bytes or in external files."""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx.onnx_ml_pb2 import SparseTensorProto, TensorProto

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import InvalidModelError, OutOfMemoryError
from onnxplan.compiler.importer.external import ExternalFiles
from onnxplan.compiler.importer.wire import SELF

Array = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

_FIELDS: dict[DType, tuple[str, np.dtype[Any]]] = {
    DType.FLOAT32: ("float_data", np.dtype(np.float32)),
    DType.COMPLEX64: ("float_data", np.dtype(np.float32)),
    DType.FLOAT64: ("double_data", np.dtype(np.float64)),
    DType.COMPLEX128: ("double_data", np.dtype(np.float64)),
    DType.INT64: ("int64_data", np.dtype(np.int64)),
    DType.UINT32: ("uint64_data", np.dtype(np.uint64)),
    DType.UINT64: ("uint64_data", np.dtype(np.uint64)),
}
"""Where typed data lies; that of all other types is in ``int32_data``, small floats and bits as patterns."""


class TensorReader:
    """Reads the tensors of a model: of the file at ``path``, and of the serialised bytes ``data``.

    ``external`` gives external files by location that are not to be looked for beside it.
    """

    def __init__(
        self, path: str | None, data: memoryview | None, external: Mapping[str, memoryview] | None = None
    ) -> None:
        self._files = ExternalFiles(path, external)
        self._own = None if data is None else np.frombuffer(data, np.uint8)

    @property
    def mappings(self) -> list[mmap.mmap]:
        """The external files that were mapped."""
        return self._files.mappings

    @property
    def external(self) -> Mapping[str, Bytes]:
        """The bytes of the external files read so far, by location."""
        return self._files.files

    def read(self, tensor: TensorProto, what: str) -> Array:
        """The elements of ``tensor`` as an array of its shape; ``what`` names it in errors.

        It may be a read-only view of mapped memory, at any address. Raises :class:`InvalidModelError`.
        """
        dtype = _element_type(tensor.data_type, what)
        shape = _shape(tensor.dims, what)
        if tensor.HasField("segment"):
            raise InvalidModelError(f"{what} is cut into segments, which are not supported")
        if tensor.data_location == TensorProto.EXTERNAL:
            data = self._referenced(tensor, _byte_count(dtype, shape), what)
            return _decode(data, dtype, shape, what)
        if tensor.HasField("raw_data"):
            return _decode(np.frombuffer(tensor.raw_data, np.uint8), dtype, shape, what)
        return _typed(tensor, dtype, shape, what)

    def read_sparse(self, sparse: SparseTensorProto, what: str) -> Array:
        """The dense array that a sparse tensor stands for."""
        values = self.read(sparse.values, f"the values of {what}")
        indices = self.read(sparse.indices, f"the indices of {what}")
        shape = _shape(sparse.dims, what)
        if values.ndim != 1 or indices.dtype != np.int64:
            raise InvalidModelError(f"{what} needs a vector of values and int64 indices")
        if indices.ndim == 2 and indices.shape == (len(values), len(shape)):
            valid = bool(((indices >= 0) & (indices < np.array(shape, np.int64))).all())
            places: Any = tuple(indices.T)
        elif indices.ndim == 1 and len(indices) == len(values):
            valid = bool(((indices >= 0) & (indices < math.prod(shape))).all())
            places = indices
        else:
            raise InvalidModelError(
                f"{what} has {len(values)} values but indices of shape {list(indices.shape)}"
            )
        if not valid:
            raise InvalidModelError(f"{what} has indices outside of its shape {list(shape)}")
        try:
            dense = np.zeros(shape, values.dtype)
        except (MemoryError, ValueError) as error:
            needed = math.prod(shape) * values.itemsize
            raise OutOfMemoryError(f"{what} of shape {list(shape)} takes {needed:,} bytes") from error
        if isinstance(places, tuple):
            dense[places] = values
        else:
            dense.reshape(-1)[places] = values
        return dense

    def _referenced(self, tensor: TensorProto, expected: int, what: str) -> Bytes:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if not isinstance(location, str):
            raise InvalidModelError(f"{what}: the location of its external data {location!r} is not UTF-8")
        own = self._own if location == SELF else None
        data = self._files.open(location, what) if own is None else own
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", expected))
        except ValueError:
            raise InvalidModelError(f"{what}: offset and length of external data must be integers") from None
        if offset < 0 or length < 0 or offset + length > data.size:
            raise InvalidModelError(
                f"{what} lies at bytes {offset} to {offset + length} of {location!r}, "
                f"which has {data.size} bytes"
            )
        return data[offset : offset + length]


def _element_type(code: int, what: str) -> DType:
    try:
        return DType.from_code(code)
    except KeyError:
        raise InvalidModelError(f"{what} has the unknown element type {code}") from None


def _shape(dims: Any, what: str) -> tuple[int, ...]:
    shape = tuple(dims)
    if any(extent < 0 for extent in shape):
        raise InvalidModelError(f"{what} has a negative dimension: {list(shape)}")
    # NumPy's limits: 64 dimensions, and sizes that count without the zeros.
    if len(shape) > 64 or math.prod(extent for extent in shape if extent) > sys.maxsize // 16:
        raise InvalidModelError(f"{what} has the impossible shape {list(shape)}")
    return shape


def _typed(tensor: TensorProto, dtype: DType, shape: tuple[int, ...], what: str) -> Array:
    """Elements from the fields ``float_data``, ``int32_data`` and so on."""
    if dtype is DType.STRING:
        texts = [item.decode("utf-8", "surrogateescape") for item in tensor.string_data]
        _check_size(len(texts), math.prod(shape), "strings", dtype, shape, what)
        return np.array(texts, object).reshape(shape)
    field, kind = _FIELDS.get(dtype, ("int32_data", np.dtype(np.int32)))
    values: Array = np.array(getattr(tensor, field), kind)
    if dtype.bits < 8 and 8 % dtype.bits == 0:
        return _decode(values.astype(np.uint8), dtype, shape, what)
    expected = math.prod(shape) * (2 if dtype.kind == "c" else 1)
    _check_size(values.size, expected, "elements", dtype, shape, what)
    if dtype.kind == "c":
        return values.view(dtype.numpy).reshape(shape)
    if field == "int32_data" and dtype.is_float:
        # The bit patterns stand in the lowest bits.
        meant = values & ((1 << dtype.bits) - 1)
        patterns = meant.astype(np.uint16 if dtype.itemsize == 2 else np.uint8)
        return patterns.view(dtype.numpy).reshape(shape)
    return values.astype(dtype.numpy, copy=False).reshape(shape)


def _decode(data: Bytes, dtype: DType, shape: tuple[int, ...], what: str) -> Array:
    """Elements from bytes, little-endian, those of less than eight bits packed."""
    if dtype is DType.STRING:
        raise InvalidModelError(f"{what}: strings cannot be stored as raw data")
    bits = dtype.bits
    count = math.prod(shape)
    _check_size(data.size, _byte_count(dtype, shape), "bytes", dtype, shape, what)
    if bits < 8:
        return _signed(_unpack(data, bits, count), bits, dtype).reshape(shape)
    if dtype is DType.BOOL:
        # A bool of any other pattern than 0 and 1 is undefined to NumPy and to kernels.
        return np.not_equal(data, 0).reshape(shape)
    if dtype.itemsize == 1 or sys.byteorder == "little":
        return data.view(dtype.numpy).reshape(shape)
    parts = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    return data.reshape(-1, parts)[:, ::-1].copy().view(dtype.numpy).reshape(shape)


def _byte_count(dtype: DType, shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) * dtype.bits // 8)


def _check_size(
    found: int, expected: int, unit: str, dtype: DType, shape: tuple[int, ...], what: str
) -> None:
    if found != expected:
        raise InvalidModelError(f"{what} has {found} {unit} of data; {dtype}{list(shape)} needs {expected}")


def _unpack(data: Bytes, bits: int, count: int) -> Bytes:
    """Elements of ``bits`` bits, the first in the lowest bits of each byte."""
    if 8 % bits:
        # They cross the borders of bytes.
        stream = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
        return np.packbits(stream, axis=1, bitorder="little").reshape(count)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    mask = np.uint8((1 << bits) - 1)
    return ((data[:, None] >> shifts) & mask).reshape(-1)[:count]


def _signed(codes: Bytes, bits: int, dtype: DType) -> Array:
    """The elements that bit patterns of ``bits`` bits stand for."""
    if dtype.kind == "f":
        return codes.view(dtype.numpy)
    if dtype.kind == "i":
        half = 1 << (bits - 1)
        return ((codes.astype(np.int8) ^ half) - half).astype(dtype.numpy)
    return codes.astype(dtype.numpy)
