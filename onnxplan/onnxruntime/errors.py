"""onnxruntime's exceptions, and which of them each error of onnxplan becomes.

They derive from ``Exception`` alone, as onnxruntime's do, and their text begins as there:
``[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : ...``. The error of onnxplan,
which often says more, is their cause.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from onnxplan.compiler.errors import (
    DeviceError,
    DeviceUnavailableError,
    IncompatibleArtifactError,
    InvalidArtifactError,
    InvalidFeedsError,
    InvalidModelError,
    OutOfMemoryError,
    UnsupportedOperatorError,
)
from onnxplan.runtime.cancellation import Cancelled

STATE_MODULE = "onnxplan.onnxruntime.capi.onnxruntime_pybind11_state"


class StatusError(Exception):
    """Base of what onnxruntime raises for a status that is not OK.

    ``StatusError(message)`` puts the status before the message, which ``message`` keeps.
    """

    code = 0
    status = ""

    def __init__(self, message: str = "") -> None:
        super().__init__(f"[ONNXRuntimeError] : {self.code} : {self.status} : {message}")
        self.message = message

    def __reduce__(self) -> tuple[type[StatusError], tuple[str]]:
        return type(self), (self.message,)


class Fail(StatusError):
    code, status = 1, "FAIL"


class InvalidArgument(StatusError):
    code, status = 2, "INVALID_ARGUMENT"


class NoSuchFile(StatusError):
    code, status = 3, "NO_SUCHFILE"


class NoModel(StatusError):
    code, status = 4, "NO_MODEL"


class EngineError(StatusError):
    code, status = 5, "ENGINE_ERROR"


class RuntimeException(StatusError):
    code, status = 6, "RUNTIME_EXCEPTION"


class InvalidProtobuf(StatusError):
    code, status = 7, "INVALID_PROTOBUF"


class ModelLoaded(StatusError):
    code, status = 8, "MODEL_LOADED"


class NotImplemented(StatusError):  # noqa: A001
    code, status = 9, "NOT_IMPLEMENTED"


class InvalidGraph(StatusError):
    code, status = 10, "INVALID_GRAPH"


class EPFail(StatusError):
    code, status = 11, "EP_FAIL"


class ModelLoadCanceled(StatusError):
    code, status = 12, "MODEL_LOAD_CANCELED"


class ModelRequiresCompilation(StatusError):
    code, status = 13, "MODEL_REQUIRES_COMPILATION"


class NotFound(StatusError):
    code, status = 14, "NOT_FOUND"


class DeviceReset(StatusError):
    code, status = 15, "DEVICE_RESET"


class UnsupportedFeatureError(NotImplemented, NotImplementedError):
    """A feature of onnxruntime that this module does not have; the message names it."""


EXCEPTIONS: tuple[type[StatusError], ...] = (
    Fail,
    InvalidArgument,
    NoSuchFile,
    NoModel,
    EngineError,
    RuntimeException,
    InvalidProtobuf,
    ModelLoaded,
    NotImplemented,
    InvalidGraph,
    EPFail,
    ModelLoadCanceled,
    ModelRequiresCompilation,
    NotFound,
    DeviceReset,
)
for _kind in EXCEPTIONS:
    # What tracebacks show, and what programs compare.
    _kind.__module__ = STATE_MODULE


@contextmanager
def model_errors(label: str) -> Iterator[None]:
    """Errors of reading a model as onnxruntime raises them, their text behind ``label``."""
    try:
        yield
    except FileNotFoundError as error:
        raise NoSuchFile(f"{label}{error.strerror}: {error.filename}") from error
    except IsADirectoryError as error:
        raise InvalidProtobuf(f"{label}{error}") from error
    except OSError as error:
        raise Fail(f"{label}{error}") from error
    except UnsupportedOperatorError as error:
        kind = NotImplemented if _in_the_standard(error) else InvalidGraph
        raise kind(f"{label}{error}") from error
    except InvalidModelError as error:
        raise _model_error(error)(f"{label}{error}") from error


@contextmanager
def run_errors() -> Iterator[None]:
    """Errors of planning and running a model as onnxruntime raises them."""
    try:
        yield
    except Cancelled as error:
        raise Fail("Exiting due to terminate flag being set to true.") from error
    except UnsupportedOperatorError as error:
        raise NotImplementedError(str(error)) from error
    except (
        InvalidFeedsError,
        InvalidModelError,
        InvalidArtifactError,
        IncompatibleArtifactError,
    ) as error:
        raise Fail(str(error)) from error
    except OutOfMemoryError as error:
        raise RuntimeException(str(error)) from error
    except (DeviceError, DeviceUnavailableError) as error:
        raise EPFail(str(error)) from error


def _in_the_standard(error: UnsupportedOperatorError) -> bool:
    """Are the operators that onnxplan lacks known to the standard?"""
    import onnx

    return all(onnx.defs.has(op_type, domain) for domain, op_type, _, _ in error.operators)


def _model_error(error: InvalidModelError) -> type[StatusError]:
    if error.__cause__ is not None and type(error.__cause__).__name__ in ("DecodeError", "WireError"):
        return InvalidProtobuf
    return InvalidArgument if "has no graph" in str(error) else InvalidGraph
