"""Reductions that are too few for many threads: split into parts, or into their passes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnxplan.compiler.expression import REDUCTIONS, Expression, ExpressionBuilder, Instruction
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import Shape, View
from onnxplan.kernels.cpu.select_map import select_map
from onnxplan.kernels.cpu.select_reduce import Space, emit_reduce, make_space, select_reduce
from onnxplan.kernels.phases import accumulator, depths


def split(space: Space, emit: StepEmitter, target: Target, parts: int) -> None:
    """Reductions of depth 1: partial results for parts of the largest reduced axis, then the rest."""
    extents = [axis.extent for axis in space.reduced]
    axis = extents.index(max(extents))
    length = max(-(-extents[axis] // parts), min(extents[axis], 64))
    whole, rest = divmod(extents[axis], length)
    count = whole + (rest > 0)
    if count < 2:
        emit_reduce(space, emit, target)
        return
    reductions = [p for p, i in enumerate(space.expression.instructions) if i.op in REDUCTIONS]
    partial = _rewrite(space.expression, reductions, {})
    results = tuple(a.extent for a in space.kept)
    temporaries = [
        emit.temporary(
            accumulator(space.expression.instructions[p].dtype), count * math.prod(results), "partial"
        )
        for p in reductions
    ]
    # The parts are innermost only where the kept axes cannot fill a vector.
    parts_last = math.prod(results) < target.vector_bytes
    shape = (*results, count) if parts_last else (count, *results)
    position = len(results) if parts_last else 0
    views = [View.dense(storage, shape) for storage in temporaries]
    number = len(results) + axis
    for start, pieces, size in ((0, whole, length), (whole, int(rest > 0), rest)):
        if not pieces:
            continue
        inputs = [
            _in_pieces(collapsed(view, space, slot), number, start * length, pieces, size, position)
            for slot, view in enumerate(space.views[: len(space.inputs)])
        ]
        iteration = inputs[0].shape if inputs else ()
        ones = (1,) * len(extents)
        outputs = [_append_ones(view.slice(position, start, pieces), ones) for view in views]
        reduced = tuple(range(len(results) + 1, len(results) + 1 + len(extents)))
        operation = Operation(
            MapReduce(partial, iteration, reduced), _placed(inputs, space.inputs), tuple(outputs)
        )
        emit_reduce(make_space(operation), emit, target)
    final = _combine(space.expression, reductions)
    outputs = [_result(view, space, slot) for slot, view in _outputs(space)]
    outputs = [view.unsqueeze((position,)) for view in outputs]
    operation = Operation(MapReduce(final, shape, (position,)), tuple(views), tuple(outputs))
    emit_reduce(make_space(operation), emit, target)


def decompose(space: Space, emit: StepEmitter, target: Target) -> None:
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
        expression = _rewrite(space.expression, members, known)
        operation = Operation(MapReduce(expression, shape, reduced_axes), _operands(inputs), outputs)
        select_reduce(operation, emit, target)
        for p, output in zip(members, outputs, strict=True):
            known[p] = max(inputs, default=-1) + 1
            inputs[known[p]] = output.expand(shape)
    flags = space.expression.reduced()
    for wanted in (False, True):
        chosen = [
            (slot, view, output)
            for (slot, view), output in zip(_outputs(space), space.expression.outputs, strict=True)
            if flags[output] is wanted
        ]
        if not chosen:
            continue
        expression = _rewrite(space.expression, [output for _, _, output in chosen], known)
        if wanted:
            narrow = {n: _drop(view, len(results)) for n, view in inputs.items()}
            views = tuple(_result(view, space, slot) for slot, view, _ in chosen)
            operation = Operation(MapReduce(expression, results), _operands(narrow), views)
        else:
            views = tuple(collapsed(view, space, slot) for slot, view, _ in chosen)
            operation = Operation(MapReduce(expression, shape), _operands(inputs), views)
        select_map(operation, emit, target)


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


def _outputs(space: Space) -> list[tuple[int, View]]:
    return list(enumerate(space.views))[len(space.inputs) :]


def _result(view: View, space: Space, slot: int) -> View:
    """A reduced output over the kept axes only."""
    return _drop(collapsed(view, space, slot), len(space.kept))


def _drop(view: View, rank: int) -> View:
    return View(view.storage, view.offset, view.shape[:rank], view.strides[:rank])


def _append_ones(view: View, ones: Shape) -> View:
    return View(view.storage, view.offset, view.shape + ones, view.strides + (0,) * len(ones))


def _in_pieces(view: View, axis: int, start: int, pieces: int, size: int, position: int) -> View:
    """``pieces`` neighbouring parts of ``size`` along ``axis``, their number becoming an axis of its own."""
    shape, strides = list(view.shape), list(view.strides)
    offset = view.offset + start * strides[axis]
    step = strides[axis] * size
    shape[axis] = size
    shape.insert(position, pieces)
    strides.insert(position, step)
    return View(view.storage, offset, tuple(shape), tuple(strides))


def _placed(views: list[View], numbers: tuple[int, ...]) -> tuple[View, ...]:
    return _operands(dict(zip(numbers, views, strict=True)))


def _operands(views: Mapping[int, View]) -> tuple[View, ...]:
    """A tuple in which operand ``n`` stands at position ``n``; gaps, which are not read, hold any view."""
    anything = next(iter(views.values()))
    return tuple(views.get(number, anything) for number in range(max(views) + 1))


def _rewrite(expression: Expression, roots: list[int], known: Mapping[int, int]) -> Expression:
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


def _combine(expression: Expression, reductions: list[int]) -> Expression:
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
