"""Sessions and values, in the module where onnxruntime has them."""

from __future__ import annotations

from onnxplan.onnxruntime.binding import IOBinding as IOBinding
from onnxplan.onnxruntime.devices import OrtDevice as OrtDevice
from onnxplan.onnxruntime.enumerations import OrtDeviceVendorId as OrtDeviceVendorId
from onnxplan.onnxruntime.providers import (
    check_and_normalize_provider_args as check_and_normalize_provider_args,
)
from onnxplan.onnxruntime.session import InferenceSession as InferenceSession
from onnxplan.onnxruntime.values import OrtValue as OrtValue
from onnxplan.onnxruntime.values import copy_tensors as copy_tensors

Session = InferenceSession
