"""Devices as onnxruntime names them: kinds of memory with a number and a vendor."""

from __future__ import annotations

from onnxplan.onnxruntime.enumerations import OrtDeviceVendorId
from onnxplan.onnxruntime.unsupported import refuse

_KINDS = {"cpu": 0, "cuda": 1, "gpu": 1, "npu": 3, "dml": 4, "cann": 3, "webgpu": 1}
_VENDORS = {
    "cuda": OrtDeviceVendorId.NVIDIA,
    "dml": OrtDeviceVendorId.MICROSOFT,
    "cann": OrtDeviceVendorId.HUAWEI,
}
CPU, GPU = 0, 1


class OrtDevice:
    """The CPU or a GPU.

    ``OrtDevice.make("cuda", 0)``, or as the extension module's class does it, by numbers:
    ``OrtDevice(kind, memory, number)`` or ``OrtDevice(kind, memory, vendor, number)``.
    """

    __slots__ = ("_kind", "_memory", "_number", "_vendor")

    def __init__(self, device: OrtDevice | int, *numbers: int) -> None:
        if isinstance(device, OrtDevice):
            self._kind, self._memory, self._vendor, self._number = device._fields()
        elif len(numbers) in (2, 3):
            self._kind, self._memory, self._number = device, numbers[0], numbers[-1]
            self._vendor = numbers[1] if len(numbers) == 3 else 0
        else:
            raise ValueError(
                "`Provided object` needs to be of type "
                "`onnxruntime.capi.onnxruntime_pybind11_state.OrtDevice`"
            )

    @staticmethod
    def make(ort_device_name: str, device_id: int, vendor_id: int = -1) -> OrtDevice:
        """The device of that name and number; ``vendor_id`` tells what a ``"gpu"`` is."""
        kind = _KINDS.get(ort_device_name)
        if kind is None:
            raise Exception(f"Unsupported device type: {ort_device_name}")
        vendor = _VENDORS.get(ort_device_name, 0) if vendor_id < 0 else vendor_id
        return OrtDevice(GPU if ort_device_name == "dml" else kind, 0, int(vendor), device_id)

    def _get_c_device(self) -> OrtDevice:
        return self

    def device_id(self) -> int:
        return self._number

    def device_type(self) -> int:
        return self._kind

    def device_vendor_id(self) -> int:
        return self._vendor

    vendor_id = device_vendor_id

    def device_mem_type(self) -> int:
        return self._memory

    mem_type = device_mem_type

    def _fields(self) -> tuple[int, int, int, int]:
        return self._kind, self._memory, self._vendor, self._number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OrtDevice) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    @staticmethod
    def cpu() -> int:
        return _KINDS["cpu"]

    @staticmethod
    def cuda() -> int:
        return _KINDS["cuda"]

    @staticmethod
    def gpu() -> int:
        return _KINDS["gpu"]

    @staticmethod
    def npu() -> int:
        return _KINDS["npu"]

    @staticmethod
    def dml() -> int:
        return _KINDS["dml"]

    @staticmethod
    def cann() -> int:
        return _KINDS["cann"]

    @staticmethod
    def webgpu() -> int:
        return _KINDS["webgpu"]

    @staticmethod
    def fpga() -> int:
        return 2

    @staticmethod
    def default_memory() -> int:
        return 0


def device_name(device: OrtDevice) -> str:
    """The device's name in onnxplan, ``cpu`` or ``cuda:0``; refuses others."""
    if device.device_type() == CPU:
        return "cpu"
    if device.device_type() == GPU and device.device_vendor_id() in (0, OrtDeviceVendorId.NVIDIA):
        return f"cuda:{device.device_id()}"
    return refuse(f"devices of type {device.device_type()} and vendor {device.device_vendor_id():#x}")
