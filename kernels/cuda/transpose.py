"""Copies that exchange the innermost axes, through tiles in shared memory: selection and code.

Threads move 16 bytes at a time where rows of both tensors may be cut into such groups, else single elements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cuda.groups import declare_groups
from onnxplan.kernels.cuda.indexing import axis_words, declare_axes, index_type, offsets
from onnxplan.kernels.cuda.source import KernelSource, KernelText, check_words
from onnxplan.kernels.geometry import Axis, ceil_div, pad_axes, unique_bytes

# Rows and columns of a tile, and the threads that move one.
TILE, LARGE_TILE = 32, 64
THREADS = 256
# Groups side by side that a warp moves: 128 bytes of four rows, which lie in different banks of the tile.
SPAN = 8
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
    group, side = _group(element, rows, columns, outer), TILE
    if group and element.itemsize <= 4 and min(columns.extent, rows.extent) >= LARGE_TILE:
        side = LARGE_TILE
    threads = min(THREADS, side * side // max(group, 1))
    row_tiles, column_tiles = ceil_div(rows.extent, side), ceil_div(columns.extent, side)
    count = math.prod(axis.extent for axis in outer)
    tiles = count * row_tiles * column_tiles
    index = index_type(tiles, axes)
    parameters = (
        row_tiles, column_tiles, rows.extent, columns.extent, rows.strides[0], columns.strides[1],
        *axis_words(outer),
    )  # fmt: skip
    check_words(2, len(parameters))
    emit.step(
        KernelSpec("transpose", (threads, element.label, len(outer), index, side, group)),
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


def _group(element: DType, rows: Axis, columns: Axis, outer: Sequence[Axis]) -> int:
    """Elements that fill 16 bytes (of single bytes 8), or 0 where rows of a tensor are not cut into them."""
    group = min(16 // element.itemsize, 8)
    strides = [rows.strides[0], columns.strides[1], *(step for axis in outer for step in axis.strides)]
    return 0 if any(step % group for step in strides) else group


def build_transpose(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, label, rank of the outer axes, index type, side of a tile, group)``.

    Operands: source, result. Parameters: tiles along rows and columns, the extents of both, the source's
    distance of neighbouring rows and the result's of neighbouring columns, the outer axes. Columns adjoin in
    the source, rows in the result.
    """
    threads, label, rank, index, side, group = variant
    dtype = DType.from_label(label)
    kernel = KernelText(threads)
    kernel.operand("source", dtype, alone=True)
    kernel.operand("result", dtype, written=True, alone=True)
    for name in ("row_tiles", "column_tiles", "rows", "columns", "source_step", "result_step"):
        kernel.parameter(name, index)
    declare_axes(kernel, "outer", rank, 2, index)
    element = f"unsigned {_CARRIED[dtype.itemsize]}"
    # Rows of the tile begin in neighbouring banks of four bytes.
    kernel.line(
        f"__shared__ {element} tile[{side}][{side + max(4 // dtype.itemsize, 1)}];",
        f"const {index} tile_row = ({index})blockIdx.x / column_tiles;",
        f"const {index} column = (({index})blockIdx.x - tile_row * column_tiles) * {side};",
        f"const {index} number = tile_row / row_tiles, row = (tile_row - number * row_tiles) * {side};",
        *offsets("outer", rank, range(2), index, "number", "at"),
    )
    if group:
        declare_groups(kernel, group)
        kernel.line(*_move_groups(element, index, side, group, threads))
    else:
        kernel.line(*_move_elements(side, threads // side))
    return kernel.source("transpose")


def _move_elements(side: int, step: int) -> list[str]:
    return [
        f"const int lane = (int)(threadIdx.x % {side}u), first = (int)(threadIdx.x / {side}u);",
        "#pragma unroll",
        f"for (int other = first; other < {side}; other += {step})",
        "    if (row + other < rows && column + lane < columns)",
        "        tile[other][lane] = source[at0 + (row + other) * source_step + column + lane];",
        "__syncthreads();",
        "#pragma unroll",
        f"for (int other = first; other < {side}; other += {step})",
        "    if (column + other < columns && row + lane < rows)",
        "        result[at1 + (column + other) * result_step + row + lane] = tile[lane][other];",
    ]


def _move_groups(element: str, index: str, side: int, group: int, threads: int) -> list[str]:
    """All groups of a thread are read before the first is needed."""
    span, rounds = min(SPAN, side // group), side * side // (threads * group)
    place = [
        f"const int place = (int)threadIdx.x + round * {threads};",
        f"const int other = place / {span} % {side};",
        f"const int lane = (place / {span * side} * {span} + place % {span}) * {group};",
    ]
    return [
        f"const {element}* const from = (const {element}*)(source + at0);",
        f"{element}* const to = ({element}*)(result + at1);",
        "const bool reads_groups = onnxplan_is_aligned(from), writes_groups = onnxplan_is_aligned(to);",
        f"{element} items[{rounds}][{group}];",
        "#pragma unroll",
        f"for (int round = 0; round < {rounds}; ++round) {{",
        *place,
        f"const {index} left = columns - column - lane;",
        "if (row + other < rows && left > 0)",
        "    onnxplan_read(items[round], from + (row + other) * source_step + column + lane, reads_groups,",
        f"        left < {group} ? (int)left : {group});",
        "}",
        "#pragma unroll",
        f"for (int round = 0; round < {rounds}; ++round) {{",
        *place,
        "#pragma unroll",
        f"for (int item = 0; item < {group}; ++item)",
        "    if (row + other < rows && column + lane + item < columns)",
        "        tile[other][lane + item] = items[round][item];",
        "}",
        "__syncthreads();",
        "#pragma unroll",
        f"for (int round = 0; round < {rounds}; ++round) {{",
        *place,
        f"const {index} left = rows - row - lane;",
        "if (column + other >= columns || left <= 0) continue;",
        f"const int count = left < {group} ? (int)left : {group};",
        "#pragma unroll",
        f"for (int item = 0; item < {group}; ++item)",
        "    if (item < count) items[0][item] = tile[lane + item][other];",
        "onnxplan_write(to + (column + other) * result_step + row + lane, items[0], writes_groups, count);",
        "}",
    ]


_CARRIED = {1: "char", 2: "short", 4: "int", 8: "long long"}
