"""Elementwise maps become one with the elementwise maps that read them."""

from __future__ import annotations

from onnxplan.compiler.passes.fuse_epilogues import epilogue_product, may_attach
from onnxplan.compiler.passes.fusion import (
    absorb,
    distinct_bytes,
    expression_of,
    is_cheap,
    is_elementwise,
    is_shown,
    keeps_order,
    other_readers,
    producers,
)
from onnxplan.compiler.passes.index import Index
from onnxplan.compiler.passes.refusals import refuse
from onnxplan.compiler.primitives import Product
from onnxplan.compiler.program import Operation, Program

SHOWN = "its result is an output, or is read by a later stage"


def fuse_maps(program: Program) -> Program:
    """Fuses elementwise maps with their readers, so that what lies between them is never stored.

    A map that a single elementwise map reads, through whatever view strides can follow (transposed, sliced,
    reshaped, broadcast), is computed by its reader. So is a map that several maps read if it is cheap and
    reads no more bytes than it writes. Nothing is fused where more than cheap work would be repeated, and
    nothing that could be the epilogue of a product, unless the result of the fusion still can.
    """
    index = Index.of(program)
    for operation in program.operations:
        if operation in index.order and is_elementwise(operation):
            _fuse_into(index, operation)
    return index.finish()


def _fuse_into(index: Index, consumer: Operation) -> None:
    """Fuses producers into ``consumer`` until none is left that may be."""
    progress = True
    while progress:
        progress = False
        for producer in producers(index, consumer):
            if not is_elementwise(producer):
                continue
            if is_shown(index, producer):
                refuse(producer, consumer, SHOWN)
                continue
            if _fuse(index, consumer, producer):
                progress = True
                break


def _fuse(index: Index, consumer: Operation, producer: Operation) -> bool:
    """Fuses ``producer`` into ``consumer``, and into all its other readers, if that may be."""
    others = other_readers(index, producer, consumer)
    if others:
        return _spread(index, consumer, producer, others)
    product = epilogue_product(index, producer)
    fused = absorb(consumer, producer, repeat=product is None and is_cheap(expression_of(producer)))
    if fused is None:
        return False
    if product is not None and not (
        _is_last_product(index, consumer, producer, product) and may_attach(product, fused)
    ):
        refuse(producer, consumer, "it is the epilogue of a product, which the reader cannot join")
        return False
    index.remove(producer)
    index.become(consumer, fused)
    return True


def _is_last_product(index: Index, consumer: Operation, producer: Operation, product: Operation) -> bool:
    """Of the products that compute inputs of ``consumer``, with or without an epilogue, is it the last?

    ``producer`` is the map that ``product`` could take.
    """
    position = index.order[product]
    for view in consumer.inputs:
        writer = index.sole_writer(view.storage)
        if writer is None or writer is producer or index.sole_reader(view.storage) is not consumer:
            continue
        if is_elementwise(writer):
            writer = epilogue_product(index, writer)
        if writer is None or not isinstance(writer.primitive, Product):
            continue
        if index.order[writer] > position:
            return False
    return True


def _spread(index: Index, consumer: Operation, producer: Operation, others: list[Operation]) -> bool:
    """Lets each reader of a cheap map compute it for itself."""
    expression = expression_of(producer)
    if not is_cheap(expression):
        refuse(producer, consumer, "several operations read it, and it is not cheap to compute again")
        return False
    if not all(map(is_elementwise, others)):
        refuse(producer, consumer, "others than elementwise maps read it too, so it is stored anyway")
        return False
    moves_only = expression.cost <= 1 and len(producer.inputs) <= 1
    if not moves_only and distinct_bytes(producer.inputs) > distinct_bytes(producer.outputs):
        refuse(producer, consumer, "several operations read it, and computing it again would read more bytes")
        return False
    if not keeps_order(producer):
        refuse(producer, consumer, "several operations read it, and it changes the order of elements")
        return False
    if epilogue_product(index, producer) is not None:
        refuse(producer, consumer, "several operations read it, and it is the epilogue of a product")
        return False
    readers = [consumer, *others]
    fused: list[Operation] = []
    for reader in readers:
        result = absorb(reader, producer, repeat=expression.cost <= 1)
        if result is None:
            return False
        fused.append(result)
    index.remove(producer)
    for reader, result in zip(readers, fused, strict=True):
        index.become(reader, result)
    return True
