"""Every error that onnxplan raises on purpose; the face re-exports them."""

from __future__ import annotations


class OnnxPlanError(Exception):
    """Base of all onnxplan errors."""


class InvalidModelError(OnnxPlanError, ValueError):
    """The model cannot be read, or breaks the ONNX standard."""


class InvalidArtifactError(OnnxPlanError, ValueError):
    """A compiled artifact is damaged, of another version, or not signed as it should be."""


class IncompatibleArtifactError(OnnxPlanError, RuntimeError):
    """A compiled artifact was not made for this machine or these options; the message says what differs."""


class UnsupportedOperatorError(OnnxPlanError, NotImplementedError):
    """The model needs operators that onnxplan does not have; ``operators`` lists all of them at once.

    Each entry is ``(domain, op_type, opset version, node names)``.
    """

    def __init__(
        self, message: str, operators: tuple[tuple[str, str, int, tuple[str, ...]], ...] = ()
    ) -> None:
        super().__init__(message)
        self.operators = operators


class InvalidFeedsError(OnnxPlanError, ValueError):
    """A feed or fetch does not fit the model; the message names it and says what was expected."""


class DeviceUnavailableError(OnnxPlanError, RuntimeError):
    """The requested device cannot be used; the message says why and what would fix it."""


class DeviceError(OnnxPlanError, RuntimeError):
    """The device refused a call during a run; the run is lost, the device stays usable."""


class OutOfMemoryError(OnnxPlanError, MemoryError):
    """A plan needs more memory than there is; the message gives both figures."""


class SessionClosedError(OnnxPlanError, RuntimeError):
    """The session was closed before or while it was used."""


class PeerError(OnnxPlanError, RuntimeError):
    """What results are to be compared with is not installed or cannot run the model; the message says why."""


class CompilerError(OnnxPlanError, RuntimeError):
    """A pass broke the intermediate representation; the message names the pass."""
