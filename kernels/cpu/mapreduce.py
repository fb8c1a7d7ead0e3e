"""Selection for MapReduce: maps, copies, reductions, and what mixes them."""

from __future__ import annotations

from onnxplan.compiler.expression import identity
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.select_map import select_map
from onnxplan.kernels.cpu.select_reduce import select_reduce


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


def emit_copy(source: View, result: View, emit: StepEmitter, target: Target) -> None:
    """Emits the copy of a view into another of the same shape and type."""
    primitive = MapReduce(identity(source.dtype), source.shape)
    select_mapreduce(Operation(primitive, (source,), (result,)), emit, target)


def dense_copy(source: View, emit: StepEmitter, target: Target, name: str) -> View:
    """A row-major copy of ``source`` in a temporary called ``name``."""
    copy = View.dense(emit.temporary(source.dtype, source.size, name), source.shape)
    emit_copy(source, copy, emit, target)
    return copy
