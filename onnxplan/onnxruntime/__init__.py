"""onnxruntime's Python interface on onnxplan: ``import onnxplan.onnxruntime as ort``.

``python -m onnxplan.onnxruntime program.py`` and :func:`install` make programs that import ``onnxruntime``
use this module. ``docs/onnxruntime.md`` lists what there is, and what changes nothing.
"""

from __future__ import annotations

from onnxplan.onnxruntime import capi as capi
from onnxplan.onnxruntime.binding import IOBinding as IOBinding
from onnxplan.onnxruntime.binding import SessionIOBinding as SessionIOBinding
from onnxplan.onnxruntime.capi import _pybind_state as _pybind_state
from onnxplan.onnxruntime.capi import onnxruntime_inference_collection as _inference_collection  # noqa: F401
from onnxplan.onnxruntime.core import set_seed as set_seed
from onnxplan.onnxruntime.devices import OrtDevice as OrtDevice
from onnxplan.onnxruntime.enumerations import ExecutionMode as ExecutionMode
from onnxplan.onnxruntime.enumerations import ExecutionOrder as ExecutionOrder
from onnxplan.onnxruntime.enumerations import GraphOptimizationLevel as GraphOptimizationLevel
from onnxplan.onnxruntime.enumerations import OrtAllocatorType as OrtAllocatorType
from onnxplan.onnxruntime.enumerations import OrtDeviceVendorId as OrtDeviceVendorId
from onnxplan.onnxruntime.enumerations import OrtMemType as OrtMemType
from onnxplan.onnxruntime.enumerations import OrtSparseFormat as OrtSparseFormat
from onnxplan.onnxruntime.environment import VERSION
from onnxplan.onnxruntime.environment import disable_telemetry_events as disable_telemetry_events
from onnxplan.onnxruntime.environment import enable_telemetry_events as enable_telemetry_events
from onnxplan.onnxruntime.environment import get_build_info as get_build_info
from onnxplan.onnxruntime.environment import get_version_string as get_version_string
from onnxplan.onnxruntime.environment import has_collective_ops as has_collective_ops
from onnxplan.onnxruntime.environment import preload_dlls as preload_dlls
from onnxplan.onnxruntime.environment import print_debug_info as print_debug_info
from onnxplan.onnxruntime.environment import set_default_logger_severity as set_default_logger_severity
from onnxplan.onnxruntime.environment import set_default_logger_verbosity as set_default_logger_verbosity
from onnxplan.onnxruntime.environment import set_global_thread_pool_sizes as set_global_thread_pool_sizes
from onnxplan.onnxruntime.installing import install as install
from onnxplan.onnxruntime.options import RunOptions as RunOptions
from onnxplan.onnxruntime.options import SessionOptions as SessionOptions
from onnxplan.onnxruntime.providers import get_all_providers as get_all_providers
from onnxplan.onnxruntime.providers import get_available_providers as get_available_providers
from onnxplan.onnxruntime.providers import get_device as get_device
from onnxplan.onnxruntime.session import InferenceSession as InferenceSession
from onnxplan.onnxruntime.types import ModelMetadata as ModelMetadata
from onnxplan.onnxruntime.types import NodeArg as NodeArg
from onnxplan.onnxruntime.unsupported import unsupported_class, unsupported_function
from onnxplan.onnxruntime.values import OrtValue as OrtValue
from onnxplan.onnxruntime.values import copy_tensors as copy_tensors

__version__ = VERSION
package_name = "onnxplan"
version = VERSION
cuda_version = ""

AdapterFormat = unsupported_class("AdapterFormat")
LoraAdapter = unsupported_class("LoraAdapter")
ModelCompiler = unsupported_class("ModelCompiler")
ModelPackage = unsupported_class("ModelPackage")
ModelPackageComponentContext = unsupported_class("ModelPackageComponentContext")
ModelPackageContext = unsupported_class("ModelPackageContext")
ModelPackageOptions = unsupported_class("ModelPackageOptions")
ModelPackageWriteMode = unsupported_class("ModelPackageWriteMode")
OrtArenaCfg = unsupported_class("OrtArenaCfg")
OrtCompileApiFlags = unsupported_class("OrtCompileApiFlags")
OrtDeviceMemoryType = unsupported_class("OrtDeviceMemoryType")
OrtEpAssignedNode = unsupported_class("OrtEpAssignedNode")
OrtEpAssignedSubgraph = unsupported_class("OrtEpAssignedSubgraph")
OrtEpContextData = unsupported_class("OrtEpContextData")
OrtEpContextDataBuffer = unsupported_class("OrtEpContextDataBuffer")
OrtEpDevice = unsupported_class("OrtEpDevice")
OrtExecutionProviderDevicePolicy = unsupported_class("OrtExecutionProviderDevicePolicy")
OrtExternalInitializerInfo = unsupported_class("OrtExternalInitializerInfo")
OrtHardwareDevice = unsupported_class("OrtHardwareDevice")
OrtHardwareDeviceType = unsupported_class("OrtHardwareDeviceType")
OrtMemoryInfo = unsupported_class("OrtMemoryInfo")
OrtMemoryInfoDeviceType = unsupported_class("OrtMemoryInfoDeviceType")
OrtSyncStream = unsupported_class("OrtSyncStream")
SparseTensor = unsupported_class("SparseTensor")

create_and_register_allocator = unsupported_function("create_and_register_allocator")
create_and_register_allocator_v2 = unsupported_function("create_and_register_allocator_v2")
get_ep_devices = unsupported_function("get_ep_devices")
register_execution_provider_library = unsupported_function("register_execution_provider_library")
set_default_logger_callback = unsupported_function("set_default_logger_callback")
unregister_execution_provider_library = unsupported_function("unregister_execution_provider_library")
