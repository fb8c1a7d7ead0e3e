"""Selects kernels for Scatter: a copy, then rows written or combined in order of their updates."""

from __future__ import annotations

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import identity
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import MapReduce, Scatter
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.axes import compute_itemsize, lane_count, units_per_tile
from onnxplan.kernels.cpu.gather import ELEMENT_WIDTHS
from onnxplan.kernels.cpu.mapreduce import select_mapreduce
from onnxplan.kernels.geometry import ceil_div

FAMILY = "scatter"

# Tiles begin at multiples of these many columns.
COLUMNS = 64
# For fewer updates a thread it costs too much that every tile reads all positions.
LEAST_SHARED = 4096


def select_scatter(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of a Scatter of any element type but strings.

    Updates may name one row several times, so tiles share out the columns or, where there are few, the rows
    of the output: each does all updates of its own in order.
    """
    primitive = operation.primitive
    assert isinstance(primitive, Scatter)
    data, positions, updates = operation.inputs
    output = operation.outputs[0]
    dtype, kind = data.dtype, primitive.kind
    if dtype is DType.STRING or (kind != "none" and dtype.kind not in "fiub"):
        raise NotImplementedError(f"no CPU kernel for scatter ({kind}) of {dtype}")
    if output.size == 0:
        return
    copy = Operation(MapReduce(identity(dtype), data.shape), (data,), (output,), operation.nodes)
    select_mapreduce(copy, emit, target)
    if updates.size == 0:
        return
    size = dtype.itemsize
    rows, columns = updates.shape
    adjoining = columns == 1 or updates.strides[1] == output.strides[1] == 1
    run = columns * size if adjoining else 0
    if kind == "none":
        # Whole rows of these sizes are one element; other adjoining ones are runs of bytes.
        width = 0 if adjoining else size
        if run in ELEMENT_WIDTHS:
            width, columns, adjoining = run, 1, False
        variant: tuple[str | int | float | bool, ...] = (kind, width)
        size = run if run in ELEMENT_WIDTHS else size
    else:
        lanes = lane_count(target, compute_itemsize(dtype), columns) if adjoining else 1
        variant = (kind, dtype.label, adjoining, lanes)
    per_tile = units_per_tile(columns, 2 * rows * size)
    per_tile = min(ceil_div(per_tile, COLUMNS) * COLUMNS, columns)
    tiles, extent_per_tile = ceil_div(columns, per_tile), 0
    if tiles < target.threads <= rows // LEAST_SHARED:
        per_tile, extent_per_tile = 0, ceil_div(output.shape[0], target.threads)
        tiles = ceil_div(output.shape[0], extent_per_tile)
    if kind == "none":
        variant = (*variant, extent_per_tile > 0)
    itemsize = dtype.itemsize
    parameters = (
        columns,
        per_tile,
        rows,
        output.shape[0],
        extent_per_tile,
        8 * positions.strides[0],
        updates.strides[0] * itemsize,
        updates.strides[1] * itemsize if updates.shape[1] > 1 else size,
        output.strides[0] * itemsize,
        output.strides[1] * itemsize if output.shape[1] > 1 else size,
        size,
    )
    emit.step(
        KernelSpec(FAMILY, variant),
        (positions, updates, output),
        (2,),
        parameters,
        tiles=tiles,
        flops=updates.size if kind != "none" else 0,
        bytes_moved=2 * updates.size * itemsize + 8 * rows,
    )
