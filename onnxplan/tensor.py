"""The tensor that runs return: a typed, shaped view of memory on the host or on a device, without copies."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.runtime.device import AnyArray
from onnxplan.runtime.elsewhere import cuda_location, host_advice


class Tensor:
    """A dense tensor in row-major order, in the host's memory or in that of a CUDA device.

    ``Tensor(type, data, dims)``: ``type`` is an ONNX element type (``'float32'``), ``data`` the elements in
    row-major order (anything NumPy takes), ``dims`` the shape (default: that of ``data``). Raises
    ``TypeError`` for an unknown type or data of another type, ``ValueError`` where size and dims disagree.

    Tensors made from data are the host's; those on a device come from runs with ``outputs="device"``. What
    needs NumPy arrays of them (:meth:`numpy`, :attr:`data`, ``np.asarray``, pickling) copies them to the
    host each time; CuPy, PyTorch and others read them in place (DLPack, ``__cuda_array_interface__``).
    """

    __slots__ = ("_array",)
    _array: AnyArray

    def __init__(self, type: str, data: npt.ArrayLike, dims: Sequence[int] | None = None) -> None:  # noqa: A002
        try:
            dtype = DType.from_label(type)
        except KeyError:
            known = ", ".join(d.label for d in DType)
            raise TypeError(f"{type!r} is no element type; expected one of {known}") from None
        array = np.asarray(data)
        if isinstance(data, np.ndarray | np.generic | Tensor):
            if DType.from_numpy(array.dtype) is not dtype:
                raise TypeError(f"the data is of type {array.dtype}, not {type}")
        else:
            array = array.astype(dtype.numpy)
        shape = array.shape if dims is None else tuple(int(extent) for extent in dims)
        if any(extent < 0 for extent in shape) or math.prod(shape) != array.size:
            raise ValueError(f"{array.size} elements do not fill a tensor of dims {list(shape)}")
        self._array = _standard(array, dtype).reshape(shape)

    @classmethod
    def from_numpy(cls, array: npt.NDArray[Any]) -> Tensor:
        """A tensor that shares the memory of ``array``.

        A copy is made only where the array is not C-contiguous, not aligned, or not in native byte order.
        Raises ``TypeError`` for what is no NumPy array, and for dtypes that ONNX has not.
        """
        if not isinstance(array, np.ndarray | np.generic):
            raise TypeError(f"a NumPy array is expected, not {builtins.type(array).__name__}")
        array = np.asarray(array)
        return wrap(_standard(array, DType.from_numpy(array.dtype)), cls)

    @classmethod
    def from_dlpack(cls, source: Any) -> Tensor:
        """A tensor that shares the memory of any object with ``__dlpack__`` (PyTorch, JAX, ...) on the host.

        Raises ``BufferError`` for objects elsewhere: runs take those as they are.
        """
        if isinstance(source, Tensor):
            return wrap(source._array, cls)
        location = cuda_location(source)
        if location is not None:
            raise BufferError(f"the object is on {location}; feed it as it is, or {host_advice(source)}")
        return cls.from_numpy(np.from_dlpack(source))

    @property
    def type(self) -> str:
        """The ONNX element type, such as ``'float32'``."""
        return DType.from_numpy(self._array.dtype).label

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape."""
        return self._array.shape

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self._array.shape)

    @property
    def data(self) -> npt.NDArray[Any]:
        """The elements in row-major order, one-dimensional: without a copy, if they are on the host."""
        return self.numpy().reshape(-1)

    @property
    def location(self) -> str:
        """Where the elements are: ``'cpu'`` or ``'cuda:0'``."""
        return "cpu" if isinstance(self._array, np.ndarray) else self._array.location

    def numpy(self) -> npt.NDArray[Any]:
        """The elements in their shape: without a copy, if they are on the host, else copied there."""
        return self._array if isinstance(self._array, np.ndarray) else self._array.numpy()

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False and not isinstance(self._array, np.ndarray):
            raise ValueError(f"a tensor on {self.location} cannot become a NumPy array without a copy")
        array = self.numpy()
        if dtype is not None and np.dtype(dtype) != array.dtype:
            if copy is False:
                raise ValueError(f"a {self.type} tensor cannot become {np.dtype(dtype)} without a copy")
            return array.astype(dtype)
        return array.copy() if copy and array is self._array else array

    def __dlpack__(self, **options: Any) -> Any:
        """See https://data-apis.org/array-api/latest/API_specification/generated/array_api.array.__dlpack__.html.

        Raises ``BufferError`` for element types that NumPy cannot export (bfloat16 and below eight bits).
        """
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3, see https://nvidia.github.io/numba-cuda/user/cuda_array_interface.html.

        Tensors on the host do not have this attribute.
        """
        if isinstance(self._array, np.ndarray):
            raise AttributeError("a tensor on the host has no __cuda_array_interface__")
        return self._array.__cuda_array_interface__

    def __len__(self) -> int:
        if not self.dims:
            raise TypeError("a tensor without dimensions has no length")
        return self.dims[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (builtins.type(self), self.numpy())

    def __repr__(self) -> str:
        if isinstance(self._array, np.ndarray):
            elements = f"data={np.array2string(self.data, threshold=8)}"
        else:
            elements = f"location={self.location!r}"
        return f"Tensor({self.type!r}, dims={list(self.dims)}, {elements})"


def _restore(kind: type[Tensor], array: npt.NDArray[Any]) -> Tensor:
    return wrap(array, kind)


def unwrap(tensor: Tensor) -> AnyArray:
    """The array or device tensor that ``tensor`` is made of."""
    return tensor._array


def wrap(array: AnyArray, kind: type[Tensor] = Tensor) -> Tensor:
    """A tensor of an array as :func:`_standard` makes it, unchecked: the hot path of a run."""
    tensor = _new(kind)
    tensor._array = array
    return tensor


def _standard(array: npt.NDArray[Any], dtype: DType) -> npt.NDArray[Any]:
    """``array`` as C-contiguous, aligned array in native byte order; itself where it is so already."""
    return np.require(array, dtype.numpy, ["C", "A"]).reshape(array.shape)


_new = Tensor.__new__
