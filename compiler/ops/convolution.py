"""Convolutions, channels last inside: views go in and come out channels first, memory stays as it is."""

from __future__ import annotations

import functools
import itertools
import math

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression
from onnxplan.compiler.ops.sliding import MOST_AXES, unfold
from onnxplan.compiler.ops.windows import (
    Window,
    channels_first,
    channels_last,
    spatial_attribute,
    split_padding,
    window_of,
)
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.registry import operator
from onnxplan.compiler.scalar import WIDE_FLOATS
from onnxplan.compiler.trace import Scalar, cast, trace
from onnxplan.compiler.view import Shape, View

MAX_PHASES = 4096
"""Phases of the largest transposed convolution that is planned: strides of 64 on two axes."""


@operator("Conv")
def conv(b: Builder, node: Node, x: View, w: View, bias: View | None = None) -> View:
    """https://onnx.ai/onnx/operators/onnx__Conv.html"""
    window = convolution_window(node, x, w)
    result = convolve(b, x, w, window, node.integer("group", 1), x.dtype)
    if bias is not None:
        result = b.scalar("add", result, bias)
    return channels_first(result)


def convolution_window(node: Node, x: View, w: View) -> Window:
    """The window of a convolution of ``x (N, C, *spatial)`` by ``w (M, C/groups, *kernel)``."""
    if x.rank != w.rank or x.rank < 2:
        raise ValueError("input and weights must have equal ranks of at least 2")
    kernel = node.integers("kernel_shape", ()) or w.shape[2:]
    if kernel != w.shape[2:]:
        raise ValueError(f"kernel_shape {list(kernel)} is not that of the weights")
    return window_of(node, x.shape[2:], kernel)


def convolve(b: Builder, x: View, w: View, window: Window, groups: int, dtype: DType) -> View:
    """``x (N, C, *spatial)`` by ``w (M, C/groups, *kernel)``: ``(N, *out, M)``, channels last."""
    return convolve_taps(b, x, taps_first(w), window, groups, dtype)


def taps_first(w: View) -> View:
    """Weights ``(M, C/groups, *kernel)`` as ``(*kernel, C/groups, M)``."""
    return w.transpose((*range(2, w.rank), 1, 0))


def convolve_taps(
    b: Builder,
    x: View,
    weights: View,
    window: Window,
    groups: int,
    dtype: DType,
    shift: View | None = None,
) -> View:
    """``x (N, C, *spatial)`` by ``weights (*kernel, C/groups, M)``, plus ``shift (M,)``: ``(N, *out, M)``."""
    channels, depth, features = x.shape[1], *weights.shape[-2:]
    check_groups(channels, features, groups)
    if channels != depth * groups:
        raise ValueError(f"{channels} channels, weights for {depth} in each of {groups} groups")
    return _convolve(b, channels_last(x), weights, window, groups, dtype, shift)


def _convolve(
    b: Builder,
    x: View,
    weights: View,
    window: Window,
    groups: int,
    dtype: DType,
    shift: View | None = None,
) -> View:
    """``x (N, *spatial, C)`` by ``weights (*kernel, C/groups, M)``, plus ``shift (M,)``: ``(N, *out, M)``."""
    shape = (x.shape[0], *window.outputs, weights.shape[-1])
    if len(window.kernel) > MOST_AXES and 0 not in shape:
        x, weights, window = unfold(b, x, weights, window, groups)
    accumulator = WIDE_FLOATS.get(dtype, dtype)
    result = b.new(dtype, (x.shape[0], *window.outputs, weights.shape[-1]))
    epilogue, extras = None, []
    if shift is not None:
        epilogue, extras = expression(_shifted, (accumulator, dtype)), [shift.expand(result.shape)]
    primitive = Conv(window.strides, window.dilations, window.pads, groups, accumulator, epilogue)
    return b.reshape(b.emit(primitive, [x, weights, *extras], [result])[0], shape)


def _shifted(total: Scalar, shift: Scalar) -> Scalar:
    return cast(total, shift.dtype) + shift


def check_groups(channels: int, features: int, groups: int) -> None:
    if groups < 1 or channels % groups or features % groups:
        raise ValueError(f"{channels} channels and {features} features do not divide into {groups} groups")


@operator("ConvTranspose")
def conv_transpose(b: Builder, node: Node, x: View, w: View, bias: View | None = None) -> View:
    """https://onnx.ai/onnx/operators/onnx__ConvTranspose.html

    Output positions that agree modulo the stride (a *phase*) see the same taps, so each phase is a plain
    convolution by some of the taps, reversed, that writes every stride-th position. See Dumoulin and
    Visin, "A guide to convolution arithmetic for deep learning", section 4 (https://arxiv.org/abs/1603.07285).
    """
    groups = node.integer("group", 1)
    if x.rank != w.rank or x.rank < 2:
        raise ValueError("input and weights must have equal ranks of at least 2")
    if x.shape[1] != w.shape[0]:
        raise ValueError(f"{x.shape[1]} channels, weights for {w.shape[0]}")
    features = w.shape[1] * groups
    check_groups(x.shape[1], features, groups)
    strides, dilations, pads, outputs = _transposed_window(node, x, w)
    count = math.prod(map(min, strides, outputs))
    if count > MAX_PHASES:
        raise ValueError(
            f"strides of {list(strides)} take {count} convolutions, {MAX_PHASES} at most are planned"
        )
    phases = [
        _phases(stride, dilation, pad, taps, extent)
        for stride, dilation, pad, taps, extent in zip(
            strides, dilations, pads, w.shape[2:], outputs, strict=True
        )
    ]
    weights = _transposed_weights(b, w, groups)
    shape = (x.shape[0], *outputs, features)
    spread = None if bias is None else bias.expand(shape)
    result = b.new(x.dtype, shape)
    for phase in itertools.product(*phases):
        target = _on_phase(result, phase)
        if target.size:
            _convolve_phase(b, channels_last(x), weights, spread, target, phase, groups)
    return channels_first(result)


@dataclass(frozen=True, slots=True)
class _Phase:
    """The output positions ``start + i * stride`` of an axis and the taps that reach them.

    These are ``taps`` taps from ``first`` on in steps of ``-step``. As a convolution of stride 1 they are
    ``dilation`` apart, and the first stands ``pad`` before the output position.
    """

    start: int
    stride: int
    count: int
    taps: int
    first: int
    step: int
    dilation: int
    pad: int


def _phases(stride: int, dilation: int, pad: int, kernel: int, extent: int) -> list[_Phase]:
    """The phases of one axis: output ``o`` is reached from input ``i`` by tap ``k`` where
    ``o = i * stride + k * dilation - pad``."""
    step = stride // math.gcd(stride, dilation)
    phases = []
    for start in range(min(stride, extent)):
        taps = [k for k in range(kernel) if (start + pad - k * dilation) % stride == 0]
        last = taps[-1] if taps else 0
        # The last tap reaches furthest back, to input i = (o + pad - last * dilation) / stride.
        phases.append(
            _Phase(
                start=start,
                stride=stride,
                count=-(-(extent - start) // stride),
                taps=len(taps),
                first=last,
                step=step,
                dilation=step * dilation // stride,
                pad=-((start + pad - last * dilation) // stride),
            )
        )
    return phases


def _on_phase(view: View, phase: tuple[_Phase, ...]) -> View:
    """The elements of ``view (N, *spatial, C)`` that belong to ``phase``."""
    for axis, piece in enumerate(phase, 1):
        view = view.slice(axis, piece.start, piece.count, piece.stride)
    return view


def _convolve_phase(
    b: Builder,
    x: View,
    weights: View,
    bias: View | None,
    target: View,
    phase: tuple[_Phase, ...],
    groups: int,
) -> None:
    """Writes the sums of one phase to ``target``; ``bias`` is spread over the whole output."""
    extras = [] if bias is None else [_on_phase(bias, phase)]
    for axis, piece in enumerate(phase):
        weights = weights.slice(axis, piece.first, piece.taps, -piece.step)
    if weights.size == 0 and extras:
        b.copy_into(extras[0], target)
    elif weights.size == 0:
        b.fill_into(0, target)
    elif len(phase) > MOST_AXES:
        total = _convolve(b, x, weights, _window_of_phase(phase, weights), groups, target.dtype)
        b.copy_into(b.scalar("add", total, extras[0]) if extras else total, target)
    else:
        accumulator = WIDE_FLOATS.get(target.dtype, target.dtype)
        primitive = Conv(
            strides=(1,) * len(phase),
            dilations=tuple(piece.dilation for piece in phase),
            pads=tuple(piece.pad for piece in phase),
            groups=groups,
            accumulator=accumulator,
            epilogue=_bias_epilogue(target.dtype, accumulator) if extras else None,
        )
        b.emit_into(primitive, [x, weights, *extras], target)


def _window_of_phase(phase: tuple[_Phase, ...], weights: View) -> Window:
    ones = (1,) * len(phase)
    return Window(
        weights.shape[:-2],
        ones,
        tuple(piece.dilation for piece in phase),
        tuple(piece.pad for piece in phase),
        ones,
        tuple(piece.count for piece in phase),
    )


@functools.cache
def _bias_epilogue(dtype: DType, accumulator: DType) -> Expression:
    def body(total: Scalar, bias: Scalar) -> Scalar:
        return cast(total + cast(bias, accumulator), dtype)

    return trace(body, (accumulator, dtype))


def _transposed_weights(b: Builder, w: View, groups: int) -> View:
    """``(C, M/groups, *kernel)`` as :class:`Conv` takes weights, ``(*kernel, C/groups, M)``."""
    channels, features, *kernel = w.shape
    grouped = b.reshape(w, (groups, channels // groups, features, *kernel))
    spatial = range(3, grouped.rank)
    return b.reshape(grouped.transpose((*spatial, 1, 0, 2)), (*kernel, channels // groups, groups * features))


def _transposed_window(node: Node, x: View, w: View) -> tuple[Shape, Shape, Shape, Shape]:
    """Strides, dilations, pads at the beginning and output extents of a transposed convolution.

    A requested ``output_shape`` larger than what the taps reach is zero at the end, as in ONNX Runtime; the
    formula of the standard would give negative padding.
    """
    extents = x.shape[2:]
    rank = len(extents)
    kernel = node.integers("kernel_shape", ()) or w.shape[2:]
    if kernel != w.shape[2:]:
        raise ValueError(f"kernel_shape {list(kernel)} is not that of the weights")
    strides = spatial_attribute(node, "strides", rank, 1)
    dilations = spatial_attribute(node, "dilations", rank, 1)
    given = spatial_attribute(node, "pads", 2 * rank, 0)
    extra = spatial_attribute(node, "output_padding", rank, 0)
    # Some exporters write the full shape, with batch and channels.
    wanted = node.integers("output_shape", ())[-rank:]
    auto_pad = node.string("auto_pad", "NOTSET")
    same = auto_pad in ("SAME_UPPER", "SAME_LOWER")
    pads, outputs = [], []
    for axis, extent in enumerate(extents):
        full = strides[axis] * (extent - 1) + extra[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        if wanted or same:
            output = wanted[axis] if wanted else extent * strides[axis]
            begin, end = split_padding(max(full - output, 0), auto_pad)
        else:
            begin, end = (given[axis], given[rank + axis]) if auto_pad == "NOTSET" else (0, 0)
            output = full - begin - end
        if output < 0:
            raise ValueError(f"padding {begin} and {end} leaves nothing of {full} output positions")
        pads.append(begin)
        outputs.append(output)
    return strides, dilations, tuple(pads), tuple(outputs)
