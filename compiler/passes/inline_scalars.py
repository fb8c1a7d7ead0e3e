"""Scalar constants become part of the expressions that read them."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

from onnxplan.compiler.expression import Expression, ExpressionBuilder, Instruction, constant
from onnxplan.compiler.passes.operands import renumber_inputs
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.view import View

FEW = 32
"""So many different numbers in a program, or fewer, are all inlined."""

OFTEN = 3
"""A number read so often is inlined however many there are."""


def inline_scalars(program: Program) -> Program:
    """Replaces inputs of maps that show one element of a constant by constants in their expressions.

    Requires nothing. Ensures that maps read no constant of one element, with one exception: an expression
    is the name of a kernel, so where a program has many different numbers (the scales of a quantised model),
    those that are neither read often nor plain (small multiples of a half, infinities) remain inputs, and
    layers that differ only in them share a kernel. Equal inputs of a map become one.
    """
    found: Counter[tuple[str, int | str]] = Counter()
    reads: list[tuple[Operation, dict[int, Instruction]]] = []
    for operation in program.operations:
        if isinstance(operation.primitive, MapReduce):
            scalars = _scalars(operation)
            reads.append((operation, scalars))
            for instruction in scalars.values():
                found[_key(instruction)] += 1
    few = len(found) <= FEW
    for operation, scalars in reads:
        if not few:
            scalars = {
                number: instruction
                for number, instruction in scalars.items()
                if found[_key(instruction)] >= OFTEN or instruction.is_plain
            }
        _inline(operation, scalars)
    return program


def _key(instruction: Instruction) -> tuple[str, int | str]:
    assert instruction.value is not None
    return instruction.dtype.label, instruction.value


def _scalars(operation: Operation) -> dict[int, Instruction]:
    found = {}
    for number, view in enumerate(operation.inputs):
        if view.storage.constant is not None:
            instruction = scalar_constant(view)
            if instruction is not None:
                found[number] = instruction
    return found


def scalar_constant(view: View) -> Instruction | None:
    """The constant instruction of a view that shows one element of a constant, else ``None``."""
    data = view.storage.constant
    if data is None or view.dtype.kind not in "fiub" or 0 in view.shape:
        return None
    if any(stride and extent > 1 for extent, stride in zip(view.shape, view.strides, strict=True)):
        return None
    value: Any = data[view.offset]
    return constant(float(value) if view.dtype.is_float else int(value), view.dtype)


def _inline(operation: Operation, scalars: dict[int, Instruction]) -> None:
    primitive = operation.primitive
    assert isinstance(primitive, MapReduce)
    expression = primitive.expression
    if scalars:
        expression = _with_constants(expression, tuple(scalars.items()))
    expression, operation.inputs = renumber_inputs(expression, operation.inputs)
    if expression is not primitive.expression:
        operation.primitive = MapReduce(expression, primitive.shape, primitive.axes)


@functools.lru_cache(maxsize=4096)
def _with_constants(expression: Expression, scalars: tuple[tuple[int, Instruction], ...]) -> Expression:
    replacements = dict(scalars)
    builder = ExpressionBuilder()
    outputs = builder.inline(
        expression, lambda number, instruction: builder.add(replacements.get(number, instruction))
    )
    return builder.build(outputs)
