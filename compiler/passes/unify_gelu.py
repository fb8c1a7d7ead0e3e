"""GELU is written in one way, however an exporter wrote it, so that models share kernels."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, ExpressionBuilder, Instruction, constant
from onnxplan.compiler.primitives import BlockMatMul, Conv, MapReduce, MatMul
from onnxplan.compiler.program import Program

TOLERANCE = 1e-6
"""Exporters write the root of 2 with the digits of a float32."""


def unify_gelu(program: Program) -> Program:
    """Writes ``0.5 * x * (1 + erf(x / sqrt(2)))`` as the operator Gelu does, where it is in an expression.

    Requires nothing. Ensures equal results, but for the rounding of the argument of erf, of which a quotient
    and a product are equally far, and for x next to overflow, where infinite results may become finite.
    """
    for operation in program.operations:
        primitive = operation.primitive
        if isinstance(primitive, MapReduce):
            expression = _unified(primitive.expression)
            if expression is not primitive.expression:
                operation.primitive = replace(primitive, expression=expression)
        elif isinstance(primitive, MatMul | BlockMatMul | Conv) and primitive.epilogue is not None:
            epilogue = _unified(primitive.epilogue)
            if epilogue is not primitive.epilogue:
                operation.primitive = replace(primitive, epilogue=epilogue)
    return program


@functools.lru_cache(maxsize=4096)
def _unified(expression: Expression) -> Expression:
    instructions = expression.instructions
    if not any(instruction.op == "erf" for instruction in instructions):
        return expression
    builder, positions = ExpressionBuilder(), list[int]()
    for position, instruction in enumerate(instructions):
        argument = _argument_of_gelu(instructions, position)
        if argument is not None:
            positions.append(_gelu(builder, positions[argument], instruction.dtype))
        elif instruction.operands:
            operands = tuple(positions[operand] for operand in instruction.operands)
            positions.append(builder.add(replace(instruction, arguments=operands)))
        else:
            positions.append(builder.add(instruction))
    found = builder.build(tuple(positions[output] for output in expression.outputs))
    return expression if found == expression else found


def _gelu(builder: ExpressionBuilder, x: int, dtype: DType) -> int:
    def add(op: str, *operands: int) -> int:
        return builder.add(Instruction(op, operands, dtype))

    def number(value: float) -> int:
        return builder.add(constant(value, dtype))

    error = add("erf", add("mul", x, number(math.sqrt(0.5))))
    return add("mul", add("mul", x, number(0.5)), add("add", error, number(1.0)))


def _argument_of_gelu(instructions: tuple[Instruction, ...], position: int) -> int | None:
    """What GELU is computed of at ``position``, if it is there."""
    if instructions[position].dtype not in (DType.FLOAT32, DType.FLOAT64):
        return None
    for factors in _factors(instructions, position):
        for error, half, x in permutations(factors):
            if _argument_of_error(instructions, error) == x and _is_constant(instructions[half], 0.5):
                return x
    return None


def _factors(instructions: tuple[Instruction, ...], position: int) -> Iterator[tuple[int, int, int]]:
    """The ways in which the result at ``position`` is a product of three."""
    if instructions[position].op == "mul":
        left, right = instructions[position].operands
        for product, other in ((left, right), (right, left)):
            if instructions[product].op == "mul":
                first, second = instructions[product].operands
                yield first, second, other


def _argument_of_error(instructions: tuple[Instruction, ...], position: int) -> int | None:
    """The ``x`` of ``1 + erf(x / sqrt(2))`` at ``position``, if that is there."""
    instruction = instructions[position]
    if instruction.op != "add":
        return None
    for one, error in (instruction.operands, instruction.operands[::-1]):
        if _is_constant(instructions[one], 1.0) and instructions[error].op == "erf":
            return _divided_by_root(instructions, instructions[error].operands[0])
    return None


def _divided_by_root(instructions: tuple[Instruction, ...], position: int) -> int | None:
    instruction = instructions[position]
    if instruction.op == "div":
        x, root = instruction.operands
        return x if _is_constant(instructions[root], math.sqrt(2.0)) else None
    if instruction.op == "mul":
        for x, factor in (instruction.operands, instruction.operands[::-1]):
            if _is_constant(instructions[factor], math.sqrt(0.5)):
                return x
    return None


def _is_constant(instruction: Instruction, value: float) -> bool:
    return instruction.op == "constant" and math.isclose(instruction.number, value, rel_tol=TOLERANCE)
