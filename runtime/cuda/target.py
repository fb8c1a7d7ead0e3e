"""What plans are made for: a :class:`Target` from the attributes of a device."""

from __future__ import annotations

from typing import Any

from onnxplan.compiler.target import Target
from onnxplan.runtime.cuda.compiler import choose_architecture
from onnxplan.runtime.cuda.context import CudaContext
from onnxplan.runtime.cuda.cudnn_library import CudnnLibrary
from onnxplan.runtime.cuda.memory import BLOCK_ALIGNMENT

CAPABILITY_MAJOR = 75
CAPABILITY_MINOR = 76
"""``cudaDevAttrComputeCapabilityMajor`` and ``Minor``, which CuPy does not name."""

FLOAT32_LANES = {70: 64, 72: 64, 75: 64, 80: 64}
"""Of a multiprocessor, by compute capability; 128 on others. Source: CUDA C++ programming guide, arithmetic
instructions."""
MOST_LANES = 128
USUAL_CLOCK = 1.5e9
"""Hertz, where the driver does not tell the clock, as those for CUDA 13 need not."""
USUAL_BANDWIDTH = {7: 6e11, 8: 9e11, 9: 3e12, 10: 6e12, 12: 1e12}
"""Bytes per second by major compute capability, where the driver does not tell the memory's clock."""
USUAL_MULTIPROCESSORS = {7: 40, 8: 108, 9: 132, 10: 148, 12: 170}
"""By major compute capability: T4, A100, H100, B200, RTX 5090."""
USUAL_SHARED_BYTES = {75: 64 << 10, 80: 163 << 10, 87: 163 << 10, 90: 227 << 10, 100: 227 << 10}
"""Of a block, by compute capability; 99 KiB on others. Source: CUDA C++ programming guide, technical
specifications."""
GRAPH_NODE_SECONDS = 1.5e-6
"""From one kernel of a graph to the next one, about, as published for recent devices."""


def detect_target(context: CudaContext, math: str) -> Target:
    """The target of a device that is current; time estimates come from clocks and widths, not measurements.

    Raises :class:`DeviceUnavailableError` where NVRTC does not compile for its compute capability.
    """
    runtime: Any = context.api.runtime

    def attribute(number: int) -> int:
        return int(runtime.deviceGetAttribute(number, context.ordinal))

    major, minor = attribute(CAPABILITY_MAJOR), attribute(CAPABILITY_MINOR)
    multiprocessors = attribute(runtime.cudaDevAttrMultiProcessorCount)
    clock = 1e3 * attribute(runtime.cudaDevAttrClockRate) or USUAL_CLOCK
    lanes = FLOAT32_LANES.get(10 * major + minor, MOST_LANES)
    memory_clock = 1e3 * attribute(runtime.cudaDevAttrMemoryClockRate)
    width = attribute(runtime.cudaDevAttrGlobalMemoryBusWidth) / 8
    # Memory moves data at both edges of its clock.
    bandwidth = 2 * memory_clock * width or USUAL_BANDWIDTH.get(major, 1e12)
    return Target(
        device="cuda",
        isa=choose_architecture(context.api.nvrtc, (major, minor)),
        vector_bytes=16,
        vector_registers=255,
        cache_bytes=(
            attribute(runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin),
            attribute(runtime.cudaDevAttrL2CacheSize),
        ),
        threads=multiprocessors,
        math=math,
        alignment=BLOCK_ALIGNMENT,
        flops=2.0 * lanes * multiprocessors * clock,
        bandwidth=bandwidth,
        launch=GRAPH_NODE_SECONDS,
        cudnn=CudnnLibrary.version(context),
    )


def assumed_target(architecture: str, math: str) -> Target:
    """The target of a usual device of this compute capability (``sm_90``), where none is at hand to be
    asked."""
    major, minor = divmod(int(architecture.removeprefix("sm_")), 10)
    multiprocessors = USUAL_MULTIPROCESSORS.get(major, 108)
    lanes = FLOAT32_LANES.get(10 * major + minor, MOST_LANES)
    return Target(
        device="cuda",
        isa=architecture,
        vector_bytes=16,
        vector_registers=255,
        cache_bytes=(USUAL_SHARED_BYTES.get(10 * major + minor, 99 << 10), 40 << 20),
        threads=multiprocessors,
        math=math,
        alignment=BLOCK_ALIGNMENT,
        flops=2.0 * lanes * multiprocessors * USUAL_CLOCK,
        bandwidth=USUAL_BANDWIDTH.get(major, 1e12),
        launch=GRAPH_NODE_SECONDS,
    )
