"""Maps and reductions over the same rows become one operation: softmax, layer norm and their kin."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxplan.compiler.passes.composition import Composition, Part, compose, covers, same_layout
from onnxplan.compiler.passes.fusion import (
    absorb,
    expression_of,
    fits,
    is_cheap,
    is_elementwise,
    is_shown,
    other_readers,
    producers,
    refined_outputs,
    splice_in,
)
from onnxplan.compiler.passes.index import Index, merged_nodes
from onnxplan.compiler.passes.operands import Operands
from onnxplan.compiler.passes.refusals import refuse
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.view import Storage, View

LONG_ROW = 1 << 15
"""Longer rows (in elements) are fused with maps only if there are enough of them to share among threads."""

ENOUGH_ROWS = 16


def fuse_norms(program: Program) -> Program:
    """Merges a :class:`MapReduce` with the one that it reads, where one of them reduces.

    Both must run over the same space, up to the order and the splitting of axes, and reduce the same axes;
    what reads only reduced results may run over these or be broadcast along the reduced axes. Results of the
    first that others read too remain results of the merged operation. Requires that maps have been fused and
    epilogues attached. Ensures equal results; a kernel gets 12 inputs and 4 outputs at most.
    """
    maps = [operation for operation in program.operations if isinstance(operation.primitive, MapReduce)]
    if all(map(is_elementwise, maps)):
        return program
    index = Index.of(program)
    for operation in maps:
        if operation in index.order:
            while _fuse_once(index, operation):
                pass
    return index.finish()


def _fuse_once(index: Index, consumer: Operation) -> bool:
    """Merges ``consumer`` with one of its producers, if there is one to merge with."""
    for producer in producers(index, consumer):
        if is_elementwise(producer) and is_elementwise(consumer):
            continue
        others = other_readers(index, producer, consumer)
        alone = not others and not is_shown(index, producer)
        if alone and is_elementwise(producer):
            fused = absorb(consumer, producer, repeat=is_cheap(expression_of(producer)))
            if fused is not None:
                index.remove(producer)
                index.become(consumer, fused)
                return True
        position = _position(index, consumer, producer, others)
        if position is None:
            refuse(
                producer, consumer, "what else the two read and are read by does not let them stand together"
            )
            continue
        read_elsewhere = {view.storage for other in others for view in other.inputs} | index.outputs
        keep = [view.storage in read_elsewhere for view in producer.outputs]
        merged = merge(consumer, producer, keep)
        if merged is None:
            refuse(
                producer, consumer, "they run over different rows, or need more operands than a kernel takes"
            )
        elif not _is_balanced(merged):
            refuse(producer, consumer, "the rows are too long and too few for threads to share")
        else:
            index.remove(producer)
            index.become(consumer, merged, position)
            return True
    return False


def _position(
    index: Index, consumer: Operation, producer: Operation, others: Sequence[Operation]
) -> float | None:
    """Where the merged operation may stand: after all that it reads, before all that read it."""
    here = index.order[consumer]
    before = min((index.order[other] for other in others), default=math.inf)
    if before > here:
        return here
    after = index.order[producer]
    own = {view.storage for view in producer.outputs}
    for view in consumer.inputs:
        if view.storage not in own:
            after = max([after, *(index.order[writer] for writer in index.writers(view.storage))])
    return index.position_between(after, before) if after < before else None


def _is_balanced(operation: Operation) -> bool:
    """Can threads share the work? A reduction with results along its rows takes a whole row at a time."""
    primitive = operation.primitive
    assert isinstance(primitive, MapReduce)
    if primitive.name != "norm":
        return True
    row = math.prod(primitive.shape[axis] for axis in primitive.axes)
    return row <= LONG_ROW or math.prod(primitive.shape) >= ENOUGH_ROWS * row


def merge(consumer: Operation, producer: Operation, keep: Sequence[bool]) -> Operation | None:
    """One operation that computes both, or ``None`` where their spaces or axes do not match.

    It writes the producer's outputs chosen by ``keep`` and all of the consumer's.
    """
    inner, outer = producer.primitive, consumer.primitive
    assert isinstance(inner, MapReduce)
    assert isinstance(outer, MapReduce)
    if 0 in inner.shape or 0 in outer.shape:
        return None
    sources = {view.storage: _expanded(view, inner) for view in producer.outputs}
    reads = [view for view in consumer.inputs if view.storage in sources]
    found = _common_space(inner, outer, sources, reads)
    if found is None:
        small = _in_reduced_space(consumer, producer)
        return None if small is None else _merge_in(small, producer, keep, _same_space(inner))
    if not covers(found, inner.shape):
        return None
    return _merge_in(consumer, producer, keep, found)


def _expanded(view: View, primitive: MapReduce) -> View:
    """An output, broadcast along the axes where it is reduced."""
    return view if view.shape == primitive.shape else view.expand(primitive.shape)


def _same_space(primitive: MapReduce) -> Composition:
    return Composition(
        tuple((Part(n, axis, 1),) for axis, n in enumerate(primitive.shape)), (0,) * len(primitive.shape)
    )


def _common_space(
    inner: MapReduce, outer: MapReduce, sources: dict[Storage, View], reads: Sequence[View]
) -> Composition | None:
    """The consumer's axes in terms of the producer's."""
    for view in reads:
        source = sources[view.storage]
        if all(stride or n == 1 for n, stride in zip(source.shape, source.strides, strict=True)):
            return compose(source, view)
    view = reads[0]
    source = sources[view.storage]
    short = View(
        source.storage,
        source.offset,
        tuple(1 if axis in inner.axes else n for axis, n in enumerate(inner.shape)),
        source.strides,
    )
    found = compose(short, view)
    return None if found is None else _along_reduced(found, inner)


def _along_reduced(found: Composition, inner: MapReduce) -> Composition | None:
    """Lets the parts along which a reduced result is broadcast run along the reduced axes, in order."""
    reduced = [axis for axis in inner.axes if inner.shape[axis] != 1]
    broadcast = [part.extent for part in found.parts if part.axis < 0 and part.extent != 1]
    if not broadcast:
        return None
    extents = [inner.shape[axis] for axis in reduced]
    if len(broadcast) == 1 and len(extents) > 1 and broadcast[0] == math.prod(extents):
        replacement = iter([tuple(Part(n, axis, 1) for n, axis in zip(extents, reduced, strict=True))])
    elif sorted(broadcast) == sorted(extents):
        left = list(reduced)
        chosen: list[tuple[Part, ...]] = []
        for extent in broadcast:
            axis = next(axis for axis in left if inner.shape[axis] == extent)
            left.remove(axis)
            chosen.append((Part(extent, axis, 1),))
        replacement = iter(chosen)
    else:
        return None
    axes = []
    for axis_parts in found.axes:
        parts: list[Part] = []
        for part in axis_parts:
            if part.axis < 0 and part.extent != 1:
                parts += next(replacement)
            else:
                parts.append(part)
        axes.append(tuple(parts))
    return Composition(tuple(axes), found.start)


def _in_reduced_space(consumer: Operation, producer: Operation) -> Operation | None:
    """A map of reduced results alone, put in the producer's space (extent 1 along the reduced axes)."""
    inner, outer = producer.primitive, consumer.primitive
    assert isinstance(inner, MapReduce)
    assert isinstance(outer, MapReduce)
    if not is_elementwise(consumer) or not inner.axes:
        return None
    outputs = {view.storage: view for view in producer.outputs}
    short = tuple(1 if axis in inner.axes else n for axis, n in enumerate(inner.shape))
    found: Composition | None = None
    for view in consumer.inputs:
        source = outputs.get(view.storage)
        if source is None or source.shape != short:
            return None
        found = compose(source, view)
        if found is None:
            return None
    if found is None or outer.expression.reads_index:
        return None
    place: dict[int, int] = {}
    for number, part in enumerate(found.parts):
        if part.extent != 1:
            if part.axis < 0 or part.step != 1 or part.extent != short[part.axis]:
                return None
            place[part.axis] = number
    if len(place) != sum(n != 1 for n in short):
        return None

    def moved(view: View) -> View:
        fine = found.refine(view)
        strides = tuple(fine.strides[place[axis]] if axis in place else 0 for axis in range(len(short)))
        return View(view.storage, view.offset, short, strides)

    inputs = tuple(moved(view).expand(inner.shape) for view in consumer.inputs)
    return Operation(
        MapReduce(outer.expression, inner.shape, inner.axes),
        inputs,
        tuple(moved(view) for view in consumer.outputs),
        consumer.nodes,
    )


def _merge_in(
    consumer: Operation, producer: Operation, keep: Sequence[bool], found: Composition
) -> Operation | None:
    """The merged operation, in the space of the parts of the consumer's axes over the producer's."""
    inner, outer = producer.primitive, consumer.primitive
    assert isinstance(inner, MapReduce)
    assert isinstance(outer, MapReduce)
    parts = found.parts
    shape = found.shape
    inner_axes = tuple(n for n, part in enumerate(parts) if part.axis in inner.axes)
    outer_axes = found.refine_axes(outer.axes)
    # A reduction over axes of extent 1 alone may have lost them, and is one nevertheless.
    axes = _common_axes(
        inner_axes if inner.axes or inner.expression.has_reduction else None,
        outer_axes if outer.axes or outer.expression.has_reduction else None,
        shape,
    )
    if axes is None:
        return None
    sources = {view.storage: number for number, view in enumerate(producer.outputs)}
    expected = [found.pull(_expanded(view, inner)) for view in producer.outputs]
    refined = [found.refine(view) for view in consumer.inputs]
    if any(
        view.storage in sources and not same_layout(view, expected[sources[view.storage]]) for view in refined
    ):
        return None

    operands = Operands()
    inner_numbers = tuple(operands.number(found.pull(view)) for view in producer.inputs)
    outer_numbers = tuple(
        -1 - sources[view.storage] if view.storage in sources else operands.number(view) for view in refined
    )
    kept = tuple(number for number, wanted in enumerate(keep) if wanted)
    expression, inputs = operands.read_by(
        splice_in(found, inner.expression, inner_numbers, outer.expression, outer_numbers, kept)
    )
    outputs = [_pulled_output(producer.outputs[number], inner, found) for number in kept]
    outputs += refined_outputs(consumer, found)
    merged = Operation(
        MapReduce(expression, shape, axes), inputs, tuple(outputs), merged_nodes(producer, consumer)
    )
    return merged if fits(merged) and _has_expected_shapes(merged) else None


def _common_axes(
    inner: tuple[int, ...] | None, outer: tuple[int, ...] | None, shape: tuple[int, ...]
) -> tuple[int, ...] | None:
    """The reduced axes of both, which must agree but for axes of extent 1."""
    if inner is None or outer is None:
        return inner if outer is None else outer
    if {n for n in inner if shape[n] != 1} != {n for n in outer if shape[n] != 1}:
        return None
    return tuple(sorted({*inner, *outer}))


def _pulled_output(view: View, primitive: MapReduce, found: Composition) -> View:
    """An output of the producer in the space of the parts, with extent 1 where it is reduced."""
    pulled = found.pull(_expanded(view, primitive))
    if view.shape == primitive.shape:
        return pulled
    shape = tuple(
        1 if part.axis in primitive.axes else extent
        for part, extent in zip(found.parts, pulled.shape, strict=True)
    )
    return View(view.storage, pulled.offset, shape, pulled.strides)


def _has_expected_shapes(operation: Operation) -> bool:
    """Are exactly those outputs short along the reduced axes that hang on reductions only?"""
    primitive = operation.primitive
    assert isinstance(primitive, MapReduce)
    short = tuple(1 if axis in primitive.axes else n for axis, n in enumerate(primitive.shape))
    reduced = primitive.expression.reduced()
    return all(
        view.shape == (short if primitive.axes and reduced[position] else primitive.shape)
        for view, position in zip(operation.outputs, primitive.expression.outputs, strict=True)
    )
