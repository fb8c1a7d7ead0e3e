"""Selects kernels for Conv: depthwise, one-by-one as MatMul, Winograd's, or a product that gathers A or B."""

from __future__ import annotations

from dataclasses import replace

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Conv, MatMul
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cpu.conv_lines import (
    has_lines,
    lines_as_channels,
    lines_in_place,
    reads_lines_in_place,
)
from onnxplan.kernels.cpu.conv_planes import emit_conv_planes, has_conv_planes
from onnxplan.kernels.cpu.conv_taps import (
    emit_conv_taps,
    grouped,
    grouped_weights,
    row_kind,
    takes_narrow_tiles,
)
from onnxplan.kernels.cpu.depthwise import emit_depthwise
from onnxplan.kernels.cpu.depthwise_rows import emit_depthwise_rows, has_depthwise_rows
from onnxplan.kernels.cpu.mapreduce import dense_copy, emit_copy
from onnxplan.kernels.cpu.matmul import emit_matmul, same_bits
from onnxplan.kernels.cpu.tiling import sum_dtype
from onnxplan.kernels.cpu.winograd import emit_winograd, has_winograd
from onnxplan.kernels.matrices import Matrices, fold_batch, transposed

# Kernels are written for this many spatial axes; missing ones get extent 1.
AXES = 3
# With fewer channels than this the rows of all taps are copied side by side instead of addressed one by one.
CHANNELS_WORTH_ADDRESSING = 12
# With more multiply-adds for each element of the input and the output together than this, the planes of a
# convolution of one tap are gathered in panels instead of read in place.
WORK_WORTH_GATHERING = 48


def select_conv(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of a Conv; raises ``NotImplementedError`` for more than three spatial axes.

    Where channels are no neighbours in ``x`` or in the output, there is a copy before or behind.
    """
    primitive = operation.primitive
    assert isinstance(primitive, Conv)
    output = operation.outputs[0]
    if output.size == 0:
        return
    conv = _three_axes(operation, primitive)
    if _is_channels_first(conv, primitive, target):
        _emit_channels_first(emit, target, conv, primitive)
        return
    if _reads_lines(conv, primitive, target):
        conv = lines_as_channels(conv, emit, target)
    elif _channels_apart(conv.x):
        conv = replace(conv, x=dense_copy(conv.x, emit, target, "channels_last"))
    if not _channels_apart(conv.output):
        _emit_channels_last(emit, target, conv, primitive)
        return
    result = View.dense(emit.temporary(output.dtype, output.size, "channels_last"), conv.output.shape)
    _emit_channels_last(emit, target, replace(conv, output=result), primitive)
    emit_copy(result, conv.output, emit, target)


def _reads_lines(conv: Convolution, primitive: Conv, target: Target) -> bool:
    """Are there so few channels that whole lines of taps are read as one tap?"""
    if conv.channels >= CHANNELS_WORTH_ADDRESSING or not has_lines(conv):
        return False
    if row_kind(lines_in_place(conv), target, primitive.accumulator) == "tiles":
        # They find lines that nothing pads themselves.
        return not reads_lines_in_place(conv)
    return same_bits(conv.x.dtype, sum_dtype(primitive.accumulator)) and not has_winograd(
        conv, primitive, target
    )


def _channels_apart(view: View) -> bool:
    return view.strides[-1] != 1 and view.shape[-1] > 1


def prefers_conv(operation: Operation, target: Target) -> bool:
    """Is the convolution as fast with these views as with channels last?"""
    primitive = operation.primitive
    assert isinstance(primitive, Conv)
    if len(primitive.strides) > AXES:
        return False
    return _is_channels_first(_three_axes(operation, primitive), primitive, target)


def _is_channels_first(conv: Convolution, primitive: Conv, target: Target) -> bool:
    """Do rows adjoin in ``x`` and in the output, and is there a kernel for that which is worth it?"""
    if not (_rows_adjoin(conv.x) and _rows_adjoin(conv.output)):
        return False
    if conv.channels == 1 and conv.groups > 1:
        return has_depthwise_rows(conv, primitive, target)
    if _multiplies_planes(conv):
        return True
    return has_conv_planes(conv, primitive, target) and not has_winograd(conv, primitive, target)


def _multiplies_planes(conv: Convolution) -> bool:
    """Is the convolution a product of weights and planes that are read in place?"""
    if not _is_pointwise(conv):
        return False
    work = conv.channels * conv.features
    if work > WORK_WORTH_GATHERING * (conv.channels + conv.features):
        return False
    planes = fold_batch(_pointwise(conv))
    return planes.a.strides[-2] == 1 and planes.output.strides[-2] == 1


def _rows_adjoin(view: View) -> bool:
    """Are positions along x neighbours, and channels, if there are several, not?"""
    return view.strides[-2] == 1 and view.shape[-2] > 1 and (view.shape[-1] == 1 or view.strides[-1] != 1)


def _emit_channels_first(emit: StepEmitter, target: Target, conv: Convolution, primitive: Conv) -> None:
    if conv.channels == 1 and conv.groups > 1:
        emit_depthwise_rows(emit, target, conv, primitive)
    elif _multiplies_planes(conv):
        product = MatMul(primitive.accumulator, primitive.epilogue)
        emit_matmul(emit, target, transposed(fold_batch(_pointwise(conv))), product)
    else:
        emit_conv_planes(emit, target, conv, primitive)


def _emit_channels_last(emit: StepEmitter, target: Target, conv: Convolution, primitive: Conv) -> None:
    if conv.channels == 1 and conv.groups > 1:
        emit_depthwise(emit, target, conv, primitive)
        return
    matrices = fold_batch(_pointwise(conv)) if _is_pointwise(conv) else None
    accumulator = primitive.accumulator
    if matrices is not None and _rows_follow(matrices, conv, target, accumulator):
        emit_matmul(emit, target, matrices, MatMul(accumulator, primitive.epilogue))
    elif takes_narrow_tiles(conv, target, accumulator) or not emit_winograd(emit, target, conv, primitive):
        emit_conv_taps(emit, target, conv, primitive)


def _three_axes(operation: Operation, primitive: Conv) -> Convolution:
    x, w, *extras = operation.inputs
    missing = AXES - len(primitive.strides)
    if missing < 0:
        raise NotImplementedError(f"no CPU kernel for conv with {len(primitive.strides)} spatial axes")
    new = tuple(range(1, 1 + missing))
    output = operation.outputs[0].unsqueeze(new)
    return Convolution(
        x.unsqueeze(new),
        w.unsqueeze(tuple(range(missing))),
        output,
        tuple(extra.unsqueeze(new) for extra in extras),
        (1,) * missing + primitive.strides,
        (1,) * missing + primitive.dilations,
        (0,) * missing + primitive.pads,
        primitive.groups,
    )


def _is_pointwise(conv: Convolution) -> bool:
    return conv.taps == 1 and all(
        pad == 0 and (extent - 1) * stride < size
        for pad, extent, stride, size in zip(
            conv.pads, conv.output.shape[1:-1], conv.strides, conv.x.shape[1:-1], strict=True
        )
    )


def _pointwise(conv: Convolution) -> Matrices:
    """A convolution of one tap as products: a row for each position, a batch axis for what cannot follow."""
    x = conv.x
    scaled = (1, *conv.strides, 1)
    shape = (*conv.output.shape[:-1], x.shape[-1])
    strides = tuple([stride * scale for stride, scale in zip(x.strides, scaled, strict=True)])
    a = grouped(conv, View(x.storage, x.offset, shape, strides))
    weights = grouped_weights(conv)
    b = View(
        weights.storage,
        weights.offset,
        (*a.shape[:-2], *weights.shape[-2:]),
        (weights.strides[0], *(0,) * (AXES), *weights.strides[-2:]),
    )
    output = grouped(conv, conv.output)
    return Matrices(a, b, output, tuple([grouped(conv, extra) for extra in conv.extras]))


def _rows_follow(matrices: Matrices, conv: Convolution, target: Target, accumulator: DType) -> bool:
    """Do all positions become rows of one product? ``matrices`` are folded.

    With strides they do not, and each line along x would be a product of its own, with few rows to use the
    weights for. Addressed one by one, positions are rows wherever they are.
    """
    if 0 not in matrices.b.strides[:-2]:
        return True
    return not row_kind(conv, target, accumulator).endswith(("addressed", "tiles"))
