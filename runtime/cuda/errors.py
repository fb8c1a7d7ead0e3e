"""What CUDA's errors mean for onnxplan.

Source: https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html (cudaError).
"""

from __future__ import annotations

MEMORY_ALLOCATION = 2
NOT_READY = 600

STICKY = frozenset(
    {
        214,  # cudaErrorECCUncorrectable
        220,  # cudaErrorNvlinkUncorrectable
        700,  # cudaErrorIllegalAddress
        702,  # cudaErrorLaunchTimeout
        709,  # cudaErrorContextIsDestroyed
        710,  # cudaErrorAssert
        714,  # cudaErrorHardwareStackError
        715,  # cudaErrorIllegalInstruction
        716,  # cudaErrorMisalignedAddress
        717,  # cudaErrorInvalidAddressSpace
        718,  # cudaErrorInvalidPc
        719,  # cudaErrorLaunchFailure
        721,  # cudaErrorContained
        999,  # cudaErrorUnknown
    }
)
"""Errors after which every call of the same context fails. The driver's CUresult has the same numbers."""

CAPTURE = frozenset(range(900, 909))
"""cudaErrorStreamCaptureUnsupported to cudaErrorStreamCaptureWrongThread: a capture went wrong, no more."""


def is_sticky(status: int) -> bool:
    """Whether an error with this number ends the use of the device by this process."""
    return status in STICKY
