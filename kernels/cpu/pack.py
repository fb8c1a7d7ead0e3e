"""Panels: the layout of a matrix product's right operand.

A matrix of ``depth x columns`` becomes ``[panel][depth][width]``: each panel holds ``width`` neighbouring
columns row by row, the last one filled up with zeros. For products of quads of bytes it becomes
``[panel][depth / 4][width][4]``, the last quads filled up with zeros. Constants are packed once, others by a
step.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.blocks import empty_block
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.view import View, normal_strides
from onnxplan.kernels.cpu.tiling import RegisterTile, ceil_div, round_up

FAMILY = "pack"


def panel_count(columns: int, tile: RegisterTile) -> int:
    return ceil_div(columns, tile.width)


def pack_array(matrices: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
    """Packs ``(..., depth, columns)`` into a flat array of ``(..., panel, depth, width)``."""
    *outer, depth, columns = matrices.shape
    panels = ceil_div(columns, width)
    packed = empty_block(math.prod((*outer, panels, depth, width)), matrices.dtype)
    by_panel = packed.reshape(*outer, panels, depth, width)
    for panel in range(panels):
        part = matrices[..., panel * width : (panel + 1) * width]
        by_panel[..., panel, :, : part.shape[-1]] = part
    by_panel[..., -1:, :, columns - (panels - 1) * width :] = 0
    return packed


def pack_quads(matrices: npt.NDArray[Any], width: int, unit: int = 1) -> npt.NDArray[Any]:
    """Packs bytes ``(..., depth, columns)`` into a flat array of ``(..., panel, depth / 4, width, 4)``.

    The depth is filled up with zeros to a multiple of ``unit`` quads.
    """
    *outer, depth, columns = matrices.shape
    panels, rows = ceil_div(columns, width), round_up(ceil_div(depth, 4), unit)
    packed = empty_block(math.prod((*outer, panels, rows, width, 4)), matrices.dtype)
    by_panel = packed.reshape(*outer, panels, rows, width, 4)
    block = np.zeros((*outer, 4 * rows, width), matrices.dtype)
    for panel in range(panels):
        part = matrices[..., panel * width : (panel + 1) * width]
        block[..., :depth, : part.shape[-1]] = part
        block[..., part.shape[-1] :] = 0
        by_panel[..., panel, :, :, :] = block.reshape(*outer, rows, 4, width).swapaxes(-1, -2)
    return packed


def access_kind(depth_stride: int, column_stride: int, columns: int) -> str:
    """``rows``: columns are neighbours; ``columns``: the depth's elements are; ``strided``: neither."""
    if column_stride == 1 or columns == 1:
        return "rows"
    return "columns" if depth_stride == 1 else "strided"


def packed_depth(depth: int, element: int, unit: int) -> int:
    """Elements of the product, ``element`` of B each, that a column has place for after :func:`pack`."""
    return round_up(ceil_div(depth, element), unit)


def pack(
    emit: StepEmitter,
    matrices: View,
    tile: RegisterTile,
    depth_axes: int = 1,
    *,
    quads: bool = False,
    unit: int = 1,
) -> View:
    """The packed form of ``matrices (*outer, *depth, columns)`` as a flat view.

    The last ``depth_axes`` axes before the columns are the depth, outermost first, and only one for ``quads``
    that are not constant. Outer axes must have no stride 0. The result is ``(*outer, panel, depth, width)``
    of the same element type, with ``quads`` ``(*outer, panel, depth / 4, width, 4)``; there the depth takes
    the place of a multiple of ``unit`` quads.
    """
    outer = matrices.rank - 1 - depth_axes
    depth = math.prod(matrices.shape[outer:-1])
    columns = matrices.shape[-1]
    panels = panel_count(columns, tile)
    element = 4 if quads else 1
    rows = packed_depth(depth, element, unit)
    size = math.prod(matrices.shape[:outer]) * panels * rows * tile.width * element
    if matrices.is_constant:

        def make(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            array = array.reshape(*array.shape[:outer], depth, columns)
            return pack_quads(array, tile.width, unit) if quads else pack_array(array, tile.width)

        layout = f"quads{unit}x{tile.width}" if quads else f"panels{tile.width}"
        packed = emit.constant((matrices,), f"{layout} outer{outer}", make)
        return View.dense(packed, (size,))
    packed = emit.temporary(matrices.dtype, size, "packed")
    result = View.dense(packed, (size,))
    if size == 0:
        return result
    itemsize = matrices.dtype.itemsize
    row = tile.width * itemsize * element
    axes: list[tuple[int, int, int]] = []
    step = panels * rows * row
    for axis in reversed(range(outer)):
        axes.insert(0, (matrices.shape[axis], matrices.strides[axis], step))
        step *= matrices.shape[axis]
    step = matrices.shape[-2] * row
    for axis in reversed(range(outer, matrices.rank - 2)):
        axes.append((matrices.shape[axis], matrices.strides[axis], step))
        step *= matrices.shape[axis]
    axes = [axis for axis in axes if axis[0] != 1]
    units = math.prod(extent for extent, _, _ in axes) * panels
    unit_bytes = ceil_div(matrices.shape[-2], element) * row
    per_tile = max(1, min(ceil_div(units, 16), ceil_div(1 << 16, unit_bytes)))
    strides = normal_strides(matrices.shape, matrices.strides)
    kind = access_kind(matrices.strides[-2], matrices.strides[-1], columns)
    if quads:
        kind = f"quads_{kind}"
    parameters = [units, per_tile, panels, columns, matrices.shape[-2]]
    parameters += [strides[-2] * itemsize, strides[-1] * itemsize, rows * row, len(axes)]
    for extent, stride, moved in axes:
        parameters += [extent, stride * itemsize, moved]
    emit.step(
        KernelSpec(FAMILY, (itemsize, tile.lanes, tile.vectors, kind)),
        (matrices, result),
        (1,),
        tuple(parameters),
        tiles=ceil_div(units, per_tile),
        flops=0,
        bytes_moved=2 * size * itemsize,
    )
    return result
