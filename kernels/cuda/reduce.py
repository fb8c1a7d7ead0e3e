"""Reductions, softmax and normalisations: selection. The code is in ``reduce_code``."""

from __future__ import annotations

from onnxplan.compiler.expression import REDUCTIONS
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cuda.block_form import BlockForm, choose_form, is_split_worthwhile, part_length
from onnxplan.kernels.cuda.groups import grouping
from onnxplan.kernels.cuda.indexing import axis_words, index_type
from onnxplan.kernels.cuda.reduce_code import build_reduce
from onnxplan.kernels.cuda.source import check_words
from onnxplan.kernels.geometry import Axis, ceil_div, in_place_pairs, pad_axes, unique_bytes
from onnxplan.kernels.phases import accumulator, schedule
from onnxplan.kernels.reduction_space import Space, make_space
from onnxplan.kernels.split_reduce import combine, decompose, output_slots, result, rewrite

__all__ = ["build_reduce", "select_reduce"]

# Groups that threads hold: few numbers, as each is another kernel.
HELD_TURNS = (2, 8)
# Registers that values may be held in.
MOST_HELD = 96


def select_reduce(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of a MapReduce with reductions."""
    from onnxplan.kernels.cuda.map import select_map

    space = make_space(operation)
    if space.results == 0:
        return
    form = choose_form(_is_row(space), space.results, space.region, target)
    if is_split_worthwhile(form, space.results, space.region, space.weight, target):
        if len(schedule(space.expression, cache=False).phases) == 1:
            _split(space, form, emit, target)
            return
        if not space.coordinates and form.blocks(space.results) < target.threads // 2:
            decompose(
                space,
                emit,
                lambda part: select_reduce(part, emit, target),
                lambda part: select_map(part, emit, target),
            )
            return
    _emit(space, form, emit, space.region, 0)


def _split(space: Space, form: BlockForm, emit: StepEmitter, target: Target) -> None:
    """Partial reductions of equal parts of the region, then the reduction of those."""
    length = part_length(form, space.results, space.region, space.weight, target)
    parts = ceil_div(space.region, length)
    instructions = space.expression.instructions
    reductions = [p for p, instruction in enumerate(instructions) if instruction.op in REDUCTIONS]
    extents = tuple(axis.extent for axis in space.kept)
    results = space.results
    storages = [
        emit.temporary(accumulator(instructions[p].dtype), parts * results, "partial") for p in reductions
    ]
    wholes = [View.dense(storage, (parts, *extents)) for storage in storages]
    _emit(_partial(space, reductions, wholes), form, emit, length, results)
    outputs = [result(view, space, slot) for slot, view in output_slots(space)]
    final = Operation(
        MapReduce(combine(space.expression, reductions), (parts, *extents), (0,)),
        tuple(wholes),
        tuple(view.unsqueeze((0,)) for view in outputs),
    )
    select_reduce(final, emit, target)


def _partial(space: Space, reductions: list[int], wholes: list[View]) -> Space:
    """``space`` with ``reductions`` alone as results, those of the first part in ``wholes``."""
    count = len(space.inputs) + len(space.coordinates)
    kept = tuple(
        Axis(axis.extent, axis.strides[:count] + tuple(view.strides[number] for view in wholes))
        for number, axis in enumerate(space.kept, 1)
    )
    reduced = tuple(
        Axis(axis.extent, axis.strides[:count] + (0,) * len(wholes), True) for axis in space.reduced
    )
    views = (*space.views[: len(space.inputs)], *wholes)
    return Space(
        rewrite(space.expression, reductions, {}), views, space.inputs, space.coordinates, kept, reduced
    )


def _is_row(space: Space) -> bool:
    """Do neighbouring threads follow the innermost reduced axis rather than a kept one?"""
    if not space.kept or not space.reduced:
        return not space.kept
    kept, reduced = space.kept[-1].strides, space.reduced[-1].strides
    order = sorted(range(len(space.inputs)), key=lambda number: -unique_bytes(space.views[number]))
    for number in order:
        if kept[number] and reduced[number]:
            return abs(reduced[number]) < abs(kept[number])
    return True


def _turns(space: Space, form: BlockForm, group: int) -> int:
    """Groups of points that each thread holds in registers so that they are read once; 0 where that does not
    pay or they are too many."""
    if not group or len(schedule(space.expression, cache=False).phases) == 1:
        return 0
    varying = [n for n in range(len(space.inputs)) if any(axis.strides[n] for axis in space.reduced)]
    for turns in HELD_TURNS:
        held = turns * group * sum(max(space.sizes[n], 4) for n in varying) // 4
        if space.region <= form.lanes * group * turns:
            return turns if held <= MOST_HELD else 0
    return 0


def _emit(space: Space, form: BlockForm, emit: StepEmitter, length: int, part_stride: int) -> None:
    """Emits one step for all of ``space``; its outputs have a part for each ``length`` points."""
    total = len(space.labels)
    kept, reduced = pad_axes(space.kept, total), pad_axes(space.reduced, total)
    blocks = form.blocks(space.results)
    parts = ceil_div(space.region, length) if part_stride else 1
    index = index_type(max(space.results, space.region, parts * part_stride), [*kept, *reduced])
    group, kinds = 0, ""
    if form.is_row:
        wanted = [n for n, label in enumerate(space.labels) if label != "index"]
        group, kinds = grouping(reduced, kept, space.sizes, wanted)
    turns = 0 if part_stride else _turns(space, form, group)
    variant = (
        form.threads, form.name, form.columns, bool(part_stride), space.expression, space.labels,
        (*space.inputs, *space.coordinates), len(kept), len(reduced), index, kinds, group, turns,
    )  # fmt: skip
    parameters = [space.results, space.region, *axis_words(kept), *axis_words(reduced)]
    if part_stride:
        parameters += [blocks, length, part_stride]
    check_words(len(space.views), len(parameters))
    inputs, outputs = space.views[: len(space.inputs)], space.views[len(space.inputs) :]
    emit.step(
        KernelSpec("reduce", variant),
        space.views,
        tuple(range(len(inputs), len(space.views))),
        tuple(parameters),
        tiles=blocks * parts,
        flops=space.region * space.results * space.expression.cost,
        bytes_moved=sum(map(unique_bytes, space.views)),
        in_place=() if part_stride else in_place_pairs(inputs, outputs),
    )
