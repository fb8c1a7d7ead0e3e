"""Types of a session's inputs and outputs in the terms of NumPy, PyTorch and ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxplan.compiler.dtypes import DType
from onnxplan.onnxruntime.session import InferenceSession
from onnxplan.onnxruntime.types import type_name

if TYPE_CHECKING:
    import torch

_DTYPES = {type_name(dtype): dtype for dtype in DType}
_TORCH_NAMES = {
    DType.FLOAT8E4M3FN: "float8_e4m3fn",
    DType.FLOAT8E4M3FNUZ: "float8_e4m3fnuz",
    DType.FLOAT8E5M2: "float8_e5m2",
    DType.FLOAT8E5M2FNUZ: "float8_e5m2fnuz",
}


def _dtype(ort_type: str) -> DType:
    try:
        return _DTYPES[ort_type]
    except KeyError:
        raise ValueError(f"{ort_type} not found in map") from None


class TypeHelper:
    """Conversions of types that are written as ``tensor(float)``; ``ValueError`` for those without equal."""

    @staticmethod
    def get_input_type(ort_session: InferenceSession, name: str) -> str:
        for meta in ort_session.get_inputs():
            if meta.name == name:
                return meta.type
        raise ValueError(f"input name {name} not found")

    @staticmethod
    def get_output_type(ort_session: InferenceSession, name: str) -> str:
        for meta in ort_session.get_outputs():
            if meta.name == name:
                return meta.type
        raise ValueError(f"output name {name} not found")

    @staticmethod
    def ort_type_to_numpy_type(ort_type: str) -> Any:
        dtype = _dtype(ort_type)
        if dtype is DType.STRING or dtype.numpy.isbuiltin != 1:
            raise ValueError(f"{ort_type} not found in map")
        return bool if dtype is DType.BOOL else dtype.numpy.type

    @staticmethod
    def ort_type_to_torch_type(ort_type: str) -> torch.dtype:
        import torch

        dtype = _dtype(ort_type)
        found = getattr(torch, _TORCH_NAMES.get(dtype, dtype.label), None)
        if not isinstance(found, torch.dtype):
            raise ValueError(f"{ort_type} not found in map")
        return found

    @staticmethod
    def ort_type_to_onnx_type(ort_type: str) -> int:
        return _dtype(ort_type).code

    @staticmethod
    def numpy_type_to_torch_type(numpy_type: Any) -> torch.dtype:
        return TypeHelper.ort_type_to_torch_type(type_name(DType.from_numpy(numpy_type)))

    @staticmethod
    def torch_type_to_numpy_type(torch_type: torch.dtype) -> Any:
        label = str(torch_type).removeprefix("torch.")
        return bool if label == "bool" else np.dtype(label).type

    @staticmethod
    def get_io_numpy_type_map(ort_session: InferenceSession) -> dict[str, Any]:
        return {meta.name: TypeHelper.ort_type_to_numpy_type(meta.type) for meta in _metas(ort_session)}

    @staticmethod
    def get_io_torch_type_map(ort_session: InferenceSession) -> dict[str, torch.dtype]:
        return {meta.name: TypeHelper.ort_type_to_torch_type(meta.type) for meta in _metas(ort_session)}

    @staticmethod
    def get_io_onnx_type_map(ort_session: InferenceSession) -> dict[str, int]:
        return {meta.name: TypeHelper.ort_type_to_onnx_type(meta.type) for meta in _metas(ort_session)}


def _metas(session: InferenceSession) -> list[Any]:
    return [*session.get_inputs(), *session.get_outputs()]
