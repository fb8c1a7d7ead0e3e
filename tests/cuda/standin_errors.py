"""The errors of the stand-in: CuPy's own, and one for what a GPU would get wrong silently."""

from __future__ import annotations

from cupy_backends.cuda.api.driver import CUDADriverError
from cupy_backends.cuda.api.runtime import CUDARuntimeError

INVALID_VALUE = 1
OUT_OF_MEMORY = 2
NOT_INITIALIZED = 3
INSUFFICIENT_DRIVER = 35
NO_DEVICE = 100
INVALID_DEVICE = 101
INVALID_IMAGE = 200
INVALID_CONTEXT = 201
NO_BINARY_FOR_GPU = 209
INVALID_HANDLE = 400
NOT_FOUND = 500
NOT_READY = 600
ILLEGAL_ADDRESS = 700
LAUNCH_OUT_OF_RESOURCES = 701
NOT_PINNED_REGISTERED = 713
CAPTURE_UNSUPPORTED = 900
CAPTURE_INVALIDATED = 901
CAPTURE_MERGE = 902
CAPTURE_UNMATCHED = 903
CAPTURE_UNJOINED = 904
CAPTURE_ISOLATION = 905
CAPTURE_IMPLICIT = 906
CAPTURED_EVENT = 907
CAPTURE_WRONG_THREAD = 908

CAPTURE_STATUSES = range(900, 909)
STICKY = frozenset({214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719})
"""Statuses after which a context is lost: every later call returns the same status."""

_DRIVER_NAMES = {
    1: "CUDA_ERROR_INVALID_VALUE: invalid argument",
    2: "CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    3: "CUDA_ERROR_NOT_INITIALIZED: initialization error",
    200: "CUDA_ERROR_INVALID_IMAGE: device kernel image is invalid",
    201: "CUDA_ERROR_INVALID_CONTEXT: invalid device context",
    209: "CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image is available for execution on the device",
    400: "CUDA_ERROR_INVALID_HANDLE: invalid resource handle",
    500: "CUDA_ERROR_NOT_FOUND: named symbol not found",
    700: "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered",
    701: "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: too many resources requested for launch",
    719: "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure",
    900: "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: operation not permitted when stream is capturing",
}


class StrictError(AssertionError):
    """Misuse of CUDA that a GPU may get wrong without any error."""


class CudaStatus(Exception):
    """A CUDA status on its way to the caller, who gets it as the error of the module called."""

    def __init__(self, status: int, why: str = "") -> None:
        super().__init__(f"status {status}" + (f": {why}" if why else ""))
        self.status = status
        self.why = why


def runtime_error(status: int, why: str = "") -> CUDARuntimeError:
    """What CuPy's runtime module raises for a status; ``why`` becomes a note."""
    return _with_note(CUDARuntimeError(status), why)


def driver_error(status: int, why: str = "") -> CUDADriverError:
    """What CuPy's driver module raises for a status.

    The class asks the driver library for the text, which needs a driver; the text comes from a table here.
    """
    error = CUDADriverError.__new__(CUDADriverError)
    RuntimeError.__init__(error, _DRIVER_NAMES.get(status, f"CUDA_ERROR_{status}: status {status}"))
    error.status = status
    return _with_note(error, why)


def _with_note(error, why: str):
    if why:
        error.add_note(why)
    return error
