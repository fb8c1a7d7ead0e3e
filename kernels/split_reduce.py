"""Splitting a MapReduce with reductions into several operations. The same for all devices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from onnxplan.compiler.expression import REDUCTIONS, Expression, ExpressionBuilder, Instruction
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.view import View
from onnxplan.kernels.phases import accumulator, depths
from onnxplan.kernels.reduction_space import Space


def decompose(
    space: Space,
    emit: StepEmitter,
    select_reduce: Callable[[Operation], None],
    select_map: Callable[[Operation], None],
) -> None:
    """One operation for each depth of reductions, and one for what is elementwise."""
    levels = depths(space.expression)
    instructions = space.expression.instructions
    results = tuple(axis.extent for axis in space.kept)
    ones = (1,) * len(space.reduced)
    reduced_axes = tuple(range(len(results), len(results) + len(ones)))
    extents = tuple(axis.extent for axis in space.reduced)
    shape = results + extents
    sources: list[View] = [
        collapsed(view, space, slot) for slot, view in enumerate(space.views[: len(space.inputs)])
    ]
    inputs = dict(zip(space.inputs, sources, strict=True))
    known: dict[int, int] = {}
    for level in range(1, max(levels) + 1):
        members = [p for p, i in enumerate(instructions) if i.op in REDUCTIONS and levels[p] == level]
        storages = [
            emit.temporary(accumulator(instructions[p].dtype), math.prod(results), "reduced") for p in members
        ]
        outputs = tuple(View.dense(storage, results + ones) for storage in storages)
        expression = rewrite(space.expression, members, known)
        operation = Operation(MapReduce(expression, shape, reduced_axes), placed(inputs), outputs)
        select_reduce(operation)
        for p, output in zip(members, outputs, strict=True):
            known[p] = max(inputs, default=-1) + 1
            inputs[known[p]] = output.expand(shape)
    flags = space.expression.reduced()
    for wanted in (False, True):
        chosen = [
            (slot, view, output)
            for (slot, view), output in zip(output_slots(space), space.expression.outputs, strict=True)
            if flags[output] is wanted
        ]
        if not chosen:
            continue
        expression = rewrite(space.expression, [output for _, _, output in chosen], known)
        if wanted:
            narrow = {n: _drop(view, len(results)) for n, view in inputs.items()}
            views = tuple(result(view, space, slot) for slot, view, _ in chosen)
            operation = Operation(MapReduce(expression, results), placed(narrow), views)
        else:
            views = tuple(collapsed(view, space, slot) for slot, view, _ in chosen)
            operation = Operation(MapReduce(expression, shape), placed(inputs), views)
        select_map(operation)


def collapsed(view: View, space: Space, slot: int) -> View:
    """An operand (numbered among views) over the kept, then the reduced axes of ``space``."""
    place = slot if slot < len(space.inputs) else slot + len(space.coordinates)
    axes = (*space.kept, *space.reduced)
    return View(
        view.storage,
        view.offset,
        tuple(axis.extent for axis in axes),
        tuple(axis.strides[place] for axis in axes),
    )


def output_slots(space: Space) -> list[tuple[int, View]]:
    return list(enumerate(space.views))[len(space.inputs) :]


def result(view: View, space: Space, slot: int) -> View:
    """A reduced output over the kept axes only."""
    return _drop(collapsed(view, space, slot), len(space.kept))


def _drop(view: View, rank: int) -> View:
    return View(view.storage, view.offset, view.shape[:rank], view.strides[:rank])


def placed(views: Mapping[int, View]) -> tuple[View, ...]:
    """A tuple in which operand ``n`` stands at position ``n``; gaps, which are not read, hold any view."""
    anything = next(iter(views.values()))
    return tuple(views.get(number, anything) for number in range(max(views) + 1))


def rewrite(expression: Expression, roots: list[int], known: Mapping[int, int]) -> Expression:
    """The expression of ``roots``, the instructions ``known`` being read from inputs of these numbers."""
    builder = ExpressionBuilder()
    memory: dict[int, int] = {}

    def visit(position: int) -> int:
        if position not in memory:
            instruction = expression.instructions[position]
            if position in known:
                instruction = Instruction("input", (known[position],), instruction.dtype)
            elif instruction.operands:
                arguments = tuple(visit(a) for a in instruction.arguments)
                instruction = Instruction(instruction.op, arguments, instruction.dtype, instruction.value)
            memory[position] = builder.add(instruction)
        return memory[position]

    return builder.build(tuple(visit(root) for root in roots))


def combine(expression: Expression, reductions: list[int]) -> Expression:
    """The expression with the arguments of its reductions replaced by inputs 0, 1, ..."""
    arguments = {p: number for number, p in enumerate(reductions)}
    builder = ExpressionBuilder()
    positions: dict[int, int] = {}
    needed = expression.reduced()
    for position, instruction in enumerate(expression.instructions):
        if not needed[position]:
            continue
        if position in arguments:
            source = builder.add(Instruction("input", (arguments[position],), instruction.dtype))
            positions[position] = builder.add(Instruction(instruction.op, (source,), instruction.dtype))
        elif instruction.operands:
            moved = tuple(positions[a] for a in instruction.arguments)
            positions[position] = builder.add(
                Instruction(instruction.op, moved, instruction.dtype, instruction.value)
            )
        else:
            positions[position] = builder.add(instruction)
    return builder.build(tuple(positions[output] for output in expression.outputs))
