"""Selects kernels for GatherReduce: weighted rows from where positions point, summed or compared."""

from __future__ import annotations

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import GatherReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.axes import compute_itemsize, lane_count, units_per_tile

FAMILY = "gather_reduce"

# Columns that one unit of work covers.
BLOCK = 1024


def select_gather_reduce(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a GatherReduce of any float type and strides."""
    primitive = operation.primitive
    assert isinstance(primitive, GatherReduce)
    table, positions, weights = operation.inputs
    output = operation.outputs[0]
    dtype = table.dtype
    if not dtype.is_float:
        raise NotImplementedError(f"no CPU kernel for gather_reduce of {dtype}")
    if output.size == 0:
        return
    size = dtype.itemsize
    columns, taps = table.shape[1], positions.shape[1]
    adjoining = columns == 1 or table.strides[1] == output.strides[1] == 1
    lanes = lane_count(target, compute_itemsize(dtype), columns, 64 if adjoining else 8)
    block = min(BLOCK, columns)
    blocks = -(-columns // block)
    units = output.shape[0] * blocks
    per_tile = units_per_tile(units, (taps + 1) * block * size + 16 * taps)
    emit.step(
        KernelSpec(FAMILY, (primitive.kind, dtype.label, weights.dtype.label, adjoining, lanes)),
        (table, positions, weights, output),
        (3,),
        (
            units,
            per_tile,
            blocks,
            block,
            columns,
            taps,
            table.shape[0],
            *(stride * size for stride in table.strides),
            *(8 * stride for stride in positions.strides),
            *(weights.dtype.itemsize * stride for stride in weights.strides),
            *(stride * size for stride in output.strides),
        ),
        tiles=-(-units // per_tile),
        flops=2 * output.size * taps,
        bytes_moved=output.size * (taps + 1) * size,
    )
