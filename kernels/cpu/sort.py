"""Selects kernels for Sort: rows sorted in scratch memory."""

from __future__ import annotations

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Sort
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.axes import (
    Axis,
    compute_itemsize,
    lane_count,
    merged,
    positions,
    units_per_tile,
    words,
)

FAMILY = "sort"

# Positions are kept in 32 bits next to keys of up to 32.
LONGEST = (1 << 32) - 1

# Where less than this part of the elements is wanted, a heap of those so far skips most others.
HEAP_PART = 4


def entry_bytes(dtype: DType) -> int:
    """Bytes of an element while it is sorted: its key and its position in one integer."""
    return 8 if compute_itemsize(dtype) <= 4 else 16


def select_sort(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a Sort of any type but strings and complex numbers."""
    primitive = operation.primitive
    assert isinstance(primitive, Sort)
    x, values, order = operation.inputs[0], *operation.outputs
    dtype, axis = x.dtype, primitive.axis
    extent, kept = x.shape[axis], values.shape[axis]
    if dtype.kind not in "fiub" or extent > LONGEST:
        raise NotImplementedError(f"no CPU kernel for sort of {extent} elements of {dtype}")
    if values.size == 0:
        return
    sizes = (dtype.itemsize, dtype.itemsize, 8)
    steps = [
        tuple(view.strides[number] * size for view, size in zip((x, values, order), sizes, strict=True))
        for number in range(x.rank)
    ]
    rows = merged(Axis(x.shape[number], steps[number]) for number in range(x.rank) if number != axis)
    heap = kept * HEAP_PART <= extent
    entries = kept if heap else extent
    units = positions(rows)
    # A heap is asked about a vector of elements at a time, which must not be longer than the row.
    lanes = lane_count(target, entry_bytes(dtype) // 2, (extent + 1) // 2) if heap else 1
    effort = extent + entries * 2 * max(entries.bit_length(), 1)
    per_tile = units_per_tile(units, 8 * effort)
    emit.step(
        KernelSpec(FAMILY, (dtype.label, primitive.largest, heap, x.strides[axis] == 1, lanes)),
        (x, values, order),
        (1, 2),
        (units, per_tile, extent, kept, entries, *steps[axis], len(rows), *words(rows)),
        tiles=-(-units // per_tile),
        flops=8 * units * effort,
        bytes_moved=x.size * dtype.itemsize + values.size * (dtype.itemsize + 8),
        scratch=2 * entries * entry_bytes(dtype),
    )
