"""Col2Im: blocks added up to the image that they were cut from."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import values, wide
from onnxplan.compiler.ops.windows import spatial_attribute
from onnxplan.compiler.primitives import Gather, GatherReduce
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.registry import operator
from onnxplan.compiler.view import Shape, View

Positions = npt.NDArray[np.int64]


@operator("Col2Im", since=18)
def col2im(b: Builder, node: Node, x: View, image_shape: View, block_shape: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Col2Im.html

    Each element of the image gathers the elements of the blocks that lie on it. Booleans are joined by "or".
    """
    image, block = (
        tuple(int(item) for item in array.reshape(-1))
        for array in values(b, (image_shape, block_shape))
        if array is not None
    )
    if x.dtype.kind not in "fiub":
        raise TypeError(f"the input is {x.dtype}")
    if len(image) != len(block) or min((*image, *block), default=0) < 1:
        raise ValueError(f"image_shape is {list(image)}, block_shape {list(block)}")
    axes = _axes(node, image, block)
    blocks = tuple(axis.blocks for axis in axes)
    taps = math.prod(block)
    if x.rank != 3 or x.shape[1] % taps or x.shape[2] != math.prod(blocks):
        raise ValueError(
            f"an input of shape {list(x.shape)} for blocks of {list(block)} at {list(blocks)} positions"
        )
    batch, channels = x.shape[0], x.shape[1] // taps
    if batch * channels == 0:
        return b.constant(np.empty((batch, channels, *image), x.dtype.numpy))
    elements = taps * x.shape[2]
    if elements == 0:
        return b.constant(0, x.dtype).expand((batch, channels, *image))
    table = b.reshape(x, (batch, channels, elements)).transpose((2, 0, 1))
    result = _gather_sum(b, b.reshape(table, (elements, batch * channels)), _sources(axes))
    rank = len(image)
    return b.reshape(result, (*image, batch, channels)).transpose((rank, rank + 1, *range(rank)))


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of the image: tap ``k`` of block ``l`` lies on ``l * stride + k * dilation - pad``."""

    extent: int
    kernel: int
    stride: int
    dilation: int
    pad: int
    blocks: int

    def sources(self) -> tuple[Positions, Positions]:
        """Taps and blocks on each element, both ``(extent, most of any)``; -1 where there are fewer."""
        taps = np.arange(self.kernel)
        distance = np.arange(self.extent)[:, None] + self.pad - taps * self.dilation
        block = distance // self.stride
        found = (distance % self.stride == 0) & (block >= 0) & (block < self.blocks)
        most = max(int(found.sum(axis=1).max()), 1)
        order = np.argsort(~found, axis=1, kind="stable")[:, :most]
        chosen = np.take_along_axis(found, order, 1)
        return np.where(chosen, order, -1), np.where(chosen, np.take_along_axis(block, order, 1), -1)


def _axes(node: Node, image: Shape, block: Shape) -> list[_Axis]:
    rank = len(image)
    pads = spatial_attribute(node, "pads", 2 * rank, 0)
    strides = spatial_attribute(node, "strides", rank, 1)
    dilations = spatial_attribute(node, "dilations", rank, 1)
    if min((*strides, *dilations)) < 1:
        raise ValueError("strides and dilations must be positive")
    axes = []
    for axis, (extent, kernel, stride, dilation) in enumerate(
        zip(image, block, strides, dilations, strict=True)
    ):
        room = extent + pads[axis] + pads[rank + axis] - dilation * (kernel - 1) - 1
        axes.append(_Axis(extent, kernel, stride, dilation, pads[axis], max(room // stride + 1, 0)))
    return axes


def _sources(axes: list[_Axis]) -> Positions:
    """What of the flattened blocks ``(*kernel, *blocks)`` lies on each element of the image, -1 for none."""
    rank = len(axes)
    taps = blocks = np.zeros((1,) * (2 * rank), np.int64)
    outside = np.zeros((1,) * (2 * rank), np.bool_)
    for number, axis in enumerate(axes):
        shape = [1] * (2 * rank)
        tap, block = axis.sources()
        shape[number], shape[rank + number] = tap.shape
        taps = taps * axis.kernel + tap.reshape(shape)
        blocks = blocks * axis.blocks + block.reshape(shape)
        outside = outside | (tap < 0).reshape(shape)
    sources = np.where(outside, -1, taps * math.prod(axis.blocks for axis in axes) + blocks)
    return sources.reshape(math.prod(axis.extent for axis in axes), -1)


def _gather_sum(b: Builder, table: View, sources: Positions) -> View:
    """The sums of the rows of ``table (P, C)`` that ``sources (M, T)`` name; ``(M, C)``."""
    rows, columns = sources.shape[0], table.shape[1]
    if table.dtype.is_float:
        weights = b.constant(1, wide(table.dtype)).expand(sources.shape)
        inputs = [table, b.constant(sources), weights]
        return b.emit(GatherReduce(), inputs, [b.new(table.dtype, (rows, columns))])[0]
    # A row of zeros, at the end, for what is left out.
    padded = b.concat([table, b.constant(0, table.dtype).expand((1, columns))], 0)
    places = b.constant(np.where(sources < 0, table.shape[0], sources))
    found = b.emit(Gather(0), [padded, places], [b.new(table.dtype, (*sources.shape, columns))])[0]
    return b.reduce("max" if table.dtype is DType.BOOL else "sum", found, (1,), keepdims=False)
