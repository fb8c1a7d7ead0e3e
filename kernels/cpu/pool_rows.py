"""Selects the kernel of Pool for one channel: vectors along the last spatial axis, whose elements adjoin."""

from __future__ import annotations

import math

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Pool
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.axes import compute_itemsize, lane_count, units_per_tile
from onnxplan.kernels.cpu.tiling import ceil_div, round_up

FAMILY = "pool_rows"

# Windows of up to as many taps along x are unrolled.
MOST_UNROLLED = 4
# About how many positions of the input a unit of work covers along x.
BLOCK = 2048

# The parameter words before those of the axes z and y.
WORDS = (
    "units",
    "per_tile",
    "blocks",
    "block",
    "outputs",
    "extent",
    "kernel",
    "stride",
    "pad",
    "dilation",
    "limit",
    "span",
    "pitch",
    "line_bytes",
    "tap_table",
    "row_table",
    "x_image",
    "y_image",
)
AXIS_WORDS = ("outputs", "extent", "kernel", "stride", "pad", "dilation", "limit", "x_step", "y_step")


def is_by_rows(primitive: Pool, x: View, outputs: tuple[View, ...]) -> bool:
    """Is there one channel, and do rows lie along the last spatial axis of ``x`` and of the only output?"""
    return (
        x.shape[-1] == 1
        and len(outputs) == 1
        and min(primitive.pads) >= 0
        and all(view.strides[-2] == 1 or view.shape[-2] == 1 for view in (x, *outputs))
    )


def emit_pool_rows(primitive: Pool, x: View, y: View, emit: StepEmitter, target: Target) -> None:
    """Emits the step: windows are reduced line by line first, then along the line that results."""
    missing = 4 - (x.rank - 1)
    ends = primitive.count_padding or (0,) * len(primitive.kernel)
    kernel, strides, dilations = (
        (1,) * missing + values for values in (primitive.kernel, primitive.strides, primitive.dilations)
    )
    pads, ends = (0,) * missing + primitive.pads, (0,) * missing + ends
    x, y = (view.unsqueeze(tuple(range(1, 1 + missing))).squeeze((4,)) for view in (x, y))
    size, line_size = x.dtype.itemsize, compute_itemsize(x.dtype)
    outputs, extent, stride = y.shape[-1], x.shape[-1], strides[-1]
    lanes = lane_count(target, line_size, outputs)
    block = min(outputs, max(lanes, BLOCK // stride))
    blocks = ceil_div(outputs, block)
    reach = (kernel[-1] - 1) * dilations[-1]
    # A line holds what a block's windows cover and what its last vector reads beyond, in one or two phases.
    phases = 2 if stride == 2 else 1
    span = (block - 1) * stride + reach + 1
    positions = round_up(block, lanes)
    length = ceil_div(reach + 1, 2) + positions if phases == 2 else max(span, positions + reach)
    pitch = round_up((length + lanes) * line_size, 64)
    line_bytes = phases * pitch
    rows = math.prod(y.shape[:-1])
    taps = math.prod(kernel)
    units = rows * blocks
    unit_bytes = min(span, extent) * size * min(kernel[1] * kernel[2], 2) + block * size
    per_tile = units_per_tile(units, unit_bytes)
    tap_table = line_bytes
    row_table = tap_table + 8 * kernel[-1]
    parameters = [
        units,
        per_tile,
        blocks,
        block,
        outputs,
        extent,
        kernel[-1],
        stride,
        pads[-1],
        dilations[-1],
        extent + ends[-1],
        span,
        pitch,
        line_bytes,
        tap_table,
        row_table,
        x.strides[0] * size,
        y.strides[0] * size,
    ]
    for axis in (1, 2):
        parameters += [
            y.shape[axis],
            x.shape[axis],
            kernel[axis - 1],
            strides[axis - 1],
            pads[axis - 1],
            dilations[axis - 1],
            x.shape[axis] + ends[axis - 1],
            x.strides[axis] * size,
            y.strides[axis] * size,
        ]
    kind = "counted" if primitive.count_padding is not None else primitive.kind
    unrolled = kernel[-1] if kernel[-1] <= MOST_UNROLLED and dilations[-1] == 1 else 0
    dilated = any(dilation != 1 for dilation in dilations)
    variant = (kind, x.dtype.label, lanes, min(stride, 3), unrolled, dilated)
    emit.step(
        KernelSpec(FAMILY, variant),
        (x, y),
        (1,),
        tuple(parameters),
        tiles=ceil_div(units, per_tile),
        flops=y.size * taps,
        bytes_moved=(x.size + y.size) * size,
        scratch=row_table + 8 * kernel[0] * kernel[1],
    )
