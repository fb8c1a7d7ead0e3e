"""Pooling, channels last inside, and global pooling as reductions."""

from __future__ import annotations

import math

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression, float_expression, wide
from onnxplan.compiler.ops.sliding import MOST_AXES, pool_averages, pool_maxima
from onnxplan.compiler.ops.windows import Window, channels_first, channels_last, window_of
from onnxplan.compiler.primitives import Pool
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, reduce
from onnxplan.compiler.view import View


@operator("MaxPool")
def max_pool(b: Builder, node: Node, x: View) -> list[View]:
    """https://onnx.ai/onnx/operators/onnx__MaxPool.html"""
    window = _pooling_window(node, x)
    positions = len(node.outputs) > 1 and node.outputs[1] is not None
    column_major = bool(node.integer("storage_order", 0))
    shape = (x.shape[0], *window.outputs, x.shape[1])
    if len(window.kernel) > MOST_AXES and 0 not in shape:
        source = channels_last(x)
        found = pool_maxima(b, source, window, positions=positions, column_major=column_major)
        return [channels_first(view) for view in found]
    primitive = Pool(
        "max",
        window.kernel,
        window.strides,
        window.dilations,
        window.pads,
        column_major=column_major,
    )
    if not positions:
        return [channels_first(_pool(b, primitive, channels_last(x), window))]
    outputs = [b.new(dtype, shape) for dtype in (x.dtype, DType.INT64)]
    return [channels_first(view) for view in b.emit(primitive, [channels_last(x)], outputs)]


@operator("AveragePool")
def average_pool(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__AveragePool.html"""
    window = _pooling_window(node, x)
    counted = window.ends if node.integer("count_include_pad", 0) else None
    return channels_first(average(b, channels_last(x), window, counted))


@operator("LpPool")
def lp_pool(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__LpPool.html (``p`` was a float in version 1)

    The sum of a window is the average over all of its taps, inside of the input or not, times their number.
    """
    window = _pooling_window(node, x)
    p = node.float("p", 2.0)
    powers = b.map(expression(_power, (x.dtype,), p), channels_last(x))
    reach = [
        (output - 1) * stride + (taps - 1) * dilation + 1 - pad - extent
        for output, stride, taps, dilation, pad, extent in zip(
            window.outputs,
            window.strides,
            window.kernel,
            window.dilations,
            window.pads,
            x.shape[2:],
            strict=True,
        )
    ]
    means = average(b, powers, window, tuple(reach))
    taps = float(math.prod(window.kernel))
    return channels_first(b.map(expression(_norm_of_mean, (means.dtype,), taps, p, x.dtype), means))


def _power(v: Scalar, p: float) -> Scalar:
    return absolute_power(cast(v, wide(v.dtype)), p)


def _norm_of_mean(v: Scalar, count: float, p: float, dtype: DType) -> Scalar:
    return cast(root(v * count, p), dtype)


def _pooling_window(node: Node, x: View) -> Window:
    if x.rank < 3:
        raise ValueError("pooling needs an input of rank 3 at least")
    return window_of(node, x.shape[2:], node.integers("kernel_shape"))


def average(b: Builder, x: View, window: Window, counted: tuple[int, ...] | None) -> View:
    """The averages of the windows on ``x (N, *spatial, C)``; ``counted`` is ``Pool.count_padding``."""
    shape = (x.shape[0], *window.outputs, x.shape[-1])
    if len(window.kernel) > MOST_AXES and 0 not in shape:
        return pool_averages(b, x, window, counted)
    primitive = Pool("average", window.kernel, window.strides, window.dilations, window.pads, counted)
    return _pool(b, primitive, x, window)


def _pool(b: Builder, primitive: Pool, x: View, window: Window) -> View:
    """``x (N, *spatial, C)`` pooled, in the memory order of ``x`` if its rows or its channels adjoin.

    Rows that adjoin belong to planes, each of which is an image of one channel.
    """
    batch, channels = x.shape[0], x.shape[-1]
    planes = channels_first(x).reshape((batch * channels, *x.shape[1:-1])) if _rows_adjoin(x) else None
    if planes is None:
        result = b.new(x.dtype, (batch, *window.outputs, channels))
        return b.emit(primitive, [x], [result])[0]
    result = b.new(x.dtype, (batch * channels, *window.outputs, 1))
    pooled = b.emit(primitive, [planes.unsqueeze((planes.rank,))], [result])[0]
    return channels_last(b.reshape(pooled, (batch, channels, *window.outputs)))


def _rows_adjoin(x: View) -> bool:
    """Are elements along the last spatial axis of ``x (N, *spatial, C)`` neighbours, and channels not?"""
    return x.shape[-2] > 1 and x.strides[-2] == 1 and (x.shape[-1] == 1 or x.strides[-1] != 1)


@operator("GlobalAveragePool")
def global_average_pool(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__GlobalAveragePool.html"""
    return _global(b, x, float_expression(_mean, (x.dtype,), float(math.prod(x.shape[2:]))))


@operator("GlobalMaxPool")
def global_max_pool(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__GlobalMaxPool.html"""
    return _global(b, x, expression(_maximum, (x.dtype,)))


@operator("GlobalLpPool")
def global_lp_pool(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__GlobalLpPool.html (``p`` was a float in version 1)"""
    return _global(b, x, float_expression(_norm, (x.dtype,), node.float("p", 2.0)))


def _mean(v: Scalar, count: float) -> Scalar:
    return reduce("sum", v) / count


def _maximum(v: Scalar) -> Scalar:
    return reduce("max", v)


def _norm(v: Scalar, p: float) -> Scalar:
    return root(reduce("sum", absolute_power(v, p)), p)


def _global(b: Builder, x: View, body: Expression) -> View:
    if x.rank < 2:
        raise ValueError("pooling needs an input of rank 2 at least")
    if x.rank == 2:
        return b.compute(body, (x.unsqueeze((2,)),), (2,))[0].squeeze((2,))
    return b.compute(body, (x,), tuple(range(2, x.rank)))[0]


def absolute_power(value: Scalar, p: float) -> Scalar:
    """``|value| ** p``"""
    if p == 2:
        return value * value
    magnitude = apply("abs", value)
    return magnitude if p == 1 else apply("pow", magnitude, p)


def root(value: Scalar, p: float) -> Scalar:
    """``value ** (1 / p)``"""
    if p == 2:
        return apply("sqrt", value)
    return value if p == 1 else apply("pow", value, 1 / p)
