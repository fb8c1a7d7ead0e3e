"""OrtValue: a tensor on the host or on a CUDA device, a sequence, a map, or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.onnxruntime.devices import OrtDevice, device_name
from onnxplan.onnxruntime.errors import UnsupportedFeatureError
from onnxplan.onnxruntime.memory import allocate, copy_to, write
from onnxplan.onnxruntime.types import dtype_of, element_dtype, type_name
from onnxplan.onnxruntime.unsupported import refuse, unsupported_function
from onnxplan.runtime.device import AnyArray, DeviceTensor
from onnxplan.runtime.elsewhere import cuda_location
from onnxplan.tensor import Tensor, unwrap

_NOT_FROM = "Creation of OrtValues is currently only supported from non-string numpy arrays"
_NOT_NUMPY = "No corresponding Numpy type for Tensor Type. {}"


class OrtValue:
    """A value that runs take and give. Tensors share the memory of the arrays that they were made of.

    The extension module's class of the same name is this one too, so ``_ortvalue`` is the value itself.
    """

    __slots__ = ("__weakref__", "_dtype", "_value")

    def __init__(self, ortvalue: OrtValue, numpy_obj: Any = None, session: Any = None) -> None:
        if not isinstance(ortvalue, OrtValue):
            raise ValueError(
                "`Provided ortvalue` needs to be of type "
                "`onnxruntime.capi.onnxruntime_pybind11_state.OrtValue`"
            )
        self._value: Any = ortvalue._value
        self._dtype: DType | None = ortvalue._dtype

    @classmethod
    def _of(cls, value: Any, dtype: DType | None = None) -> OrtValue:
        """The value of an array on the host or a device, a list, a dict or ``None``."""
        made = cls.__new__(cls)
        made._value = value
        if dtype is None and isinstance(value, np.ndarray):
            dtype = dtype_of(value)
        made._dtype = dtype or (element_dtype(value.dtype) if _is_tensor(value) else None)
        return made

    @property
    def _ortvalue(self) -> OrtValue:
        return self

    def _get_c_value(self) -> OrtValue:
        return self

    @classmethod
    def ortvalue_from_numpy(
        cls,
        numpy_obj: npt.NDArray[Any],
        /,
        device_type: str | OrtDevice = "cpu",
        device_id: int = 0,
        vendor_id: int = -1,
    ) -> OrtValue:
        """The tensor in ``numpy_obj``: in its memory, or in a copy on a CUDA device."""
        if not isinstance(numpy_obj, np.ndarray) or numpy_obj.dtype.kind in "OUST":
            raise RuntimeError(_NOT_FROM)
        place = _place(device_type, device_id, vendor_id)
        dtype = dtype_of(numpy_obj)
        array = np.require(numpy_obj, dtype.numpy, ["C", "A"]).reshape(numpy_obj.shape)
        return cls._of(array if place == "cpu" else copy_to(array, place), dtype)

    @classmethod
    def ortvalue_from_numpy_with_onnx_type(
        cls, data: npt.NDArray[Any], /, onnx_element_type: int
    ) -> OrtValue:
        """The tensor whose elements are the bits of ``data``, which are of another type of the same size."""
        dtype = element_dtype(int(onnx_element_type))
        if dtype.itemsize != data.dtype.itemsize:
            raise RuntimeError(
                f"Items size in the incoming array: {data.dtype.itemsize} "
                f"specified by onnxtype: {dtype.itemsize}"
            )
        return cls._of(np.require(data, None, ["C", "A"]).view(dtype.numpy).reshape(data.shape), dtype)

    @classmethod
    def ortvalue_from_shape_and_type(
        cls,
        shape: Sequence[int],
        element_type: Any,
        device_type: str = "cpu",
        device_id: int = 0,
        vendor_id: int = -1,
        memory_info: Any = None,
    ) -> OrtValue:
        """A new tensor; ``element_type`` is a NumPy type or an ONNX code such as ``TensorProto.BFLOAT16``."""
        if memory_info is not None:
            refuse("OrtValue.ortvalue_from_shape_and_type with memory_info")
        dtype = element_dtype(element_type)
        return cls._of(allocate(shape, dtype, _place(device_type, device_id, vendor_id)), dtype)

    ort_value_from_sparse_tensor = unsupported_function("OrtValue.ort_value_from_sparse_tensor")
    as_sparse_tensor = unsupported_function("OrtValue.as_sparse_tensor")

    def data_ptr(self) -> int:
        """The address of the first element."""
        tensor = self._tensor()
        return int(tensor.ctypes.data) if isinstance(tensor, np.ndarray) else tensor.pointer

    def device_name(self) -> str:
        return "cpu" if isinstance(self._value, np.ndarray) or not _is_tensor(self._value) else "cuda"

    def shape(self) -> list[int]:
        return list(self._tensor().shape)

    def data_type(self) -> str:
        """``tensor(float)``, ``seq(tensor(int64))``, ``map(string,tensor(float))``"""
        return _described(self._value, self._dtype)

    def element_type(self) -> int:
        """The code of ``TensorProto.DataType``."""
        self._tensor()
        assert self._dtype is not None
        return self._dtype.code

    def tensor_size_in_bytes(self) -> int:
        tensor = self._tensor()
        assert self._dtype is not None
        return int(np.prod(tensor.shape, dtype=np.int64)) * self._dtype.itemsize

    def has_value(self) -> bool:
        return self._value is not None

    def is_tensor(self) -> bool:
        return _is_tensor(self._value)

    def is_sparse_tensor(self) -> bool:
        return False

    def is_tensor_sequence(self) -> bool:
        return isinstance(self._value, list) and not any(isinstance(item, dict) for item in self._value)

    def _tensor(self) -> AnyArray:
        if not _is_tensor(self._value):
            raise RuntimeError("Only OrtValues that are Tensors/SparseTensors are currently supported")
        tensor: AnyArray = self._value
        return tensor

    def numpy(self) -> npt.NDArray[Any]:
        """The elements: without a copy on the host, else copied there."""
        tensor = self._tensor()
        array = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
        assert self._dtype is not None
        if self._dtype.numpy.isbuiltin != 1:
            raise RuntimeError(_NOT_NUMPY.format(self._dtype))
        # A view, as each array of onnxruntime is one.
        return array.view()

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        array = self.numpy()
        if copy is not None:
            return np.array(array, dtype=dtype, copy=copy)
        return array if dtype is None else np.asarray(array, dtype=dtype)

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        """A DLPack capsule that shares the memory; ``RuntimeError`` for types that cannot be exported."""
        tensor = self._tensor()
        if isinstance(tensor, np.ndarray):
            try:
                return tensor.__dlpack__()
            except BufferError as error:
                raise RuntimeError(f"a {self.data_type()} cannot be exported by DLPack: {error}") from error
        return tensor.__dlpack__(stream=stream)

    to_dlpack = __dlpack__

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._tensor().__dlpack_device__()

    @classmethod
    def from_dlpack(cls, data: Any, /) -> OrtValue:
        """The tensor that shares the memory of an object with ``__dlpack__``, or of a capsule on the host."""
        if isinstance(data, OrtValue):
            return cls(data)
        if isinstance(data, Tensor):
            return cls._of(unwrap(data))
        if type(data).__name__ == "PyCapsule":
            data = _Capsule(data)
        elif not hasattr(data, "__dlpack__"):
            raise TypeError("from_dlpack expected a valid DLPack capsule named 'dltensor'")
        location = cuda_location(data)
        if location is None:
            array = np.from_dlpack(data)
            if not array.flags.c_contiguous:
                raise RuntimeError("ORT only supports contiguous tensor for now.")
            return cls._of(array)
        from onnxplan.onnxruntime.memory import device_called

        tensor = device_called(location).import_array(data)
        assert tensor is not None
        return cls._of(tensor)

    def update_inplace(self, data: npt.NDArray[Any] | OrtValue) -> None:
        """Overwrites the elements with those of an array or another value of the same type and size."""
        if not isinstance(data, np.ndarray | OrtValue):
            raise TypeError("data must be a numpy.ndarray or an OrtValue.")
        target = self._tensor()
        source = data if isinstance(data, np.ndarray) else _on_host(data._tensor())
        if source.size != int(np.prod(target.shape, dtype=np.int64)):
            raise RuntimeError("The input size of numpy arrays does not match the size of the OrtValue.")
        if source.dtype != target.dtype:
            raise RuntimeError(f"the data is of type {source.dtype}, the OrtValue of {target.dtype}")
        write(target, source)

    def __getstate__(self) -> tuple[Any, DType | None]:
        if self.device_name() != "cpu":
            raise UnsupportedFeatureError("an OrtValue on a CUDA device cannot be pickled")
        return self._value, self._dtype

    def __setstate__(self, state: tuple[Any, DType | None]) -> None:
        self._value, self._dtype = state


class OrtValueVector:
    """A list of values, as the extension module has it."""

    def __init__(self, values: Sequence[OrtValue] = ()) -> None:
        self._values = list(values)

    def push_back(self, value: OrtValue, /) -> None:
        self._values.append(OrtValue(value))

    def reserve(self, count: int, /) -> None:
        """Nothing has to be reserved."""

    def shrink_to_fit(self) -> None:
        """There is nothing to give up."""

    def element_type_at(self, idx: int) -> int:
        return self._values[idx].element_type()

    def dlpack_at(self, idx: int, /) -> Any:
        return self._values[idx].__dlpack__()

    def __getitem__(self, idx: int) -> OrtValue:
        return self._values[idx]

    def __iter__(self) -> Iterator[OrtValue]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class _Capsule:
    """A capsule that a library exported of memory on the host, in the form that NumPy takes."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def copy_tensors(src: Sequence[OrtValue], dst: Sequence[OrtValue], stream: Any = None) -> None:
    """Overwrites the elements of each of ``dst`` with those of ``src``, of the same types and sizes."""
    if stream is not None:
        refuse("copy_tensors with a stream")
    for source, target in zip(src, dst, strict=True):
        target.update_inplace(source)


def _place(device: str | OrtDevice, number: int, vendor: int) -> str:
    return device_name(device if isinstance(device, OrtDevice) else OrtDevice.make(device, number, vendor))


def _is_tensor(value: Any) -> bool:
    return value is not None and not isinstance(value, list | dict)


def _on_host(tensor: AnyArray | DeviceTensor) -> npt.NDArray[Any]:
    return tensor if isinstance(tensor, np.ndarray) else tensor.numpy()


def _described(value: Any, dtype: DType | None) -> str:
    if isinstance(value, list):
        first = value[0] if value else None
        inner = "tensor(float)" if first is None else _described(first, None)
        return f"seq({inner})"
    if isinstance(value, dict):
        key, item = next(iter(value.items()), (0, 0.0))
        return f"map({'string' if isinstance(key, str) else 'int64'},{_described(np.asarray(item), None)})"
    if value is None:
        return ""
    return type_name(dtype or element_dtype(value.dtype))
