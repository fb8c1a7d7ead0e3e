"""Attributes and properties of a fake device, near those of an H100."""

from __future__ import annotations

from typing import Any

from cupy_backends.cuda.api import runtime as real
from standin_errors import INVALID_VALUE, CudaStatus

SHARED_BYTES = 48 << 10
SHARED_BYTES_OPT_IN = 227 << 10
L2_BYTES = 50 << 20


def attribute(device: Any, number: int) -> int:
    """``cudaDeviceGetAttribute``."""
    if number in device.attributes:
        return device.attributes[number]
    major, minor = device.compute_capability
    values = {
        real.cudaDevAttrMaxThreadsPerBlock: 1024,
        real.cudaDevAttrMaxBlockDimX: 1024,
        real.cudaDevAttrMaxBlockDimY: 1024,
        real.cudaDevAttrMaxBlockDimZ: 64,
        real.cudaDevAttrMaxGridDimX: 2**31 - 1,
        real.cudaDevAttrMaxGridDimY: 65535,
        real.cudaDevAttrMaxGridDimZ: 65535,
        real.cudaDevAttrMaxSharedMemoryPerBlock: SHARED_BYTES,
        real.cudaDevAttrMaxSharedMemoryPerBlockOptin: SHARED_BYTES_OPT_IN,
        real.cudaDevAttrMaxSharedMemoryPerMultiprocessor: 228 << 10,
        real.cudaDevAttrReservedSharedMemoryPerBlock: 1 << 10,
        real.cudaDevAttrWarpSize: 32,
        real.cudaDevAttrMaxRegistersPerBlock: 65536,
        real.cudaDevAttrMaxRegistersPerMultiprocessor: 65536,
        real.cudaDevAttrClockRate: 1_980_000,
        real.cudaDevAttrMemoryClockRate: 2_619_000,
        real.cudaDevAttrGlobalMemoryBusWidth: 5120,
        real.cudaDevAttrMultiProcessorCount: device.multiprocessors,
        real.cudaDevAttrL2CacheSize: L2_BYTES,
        real.cudaDevAttrMaxThreadsPerMultiProcessor: 2048,
        real.cudaDevAttrMaxBlocksPerMultiprocessor: 32,
        real.cudaDevAttrComputeMode: 0,
        real.cudaDevAttrConcurrentKernels: 1,
        real.cudaDevAttrAsyncEngineCount: 3,
        real.cudaDevAttrUnifiedAddressing: 1,
        real.cudaDevAttrIntegrated: 0,
        real.cudaDevAttrCanMapHostMemory: 1,
        real.cudaDevAttrHostRegisterSupported: 1,
        real.cudaDevAttrMemoryPoolsSupported: 1,
        real.cudaDevAttrSingleToDoublePrecisionPerfRatio: 2,
        real.cudaDevAttrKernelExecTimeout: 0,
        real.cudaDevAttrEccEnabled: 1,
        real.cudaDevAttrTccDriver: 0,
        75: major,
        76: minor,
    }
    if number not in values:
        raise CudaStatus(INVALID_VALUE, f"the stand-in has no device attribute {number}")
    return values[number]


def properties(device: Any) -> dict[str, Any]:
    """``cudaGetDeviceProperties``, the part that CuPy gives by these names."""
    major, minor = device.compute_capability
    return {
        "name": b"Stand-in device",
        "totalGlobalMem": device.total_bytes,
        "sharedMemPerBlock": SHARED_BYTES,
        "sharedMemPerBlockOptin": attribute(device, real.cudaDevAttrMaxSharedMemoryPerBlockOptin),
        "sharedMemPerMultiprocessor": 228 << 10,
        "reservedSharedMemPerBlock": 1 << 10,
        "regsPerBlock": 65536,
        "regsPerMultiprocessor": 65536,
        "warpSize": 32,
        "maxThreadsPerBlock": 1024,
        "maxThreadsDim": (1024, 1024, 64),
        "maxGridSize": (2**31 - 1, 65535, 65535),
        "maxThreadsPerMultiProcessor": 2048,
        "maxBlocksPerMultiProcessor": 32,
        "major": major,
        "minor": minor,
        "multiProcessorCount": device.multiprocessors,
        "clockRate": 1_980_000,
        "memoryClockRate": 2_619_000,
        "memoryBusWidth": 5120,
        "l2CacheSize": attribute(device, real.cudaDevAttrL2CacheSize),
        "concurrentKernels": 1,
        "asyncEngineCount": 3,
        "unifiedAddressing": 1,
        "integrated": 0,
        "pciBusID": device.ordinal + 1,
        "pciDeviceID": 0,
        "pciDomainID": 0,
        "uuid": bytes([device.ordinal]) * 16,
        "singleToDoublePrecisionPerfRatio": 2,
    }
