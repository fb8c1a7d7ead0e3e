"""Maps that follow a matrix product or a convolution become its epilogue."""

from __future__ import annotations

import functools
from dataclasses import replace

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, identity
from onnxplan.compiler.expressions import cast_expression
from onnxplan.compiler.passes.composition import follow
from onnxplan.compiler.passes.fusion import is_elementwise
from onnxplan.compiler.passes.index import Index, merged_nodes
from onnxplan.compiler.passes.operands import Operands, splice
from onnxplan.compiler.passes.output_views import may_write
from onnxplan.compiler.passes.refusals import refuse
from onnxplan.compiler.primitives import MapReduce, Product, product_operands
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import Layout, View

MAX_EXTRAS = 6


def fuse_epilogues(program: Program) -> Program:
    """Attaches elementwise maps to the products whose results they read.

    A map of one output becomes (part of) the epilogue of the product that alone writes one of its
    inputs, if nothing else reads that result, if the map reads each of its elements once, and if the map's
    other inputs and its output are views in the coordinates of the product's output. Of several such
    products the last one takes the map. Requires that maps have been fused with one another. Ensures equal
    results: sums are rounded to the product's type before the map sees them.
    """
    index = Index.of(program)
    for operation in program.operations:
        if operation in index.order and is_elementwise(operation):
            found = _best_fit(index, operation)
            if found is not None:
                product, fit = found
                attached = _attach(product, operation, fit)
                index.remove(product)
                index.become(operation, attached)
    return index.finish()


def epilogue_product(index: Index, mapped: Operation) -> Operation | None:
    """The last product that could take ``mapped`` as its epilogue."""
    found = _best_fit(index, mapped)
    return None if found is None else found[0]


def _best_fit(index: Index, mapped: Operation) -> tuple[Operation, _Fit] | None:
    """:func:`epilogue_product`, and how the map looks from its output."""
    best: tuple[Operation, _Fit] | None = None
    for view in mapped.inputs:
        writer = index.sole_writer(view.storage)
        if writer is None or not isinstance(writer.primitive, Product):
            continue
        if best is not None and index.order[writer] < index.order[best[0]]:
            continue
        if index.sole_reader(view.storage) is not mapped:
            refuse(writer, mapped, "others read the product's result too, or it is an output")
            continue
        fit = _fit(writer, mapped)
        if fit is not None:
            best = writer, fit
    return best


@dataclass(frozen=True, slots=True)
class _Fit:
    """A map in the axes of a product's output: the number of its input that is the product's result.

    ``layouts`` are those of its output and of its other inputs there.
    """

    read: int
    layouts: tuple[Layout, ...]


def _fit(product: Operation, mapped: Operation) -> _Fit | None:
    """How ``mapped`` looks from the output of ``product``, if it may be its epilogue."""
    primitive, outer = product.primitive, mapped.primitive
    assert isinstance(outer, MapReduce)
    assert isinstance(primitive, Product)
    output = product.outputs[0]
    storage = output.storage
    reads = [number for number, view in enumerate(mapped.inputs) if view.storage is storage]
    if len(reads) != 1 or len(mapped.outputs) != 1 or len(product.outputs) != 1:
        refuse(product, mapped, "an epilogue reads its product's result once and has one result")
        return None
    read = mapped.inputs[reads[0]]
    if read.size != output.size or outer.expression.reads_index:
        refuse(product, mapped, "an epilogue reads each element of its product's result once, in its place")
        return None
    views = [mapped.outputs[0], *[view for view in mapped.inputs if view is not read]]
    found = follow(read, output, views)
    if found is None:
        refuse(product, mapped, "strides cannot follow the view through which the product's result is read")
        return None
    target, *others = found
    if target is None or not may_write(primitive, View(views[0].storage, *target)):
        refuse(product, mapped, "the product cannot write in the order in which the map does")
        return None
    layouts = [layout for layout in others if layout is not None]
    if len(layouts) < len(others):
        refuse(product, mapped, "another operand of the map is no view in the product's coordinates")
        return None
    if len(product.inputs) - product_operands(primitive) + len(others) > MAX_EXTRAS:
        refuse(product, mapped, "the epilogue would have more operands than products take")
        return None
    return _Fit(reads[0], (target, *layouts))


def may_attach(product: Operation, mapped: Operation) -> bool:
    """Could ``mapped`` be the epilogue of ``product``?"""
    return _fit(product, mapped) is not None


def attach(product: Operation, mapped: Operation) -> Operation | None:
    """The product with ``mapped``, the only reader of its result, as its epilogue, if it may be that."""
    fit = _fit(product, mapped)
    return None if fit is None else _attach(product, mapped, fit)


def _attach(product: Operation, mapped: Operation, fit: _Fit) -> Operation:
    """The product with the elementwise map ``mapped`` as its epilogue."""
    primitive, outer = product.primitive, mapped.primitive
    assert isinstance(primitive, Product)
    count = product_operands(primitive)
    assert isinstance(outer, MapReduce)
    output = product.outputs[0]
    inner = primitive.epilogue or stored_sum(primitive.accumulator, output.dtype)
    operands = Operands(start=1)
    inner_numbers = (0, *[operands.number(view) for view in product.inputs[count:]])
    target, *layouts = fit.layouts
    others = iter(layouts)
    outer_numbers = tuple(
        [
            -1 if number == fit.read else operands.number(View(view.storage, *next(others)))
            for number, view in enumerate(mapped.inputs)
        ]
    )
    expression, extras = operands.read_by(splice(inner, inner_numbers, outer.expression, outer_numbers))
    # A product without epilogue casts its sums by itself.
    plain = [i.op for i in expression.instructions] in (["input"], ["input", "cast"])
    return Operation(
        _with_epilogue(primitive, None if plain else expression),
        (*product.inputs[:count], *extras),
        (View(mapped.outputs[0].storage, *target),),
        merged_nodes(product, mapped),
    )


@functools.lru_cache(maxsize=4096)
def _with_epilogue(primitive: Product, epilogue: Expression | None) -> Product:
    return replace(primitive, epilogue=epilogue)


def stored_sum(accumulator: DType, dtype: DType) -> Expression:
    """What a product without epilogue stores: the sum as ``dtype``."""
    return identity(accumulator) if accumulator is dtype else cast_expression(accumulator, dtype, False)
