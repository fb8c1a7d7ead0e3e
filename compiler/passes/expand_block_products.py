"""Products by weights quantised in blocks become a dequantisation and a product, where there is no kernel."""

from __future__ import annotations

from collections.abc import Callable

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ops.block_weights import real_weights
from onnxplan.compiler.primitives import BlockMatMul, MatMul
from onnxplan.compiler.program import Operation, Program


def expand_block_products(
    program: Program, pool: ConstantPool, prefers: Callable[[Operation], bool]
) -> Program:
    """Replaces each :class:`BlockMatMul` that the device does not ``prefers`` by primitives that it has.

    Requires that no epilogues are attached yet. Ensures equal results but for rounding: weights are rounded
    to the type of their scales. Constant weights are dequantised here, unless they are too large.
    """
    operations: list[Operation] = []
    builder = Builder(pool)
    builder.prefix = "%weights"
    for operation in program.operations:
        primitive = operation.primitive
        if not isinstance(primitive, BlockMatMul) or prefers(operation):
            operations.append(operation)
            continue
        assert primitive.epilogue is None
        a, packed, scales, zeros = operation.inputs
        builder.labels = operation.nodes or ("",)
        weights = real_weights(builder, packed, scales, zeros, primitive.bits, a.shape[1])
        a = builder.cast(a, weights.dtype)
        operations += builder.operations
        builder.operations = []
        accumulator = DType.FLOAT64 if weights.dtype is DType.FLOAT64 else primitive.accumulator
        inputs = (a, weights.transpose((1, 0)))
        operations.append(Operation(MatMul(accumulator), inputs, operation.outputs, operation.nodes))
    program.operations = operations
    return program
