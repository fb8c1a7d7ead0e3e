"""A thin wrapper of cuDNN's backend API: descriptors with attributes, engine heuristics, execution.

Names and values are those of ``cudnn_graph.h``.
Source: https://docs.nvidia.com/deeplearning/cudnn/backend/latest/api/cudnn-graph-library.html.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from enum import Enum, IntEnum
from typing import Any

from onnxplan.compiler.errors import DeviceError
from onnxplan.runtime.cuda.foreign import POINTER, ForeignObject, Prototypes, bound_functions

CUDNN_DATA_FLOAT = 0
CUDNN_DATA_HALF = 2
CUDNN_DATA_INT32 = 4
CUDNN_DATA_BFLOAT16 = 9
CUDNN_DATA_BOOLEAN = 11

CUDNN_CROSS_CORRELATION = 1

CUDNN_POINTWISE_ADD = 0
CUDNN_POINTWISE_MUL = 1
CUDNN_POINTWISE_DIV = 6
CUDNN_POINTWISE_SUB = 9
CUDNN_POINTWISE_EXP = 13
CUDNN_POINTWISE_LOG = 14
CUDNN_POINTWISE_RELU_FWD = 100
CUDNN_POINTWISE_CMP_GE = 303
CUDNN_POINTWISE_GEN_INDEX = 501
CUDNN_POINTWISE_BINARY_SELECT = 601

CUDNN_REDUCE_TENSOR_ADD = 0
CUDNN_REDUCE_TENSOR_MAX = 3

CUDNN_HEUR_MODE_FALLBACK = 2
CUDNN_HEUR_MODE_A = 3

CUDNN_KNOB_TYPE_COUNTS = 46
CUDNN_STATUS_NOT_INITIALIZED = 1001

MESSAGE_BYTES = 1024


class NumericalNote(IntEnum):
    """``cudnnBackendNumericalNote_t``"""

    TENSOR_CORE = 0
    DOWN_CONVERT_INPUTS = 1
    REDUCED_PRECISION_REDUCTION = 2
    FFT = 3
    NONDETERMINISTIC = 4
    WINOGRAD = 5
    WINOGRAD_TILE_4x4 = 6
    WINOGRAD_TILE_6x6 = 7
    WINOGRAD_TILE_13x13 = 8


class Kind(IntEnum):
    """``cudnnBackendDescriptorType_t``"""

    POINTWISE = 0
    CONVOLUTION = 1
    ENGINE = 2
    ENGINECFG = 3
    ENGINEHEUR = 4
    EXECUTION_PLAN = 5
    KNOB_CHOICE = 7
    OPERATION_CONVOLUTION_FORWARD = 10
    OPERATION_POINTWISE = 13
    OPERATIONGRAPH = 15
    VARIANT_PACK = 16
    TENSOR = 17
    MATMUL = 18
    OPERATION_MATMUL = 19
    REDUCTION = 21
    OPERATION_REDUCTION = 22
    OPERATION_SDPA_FWD = 41
    OPERATION_DIAGONAL_BAND_MASK = 44
    OPERATION_SOFTMAX = 45


class AttributeType(Enum):
    """``cudnnBackendAttributeType_t``: its number and the C type of an element."""

    def __init__(self, number: int, element: type[Any]) -> None:
        self.number = number
        self.element = element

    HANDLE = (0, ctypes.c_void_p)
    DATA_TYPE = (1, ctypes.c_int)
    BOOLEAN = (2, ctypes.c_bool)
    INT64 = (3, ctypes.c_int64)
    FLOAT = (4, ctypes.c_float)
    VOID_PTR = (6, ctypes.c_void_p)
    CONVOLUTION_MODE = (7, ctypes.c_int)
    HEUR_MODE = (8, ctypes.c_int)
    KNOB_TYPE = (9, ctypes.c_int)
    NUMERICAL_NOTE = (11, ctypes.c_int)
    POINTWISE_MODE = (14, ctypes.c_int)
    BACKEND_DESCRIPTOR = (15, ctypes.c_void_p)
    REDUCTION_OPERATOR_TYPE = (18, ctypes.c_int)


class Attribute(Enum):
    """``cudnnBackendAttributeName_t``: its number and the type of its elements."""

    def __init__(self, number: int, type_: AttributeType) -> None:
        self.number = number
        self.type = type_

    POINTWISE_MODE = (0, AttributeType.POINTWISE_MODE)
    POINTWISE_MATH_PREC = (1, AttributeType.DATA_TYPE)
    POINTWISE_AXIS = (9, AttributeType.INT64)
    CONVOLUTION_COMP_TYPE = (100, AttributeType.DATA_TYPE)
    CONVOLUTION_CONV_MODE = (101, AttributeType.CONVOLUTION_MODE)
    CONVOLUTION_DILATIONS = (102, AttributeType.INT64)
    CONVOLUTION_FILTER_STRIDES = (103, AttributeType.INT64)
    CONVOLUTION_POST_PADDINGS = (104, AttributeType.INT64)
    CONVOLUTION_PRE_PADDINGS = (105, AttributeType.INT64)
    CONVOLUTION_SPATIAL_DIMS = (106, AttributeType.INT64)
    ENGINEHEUR_MODE = (200, AttributeType.HEUR_MODE)
    ENGINEHEUR_OPERATION_GRAPH = (201, AttributeType.BACKEND_DESCRIPTOR)
    ENGINEHEUR_RESULTS = (202, AttributeType.BACKEND_DESCRIPTOR)
    ENGINECFG_ENGINE = (300, AttributeType.BACKEND_DESCRIPTOR)
    ENGINECFG_KNOB_CHOICES = (302, AttributeType.BACKEND_DESCRIPTOR)
    EXECUTION_PLAN_HANDLE = (400, AttributeType.HANDLE)
    EXECUTION_PLAN_ENGINE_CONFIG = (401, AttributeType.BACKEND_DESCRIPTOR)
    EXECUTION_PLAN_WORKSPACE_SIZE = (402, AttributeType.INT64)
    KNOB_CHOICE_KNOB_TYPE = (600, AttributeType.KNOB_TYPE)
    KNOB_CHOICE_KNOB_VALUE = (601, AttributeType.INT64)
    OPERATION_CONVOLUTION_FORWARD_ALPHA = (700, AttributeType.FLOAT)
    OPERATION_CONVOLUTION_FORWARD_BETA = (701, AttributeType.FLOAT)
    OPERATION_CONVOLUTION_FORWARD_CONV_DESC = (702, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_CONVOLUTION_FORWARD_W = (703, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_CONVOLUTION_FORWARD_X = (704, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_CONVOLUTION_FORWARD_Y = (705, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_POINTWISE_PW_DESCRIPTOR = (750, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_POINTWISE_XDESC = (751, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_POINTWISE_BDESC = (752, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_POINTWISE_YDESC = (753, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_POINTWISE_TDESC = (758, AttributeType.BACKEND_DESCRIPTOR)
    OPERATIONGRAPH_HANDLE = (800, AttributeType.HANDLE)
    OPERATIONGRAPH_OPS = (801, AttributeType.BACKEND_DESCRIPTOR)
    TENSOR_BYTE_ALIGNMENT = (900, AttributeType.INT64)
    TENSOR_DATA_TYPE = (901, AttributeType.DATA_TYPE)
    TENSOR_DIMENSIONS = (902, AttributeType.INT64)
    TENSOR_STRIDES = (903, AttributeType.INT64)
    TENSOR_UNIQUE_ID = (906, AttributeType.INT64)
    TENSOR_IS_VIRTUAL = (907, AttributeType.BOOLEAN)
    TENSOR_IS_BY_VALUE = (908, AttributeType.BOOLEAN)
    VARIANT_PACK_UNIQUE_IDS = (1000, AttributeType.INT64)
    VARIANT_PACK_DATA_POINTERS = (1001, AttributeType.VOID_PTR)
    VARIANT_PACK_WORKSPACE = (1003, AttributeType.VOID_PTR)
    ENGINE_GLOBAL_INDEX = (1301, AttributeType.INT64)
    ENGINE_NUMERICAL_NOTE = (1303, AttributeType.NUMERICAL_NOTE)
    MATMUL_COMP_TYPE = (1500, AttributeType.DATA_TYPE)
    OPERATION_MATMUL_ADESC = (1520, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_MATMUL_BDESC = (1521, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_MATMUL_CDESC = (1522, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_MATMUL_DESC = (1523, AttributeType.BACKEND_DESCRIPTOR)
    REDUCTION_OPERATOR = (1600, AttributeType.REDUCTION_OPERATOR_TYPE)
    REDUCTION_COMP_TYPE = (1601, AttributeType.DATA_TYPE)
    OPERATION_REDUCTION_XDESC = (1610, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_REDUCTION_YDESC = (1611, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_REDUCTION_DESC = (1612, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_SDPA_FWD_QDESC = (2800, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_SDPA_FWD_KDESC = (2801, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_SDPA_FWD_VDESC = (2802, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_SDPA_FWD_ODESC = (2803, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_SDPA_FWD_SCALEDESC = (2805, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_SDPA_FWD_SUBGRAPH = (2811, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_SDPA_FWD_SUBGRAPH_INPUT_UID = (2812, AttributeType.INT64)
    OPERATION_SDPA_FWD_SUBGRAPH_OUTPUT_UID = (2813, AttributeType.INT64)
    OPERATION_DIAGONAL_BAND_MASK_XDESC = (3000, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_DIAGONAL_BAND_MASK_BDESC = (3005, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_DIAGONAL_BAND_MASK_YDESC = (3006, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_DIAGONAL_BAND_MASK_COMPARISON_MODE = (3007, AttributeType.POINTWISE_MODE)
    OPERATION_SOFTMAX_XDESC = (3100, AttributeType.BACKEND_DESCRIPTOR)
    OPERATION_SOFTMAX_YDESC = (3101, AttributeType.BACKEND_DESCRIPTOR)


_PROTOTYPES: Prototypes = {
    "cudnnCreate": (POINTER,),
    "cudnnSetStream": (POINTER, POINTER),
    "cudnnBackendCreateDescriptor": (ctypes.c_int, POINTER),
    "cudnnBackendDestroyDescriptor": (POINTER,),
    "cudnnBackendFinalize": (POINTER,),
    "cudnnBackendSetAttribute": (POINTER, ctypes.c_int, ctypes.c_int, ctypes.c_int64, POINTER),
    # descriptor, name, type, elements asked for, elements there are, elements
    "cudnnBackendGetAttribute": (POINTER, ctypes.c_int, ctypes.c_int, ctypes.c_int64, POINTER, POINTER),
    "cudnnBackendExecute": (POINTER, POINTER, POINTER),
}


class CudnnError(DeviceError):
    """A call of cuDNN failed; ``status`` is a ``cudnnStatus_t``."""

    def __init__(self, call: str, status: int, message: str = "") -> None:
        super().__init__(f"{call}: cuDNN status {status}{f' ({message})' if message else ''}")
        self.status = status


class Cudnn:
    """cuDNN's functions, each of which raises :class:`CudnnError` instead of giving a status."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._functions = bound_functions(library, _PROTOTYPES)

    def call(self, name: str, *arguments: int) -> None:
        status = self._functions[name](*arguments)
        if status:
            raise CudnnError(name, int(status), self._message())

    def _message(self) -> str:
        """What cuDNN says about the last error of this thread."""
        text = ctypes.create_string_buffer(MESSAGE_BYTES)
        report: Any = self._library.cudnnGetLastErrorString
        if isinstance(self._library, ctypes.CDLL):
            report.argtypes, report.restype = (POINTER, ctypes.c_size_t), None
        report(ctypes.addressof(text), MESSAGE_BYTES)
        return text.value.decode(errors="replace")

    @property
    def version(self) -> int:
        """As the library counts: 92801 for 9.28.1."""
        get: Any = self._library.cudnnGetVersion
        if isinstance(self._library, ctypes.CDLL):
            get.restype = ctypes.c_size_t
        return int(get())

    def create_handle(self) -> int:
        """A handle for the current device; its stream is set, and used, by one thread at a time."""
        created = ctypes.c_void_p()
        self.call("cudnnCreate", ctypes.addressof(created))
        assert created.value
        return created.value


class Descriptor(ForeignObject):
    """A backend descriptor."""

    def __init__(self, library: Cudnn, kind: Kind) -> None:
        self._library = library
        created = ctypes.c_void_p()
        library.call("cudnnBackendCreateDescriptor", kind, ctypes.addressof(created))
        self.handle = created.value or 0

    def set(self, attribute: Attribute, *values: Any) -> None:
        """Gives an attribute its elements: numbers, addresses or other descriptors."""
        elements = [value.handle if isinstance(value, Descriptor) else value for value in values]
        data = (attribute.type.element * len(elements))(*elements)
        self._library.call(
            "cudnnBackendSetAttribute",
            self.handle,
            attribute.number,
            attribute.type.number,
            len(elements),
            ctypes.addressof(data),
        )

    def finalize(self) -> None:
        self._library.call("cudnnBackendFinalize", self.handle)

    def count(self, attribute: Attribute) -> int:
        """How many elements an attribute has."""
        return self._get(attribute, 0, 0)

    def get(self, attribute: Attribute) -> list[int]:
        """The numbers of an attribute."""
        count = self.count(attribute)
        data = (attribute.type.element * max(1, count))()
        if count:
            count = min(count, self._get(attribute, count, ctypes.addressof(data)))
        return [int(value) for value in data[:count]]

    def fill(self, attribute: Attribute, descriptors: Sequence[Descriptor]) -> int:
        """Makes ``descriptors``, which are new, those of an attribute; gives how many of them are."""
        data = (ctypes.c_void_p * max(1, len(descriptors)))(*(d.handle for d in descriptors))
        return min(len(descriptors), self._get(attribute, len(descriptors), ctypes.addressof(data)))

    def _get(self, attribute: Attribute, wanted: int, address: int) -> int:
        found = ctypes.c_int64()
        self._library.call(
            "cudnnBackendGetAttribute",
            self.handle,
            attribute.number,
            attribute.type.number,
            wanted,
            ctypes.addressof(found),
            address,
        )
        return found.value

    def _destroy(self, handle: int) -> None:
        self._library.call("cudnnBackendDestroyDescriptor", handle)
