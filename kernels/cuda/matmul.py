"""Selects what computes MatMul: cuBLASLt where it has the types, else the kernel of ``product``."""

from __future__ import annotations

from onnxplan.compiler.primitives import MatMul
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.epilogue import epilogue_of
from onnxplan.kernels.cuda.matmul_library import emit_library
from onnxplan.kernels.cuda.product import emit_product
from onnxplan.kernels.matrices import Matrices


def select_matmul(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of a MatMul of any strides and batch axes, of floats and integers."""
    primitive = operation.primitive
    assert isinstance(primitive, MatMul)
    a, b, *extras = operation.inputs
    output = operation.outputs[0]
    if output.size == 0:
        return
    epilogue = epilogue_of(primitive.epilogue, primitive.accumulator, output)
    matrices = Matrices(a, b, output, tuple(extras))
    if not emit_library(emit, target, matrices, primitive.accumulator, epilogue):
        emit_product(emit, target, matrices, primitive.accumulator, epilogue)
