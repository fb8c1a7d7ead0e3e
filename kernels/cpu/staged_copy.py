"""Copies into large results whose rows are short: parts of many rows, which adjoin, are put together in a
thread's scratch and then written past the caches as one.

Written one by one, short rows would leave lines of the result in two parts, or read all of them before.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.streaming import LEAST_ROW_BYTES, beyond_caches, has_streams
from onnxplan.kernels.cpu.walk import walk_parameters
from onnxplan.kernels.geometry import Axis, ceil_div, pad_axes, unique_bytes

ROWS_STAGE_BYTES, BLOCKS_STAGE_BYTES = 4096, 16384
"""What is put together at once: few pages of the source at a time, or whole blocks within the first cache."""
# As many rows or more are transposed at once, since each is an element of as many lines of the source.
LEAST_BLOCK_ROWS = 64
BLOCK = 16


def select_staged(
    axes: Sequence[Axis], views: Sequence[View], dtype: DType, emit: StepEmitter, target: Target
) -> bool:
    """Emits the step of a copy along ``axes`` (strides of source and result) if it is one of these."""
    if not has_streams(target) or not beyond_caches(views[1]) or len(axes) < 2:
        return False
    inner, size = axes[-1], dtype.itemsize
    row = inner.extent * size
    if inner.strides == (1, 1):
        form, stacked = "rows", axes[-2]
        fits = target.vector_bytes <= row < LEAST_ROW_BYTES
        most = ROWS_STAGE_BYTES // row if fits else 0
        step = stacked.strides[0]
    else:
        found = next((axis for axis in axes[:-1] if axis.strides[0] == 1), None)
        if found is None or inner.strides[0] == 0:
            return False
        form, stacked = "blocks", found
        fits = row < LEAST_ROW_BYTES and min(inner.extent, stacked.extent) >= BLOCK
        most = max(BLOCKS_STAGE_BYTES // row, LEAST_BLOCK_ROWS) // BLOCK * BLOCK
        step = inner.strides[0]
    if not fits or inner.strides[1] != 1 or stacked.strides[1] != inner.extent:
        return False
    most = min(most, stacked.extent)
    # The third operand is the number of the first row.
    outer = [Axis(axis.extent, (*axis.strides, 0)) for axis in axes[:-1] if axis is not stacked]
    stages = ceil_div(stacked.extent, most)
    outer.append(Axis(stages, (*(stride * most for stride in stacked.strides), most)))
    # In the order of the source, as the processor fetches ahead what is read, and only within a page.
    outer.sort(key=lambda axis: -axis.strides[0])
    padded = pad_axes(outer, 3)
    parameters, tiles = walk_parameters(padded, [size, size, 1], 1, 2 * most * row)
    emit.step(
        KernelSpec("staged_copy", (form, dtype.label, len(padded))),
        tuple(views),
        (1,),
        (*parameters, stacked.extent, most, inner.extent, step * size),
        tiles=tiles,
        flops=0,
        bytes_moved=sum(map(unique_bytes, views)),
        scratch=most * row,
    )
    return True
