"""The names of onnxruntime's extension module that programs use."""

from __future__ import annotations

from onnxplan.onnxruntime.binding import SessionIOBinding as SessionIOBinding
from onnxplan.onnxruntime.core import set_seed as set_seed
from onnxplan.onnxruntime.devices import OrtDevice as OrtDevice
from onnxplan.onnxruntime.enumerations import ExecutionMode as ExecutionMode
from onnxplan.onnxruntime.enumerations import ExecutionOrder as ExecutionOrder
from onnxplan.onnxruntime.enumerations import GraphOptimizationLevel as GraphOptimizationLevel
from onnxplan.onnxruntime.enumerations import OrtAllocatorType as OrtAllocatorType
from onnxplan.onnxruntime.enumerations import OrtMemType as OrtMemType
from onnxplan.onnxruntime.enumerations import OrtSparseFormat as OrtSparseFormat
from onnxplan.onnxruntime.environment import disable_telemetry_events as disable_telemetry_events
from onnxplan.onnxruntime.environment import enable_telemetry_events as enable_telemetry_events
from onnxplan.onnxruntime.environment import get_build_info as get_build_info
from onnxplan.onnxruntime.environment import get_version_string as get_version_string
from onnxplan.onnxruntime.environment import has_collective_ops as has_collective_ops
from onnxplan.onnxruntime.environment import set_default_logger_severity as set_default_logger_severity
from onnxplan.onnxruntime.environment import set_default_logger_verbosity as set_default_logger_verbosity
from onnxplan.onnxruntime.environment import set_global_thread_pool_sizes as set_global_thread_pool_sizes
from onnxplan.onnxruntime.errors import DeviceReset as DeviceReset
from onnxplan.onnxruntime.errors import EngineError as EngineError
from onnxplan.onnxruntime.errors import EPFail as EPFail
from onnxplan.onnxruntime.errors import Fail as Fail
from onnxplan.onnxruntime.errors import InvalidArgument as InvalidArgument
from onnxplan.onnxruntime.errors import InvalidGraph as InvalidGraph
from onnxplan.onnxruntime.errors import InvalidProtobuf as InvalidProtobuf
from onnxplan.onnxruntime.errors import ModelLoadCanceled as ModelLoadCanceled
from onnxplan.onnxruntime.errors import ModelLoaded as ModelLoaded
from onnxplan.onnxruntime.errors import ModelRequiresCompilation as ModelRequiresCompilation
from onnxplan.onnxruntime.errors import NoModel as NoModel
from onnxplan.onnxruntime.errors import NoSuchFile as NoSuchFile
from onnxplan.onnxruntime.errors import NotFound as NotFound
from onnxplan.onnxruntime.errors import NotImplemented as NotImplemented
from onnxplan.onnxruntime.errors import RuntimeException as RuntimeException
from onnxplan.onnxruntime.options import RunOptions as RunOptions
from onnxplan.onnxruntime.options import SessionOptions as SessionOptions
from onnxplan.onnxruntime.providers import get_all_providers as get_all_providers
from onnxplan.onnxruntime.providers import get_available_providers as get_available_providers
from onnxplan.onnxruntime.providers import get_device as get_device
from onnxplan.onnxruntime.types import ModelMetadata as ModelMetadata
from onnxplan.onnxruntime.types import NodeArg as NodeArg
from onnxplan.onnxruntime.values import OrtValue as OrtValue
from onnxplan.onnxruntime.values import OrtValueVector as OrtValueVector
from onnxplan.onnxruntime.values import copy_tensors as copy_tensors


def get_default_session_options() -> SessionOptions:
    return SessionOptions()
