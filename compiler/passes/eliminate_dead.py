"""Dead code: operations, and outputs of maps, that nothing depends on."""

from __future__ import annotations

from onnxplan.compiler.expression import ExpressionBuilder
from onnxplan.compiler.passes.operands import inputs_read, renumber_inputs
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation, Program


def eliminate_dead(program: Program) -> Program:
    """Removes what the program's outputs do not depend on.

    Requires nothing. Ensures that each operation writes elements that a later one or an output reads, that a
    :class:`MapReduce` computes no output that nobody reads, and that it has no input that it does not read.
    """
    needed = {view.storage for view in program.outputs.values()}
    kept: list[Operation] = []
    for operation in reversed(program.operations):
        live = [view.storage in needed and view.size > 0 for view in operation.outputs]
        if not any(live):
            continue
        if isinstance(operation.primitive, MapReduce):
            _prune(operation, operation.primitive, live)
        kept.append(operation)
        needed.update([view.storage for view in operation.inputs])
    kept.reverse()
    program.operations = kept
    return program


def _prune(operation: Operation, primitive: MapReduce, live: list[bool]) -> None:
    expression = primitive.expression
    if not all(live):
        builder = ExpressionBuilder()
        positions = builder.inline(expression, lambda _, instruction: builder.add(instruction))
        expression = builder.build(tuple(p for p, alive in zip(positions, live, strict=True) if alive))
        operation.outputs = tuple(v for v, alive in zip(operation.outputs, live, strict=True) if alive)
    if len(inputs_read(expression)) < len(operation.inputs):
        expression, operation.inputs = renumber_inputs(expression, operation.inputs)
    if expression is not primitive.expression:
        plain = not expression.has_reduction and all(v.shape == primitive.shape for v in operation.outputs)
        operation.primitive = MapReduce(expression, primitive.shape, () if plain else primitive.axes)
