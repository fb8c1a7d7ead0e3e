"""Who computes what a model should return: onnxruntime, ONNX's reference evaluator, or onnxplan itself."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import OnnxPlanError, PeerError
from onnxplan.differences import Result
from onnxplan.session import InferenceSession

MESSAGE_LIMIT = (1 << 31) - 1
"""Bytes of the largest message that protobuf writes; a larger model is given to onnxruntime as files."""

PACKED = (DType.INT4, DType.UINT4, DType.INT2, DType.UINT2, DType.FLOAT4E2M1)
"""Types of which onnxruntime keeps several elements in a byte."""

Peer = Callable[[onnx.ModelProto, Mapping[str, Any], Sequence[str]], list[Result]]


def run_peer(
    against: str, model: onnx.ModelProto, feeds: Mapping[str, Any], names: Sequence[str]
) -> dict[str, Result]:
    """The values ``names``, outputs of ``model``, as ``against`` computes them.

    Raises :class:`PeerError` where it cannot run the model, and ``ValueError`` for an unknown one.
    """
    peer = PEERS.get(against)
    if peer is None:
        raise ValueError(f"against must be one of {', '.join(map(repr, PEERS))}, not {against!r}")
    try:
        results = peer(model, feeds, names)
    except ImportError as error:
        raise PeerError(f"{against} is not installed: {error}") from error
    except OnnxPlanError:
        raise
    except Exception as error:
        # The errors of the two have no base class of their own.
        raise PeerError(f"{against} cannot run the model: {type(error).__name__}: {error}") from error
    return dict(zip(names, results, strict=True))


def _onnxruntime(model: onnx.ModelProto, feeds: Mapping[str, Any], names: Sequence[str]) -> list[Result]:
    import onnxruntime

    # Its values are made of numbers only.
    arrays = {name: value for name, value in feeds.items() if isinstance(value, np.ndarray)}
    strings = {name: array for name, array in arrays.items() if array.dtype.kind == "O"}
    if strings:
        model = _with_constants(model, strings)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    providers = ["CPUExecutionProvider"]
    if model.ByteSize() <= MESSAGE_LIMIT:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.onnx")
            whole = onnx.ModelProto()
            whole.CopyFrom(model)
            # It moves the tensors of the message that it is given.
            onnx.save(whole, path, save_as_external_data=True, location="tensors")
            session = onnxruntime.InferenceSession(path, options, providers=providers)
    given = {name: _value(onnxruntime, array) for name, array in feeds.items() if name not in strings}
    return [_result(value) for value in session.run_with_ort_values(list(names), given)]


def _with_constants(model: onnx.ModelProto, values: Mapping[str, Any]) -> onnx.ModelProto:
    """The model with some of its inputs as initializers."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    for items in (graph.input, graph.initializer):
        kept = [item for item in items if item.name not in values]
        del items[:]
        items.extend(kept)
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in values.items())
    return changed


def _value(onnxruntime: Any, array: Any) -> Any:
    """An array as its value; it knows the types of ``ml_dtypes`` by their ONNX codes only."""
    if array.dtype.isbuiltin == 1:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    raw = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
    code = DType.from_numpy(array.dtype).code
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, code)


def _result(value: Any) -> Result:
    if not value.has_value():
        return None
    if value.is_tensor_sequence():
        return list(value.numpy())
    dtype = DType.from_code(value.element_type())
    if dtype.numpy.isbuiltin == 1 or dtype is DType.STRING or dtype in PACKED:
        # It refuses types of less than a byte by an error of its own.
        found: Result = value.numpy()
        return found
    # NumPy has no such type, so it hands over its memory only.
    size = int(np.prod(value.shape())) * dtype.itemsize
    raw = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(raw, dtype.numpy).reshape(value.shape())


def _reference(model: onnx.ModelProto, feeds: Mapping[str, Any], names: Sequence[str]) -> list[Result]:
    from onnx.reference import ReferenceEvaluator

    with np.errstate(all="ignore"):
        results = ReferenceEvaluator(model).run(list(names), dict(feeds))
    return [np.asarray(item) if isinstance(item, np.generic) else item for item in results]


def _unoptimised(model: onnx.ModelProto, feeds: Mapping[str, Any], names: Sequence[str]) -> list[Result]:
    with InferenceSession(model, optimize=0) as session:
        results = session.run_sync(feeds)
    return [results[name].numpy() for name in names]


PEERS: dict[str, Peer] = {
    "onnxruntime": _onnxruntime,
    "reference": _reference,
    "unoptimised": _unoptimised,
}
