"""Copies that exchange the innermost axes, through tiles in shared memory: selection and code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cuda.indexing import axis_words, declare_axes, index_type, offsets
from onnxplan.kernels.cuda.source import KernelSource, KernelText, check_words
from onnxplan.kernels.geometry import Axis, ceil_div, pad_axes, unique_bytes

# Rows and columns of a tile, and the threads that move one.
TILE = 32
THREADS = 256
# Along shorter axes a tile would be mostly empty.
SHORTEST = 8


def select_transpose(
    axes: Sequence[Axis], source: View, result: View, element: DType, emit: StepEmitter
) -> bool:
    """Emits the step of a copy if elements that adjoin in ``source`` and in ``result`` do along other axes.

    ``axes`` have the strides of both, in units of ``element``. Returns whether there is such a step.
    """
    writing = _adjoining(axes, 1)
    reading = _adjoining(axes, 0)
    if reading is None or writing is None or reading == writing:
        return False
    columns, rows = axes[reading], axes[writing]
    if rows.strides[0] == 0 or min(columns.extent, rows.extent) < SHORTEST:
        return False
    outer = pad_axes([axis for number, axis in enumerate(axes) if number not in (reading, writing)], 2)
    row_tiles, column_tiles = ceil_div(rows.extent, TILE), ceil_div(columns.extent, TILE)
    count = math.prod(axis.extent for axis in outer)
    tiles = count * row_tiles * column_tiles
    index = index_type(tiles, axes)
    parameters = (
        row_tiles, column_tiles, rows.extent, columns.extent, rows.strides[0], columns.strides[1],
        *axis_words(outer),
    )  # fmt: skip
    check_words(2, len(parameters))
    emit.step(
        KernelSpec("transpose", (THREADS, element.label, len(outer), index)),
        (source, result),
        (1,),
        parameters,
        tiles=tiles,
        flops=0,
        bytes_moved=unique_bytes(source) + unique_bytes(result),
    )
    return True


def _adjoining(axes: Sequence[Axis], operand: int) -> int | None:
    """The axis along which elements of an operand are neighbours in memory."""
    return next((number for number, axis in enumerate(axes) if axis.strides[operand] == 1), None)


def build_transpose(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, label, rank of the outer axes, index type)``.

    Operands: source, result. Parameters: tiles along rows and columns, the extents of both, the source's
    distance of neighbouring rows and the result's of neighbouring columns, the outer axes. Columns adjoin in
    the source, rows in the result.
    """
    threads, label, rank, index = variant
    dtype = DType.from_label(label)
    kernel = KernelText(threads)
    kernel.operand("source", dtype, alone=True)
    kernel.operand("result", dtype, written=True, alone=True)
    for name in ("row_tiles", "column_tiles", "rows", "columns", "source_step", "result_step"):
        kernel.parameter(name, index)
    declare_axes(kernel, "outer", rank, 2, index)
    element, step = f"unsigned {_CARRIED[dtype.itemsize]}", threads // TILE
    kernel.line(
        f"__shared__ {element} tile[{TILE}][{TILE + 1}];",
        f"const {index} tile_row = ({index})blockIdx.x / column_tiles;",
        f"const {index} column = (({index})blockIdx.x - tile_row * column_tiles) * {TILE};",
        f"const {index} number = tile_row / row_tiles, row = (tile_row - number * row_tiles) * {TILE};",
        *offsets("outer", rank, range(2), index, "number", "at"),
        f"const int lane = (int)(threadIdx.x % {TILE}u), first = (int)(threadIdx.x / {TILE}u);",
        "#pragma unroll",
        f"for (int other = first; other < {TILE}; other += {step})",
        "    if (row + other < rows && column + lane < columns)",
        "        tile[other][lane] = source[at0 + (row + other) * source_step + column + lane];",
        "__syncthreads();",
        "#pragma unroll",
        f"for (int other = first; other < {TILE}; other += {step})",
        "    if (column + other < columns && row + lane < rows)",
        "        result[at1 + (column + other) * result_step + row + lane] = tile[lane][other];",
    )
    return kernel.source("transpose")


_CARRIED = {1: "char", 2: "short", 4: "int", 8: "long long"}
