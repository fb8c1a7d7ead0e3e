"""Operators that move elements: views wherever strides can express the result."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxplan.compiler.arrangement import broadcast_shapes
from onnxplan.compiler.builder import Builder
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import (
    attribute_or_input,
    integer,
    integers,
    normal_axes,
    normal_axis,
    values,
)
from onnxplan.compiler.registry import operator
from onnxplan.compiler.view import Shape, View

# Shapes


@operator("Reshape")
def reshape_by_attribute(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Reshape.html, version 1"""
    return b.reshape(x, _target_shape(x.shape, node.integers("shape", ()), allow_zero=False))


@operator("Reshape", since=5)
def reshape(b: Builder, node: Node, x: View, shape: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Reshape.html"""
    allow_zero = bool(node.integer("allowzero", 0))
    return b.reshape(x, _target_shape(x.shape, integers(b, shape), allow_zero=allow_zero))


def _target_shape(shape: Shape, wanted: Shape, *, allow_zero: bool) -> Shape:
    """``wanted`` with 0 (unless ``allow_zero``) taken from ``shape`` and -1 from the number of elements."""
    result = list(wanted)
    for axis, extent in enumerate(wanted):
        if extent == 0 and not allow_zero:
            if axis >= len(shape):
                raise ValueError(f"the shape {list(wanted)} keeps axis {axis}, which the input does not have")
            result[axis] = shape[axis]
        elif extent < -1:
            raise ValueError(f"the shape {list(wanted)} has a negative extent")
    if result.count(-1) > 1:
        raise ValueError(f"the shape {list(wanted)} has more than one -1")
    if -1 in result:
        known = -math.prod(result)
        size = math.prod(shape)
        if known == 0 or size % known:
            raise ValueError(f"{size} elements do not fit the shape {list(wanted)}")
        result[result.index(-1)] = size // known
    return tuple(result)


@operator("Flatten")
def flatten(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Flatten.html"""
    axis = node.integer("axis", 1)
    if axis != x.rank:
        axis = normal_axis(axis, x.rank)
    return b.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@operator("Squeeze")
def squeeze(b: Builder, node: Node, x: View, axes: View | None = None) -> View:
    """https://onnx.ai/onnx/operators/onnx__Squeeze.html"""
    chosen = attribute_or_input(b, node, "axes", axes)
    if chosen is None:
        return x.squeeze(tuple(axis for axis, extent in enumerate(x.shape) if extent == 1))
    positions = normal_axes(chosen, x.rank)
    if any(x.shape[axis] != 1 for axis in positions):
        raise ValueError(f"axes {list(chosen)} are not all of extent 1")
    return x.squeeze(positions)


@operator("Unsqueeze")
def unsqueeze(b: Builder, node: Node, x: View, axes: View | None = None) -> View:
    """https://onnx.ai/onnx/operators/onnx__Unsqueeze.html"""
    chosen = attribute_or_input(b, node, "axes", axes)
    if chosen is None:
        raise ValueError("the axes are missing")
    return x.unsqueeze(normal_axes(chosen, x.rank + len(chosen)))


@operator("Expand", since=8)
def expand(b: Builder, node: Node, x: View, shape: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Expand.html"""
    wanted = integers(b, shape)
    return x.expand(broadcast_shapes([x.shape, wanted]))


@operator("Tile")
def tile_axis(b: Builder, node: Node, x: View, tiles: View, axis: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Tile.html, version 1"""
    repeats = [1] * x.rank
    repeats[normal_axis(integer(b, axis), x.rank)] = integer(b, tiles)
    return _tile(b, x, repeats)


@operator("Tile", since=6)
def tile(b: Builder, node: Node, x: View, repeats: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Tile.html"""
    return _tile(b, x, integers(b, repeats))


def _tile(b: Builder, x: View, repeats: Sequence[int]) -> View:
    if len(repeats) != x.rank:
        raise ValueError(f"{len(repeats)} repeats for rank {x.rank}")
    tiles = x.unsqueeze(tuple(range(0, 2 * x.rank, 2)))
    pairs = tuple(extent for pair in zip(repeats, x.shape, strict=True) for extent in pair)
    shape = tuple(count * extent for count, extent in zip(repeats, x.shape, strict=True))
    return b.reshape(tiles.expand(pairs), shape)


# Orders


@operator("Transpose")
def transpose(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Transpose.html"""
    permutation = node.integers("perm", tuple(reversed(range(x.rank))))
    if len(permutation) != x.rank:
        raise ValueError(f"the permutation {list(permutation)} does not fit rank {x.rank}")
    return x.transpose(normal_axes(permutation, x.rank))


@operator("DepthToSpace")
def depth_to_space(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__DepthToSpace.html"""
    block = node.integer("blocksize")
    batch, channels, height, width = _image_shape(x)
    depth, rest = divmod(channels, block * block)
    if rest:
        raise ValueError(f"{channels} channels are no multiple of {block} * {block}")
    if _is_depth_first(node):
        blocks = b.reshape(x, (batch, block, block, depth, height, width)).transpose((0, 3, 4, 1, 5, 2))
    else:
        blocks = b.reshape(x, (batch, depth, block, block, height, width)).transpose((0, 1, 4, 2, 5, 3))
    return b.reshape(blocks, (batch, depth, height * block, width * block))


@operator("SpaceToDepth")
def space_to_depth(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__SpaceToDepth.html"""
    block = node.integer("blocksize")
    batch, channels, height, width = _image_shape(x)
    if height % block or width % block:
        raise ValueError(f"height {height} and width {width} are no multiples of {block}")
    blocks = b.reshape(x, (batch, channels, height // block, block, width // block, block))
    order = (0, 3, 5, 1, 2, 4) if _is_depth_first(node) else (0, 1, 3, 5, 2, 4)
    shape = (batch, channels * block * block, height // block, width // block)
    return b.reshape(blocks.transpose(order), shape)


def _image_shape(x: View) -> tuple[int, int, int, int]:
    if x.rank != 4:
        raise ValueError(f"an input of rank 4 is expected, not {x.rank}")
    batch, channels, height, width = x.shape
    return batch, channels, height, width


def _is_depth_first(node: Node) -> bool:
    mode = node.string("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise ValueError(f"mode {mode!r} is neither DCR nor CRD")
    return mode == "DCR"


# Parts


@operator("Concat")
def concat_channels(b: Builder, node: Node, *parts: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Concat.html, version 1: the axis defaults to 1."""
    return concat_views(b, parts, node.integer("axis", 1))


@operator("Concat", since=4)
def concat(b: Builder, node: Node, *parts: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Concat.html"""
    return concat_views(b, parts, node.integer("axis"))


def concat_views(b: Builder, parts: Sequence[View], axis: int) -> View:
    """The views one after the other, checked.

    As in onnxruntime, those of extent 0 along the axis may have other extents, if there are any of more.
    """
    if not parts:
        raise ValueError("there is nothing to concatenate")
    if any(part.dtype is not parts[0].dtype for part in parts):
        raise TypeError("the element types differ")
    position = normal_axis(axis, parts[0].rank)
    if all(part.rank == parts[0].rank for part in parts):
        parts = [part for part in parts if part.shape[position]] or parts
    frames = {part.shape[:position] + part.shape[position + 1 :] for part in parts}
    if len(frames) > 1 or any(part.rank != parts[0].rank for part in parts):
        shapes = ", ".join(str(list(part.shape)) for part in parts)
        raise ValueError(f"the shapes {shapes} differ not only along axis {position}")
    return b.concat(parts, position)


@operator("Split")
def split_by_attribute(b: Builder, node: Node, x: View, lengths: View | None = None) -> Sequence[View]:
    """https://onnx.ai/onnx/operators/onnx__Split.html before version 13"""
    axis = normal_axis(node.integer("axis", 0), x.rank)
    given = attribute_or_input(b, node, "split", lengths)
    return _split(x, axis, given or _equal_lengths(x.shape[axis], len(node.outputs)))


@operator("Split", since=13)
def split(b: Builder, node: Node, x: View, lengths: View | None = None) -> Sequence[View]:
    """https://onnx.ai/onnx/operators/onnx__Split.html, versions 13 and 18"""
    axis = normal_axis(node.integer("axis", 0), x.rank)
    if lengths is not None:
        return _split(x, axis, integers(b, lengths))
    if "num_outputs" not in node.attributes:
        return _split(x, axis, _equal_lengths(x.shape[axis], len(node.outputs)))
    count = node.integer("num_outputs")
    if count < 1:
        raise ValueError(f"num_outputs is {count}")
    length = -(-x.shape[axis] // count)
    rest = x.shape[axis] - length * (count - 1)
    if rest < 0:
        raise ValueError(f"{x.shape[axis]} elements cannot be split into {count} parts of {length}")
    return _split(x, axis, (length,) * (count - 1) + (rest,))


def _equal_lengths(extent: int, count: int) -> Shape:
    if extent % count:
        raise ValueError(f"{extent} elements cannot be split into {count} equal parts")
    return (extent // count,) * count


def _split(x: View, axis: int, lengths: Sequence[int]) -> Sequence[View]:
    if sum(lengths) != x.shape[axis] or min(lengths, default=0) < 0:
        raise ValueError(f"the lengths {list(lengths)} do not add up to {x.shape[axis]}")
    parts = []
    start = 0
    for length in lengths:
        parts.append(x.slice(axis, start, length))
        start += length
    return parts


@operator("Slice")
def slice_by_attributes(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__Slice.html, version 1"""
    starts, ends = node.integers("starts"), node.integers("ends")
    return _slice(x, starts, ends, node.integers("axes", tuple(range(len(starts)))), (1,) * len(starts))


@operator("Slice", since=10)
def slice_(
    b: Builder,
    node: Node,
    x: View,
    starts: View,
    ends: View,
    axes: View | None = None,
    steps: View | None = None,
) -> View:
    """https://onnx.ai/onnx/operators/onnx__Slice.html"""
    known = [
        None if array is None else [int(item) for item in array.reshape(-1).tolist()]
        for array in values(b, (starts, ends, axes, steps))
    ]
    first, last = known[0], known[1]
    assert first is not None
    assert last is not None
    chosen = known[2] if known[2] is not None else range(len(first))
    return _slice(x, first, last, chosen, known[3] if known[3] is not None else (1,) * len(first))


def _slice(
    x: View, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
) -> View:
    positions = normal_axes(axes, x.rank)
    counts = [len(items) for items in (starts, ends, axes, steps)]
    if len(set(counts)) > 1:
        raise ValueError("there are {} starts, {} ends, {} axes and {} steps".format(*counts))
    if 0 in steps:
        raise ValueError("a step is 0")
    for start, end, axis, step in zip(starts, ends, positions, steps, strict=True):
        taken = range(*slice(start, end, step).indices(x.shape[axis]))
        # The stride of a single element never matters, and a huge step would not fit one.
        x = x.slice(axis, taken.start, len(taken), step if len(taken) > 1 else 1)
    return x
