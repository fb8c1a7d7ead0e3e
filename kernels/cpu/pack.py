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
from onnxplan.compiler.dtypes import DType
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


def pack_groups(
    matrices: npt.NDArray[Any], width: int, element: int, unit: int, dtype: DType
) -> npt.NDArray[Any]:
    """Packs ``(..., depth, columns)`` into a flat array of ``(..., panel, depth / element, width, element)``.

    Elements are rounded to ``dtype``; the depth is filled up with zeros to a multiple of ``unit`` groups.
    """
    *outer, depth, columns = matrices.shape
    panels, rows = ceil_div(columns, width), round_up(ceil_div(depth, element), unit)
    packed = empty_block(math.prod((*outer, panels, rows, width, element)), dtype.numpy)
    by_panel = packed.reshape(*outer, panels, rows, width, element)
    block = np.zeros((*outer, element * rows, width), dtype.numpy)
    for panel in range(panels):
        part = matrices[..., panel * width : (panel + 1) * width]
        block[..., :depth, : part.shape[-1]] = part
        block[..., part.shape[-1] :] = 0
        by_panel[..., panel, :, :, :] = block.reshape(*outer, rows, element, width).swapaxes(-1, -2)
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
    element: int = 1,
    unit: int = 1,
    dtype: DType | None = None,
) -> View:
    """The packed form of ``matrices (*outer, *depth, columns)`` as a flat view.

    The last ``depth_axes`` axes before the columns are the depth, outermost first, and only one for quads
    that are not constant. Outer axes must have no stride 0. The result is ``(*outer, panel, depth, width)``,
    or with groups of ``element`` elements ``(*outer, panel, depth / element, width, element)``; there the
    depth takes the place of a multiple of ``unit`` groups. Constants are rounded to ``dtype``; what is not
    constant keeps its type and has no groups but quads.
    """
    outer = matrices.rank - 1 - depth_axes
    depth = math.prod(matrices.shape[outer:-1])
    columns = matrices.shape[-1]
    panels = panel_count(columns, tile)
    rows = packed_depth(depth, element, unit)
    size = math.prod(matrices.shape[:outer]) * panels * rows * tile.width * element
    if matrices.is_constant:

        def make(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
            array = array.reshape(*array.shape[:outer], depth, columns)
            if element == 1:
                return pack_array(array, tile.width)
            return pack_groups(array, tile.width, element, unit, stored)

        stored = dtype or matrices.dtype
        groups = f"groups{element}x{unit}x{tile.width} {stored.label}"
        layout = f"panels{tile.width}" if element == 1 else groups
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
    if element > 1:
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
