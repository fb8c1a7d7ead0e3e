"""Selects the kernel of depthwise convolution where rows adjoin: vectors along the last spatial axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cpu.axes import lane_count, units_per_tile
from onnxplan.kernels.cpu.epilogue import describe_epilogue, shared_with_output
from onnxplan.kernels.cpu.mapreduce import dense_copy
from onnxplan.kernels.cpu.tiling import ceil_div, round_up, sum_dtype
from onnxplan.kernels.matrices import distinct_bytes

FAMILY = "depthwise_rows"

# Taps along an axis that are unrolled, and so many output rows share what they read.
MOST_TAPS = 7
MOST_STRIDE = 2
ROWS = 4
# Input lines that are copied between zeros should stay in the first cache.
BAND_BYTES = 24 << 10
MOST_SCRATCH = 1 << 18

# The parameter words before the steps of the output and the extras along N, C, y and x.
WORDS = (
    "units",
    "per_tile",
    "channels",
    "bands",
    "band",
    "out_y",
    "out_x",
    "in_y",
    "in_x",
    "pad_y",
    "pad_x",
    "pitch",
    "sums",
    "step_n",
    "step_c",
    "step_y",
)


def has_depthwise_rows(conv: Convolution, primitive: Conv, target: Target) -> bool:
    """Is there a kernel for this depthwise convolution if rows adjoin, which fill more than half a vector?"""
    sums = sum_dtype(primitive.accumulator)
    return (
        conv.channels == conv.features == 1
        and conv.x.dtype is sums
        and conv.w.dtype is sums
        and conv.kernel[0] == conv.output.shape[1] == conv.x.shape[1] == 1
        and conv.pads[0] == 0
        and max(conv.kernel) <= MOST_TAPS
        and max(conv.strides) <= MOST_STRIDE
        and max(conv.dilations) == 1
        and min(conv.pads) >= 0
        and 2 * conv.output.shape[-2] * sums.itemsize > target.vector_bytes
        and _lines(conv, ROWS) * _line_bytes(conv) <= MOST_SCRATCH
    )


def _lines(conv: Convolution, rows: int) -> int:
    """Input lines that so many output rows read."""
    return (rows - 1) * conv.strides[1] + conv.kernel[1]


def _line_bytes(conv: Convolution) -> int:
    return conv.strides[2] * _pitch(conv)


def _pitch(conv: Convolution) -> int:
    """Bytes of one phase of an input line with its padding and what the last vector reads beyond."""
    positions = round_up(conv.output.shape[-2], 16) + conv.kernel[2]
    written = ceil_div(conv.pads[2] + conv.x.shape[-2], conv.strides[2])
    return round_up((max(positions, written) + 16) * conv.x.dtype.itemsize, 64)


def emit_depthwise_rows(emit: StepEmitter, target: Target, conv: Convolution, primitive: Conv) -> None:
    """The steps of a convolution of which :func:`has_depthwise_rows` holds."""
    x, output, extras = conv.x, conv.output, conv.extras
    size = x.dtype.itemsize
    epilogue = describe_epilogue(primitive.epilogue, primitive.accumulator, output, extras, output.rank - 2)
    lanes = lane_count(target, size, output.shape[-2], 16)
    out_y = output.shape[2]
    rows = ROWS if out_y > 1 else 1
    most = max(1, (BAND_BYTES // _line_bytes(conv) - conv.kernel[1]) // (conv.strides[1] * rows)) * rows
    bands = ceil_div(out_y, most)
    band = round_up(ceil_div(out_y, bands), rows)
    bands = ceil_div(out_y, band)
    units = output.shape[0] * output.shape[-1] * bands
    unit_bytes = (_lines(conv, band) * x.shape[-2] + band * output.shape[-2]) * size
    per_tile = units_per_tile(units, unit_bytes)
    sums = _lines(conv, band) * _line_bytes(conv)
    w = _weights(emit, target, conv)
    parameters = [
        units,
        per_tile,
        output.shape[-1],
        bands,
        band,
        *output.shape[2:4],
        *x.shape[2:4],
        *conv.pads[1:],
        _pitch(conv),
        sums,
        *(x.strides[axis] * size for axis in (0, 4, 2)),
    ]
    for view in (output, *extras):
        parameters += [view.strides[axis] * view.dtype.itemsize for axis in (0, 4, 2, 3)]
    variant = (x.dtype.label, lanes, rows, conv.kernel[1:], conv.strides[1:], epilogue.variant)
    emit.step(
        KernelSpec(FAMILY, variant),
        (x, w, output, *extras),
        (2,),
        tuple(parameters),
        tiles=ceil_div(units, per_tile),
        flops=(2 * conv.taps + epilogue.expression.cost) * output.size,
        bytes_moved=sum(distinct_bytes(view) for view in (x, w, output, *extras)),
        scratch=sums + 2 * ROWS * lanes * size,
        in_place=tuple((2, 3 + number) for number in shared_with_output(output, extras)),
    )


def _weights(emit: StepEmitter, target: Target, conv: Convolution) -> View:
    """The taps of one channel after those of another."""
    taps = conv.w.transpose((4, 3, 0, 1, 2))
    if not taps.is_constant:
        return dense_copy(taps, emit, target, "taps")

    def make() -> npt.NDArray[Any]:
        return np.ascontiguousarray(taps.numpy())

    return View.dense(emit.constant((taps,), "taps of channels", make), taps.shape)
