"""Dead code: operations, and outputs of maps, that nothing depends on."""

from __future__ import annotations

from onnxplan.compiler.expression import Expression, ExpressionBuilder, Instruction
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.view import Storage, View


def eliminate_dead(program: Program) -> Program:
    """Removes what the program's outputs do not depend on.

    Requires nothing. Ensures that each operation writes a storage that a later one or an output reads, that a
    :class:`MapReduce` computes no output that nobody reads, and that it has no input that it does not read.
    """
    needed = {view.storage for view in program.outputs.values()}
    kept: list[Operation] = []
    for operation in reversed(program.operations):
        live = [view.storage in needed for view in operation.outputs]
        if not any(live):
            continue
        if isinstance(operation.primitive, MapReduce):
            _prune(operation, operation.primitive, live)
        kept.append(operation)
        needed.update(view.storage for view in operation.inputs)
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
    read = {i.arguments[0] for i in expression.instructions if i.op == "input"}
    if len(read) < len(operation.inputs):
        expression, operation.inputs = renumber_inputs(expression, operation.inputs)
    if expression is not primitive.expression:
        operation.primitive = MapReduce(expression, primitive.shape, primitive.axes)


def renumber_inputs(
    expression: Expression, inputs: tuple[View, ...], start: int = 0
) -> tuple[Expression, tuple[View, ...]]:
    """The expression over the inputs that it reads, each view once; those before ``start`` stay.

    Input ``number >= start`` of the expression is ``inputs[number - start]``.
    """
    numbers: dict[tuple[Storage, int, tuple[int, ...], tuple[int, ...]], int] = {}
    kept: list[View] = []
    moved: dict[int, int] = {}
    for instruction in expression.instructions:
        if instruction.op != "input" or instruction.arguments[0] < start:
            continue
        number = instruction.arguments[0]
        view = inputs[number - start]
        key = (view.storage, view.offset, view.shape, view.strides)
        if key not in numbers:
            numbers[key] = start + len(kept)
            kept.append(view)
        moved[number] = numbers[key]
    if all(old == new for old, new in moved.items()) and len(kept) == len(inputs):
        return expression, inputs
    builder = ExpressionBuilder()

    def replace(number: int, instruction: Instruction) -> int:
        return builder.add(Instruction("input", (moved.get(number, number),), instruction.dtype))

    return builder.build(builder.inline(expression, replace)), tuple(kept)
