"""Arrays of other libraries that lie in the memory of a CUDA device, told from their protocols alone."""

from __future__ import annotations

from enum import IntEnum
from typing import Any


class DLDevice(IntEnum):
    """Kinds of devices in DLPack (https://dmlc.github.io/dlpack/latest/c_api.html#c.DLDeviceType)."""

    CPU = 1
    CUDA = 2
    CUDA_HOST = 3
    CUDA_MANAGED = 13


def cuda_location(value: Any) -> str | None:
    """``cuda:1`` where ``value`` lies in that device's memory, ``a CUDA device`` where it does not say which.

    ``None`` for everything else. Managed memory counts as the device's, page-locked memory as the host's.
    """
    if hasattr(value, "__dlpack_device__"):
        kind, number = value.__dlpack_device__()
        return f"cuda:{int(number)}" if kind in (DLDevice.CUDA, DLDevice.CUDA_MANAGED) else None
    return "a CUDA device" if hasattr(value, "__cuda_array_interface__") else None


def host_advice(value: Any) -> str:
    """How an array of that library is copied to the host."""
    for method in ("cpu", "get", "copy_to_host", "numpy"):
        if callable(getattr(value, method, None)):
            return f"copy it to the host with .{method}(), or make the session with device='cuda'"
    return "copy it to the host, or make the session with device='cuda'"
