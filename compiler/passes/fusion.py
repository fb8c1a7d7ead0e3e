"""Putting two maps into one: what the fusing passes share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxplan.compiler.expression import Expression
from onnxplan.compiler.passes.composition import Composition, compose
from onnxplan.compiler.passes.index import Index, merged_nodes
from onnxplan.compiler.passes.operands import Operands, splice
from onnxplan.compiler.passes.refusals import refuse
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.view import View

MAX_INPUTS = 12
MAX_OUTPUTS = 4
MAX_INSTRUCTIONS = 128
MAX_RANK = 8

SLOW = frozenset(["div", "sqrt", "mod", "remainder"])
"""Operations that cost several others though they are not transcendental."""


def is_elementwise(operation: Operation) -> bool:
    primitive = operation.primitive
    return isinstance(primitive, MapReduce) and not primitive.axes and not primitive.expression.has_reduction


def expression_of(operation: Operation) -> Expression:
    """The expression of a map."""
    primitive = operation.primitive
    assert isinstance(primitive, MapReduce)
    return primitive.expression


def is_cheap(expression: Expression) -> bool:
    """May this be computed again for every reader rather than be stored?"""
    return expression.cost <= 2 and not any(i.op in SLOW for i in expression.instructions)


def fits(operation: Operation) -> bool:
    """Is it small enough for one kernel?"""
    primitive = operation.primitive
    assert isinstance(primitive, MapReduce)
    return (
        len(operation.inputs) <= MAX_INPUTS
        and len(operation.outputs) <= MAX_OUTPUTS
        and len(primitive.expression.instructions) <= MAX_INSTRUCTIONS
        and len(primitive.shape) <= MAX_RANK
    )


def producers(index: Index, consumer: Operation) -> list[Operation]:
    """The maps that alone write what ``consumer`` reads, each output a storage of its own; latest first."""
    found: list[Operation] = []
    for view in consumer.inputs:
        writer = index.sole_writer(view.storage)
        if writer is None or writer in found or not isinstance(writer.primitive, MapReduce):
            continue
        outputs = writer.outputs
        if len(outputs) == 1 or len({output.storage for output in outputs}) == len(outputs):
            found.append(writer)
    if len(found) > 1:
        found.sort(key=index.order.__getitem__, reverse=True)
    return found


def other_readers(index: Index, producer: Operation, consumer: Operation) -> list[Operation]:
    """The operations besides ``consumer`` that read what ``producer`` writes."""
    found: dict[Operation, None] = {}
    for view in producer.outputs:
        for reader in index.readers(view.storage):
            if reader is not consumer:
                found[reader] = None
    return list(found)


def is_shown(index: Index, operation: Operation) -> bool:
    """Does the operation write an output of the program?"""
    return any(view.storage in index.outputs for view in operation.outputs)


def absorb(consumer: Operation, producer: Operation, *, repeat: bool) -> Operation | None:
    """``consumer``, computing by itself what it reads of the elementwise map ``producer``.

    Its iteration space may be split to follow the producer's. ``None`` where strides cannot express that,
    where the result would not fit a kernel, and, unless ``repeat``, where elements would be computed several
    times.
    """
    outputs = producer.outputs
    storages = [view.storage for view in outputs]
    result = consumer
    position = 0
    while position < len(result.inputs):
        view = result.inputs[position]
        if view.storage not in storages:
            position += 1
            continue
        number = storages.index(view.storage)
        source = outputs[number]
        found = compose(source, view)
        if found is None:
            refuse(producer, consumer, "strides cannot follow the view through which the result is read")
            return None
        if not (repeat or found.is_injective):
            refuse(producer, consumer, "its elements, which are not cheap, would be computed several times")
            return None
        result = _absorb_input(result, producer, position, number, found)
        position = 0
    if not fits(result):
        refuse(producer, consumer, "together they have more operands or operations than one kernel takes")
        return None
    return result


def _absorb_input(
    consumer: Operation, producer: Operation, position: int, number: int, found: Composition
) -> Operation:
    """``consumer`` with input ``position`` replaced by output ``number`` of ``producer``."""
    outer, inner = consumer.primitive, producer.primitive
    assert isinstance(outer, MapReduce)
    assert isinstance(inner, MapReduce)
    operands = Operands()
    inner_numbers = tuple([operands.number(found.pull(view)) for view in producer.inputs])
    outer_numbers = tuple(
        [
            -1 - number if own == position else operands.number(found.refine(view))
            for own, view in enumerate(consumer.inputs)
        ]
    )
    expression, inputs = operands.read_by(
        splice_in(found, inner.expression, inner_numbers, outer.expression, outer_numbers)
    )
    return Operation(
        MapReduce(expression, found.shape, found.refine_axes(outer.axes)),
        inputs,
        tuple(refined_outputs(consumer, found)),
        merged_nodes(producer, consumer),
    )


def splice_in(
    found: Composition,
    inner: Expression,
    inner_numbers: tuple[int, ...],
    outer: Expression,
    outer_numbers: tuple[int, ...],
    kept: tuple[int, ...] = (),
) -> Expression:
    """:func:`splice` into the space of the parts of ``found``."""
    inner_index = found.pulled_index if inner.reads_index else None
    outer_index = found.refined_index if found.is_split and outer.reads_index else None
    return splice(inner, inner_numbers, outer, outer_numbers, kept, inner_index, outer_index)


def refined_outputs(operation: Operation, found: Composition) -> list[View]:
    """The outputs of a map in the coordinates of the parts of its axes."""
    primitive = operation.primitive
    assert isinstance(primitive, MapReduce)
    if not primitive.axes:
        return [found.refine(view) for view in operation.outputs]
    reduced = primitive.expression.reduced()
    return [
        found.refine_result(view, primitive.axes) if reduced[position] else found.refine(view)
        for view, position in zip(operation.outputs, primitive.expression.outputs, strict=True)
    ]


def distinct_bytes(views: Sequence[View]) -> int:
    """Bytes that a map reads or writes through ``views``, each element once; constants do not count."""
    total = 0
    for view in views:
        if not view.is_constant:
            extents = (n for n, stride in zip(view.shape, view.strides, strict=True) if stride)
            total += math.prod(extents) * view.dtype.itemsize
    return total


def keeps_order(operation: Operation) -> bool:
    """Do the inputs of a map vary along its output's innermost axis in memory by single steps, if at all?"""
    output = operation.outputs[0]
    axes = [axis for axis in range(output.rank) if output.shape[axis] > 1]
    if not axes:
        return True
    inner = min(axes, key=lambda axis: abs(output.strides[axis]))
    return all(abs(view.strides[inner]) <= 1 for view in operation.inputs)
