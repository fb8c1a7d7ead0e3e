"""Operators that are short compositions: reversed sequences, centred crops, affine grids, gates."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import float_map, integers, normal_axes, scalar_map, wide
from onnxplan.compiler.primitives import Gather
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, index, select
from onnxplan.compiler.view import View


@operator("ReverseSequence", since=10)
def reverse_sequence(b: Builder, node: Node, x: View, lengths: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__ReverseSequence.html: a gather along both axes made one."""
    batch, time = node.integer("batch_axis", 1), node.integer("time_axis", 0)
    if x.rank < 2 or sorted((batch, time)) != [0, 1]:
        raise ValueError(f"the axes {batch} and {time} of an input of rank {x.rank} are not 0 and 1")
    if lengths.shape != (x.shape[batch],):
        raise ValueError(f"lengths of shape {list(lengths.shape)} for {x.shape[batch]} sequences")
    if x.size == 0:
        return x
    rows = lengths.unsqueeze((1 - batch,)).expand(x.shape[:2])
    places = scalar_map(b, _mirrored, rows, parameters=(time, x.shape[1]))
    flat = b.reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:]))
    return b.emit(Gather(0), [flat, places], [b.new(x.dtype, x.shape)])[0]


def _mirrored(length: Scalar, time: int, columns: int) -> Scalar:
    count = cast(length, DType.INT64)
    step, other = index(length, time), index(length, 1 - time)
    place = select(step < count, count - 1 - step, step)
    return place * columns + other if time == 0 else other * columns + place


@operator("CenterCropPad", since=18)
def center_crop_pad(b: Builder, node: Node, x: View, shape: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__CenterCropPad.html"""
    axes = normal_axes(node.integers("axes", tuple(range(x.rank))), x.rank)
    extents = integers(b, shape)
    if len(extents) != len(axes) or min(extents, default=0) < 0:
        raise ValueError(f"the extents {list(extents)} for the axes {list(axes)}")
    for axis, extent in zip(axes, extents, strict=True):
        have = x.shape[axis]
        if extent <= have:
            x = x.slice(axis, (have - extent) // 2, extent)
            continue
        before = (extent - have) // 2
        borders = [(*x.shape[:axis], n, *x.shape[axis + 1 :]) for n in (before, extent - have - before)]
        zero = b.constant("" if x.dtype is DType.STRING else 0, x.dtype)
        x = b.concat([zero.expand(borders[0]), x, zero.expand(borders[1])], axis)
    return x


@operator("AffineGrid", since=20)
def affine_grid(b: Builder, node: Node, theta: View, size: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__AffineGrid.html

    The only point of an axis of extent 1 lies in its middle, with aligned corners too (as in PyTorch).
    """
    extents = integers(b, size)
    spatial = extents[2:]
    if len(spatial) not in (2, 3) or theta.shape != (extents[0], len(spatial), len(spatial) + 1):
        raise ValueError(f"matrices of shape {list(theta.shape)} for a size of {list(extents)}")
    aligned = bool(node.integer("align_corners", 0))
    grid = np.meshgrid(*(_coordinates(extent, aligned) for extent in spatial), indexing="ij")
    points = np.stack([*grid[::-1], np.ones(spatial)], -1).reshape(math.prod(spatial), -1)
    computed = wide(theta.dtype)
    matrix = b.cast(theta, computed).transpose((0, 2, 1))
    product = b.matmul(b.constant(points, computed).unsqueeze((0,)), matrix, theta.dtype)
    return b.reshape(product, (extents[0], *spatial, len(spatial)))


def _coordinates(extent: int, aligned: bool) -> npt.NDArray[np.float64]:
    if not aligned:
        return (2 * np.arange(extent) + 1) / extent - 1
    return np.linspace(-1, 1, extent) if extent > 1 else np.zeros(extent)


@operator("SwiGLU", since=28)
def gated_swish(b: Builder, node: Node, gate: View, value: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__SwiGLU.html"""
    if gate.shape != value.shape:
        raise ValueError(f"the shapes {list(gate.shape)} and {list(value.shape)} differ")
    return float_map(b, _gated, gate, value, parameters=(node.float("alpha", 1.0),))


def _gated(gate: Scalar, value: Scalar, alpha: float) -> Scalar:
    return gate * apply("sigmoid", gate * alpha) * value
