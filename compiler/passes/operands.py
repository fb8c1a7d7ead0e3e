"""The inputs of an operation under construction, and expressions over them."""

from __future__ import annotations

import functools
from collections.abc import Callable

from onnxplan.compiler.expression import Expression, ExpressionBuilder, Instruction
from onnxplan.compiler.view import Shape, Storage, View, normal_strides

IndexRule = Callable[[ExpressionBuilder, int], int]
"""``rule(builder, axis)`` appends what stands for the coordinate along ``axis``; returns its position."""


class Operands:
    """Views in order of first use; equal ones are kept once. The first gets the number ``start``."""

    def __init__(self, start: int = 0) -> None:
        self.views: list[View] = []
        self.start = start
        self._numbers: dict[tuple[Storage, int, Shape, Shape], int] = {}

    def number(self, view: View) -> int:
        key = (view.storage, view.offset, view.shape, normal_strides(view.shape, view.strides))
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = self.start + len(self.views)
            self.views.append(view)
        return number

    def read_by(self, expression: Expression) -> tuple[Expression, tuple[View, ...]]:
        """The expression over those of the operands that it reads, and these."""
        views = tuple(self.views)
        if len(inputs_read(expression)) == self.start + len(views):
            return expression, views
        return renumber_inputs(expression, views, self.start)


def renumber_inputs(
    expression: Expression, inputs: tuple[View, ...], start: int = 0
) -> tuple[Expression, tuple[View, ...]]:
    """The expression over the inputs that it reads, each view once; those before ``start`` stay.

    Input ``number >= start`` of the expression is ``inputs[number - start]``.
    """
    read = inputs_read(expression)
    if start == 0 and len(read) == len(inputs) == len({view.storage for view in inputs}):
        return expression, inputs
    operands = Operands(start)
    numbers = [*range(start)]
    for number, view in enumerate(inputs, start):
        numbers.append(operands.number(view) if number in read else -1)
    if numbers == [*range(start + len(inputs))]:
        return expression, inputs
    return _renumbered(expression, tuple(numbers)), tuple(operands.views)


@functools.lru_cache(maxsize=4096)
def inputs_read(expression: Expression) -> frozenset[int]:
    """The numbers of the inputs that the expression reads."""
    return frozenset(i.arguments[0] for i in expression.instructions if i.op == "input")


@functools.lru_cache(maxsize=4096)
def _renumbered(expression: Expression, numbers: tuple[int, ...]) -> Expression:
    builder = ExpressionBuilder()
    return builder.build(builder.inline(expression, _reader(builder, numbers)))


def _reader(builder: ExpressionBuilder, numbers: tuple[int, ...]) -> Callable[[int, Instruction], int]:
    def read(number: int, instruction: Instruction) -> int:
        return builder.add(Instruction("input", (numbers[number],), instruction.dtype))

    return read


@functools.lru_cache(maxsize=4096)
def splice(
    inner: Expression,
    inner_numbers: tuple[int, ...],
    outer: Expression,
    outer_numbers: tuple[int, ...],
    kept: tuple[int, ...] = (),
    inner_index: IndexRule | None = None,
    outer_index: IndexRule | None = None,
) -> Expression:
    """One expression of two, of which ``outer`` reads results of ``inner``.

    ``inner_numbers`` are the new numbers of the inputs of ``inner``. ``outer_numbers`` those of ``outer``;
    ``-1 - k`` stands for result ``k`` of ``inner``. The outputs are those of ``inner`` that ``kept`` names,
    then those of ``outer``. The rules tell coordinates in those of the new iteration space.
    """
    builder = ExpressionBuilder()
    first = builder.inline(inner, _reader(builder, inner_numbers), _indexer(builder, inner_index))

    def read(number: int, instruction: Instruction) -> int:
        new = outer_numbers[number]
        return first[-1 - new] if new < 0 else builder.add(Instruction("input", (new,), instruction.dtype))

    second = builder.inline(outer, read, _indexer(builder, outer_index))
    return builder.build((*(first[number] for number in kept), *second))


def _indexer(builder: ExpressionBuilder, rule: IndexRule | None) -> Callable[[Instruction], int] | None:
    if rule is None:
        return None
    return lambda instruction: rule(builder, instruction.arguments[0])
