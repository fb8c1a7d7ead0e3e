"""Two products around a softmax become attention, which need not keep the scores in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.expression import Expression, ExpressionBuilder, Instruction
from onnxplan.compiler.passes.composition import Composition, compose, covers
from onnxplan.compiler.passes.fuse_epilogues import stored_sum
from onnxplan.compiler.passes.fusion import splice_in
from onnxplan.compiler.passes.index import Index, merged_nodes
from onnxplan.compiler.passes.operands import Operands
from onnxplan.compiler.passes.refusals import refuse
from onnxplan.compiler.passes.softmax import Softmax, find_softmax
from onnxplan.compiler.primitives import Attention, MapReduce, MatMul
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import Shape, View

NOT_PREFERRED = "the device has no kernel for attention that is faster for these shapes"


def fuse_attention(program: Program, pool: ConstantPool, prefers: Callable[[Operation], bool]) -> Program:
    """Replaces ``softmax(score(q k)) v`` by :class:`Attention` where the device ``prefers`` it.

    The softmax is over the columns of the first product, whose epilogue becomes part of the score, and its
    result is the left operand of the second product; nothing else reads scores or weights. Where heads share
    keys, batch axes are split so that each head has its own. Coordinates that the score asks for become
    constants. Requires that norms are fused. Ensures equal results but for rounding: weights are no longer
    rounded to the type that they were stored in.
    """
    products = [operation for operation in program.operations if isinstance(operation.primitive, MatMul)]
    if len(products) < 2:
        return program
    index = Index.of(program)
    for operation in products:
        if operation in index.order:
            found = _recognise(index, operation)
            if found is None:
                continue
            fused = _fused(found, pool)
            if fused is None:
                continue
            if not prefers(fused):
                refuse(found.scores, found.weights, NOT_PREFERRED)
                refuse(found.weights, operation, NOT_PREFERRED)
                continue
            index.remove(found.scores)
            index.remove(found.weights)
            index.become(operation, fused)
    return index.finish()


@dataclass(frozen=True, slots=True)
class _Parts:
    """The three operations. ``read`` is what the softmax reads of ``scores``, its input ``number``."""

    scores: Operation
    weights: Operation
    product: Operation
    softmax: Softmax
    number: int

    @property
    def read(self) -> View:
        return self.weights.inputs[self.number]


def _recognise(index: Index, product: Operation) -> _Parts | None:
    """What ``product`` is the end of, as far as primitives and the flow of data tell."""
    second = product.primitive
    assert isinstance(second, MatMul)
    left = product.inputs[0].storage
    weights = index.sole_writer(left)
    if weights is None or second.epilogue is not None or product.inputs[1].storage is left:
        return None
    middle = weights.primitive
    if not isinstance(middle, MapReduce) or len(middle.axes) != 1 or index.sole_reader(left) is not product:
        return None
    softmax = find_softmax(middle.expression)
    if softmax is None:
        return None
    for number, view in enumerate(weights.inputs):
        scores = index.sole_writer(view.storage)
        if scores is None or not isinstance(scores.primitive, MatMul) or len(scores.outputs) != 1:
            continue
        readings = sum(other.storage is view.storage for other in weights.inputs)
        if readings == 1 and index.sole_reader(view.storage) is weights:
            (score,) = softmax.score.dtypes
            if scores.primitive.accumulator is second.accumulator is score:
                return _Parts(scores, weights, product, softmax, number)
    return None


@dataclass(frozen=True, slots=True)
class _Scores:
    """Scores over a space of axes, the keys along ``axis``: all views have the shape of the space.

    ``q`` and ``k`` stand at depth 0; ``result`` is where the weights were written.
    """

    axis: int
    q: View
    k: View
    score: Expression
    extras: tuple[View, ...]
    result: View


def _fused(found: _Parts, pool: ConstantPool) -> Operation | None:
    scores = _in_space_of_softmax(found)
    if scores is None:
        return None
    product = found.product
    left, v = product.inputs
    space = compose(scores.result, left)
    if space is None or not covers(space, scores.result.shape):
        return None
    keys = space.axes[-1]
    if len(keys) != 1 or keys[0].axis != scores.axis:
        return None
    shape = space.shape
    q, k = space.pull(scores.q), space.pull(scores.k)
    v_rows = space.refine(View(v.storage, v.offset, left.shape, (*v.strides[:-2], 0, v.strides[-2])))
    output = product.outputs[0]
    out = space.refine(View(output.storage, output.offset, left.shape, (*output.strides[:-1], 0)))
    if shape[-2] != 1 and (k.strides[-2] or v_rows.strides[-2]):
        return None
    score, extras = _without_coordinates(scores, space, shape, pool)
    depth, width = found.scores.inputs[0].shape[-1], v.shape[-1]
    outer = shape[:-2]
    q_step, k_step = found.scores.inputs[0].strides[-1], found.scores.inputs[1].strides[-2]
    plain = [i.op for i in score.instructions] == ["input"]
    second = product.primitive
    assert isinstance(second, MatMul)
    return Operation(
        Attention(second.accumulator, None if plain else score, found.softmax.kind),
        (
            View(q.storage, q.offset, (*outer, shape[-2], depth), (*q.strides[:-1], q_step)),
            View(k.storage, k.offset, (*outer, depth, shape[-1]), (*k.strides[:-2], k_step, k.strides[-1])),
            View(
                v_rows.storage,
                v_rows.offset,
                (*outer, shape[-1], width),
                (*v_rows.strides[:-2], v_rows.strides[-1], v.strides[-1]),
            ),
            *extras,
        ),
        (View(out.storage, out.offset, (*outer, shape[-2], width), (*out.strides[:-1], output.strides[-1])),),
        merged_nodes(found.scores, found.weights, product),
    )


def _in_space_of_softmax(found: _Parts) -> _Scores | None:
    """The scores in the space of the softmax, its axes split where they cross several of the product's."""
    first, middle = found.scores.primitive, found.weights.primitive
    assert isinstance(first, MatMul)
    assert isinstance(middle, MapReduce)
    result = found.scores.outputs[0]
    space = compose(result, found.read)
    if space is None or not covers(space, result.shape):
        return None
    columns = space.refine_axes(middle.axes)
    if len(columns) != 1:
        return None
    part = space.parts[columns[0]]
    if part.extent != result.shape[-1] or (part.extent != 1 and part.axis != result.rank - 1):
        return None
    q, k = found.scores.inputs[:2]
    operands = Operands(start=1)
    inner_numbers = (0, *(operands.number(space.pull(view)) for view in found.scores.inputs[2:]))
    outer_numbers = tuple(
        -1 if number == found.number else operands.number(space.refine(view))
        for number, view in enumerate(found.weights.inputs)
    )
    inner = first.epilogue or stored_sum(first.accumulator, result.dtype)
    score, extras = operands.read_by(
        splice_in(space, inner, inner_numbers, found.softmax.score, outer_numbers)
    )
    return _Scores(
        columns[0],
        space.pull(View(q.storage, q.offset, result.shape, (*q.strides[:-1], 0))),
        space.pull(View(k.storage, k.offset, result.shape, (*k.strides[:-2], 0, k.strides[-1]))),
        score,
        extras,
        space.refine(found.weights.outputs[0]),
    )


def _without_coordinates(
    scores: _Scores, space: Composition, shape: Shape, pool: ConstantPool
) -> tuple[Expression, tuple[View, ...]]:
    """The score in the axes of ``space``, of shape ``shape``, and its extras, coordinates among them."""
    pulled = ExpressionBuilder()
    expression = pulled.build(
        pulled.inline(
            scores.score,
            lambda _, instruction: pulled.add(instruction),
            lambda instruction: space.pulled_index(pulled, instruction.arguments[0]),
        )
    )
    operands = Operands(start=1)
    numbers = (0, *(operands.number(space.pull(view)) for view in scores.extras))
    builder = ExpressionBuilder()

    def coordinate(instruction: Instruction) -> int:
        (axis,) = instruction.arguments
        extent = shape[axis]
        storage = pool.get(f"positions {extent}", lambda: np.arange(extent), "positions")
        strides = tuple(int(other == axis) for other in range(len(shape)))
        number = operands.number(View(storage, 0, shape, strides))
        return builder.add(Instruction("input", (number,), instruction.dtype))

    outputs = builder.inline(
        expression,
        lambda number, instruction: builder.add(Instruction("input", (numbers[number],), instruction.dtype)),
        coordinate,
    )
    return operands.read_by(builder.build(outputs))
