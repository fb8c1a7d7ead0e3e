"""Constant factors of a product's larger operand move to its smaller one."""

from __future__ import annotations

import functools

from onnxplan.compiler.expression import Expression, Instruction
from onnxplan.compiler.passes.composition import translate
from onnxplan.compiler.passes.index import Index, merged_nodes
from onnxplan.compiler.passes.inline_scalars import scalar_constant
from onnxplan.compiler.passes.operands import splice
from onnxplan.compiler.primitives import MapReduce, MatMul
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.view import View

LEAST_FACTOR = 2.0**-16
"""A factor from here to 1 cannot make the smaller operand overflow, nor its usual numbers denormal."""


def move_factors(program: Program) -> Program:
    """Replaces ``(f(x)) (y c)`` by ``(f(x) c) y`` where ``y`` has more elements than ``x``.

    Exporters of attention scale queries and keys each by the root of the factor; where keys of earlier tokens
    are kept, that would copy all of them for each token. Both operands must be maps that only this product
    reads, of float32 or float64, and ``c`` one number. Requires that scalars are inlined. Ensures equal
    results but for rounding: sums consist of the same terms.
    """
    products = [operation for operation in program.operations if _has_larger_right(operation)]
    if not products:
        return program
    index = Index.of(program)
    for product in products:
        _move(index, product)
    return index.finish()


def _has_larger_right(operation: Operation) -> bool:
    """Is it a product whose right operand is computed, and larger than the left one?"""
    if not isinstance(operation.primitive, MatMul):
        return False
    left, right = operation.inputs[:2]
    return (
        not right.is_constant
        and left.size < right.size
        and left.dtype is right.dtype
        and right.dtype.itemsize >= 4
    )


def _move(index: Index, product: Operation) -> None:
    left, right, *others = product.inputs
    smaller, larger = _own_map(index, product, left), _own_map(index, product, right)
    found = None if larger is None else _scaled(larger)
    if smaller is None or larger is None or found is None:
        return
    source, factor = found
    moved = translate(right, larger.outputs[0], source)
    if moved is None:
        return
    index.remove(larger)
    nodes = merged_nodes(smaller, larger)
    primitive = smaller.primitive
    assert isinstance(primitive, MapReduce)
    scaled = MapReduce(_times(primitive.expression, factor), primitive.shape)
    index.become(smaller, Operation(scaled, smaller.inputs, smaller.outputs, nodes))
    index.become(
        product, Operation(product.primitive, (left, moved, *others), product.outputs, product.nodes)
    )


def _own_map(index: Index, product: Operation, operand: View) -> Operation | None:
    """The map of one result that writes ``operand``, if nothing but ``product`` reads it."""
    writer = index.sole_writer(operand.storage)
    if writer is None or len(writer.outputs) != 1 or index.sole_reader(operand.storage) is not product:
        return None
    primitive = writer.primitive
    return writer if isinstance(primitive, MapReduce) and not primitive.axes else None


def _scaled(operation: Operation) -> tuple[View, Instruction] | None:
    """``y`` and ``c`` of a map ``y * c``."""
    primitive = operation.primitive
    assert isinstance(primitive, MapReduce)
    last = primitive.expression.instructions[primitive.expression.outputs[0]]
    if last.op != "mul" or len(primitive.expression.instructions) != 3:
        return None
    views: list[View] = []
    factors: list[Instruction] = []
    for argument in last.arguments:
        leaf = primitive.expression.instructions[argument]
        if leaf.op == "input":
            view = operation.inputs[leaf.arguments[0]]
            leaf = scalar_constant(view) or leaf
            if leaf.op == "input":
                views.append(view)
        if leaf.op == "constant":
            factors.append(leaf)
    if len(views) != 1 or len(factors) != 1 or not LEAST_FACTOR <= factors[0].number <= 1:
        return None
    return views[0], factors[0]


@functools.lru_cache(maxsize=4096)
def _times(expression: Expression, factor: Instruction) -> Expression:
    """The result of ``expression`` times ``factor``."""
    outer = Expression(
        (
            Instruction("input", (0,), factor.dtype),
            factor,
            Instruction("mul", (0, 1), factor.dtype),
        ),
        (2,),
    )
    return splice(expression, tuple(range(expression.input_count)), outer, (-1,))
