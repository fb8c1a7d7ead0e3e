"""IOBinding: inputs and outputs of runs at places that callers choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.records import dataclass
from onnxplan.onnxruntime.core import host_value, overlaps
from onnxplan.onnxruntime.devices import OrtDevice, device_name
from onnxplan.onnxruntime.errors import Fail, InvalidArgument
from onnxplan.onnxruntime.feeds import read_feeds
from onnxplan.onnxruntime.memory import at_address, write
from onnxplan.onnxruntime.types import element_dtype, type_name
from onnxplan.onnxruntime.values import OrtValue, OrtValueVector

if TYPE_CHECKING:
    from onnxplan.onnxruntime.options import RunOptions
    from onnxplan.onnxruntime.session import InferenceSession


@dataclass(slots=True)
class _Output:
    """Where an output is to be: the device's name, and the caller's tensor there if there is one.

    ``value`` is what the latest run left.
    """

    place: str
    target: Any = None
    value: OrtValue | None = None


class IOBinding:
    """What runs of one session read and write.

    Inputs are read in place. Outputs that callers gave no memory for are allocated by the first run, and
    overwritten by later ones where the shape stays and no input is in their memory.
    """

    def __init__(self, session: InferenceSession) -> None:
        self._session = session._sess
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, _Output] = {}

    @property
    def _iobinding(self) -> IOBinding:
        return self

    def bind_cpu_input(self, name: str, arr_on_cpu: npt.NDArray[Any]) -> None:
        self._require_input(name)
        if not isinstance(arr_on_cpu, np.ndarray):
            raise RuntimeError("Unable to create OrtValue from the given python object")
        if arr_on_cpu.dtype.kind in "OUST":
            raise RuntimeError("Only binding of non-string Tensors is currently supported")
        self._inputs[name] = np.require(arr_on_cpu, None, ["C", "A"]).reshape(arr_on_cpu.shape)

    def bind_input(
        self,
        name: str,
        device_type: str,
        device_id: int,
        element_type: Any,
        shape: Sequence[int],
        buffer_ptr: int,
    ) -> None:
        """The input ``name`` is the tensor at the address ``buffer_ptr``, which the caller keeps."""
        self._require_input(name)
        place = device_name(OrtDevice.make(device_type, device_id))
        tensor = at_address(buffer_ptr, shape, element_dtype(element_type), place)
        self._inputs[name] = OrtValue._of(tensor)

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        self._require_input(name)
        self._inputs[name] = ortvalue._get_c_value()

    def synchronize_inputs(self) -> None:
        """Does nothing: runs wait for their inputs."""

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        """The output ``name`` is to be on this device, at the address ``buffer_ptr`` if that is given."""
        place = device_name(OrtDevice.make(device_type, device_id))
        target = None
        if buffer_ptr is not None:
            if element_type is None or shape is None:
                raise ValueError(
                    "`element_type` and `shape` are to be provided if pre-allocated memory is provided"
                )
            target = at_address(buffer_ptr, shape, element_dtype(element_type), place)
        self._outputs[name] = _Output(place, target)

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        value = ortvalue._get_c_value()
        tensor = value._tensor()
        if isinstance(tensor, np.ndarray) and not tensor.flags.writeable:
            raise RuntimeError(f"the OrtValue for the output {name!r} was made of an array that is read-only")
        place = "cpu" if isinstance(tensor, np.ndarray) else tensor.location
        self._outputs[name] = _Output(place, tensor, value)

    def synchronize_outputs(self) -> None:
        """Does nothing: runs end when their outputs are complete."""

    def get_outputs(self) -> list[OrtValue]:
        """The outputs of the latest run, in the order in which they were bound."""
        return [
            OrtValue._of(None) if bound.value is None else bound.value for bound in self._outputs.values()
        ]

    def get_outputs_as_ortvaluevector(self) -> OrtValueVector:
        return OrtValueVector(self.get_outputs())

    def copy_outputs_to_cpu(self) -> list[Any]:
        """Copies of the outputs of the latest run, as NumPy arrays."""
        return [_copied(value._value) for value in self.get_outputs()]

    def clear_binding_inputs(self) -> None:
        self._inputs.clear()

    def clear_binding_outputs(self) -> None:
        self._outputs.clear()

    def _require_input(self, name: str) -> None:
        if name not in self._session.types:
            raise RuntimeError(f"Failed to find NodeArg with name: {name} in the def list")

    def _run(self, session: InferenceSession, run_options: RunOptions | None) -> None:
        if not self._outputs:
            raise InvalidArgument("At least one output should be requested.")
        for name, bound in self._outputs.items():
            if name not in session._output_names:
                raise InvalidArgument(f"Invalid output name: {name}")
            if bound.target is not None and bound.place not in ("cpu", self._session.device):
                raise InvalidArgument(
                    f"output {name!r} is bound to memory of {bound.place}, the session runs on "
                    f"{self._session.device}"
                )
        for meta in session._inputs_meta:
            if meta.name not in self._inputs and not meta.type.startswith("optional"):
                raise Fail(f"Missing Input: {meta.name}")
        feeds = read_feeds(self._inputs, self._session.types)
        direct = self._direct(feeds)
        others = [bound for name, bound in self._outputs.items() if name not in direct]
        on_device = any(bound.place == self._session.device != "cpu" for bound in others)
        names = list(self._outputs)
        results = session._compute(feeds, names, run_options, direct, self._left(), on_device=on_device)
        for name, bound in self._outputs.items():
            self._deliver(name, bound, results[name])

    def _direct(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors of callers that a run can write into as it computes."""
        memory = [value for value in feeds.values() if hasattr(value, "shape")]
        found: dict[str, Any] = {}
        for name, bound in self._outputs.items():
            target = bound.target
            is_aligned = not isinstance(target, np.ndarray) or target.flags.aligned
            if target is not None and is_aligned and not overlaps(target, memory):
                found[name] = target
                memory.append(target)
        return found

    def _left(self) -> dict[str, Any]:
        """The tensors that the run before allocated, as far as they are where they are to be."""
        bounds = [(name, bound) for name, bound in self._outputs.items() if bound.target is None]
        return {
            name: bound.value._value
            for name, bound in bounds
            if bound.value is not None and bound.value.is_tensor()
        }

    def _deliver(self, name: str, bound: _Output, result: Any) -> None:
        if bound.target is None:
            if bound.value is None or bound.value._value is not result:
                bound.value = OrtValue._of(host_value(result) if bound.place == "cpu" else result)
            return
        if bound.value is None:
            bound.value = OrtValue._of(bound.target)
        if result is bound.target:
            return
        if bound.target.dtype != result.dtype or bound.target.shape != result.shape:
            raise InvalidArgument(
                f"The output OrtValue provided for output '{name}' is "
                f"{_described(bound.target)}, but the computed output is {_described(result)}"
            )
        write(bound.target, host_value(result))


def _described(tensor: Any) -> str:
    return f"{type_name(element_dtype(tensor.dtype))} of shape {list(tensor.shape)}"


def _copied(value: Any) -> Any:
    """A copy on the host of an array, or of those in a list."""
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value.copy() if isinstance(value, np.ndarray) else host_value(value)


SessionIOBinding = IOBinding
