"""Selects kernels for Sort: rows sorted in scratch memory."""

from __future__ import annotations

import math

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Sort
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.axes import (
    TILE_BYTES,
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

# Values of a byte of a key.
BUCKETS = 256

# Measured: reading an element, where those of a row adjoin or not; one comparison of two entries, which
# processors guess wrongly half of the time; what sorting by one byte of a key takes for an element.
ADJOINING_SECONDS, APART_SECONDS, COMPARISON_SECONDS, PASS_SECONDS = 0.4e-9, 2e-9, 4e-9, 3e-9
# Bytes that stand for a second where tiles are cut: a tile of TILE_BYTES is to take five microseconds.
BYTES_PER_SECOND = TILE_BYTES / 5e-6


def entry_bytes(dtype: DType) -> int:
    """Bytes of an element while it is sorted: its key and its position in one integer."""
    return 8 if compute_itemsize(dtype) <= 4 else 16


def key_bytes(dtype: DType) -> int:
    return entry_bytes(dtype) // 2


def table_bytes(dtype: DType, heap: bool) -> int:
    """Bytes that sorting takes for the numbers of entries with each value of each byte.

    That is a byte of the key, and where a ``heap`` picked the entries also of the position.
    """
    return 4 * BUCKETS * (key_bytes(dtype) + 4 * heap)


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
    comparisons = _comparisons(extent, kept)
    passes = extent * PASS_SECONDS * key_bytes(dtype)
    heap = kept < extent and comparisons * COMPARISON_SECONDS < passes
    entries = kept if heap else extent
    units = positions(rows)
    # A heap is asked about a vector of elements at a time, which must not be longer than the row.
    lanes = lane_count(target, entry_bytes(dtype) // 2, (extent + 1) // 2) if heap else 1
    reading = ADJOINING_SECONDS if x.strides[axis] == 1 else APART_SECONDS
    seconds = extent * reading + (comparisons * COMPARISON_SECONDS if heap else passes)
    per_tile = units_per_tile(units, math.ceil(seconds * BYTES_PER_SECOND))
    emit.step(
        KernelSpec(FAMILY, (dtype.label, primitive.largest, heap, x.strides[axis] == 1, lanes)),
        (x, values, order),
        (1, 2),
        (units, per_tile, extent, kept, entries, *steps[axis], len(rows), *words(rows)),
        tiles=-(-units // per_tile),
        flops=units * (extent + (comparisons if heap else extent * key_bytes(dtype))),
        bytes_moved=x.size * dtype.itemsize + values.size * (dtype.itemsize + 8),
        scratch=2 * entries * entry_bytes(dtype) + table_bytes(dtype, heap),
        seconds=units * seconds,
    )


def _comparisons(extent: int, kept: int) -> int:
    """About what it takes to find and sort the first ``kept`` of ``extent`` elements in random order.

    An element at position ``n`` enters the heap with probability ``kept / n``.
    """
    entering = kept * (2 + math.log(extent / kept))
    return round(entering * kept.bit_length())
