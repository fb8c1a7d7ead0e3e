"""Selection for MapReduce: maps, copies, reductions, and what mixes them."""

from __future__ import annotations

from onnxplan.compiler.expression import identity
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.map import select_map
from onnxplan.kernels.cuda.reduce import select_reduce


def select_mapreduce(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of a MapReduce of any rank, strides and element types."""
    primitive = operation.primitive
    assert isinstance(primitive, MapReduce)
    if primitive.expression.has_reduction:
        select_reduce(operation, emit, target)
    else:
        select_map(operation, emit, target)


def select_reinterpret(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a Reinterpret: a copy, which moves bits."""
    (view,) = operation.inputs
    copy = MapReduce(identity(view.dtype), view.shape)
    select_map(Operation(copy, operation.inputs, operation.outputs, operation.nodes), emit, target)
