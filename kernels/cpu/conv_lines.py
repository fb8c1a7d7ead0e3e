"""Convolutions of few channels, such as the first of an image network: lines of taps along x as channels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxplan.compiler.expression import Expression, constant
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import Storage, View, dense_strides
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cpu.mapreduce import dense_copy, emit_copy, select_mapreduce

# A tap of fewer channels costs more to address than to multiply.
FEWEST_CHANNELS = 2


def has_lines(conv: Convolution) -> bool:
    """Are the taps along x of a position neighbours in memory, once ``x`` is channels last without gaps?"""
    line = conv.kernel[2] * conv.channels
    return conv.groups == 1 and conv.dilations[2] == 1 and conv.kernel[2] > 1 and line >= FEWEST_CHANNELS


def reads_lines_in_place(conv: Convolution) -> bool:
    """Does nothing pad the lines of ``x``, so that :func:`lines_in_place` is the same convolution?"""
    neighbours = conv.x.strides[-2:] == (conv.channels, 1)
    return has_lines(conv) and neighbours and conv.pads[2] == 0 and _behind(conv) == 0


def lines_in_place(conv: Convolution) -> Convolution:
    """As :func:`lines_as_channels`, without a copy of the weights: theirs is but the shape."""
    batch, *extents, channels = conv.x.shape
    kernel_x = conv.kernel[2]
    shape = (batch, *extents[:2], extents[2] - kernel_x + 1, kernel_x * channels)
    w = View.dense(conv.w.storage, (*conv.kernel[:2], 1, kernel_x * channels, conv.features))
    return replace(conv, x=View(conv.x.storage, conv.x.offset, shape, conv.x.strides), w=w)


def _behind(conv: Convolution) -> int:
    """How many positions behind a line of ``x`` taps read."""
    reach = (conv.output.shape[3] - 1) * conv.strides[2] + conv.kernel[2]
    return max(0, reach - conv.pads[2] - conv.x.shape[3])


def lines_as_channels(conv: Convolution, emit: StepEmitter, target: Target) -> Convolution:
    """The same convolution, of one tap along x that has the channels of a whole line of taps.

    Its input is read where it lies if nothing pads its lines, or else out of a copy with zeros between them:
    those behind a line are those before the next one.
    """
    batch, *extents, channels = conv.x.shape
    kernel_x = conv.kernel[2]
    before = conv.pads[2]
    behind = _behind(conv)
    gap = max(before, behind)
    starts = before + extents[2] + behind - kernel_x + 1
    if gap == 0 and conv.x.strides[-2:] == (channels, 1):
        offset, outer, storage = conv.x.offset - before * channels, conv.x.strides[:-2], conv.x.storage
    else:
        storage, outer = _spaced_copy(conv.x, gap, emit, target)
        offset = (gap - before) * channels
    shape = (batch, *extents[:2], starts, kernel_x * channels)
    weights = _dense_weights(conv.w, emit, target)
    w = View.dense(weights, (*conv.kernel[:2], 1, kernel_x * channels, conv.features))
    return replace(conv, x=View(storage, offset, shape, (*outer, channels, 1)), w=w, pads=(*conv.pads[:2], 0))


def _dense_weights(w: View, emit: StepEmitter, target: Target) -> Storage:
    if not w.is_constant:
        return dense_copy(w, emit, target, "weights").storage
    return emit.constant((w,), "dense", np.ascontiguousarray)


def _spaced_copy(x: View, gap: int, emit: StepEmitter, target: Target) -> tuple[Storage, tuple[int, ...]]:
    """A copy of ``x``, channels last, ``gap`` zeros before and behind each line; strides of all but x."""
    batch, depth, height, width, channels = x.shape
    pitch = (width + gap) * channels
    lines = batch * depth * height
    storage = emit.temporary(x.dtype, lines * pitch + gap * channels, "lines")
    if gap:
        gaps = View(storage, 0, (lines + 1, gap * channels), (pitch, 1))
        zero = MapReduce(Expression((constant(0, x.dtype),), (0,)), gaps.shape)
        select_mapreduce(Operation(zero, (), (gaps,)), emit, target)
    strides = tuple(stride * pitch for stride in dense_strides((batch, depth, height)))
    emit_copy(x, View(storage, gap * channels, x.shape, (*strides, channels, 1)), emit, target)
    return storage, strides
