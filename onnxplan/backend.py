"""The standard backend interface of the onnx package (https://onnx.ai/onnx/api/backend.html).

>>> import onnxplan.backend as backend
>>> outputs = backend.prepare(model, "CPU").run([x, y])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.backend.base import Backend, BackendRep, Device, DeviceType, namedtupledict

from onnxplan.compiler.errors import DeviceUnavailableError, UnsupportedOperatorError
from onnxplan.compiler.importer import load_model
from onnxplan.runtime.devices import open_device
from onnxplan.session import InferenceSession
from onnxplan.tensor import Tensor

Array = npt.NDArray[Any]


class OnnxPlanBackendRep(BackendRep):
    """A prepared model."""

    def __init__(self, session: InferenceSession) -> None:
        self._session = session

    def run(self, inputs: Any, **_: Any) -> tuple[Any, ...]:
        """The outputs for ``inputs``: a mapping by name, or a sequence in the order of the inputs.

        Arrays; lists of arrays, dicts and ``None`` for sequences, maps and absent optionals.
        """
        if isinstance(inputs, Mapping):
            feeds = dict(inputs)
        else:
            values = inputs if isinstance(inputs, Sequence) else [inputs]
            names = [*self._session.input_names, *(i.name for i in self._session.optional_inputs)]
            feeds = dict(zip(names, values, strict=False))
        results = self._session.run_sync(feeds)
        outputs = self._session.output_names
        return namedtupledict("Outputs", outputs)(*(_plain(results[name]) for name in outputs))


class OnnxPlanBackend(Backend):
    """onnxplan as a backend for the onnx package's test suite and for other programs."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **_: Any) -> bool:
        """Does onnxplan have all of the model's operators, and the types of its inputs and outputs?"""
        values = [*model.graph.input, *model.graph.output]
        if any(value.type.WhichOneof("value") in ("sparse_tensor_type", "opaque_type") for value in values):
            return False
        try:
            load_model(model)
        except UnsupportedOperatorError:
            return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **options: Any) -> OnnxPlanBackendRep:
        return OnnxPlanBackendRep(InferenceSession(model, device=_device(device), **options))

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **options: Any
    ) -> tuple[Any, ...]:
        """Runs one node on arrays and lists of arrays; ``options`` may hold ``opset_version``."""
        version = options.pop("opset_version", onnx.defs.onnx_opset_version())
        values = [list(map(np.asarray, v)) if isinstance(v, list) else np.asarray(v) for v in inputs]
        infos = [
            onnx.helper.make_value_info(name, _type(value))
            for name, value in zip((name for name in node.input if name), values, strict=True)
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = onnx.helper.make_graph([node], "node", infos, outputs)
        imports = [onnx.helper.make_opsetid(node.domain, version)]
        return cls.prepare(onnx.helper.make_model(graph, opset_imports=imports), device, **options).run(
            values
        )

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Does the device open? ``"CUDA"`` is True only where a kernel really ran on it."""
        try:
            open_device(_device(device))
        except (DeviceUnavailableError, AttributeError, ValueError):
            return False
        return True


def _plain(value: Any) -> Any:
    """A result with arrays in place of tensors."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.numpy() if isinstance(value, Tensor) else value


def _type(value: Array | list[Array]) -> onnx.TypeProto:
    """The type of an input that is ``value``; that of a list without arrays is one of float32."""
    if isinstance(value, list):
        dtype = value[0].dtype if value else np.dtype(np.float32)
        element = onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(dtype), None)
        return onnx.helper.make_sequence_type_proto(element)
    return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def _device(device: str) -> str:
    """``"CUDA:1"`` in the notation of onnx to ``"cuda:1"`` in ours.

    ``AttributeError`` for other kinds of devices, ``ValueError`` for numbers that are none.
    """
    parsed = Device(device)
    if parsed.type == DeviceType.CPU:
        return "cpu"
    return f"cuda:{parsed.device_id}" if ":" in device else "cuda"


is_compatible = OnnxPlanBackend.is_compatible
prepare = OnnxPlanBackend.prepare
run_model = OnnxPlanBackend.run_model
run_node = OnnxPlanBackend.run_node
supports_device = OnnxPlanBackend.supports_device
