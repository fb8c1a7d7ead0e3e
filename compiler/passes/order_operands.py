"""Equal computations become equal expressions, so that models share kernels."""

from __future__ import annotations

import functools
import zlib
from dataclasses import replace

from onnxplan.compiler.expression import Expression, ExpressionBuilder, Instruction
from onnxplan.compiler.primitives import Attention, BlockMatMul, Conv, MapReduce, MatMul, product_operands
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.scalar import COMMUTATIVE
from onnxplan.compiler.view import View

ATTENTION_OPERANDS = 3
Layout = tuple[int, int]


def order_operands(program: Program) -> Program:
    """Brings operands of commutative operations into one order, and inputs into that of their first use.

    The kernel of an expression is found by how it is written, and exporters write ``x + bias`` both ways.
    Computed values come first, then inputs, then constants. Requires nothing. Ensures equal results, but for
    which of two NaN is passed on.
    """
    for operation in program.operations:
        primitive = operation.primitive
        if isinstance(primitive, MapReduce):
            _order(operation, "expression", primitive.expression, 0, 0)
        elif isinstance(primitive, MatMul | BlockMatMul | Conv):
            _order(operation, "epilogue", primitive.epilogue, product_operands(primitive), 1)
        elif isinstance(primitive, Attention):
            _order(operation, "score", primitive.score, ATTENTION_OPERANDS, 1)
    return program


def _order(operation: Operation, name: str, expression: Expression | None, count: int, start: int) -> None:
    """Orders the field ``name`` of the primitive, whose inputs from ``start`` on follow ``count`` others."""
    if expression is None:
        return
    ordered, inputs = _ordered(expression, operation.inputs[count:], start)
    if ordered is not expression:
        operation.primitive = replace(operation.primitive, **{name: ordered})
    operation.inputs = operation.inputs[:count] + inputs


def _ordered(
    expression: Expression, inputs: tuple[View, ...], start: int
) -> tuple[Expression, tuple[View, ...]]:
    """The ordered expression and the inputs that it reads; input ``number >= start`` is one of ``inputs``."""
    found, numbers = _in_order(expression, tuple(map(_layout, inputs)), start)
    return found, tuple(inputs[number - start] for number in numbers)


def _layout(view: View) -> Layout:
    """What distinguishes inputs that stand in for each other: kernels are made for it."""
    moving = [stride for extent, stride in zip(view.shape, view.strides, strict=True) if extent > 1]
    return (moving[-1] if moving else 0), sum(map(bool, moving))


@functools.lru_cache(maxsize=4096)
def _in_order(
    expression: Expression, layouts: tuple[Layout, ...], start: int
) -> tuple[Expression, tuple[int, ...]]:
    """The ordered expression, and which input each of its inputs from ``start`` on was."""
    instructions = expression.instructions
    keys = _keys(instructions, layouts, start)
    builder, positions = ExpressionBuilder(), dict[int, int]()
    numbers = {number: number for number in range(start)}

    def place(position: int) -> int:
        if position not in positions:
            positions[position] = builder.add(moved(instructions[position]))
        return positions[position]

    def moved(instruction: Instruction) -> Instruction:
        if instruction.op == "input":
            number = numbers.setdefault(instruction.arguments[0], len(numbers))
            return replace(instruction, arguments=(number,))
        operands = instruction.operands
        if not operands:
            return instruction
        if instruction.op in COMMUTATIVE:
            operands = tuple(sorted(operands, key=keys.__getitem__))
        return replace(instruction, arguments=tuple(map(place, operands)))

    outputs = tuple(map(place, expression.outputs))
    found = Expression(tuple(builder.instructions), outputs)
    return (expression if found == expression else found), tuple(numbers)[start:]


def _keys(
    instructions: tuple[Instruction, ...], layouts: tuple[Layout, ...], start: int
) -> list[tuple[int, int]]:
    """By what operands are sorted: nothing in it hangs on how inputs are numbered, nor on numbers such as
    lengths and epsilons, in which models differ that have the rest in common.
    """
    keys: list[tuple[int, int]] = []
    for instruction in instructions:
        arguments: object = instruction.arguments
        if instruction.op == "input":
            number = instruction.arguments[0]
            arguments = number if number < start else layouts[number - start]
        elif instruction.operands:
            operands = [keys[operand] for operand in instruction.operands]
            arguments = sorted(operands) if instruction.op in COMMUTATIVE else operands
        value = instruction.value if instruction.op == "constant" and instruction.is_plain else None
        text = repr((instruction.op, arguments, instruction.dtype.label, value))
        keys.append((_rank(instruction, start), zlib.crc32(text.encode())))
    return keys


def _rank(instruction: Instruction, start: int) -> int:
    """Leaves come after what is computed, the sums of a product before other inputs."""
    if instruction.op == "input":
        return 1 if instruction.arguments[0] < start else 2
    return {"index": 3, "constant": 4}.get(instruction.op, 0)
