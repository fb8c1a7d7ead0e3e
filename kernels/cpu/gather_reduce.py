"""Selects kernels for GatherReduce: weighted rows from where positions point, summed or compared."""

from __future__ import annotations

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import GatherReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.axes import compute_itemsize, lane_count, units_per_tile

FAMILY = "gather_reduce"

# Columns that one unit of work covers.
BLOCK = 1024
# Rows of one where they adjoin, and columns for which positions and weights are read once.
PLANES_BLOCK, SHARING_COLUMNS = 512, 4


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
    if _are_planes(operation, target):
        _select_planes(operation, emit)
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


def _are_planes(operation: Operation, target: Target) -> bool:
    """Do rows of all operands adjoin, so that an instruction gathers a vector of them from each column?"""
    views = (*operation.inputs, *operation.outputs)
    table = views[0]
    return (
        target.isa in ("avx512", "avx2")
        and {view.dtype for view in views} == {DType.FLOAT32, DType.INT64}
        and all(view.strides[0] == 1 for view in views)
        and 4 * table.shape[0] < 1 << 31
    )


def _select_planes(operation: Operation, emit: StepEmitter) -> None:
    """Emits the step for operands that :func:`_are_planes`."""
    assert isinstance(operation.primitive, GatherReduce)
    table, positions, weights = operation.inputs
    output = operation.outputs[0]
    (rows, columns), taps = output.shape, positions.shape[1]
    shared = min(columns, SHARING_COLUMNS)
    units = -(-rows // PLANES_BLOCK) * -(-columns // shared)
    per_tile = units_per_tile(units, PLANES_BLOCK * (12 * taps + 4 * (taps + 1) * shared))
    emit.step(
        KernelSpec("gather_reduce_planes", (operation.primitive.kind, shared)),
        (table, positions, weights, output),
        (3,),
        (
            units,
            per_tile,
            rows,
            PLANES_BLOCK,
            columns,
            taps,
            table.shape[0],
            4 * table.strides[1],
            8 * positions.strides[1],
            4 * weights.strides[1],
            4 * output.strides[1],
        ),
        tiles=-(-units // per_tile),
        flops=2 * output.size * taps,
        bytes_moved=output.size * (taps + 1) * 4,
    )
