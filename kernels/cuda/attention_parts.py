"""Attention of few queries: heads that share keys become rows, and several blocks share the keys of a tile.

Source: T. Dao, D. Haziza, F. Massa and G. Sizov, "Flash-Decoding for long-context inference",
https://crfm.stanford.edu/2023/10/12/flashdecoding.html.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, ExpressionBuilder, Instruction, constant
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.attention_extents import AttentionExtents
from onnxplan.kernels.cuda.attention_form import WARP_ROWS
from onnxplan.kernels.cuda.reduce import select_reduce


@dataclass(frozen=True, slots=True)
class Queries:
    """The operands of attention, where ``heads`` heads with the same keys have theirs one after the other.

    ``views`` are q, k, v, the extras and the output; with several heads all but k and v have an axis of these
    before the last two. ``output`` has it too where rows are heads of one query each.
    """

    extents: AttentionExtents
    heads: int
    views: tuple[View, ...]
    output: View

    @staticmethod
    def of(operation: Operation) -> Queries:
        views, output = operation.inputs, operation.outputs[0]
        extents = AttentionExtents.of(operation)
        axis = _shared_axis(views, output)
        if axis is None:
            return Queries(extents, 1, (*views, output), output)
        heads = output.shape[axis]
        q, k, v, *extras = views
        order = [*(other for other in range(output.rank - 2) if other != axis), axis]
        last = [output.rank - 2, output.rank - 1]
        q, *extras, output = (view.transpose((*order, *last)) for view in (q, *extras, output))
        k, v = (view.slice(axis, 0, 1).squeeze((axis,)) for view in (k, v))
        rows = [q, *extras, output]
        if extents.rows == 1:
            rows = [view.squeeze((view.rank - 2,)) for view in rows]
        extents = replace(extents, batch=extents.batch // heads, rows=extents.rows * heads)
        views = (rows[0], k, v, *rows[1:])
        return Queries(extents, heads if extents.rows > heads else 1, views, output)

    @property
    def batch(self) -> tuple[int, ...]:
        """The extents of the axes that blocks are counted along."""
        return self.views[1].shape[:-2]

    def batch_strides(self, view: View) -> tuple[int, ...]:
        return view.strides[: len(self.batch)]


def _shared_axis(views: Sequence[View], output: View) -> int | None:
    """The axis along which most heads share keys and values, where they have few queries."""
    _, k, v, *_ = views
    if output.shape[-2] >= WARP_ROWS:
        return None
    shared = [
        axis
        for axis, extent in enumerate(output.shape[:-2])
        if extent > 1 and not k.strides[axis] and not v.strides[axis]
    ]
    return max(shared, key=lambda axis: output.shape[axis], default=None)


@dataclass(frozen=True, slots=True)
class Parts:
    """What blocks leave of their parts of the keys: weighted values, largest scores, sums of weights."""

    results: View
    tops: View
    totals: View

    @staticmethod
    def make(emit: StepEmitter, queries: Queries, count: int) -> Parts:
        shape = (count, *queries.output.shape)
        lines = math.prod(shape[:-1])
        tops, totals = (
            View.dense(emit.temporary(DType.FLOAT32, lines, name), (*shape[:-1], 1)).expand(shape)
            for name in ("part_tops", "part_totals")
        )
        results = emit.temporary(DType.FLOAT32, lines * shape[-1], "part_results")
        return Parts(View.dense(results, shape), tops, totals)

    @property
    def views(self) -> tuple[View, View, View]:
        """The operands of the step that leaves them."""
        tops, totals = (View.dense(view.storage, view.shape[:-1]) for view in (self.tops, self.totals))
        return self.results, tops, totals

    def combine(self, emit: StepEmitter, target: Target, output: View, softmax: str, scale: float) -> None:
        """Emits the reduction to the results of all keys."""
        primitive = MapReduce(combination(softmax, scale, output.dtype), self.results.shape, (0,))
        views = (self.results, self.tops, self.totals)
        select_reduce(Operation(primitive, views, (output.unsqueeze((0,)),)), emit, target)


def combination(softmax: str, scale: float, dtype: DType) -> Expression:
    """One result from those of parts; ``scale`` times scores are exponents."""
    builder = ExpressionBuilder()

    def number(value: float) -> int:
        return builder.add(constant(value, DType.FLOAT32))

    def value_of(op: str, *operands: int) -> int:
        return builder.add(Instruction(op, operands, DType.FLOAT32))

    def where(condition: str, total: int, *choices: int) -> int:
        chosen = builder.add(Instruction(condition, (total, number(0.0)), DType.BOOL))
        return value_of("select", chosen, *choices)

    results, tops, totals = (builder.add(Instruction("input", (n,), DType.FLOAT32)) for n in range(3))
    top = value_of("reduce_max", tops)
    # A row without scores above minus infinity has weights of 0.
    some = builder.add(Instruction("greater", (top, number(-math.inf)), DType.BOOL))
    base = value_of("select", some, top, number(0.0))
    weight = value_of("exp", value_of("mul", value_of("sub", tops, base), number(scale)))
    total = value_of("reduce_sum", value_of("mul", weight, totals))
    value = value_of("div", value_of("reduce_sum", value_of("mul", weight, results)), total)
    if softmax == "masked":
        value = where("equal", total, total, value)
    elif softmax == "guarded":
        value = where("greater", total, value, number(0.0))
    if dtype is not DType.FLOAT32:
        value = builder.add(Instruction("cast", (value,), dtype))
    return builder.build((value,))
