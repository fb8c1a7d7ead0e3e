"""Kernels of reductions and of what mixes them with elementwise work (softmax, normalisations).

Two modes. ``row``: vectors run along the innermost reduced axis, lanes are combined after each pass.
``column``: vectors run along a kept axis, each lane is a reduction of its own. Sums are formed in blocks
whose totals are added up, so that the rounding error grows far more slowly than the length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import REDUCTIONS, Expression
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import arithmetic
from onnxplan.kernels.cpu.emitter import Emitter, Mask, evaluate
from onnxplan.kernels.cpu.emitter_core import Core, Variable
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.cpu.operand_code import Access, Operand, Place, read_operands, vector_head
from onnxplan.kernels.cpu.row_behind import Beside, RowBehind, Values, identity
from onnxplan.kernels.cpu.stream_code import FloatStream
from onnxplan.kernels.cpu.streaming import fetching_pass
from onnxplan.kernels.cpu.vector_shape import column_unroll, lane_count, unroll_factor
from onnxplan.kernels.cpu.walk_code import (
    Odometer,
    OuterAxis,
    Reader,
    read_axes,
    vector_loop,
    walk_rows,
    walk_rows_and_end,
    whole_vectors,
)
from onnxplan.kernels.phases import Phase, Schedule, accumulator, schedule

# Points (row mode: vectors) that are summed up before their total is added to the rest.
BLOCK = 64


def build_reduce(variant: Any, target: Target) -> ObjectCode:
    """``variant``: ``(mode, expression, labels, kinds, numbers, outer rank, region rank, cache, streamed)``.

    Operands as for maps (:func:`onnxplan.kernels.cpu.map_code.build_map`); ``kinds`` are along the axis of
    the vectors. The region is what one reduction runs over, in row mode without its innermost axis.
    Parameters: those of the expression, as doubles; those of the walk over kept axes; for each axis of the
    region its extent and the operands' strides in bytes; the points of the region; the extent of the axis of
    the vectors; the columns of a chunk; the bytes between cached values in the scratch; the inner strides;
    if there are operands ``ahead``, of which one pass fetches what later rows read, how far that lies.
    Rows that are ``streamed``, of a region of no other axes, are written one behind
    (:mod:`onnxplan.kernels.cpu.row_behind`); the scratch then holds values of two rows.
    """
    mode, expression, labels, kinds, numbers, outer_rank, region_rank, cache, streamed, ahead = variant
    accesses = [Access(label, kind) for label, kind in zip(labels, kinds, strict=True)]
    emitter = Emitter.kernel(kernel_symbol("reduce", variant), target, lane_count(expression, labels, target))
    reader = Reader(emitter)
    scalars = reader.scalars(expression)
    behind = None
    if streamed and not region_rank:
        behind = RowBehind(emitter, expression, len(accesses))
    stream = FloatStream(emitter) if streamed else None
    walk = walk_rows if behind is None else walk_rows_and_end
    # ``chunk`` is whether there is a row, where rows are written behind.
    with walk(emitter, reader, outer_rank, len(accesses)) as (offsets, chunk):
        region = read_axes(reader, region_rank, len(accesses))
        points, extent, length, cache_stride = (reader.next() for _ in range(4))
        operands = read_operands(emitter, reader, accesses)
        fetched = _Ahead(ahead, reader.next() if ahead else emitter.integer(0))
        kernel = _Kernel(
            emitter, expression, scalars, schedule(expression, cache=cache), operands, numbers, offsets,
            region, points, cache_stride, fetched, stream=stream,
        )  # fmt: skip
        if behind is not None:
            kernel.row_and_behind(emitter.builder.select(chunk, extent, emitter.integer(0)), extent, behind)
        elif mode == "row":
            kernel.row(extent)
        else:
            start = emitter.mul(chunk, length)
            stop = emitter.minimum(emitter.add(start, length), extent)
            unroll = column_unroll(expression, kinds)
            vector_loop(emitter, start, stop, unroll, kernel.columns, always_masked=True)
    if stream is not None:
        stream.end()
        emitter.end_streams()
    return emitter.finish(light=True)


@dataclass(frozen=True, slots=True)
class _Ahead:
    """Operands of which is fetched what lies ``distance`` bytes ahead."""

    operands: tuple[int, ...]
    distance: ir.Value


class _Kernel:
    """One row of kept coordinates (row mode) or one block of columns."""

    def __init__(
        self,
        emitter: Emitter,
        expression: Expression,
        scalars: Values,
        plan: Schedule,
        operands: list[Operand],
        numbers: tuple[int, ...],
        offsets: list[ir.Value],
        region: list[OuterAxis],
        points: ir.Value,
        cache_stride: ir.Value,
        ahead: _Ahead,
        *,
        stream: FloatStream | None,
    ) -> None:
        self._stream, self._ahead = stream, ahead
        self._emitter, self._expression, self._plan = emitter, expression, plan
        self._scalars = scalars
        self._operands, self._numbers, self._offsets = operands, numbers, offsets
        self._region, self._points, self._cache_stride = region, points, cache_stride
        self._kinds = "".join(operand.access.kind for operand in operands)
        self._reduced = expression.reduced()
        self._fetching = fetching_pass(plan, behind=stream is not None and not region)

    def row(self, extent: ir.Value) -> None:
        """All passes with vectors along the innermost reduced axis of ``extent``."""
        emitter = self._emitter
        reduced = dict(self._scalars)
        self._evaluate_reduced(reduced)
        for phase in self._plan.phases:
            totals = self._totals(phase)
            odometer = Odometer(emitter, self._region, len(self._operands))
            with emitter.loop(0, self._points) as point:
                places = self._places(self._moved(odometer.offsets))
                self._row_pass(phase, places, extent, totals, reduced, emitter.mul(point, extent))
                odometer.advance()
            self._finish(totals, reduced)
        places = self._places(self._offsets, hoist=False)
        for number, output in enumerate(self._expression.outputs):
            if self._reduced[output]:
                places[len(self._numbers) + number].store(emitter, reduced[output], emitter.integer(0), None)

    def row_and_behind(self, extent: ir.Value, whole: ir.Value, behind: RowBehind) -> None:
        """The passes of a row but the last, which writes, and that of the row before.

        The last is done beside the pass that fetches, whose reads and arithmetic the writes then overlap.
        ``extent`` is 0 behind the last row, that of what is ``behind`` before the first; else both are
        ``whole``. Sums are the same with and without a row behind.
        """
        emitter, last = self._emitter, self._plan.phases[-1]
        reduced, earlier = dict(self._scalars), dict(self._scalars) | behind.reduced()
        for values in (reduced, earlier):
            self._evaluate_reduced(values)
        vectors = emitter.ceil_div(whole, emitter.lanes)
        half = emitter.mul(vectors, emitter.lanes)
        cached_from = emitter.mul(behind.half.value, half)
        cached_behind = emitter.sub(half, cached_from)
        places, places_behind = self._places(self._offsets), self._places(behind.offsets())
        write = self._row_body(last, places_behind, {}, earlier, cached_behind)
        for phase in self._plan.phases[:-1]:
            totals = self._totals(phase)
            if phase is self._fetching:
                left = behind.extent.value
                head = vector_head(emitter, emitter.integer(0), left, places_behind[-1], write)
                beside = Beside(head, emitter.minimum(extent, emitter.sub(left, head)), write)
                done = self._row_pass(phase, places, extent, totals, reduced, cached_from, beside)
                rest = emitter.add(head, done)
                vector_loop(emitter, rest, left, unroll_factor(last.cost, self._kinds), write)
            else:
                self._row_pass(phase, places, extent, totals, reduced, cached_from)
            self._finish(totals, reduced)
        behind.keep(emitter, self._offsets, extent, reduced)

    def _totals(self, phase: Phase) -> dict[int, Variable]:
        return {p: self._emitter.variable(self._identity(p)) for p in phase.reductions}

    def _finish(self, totals: dict[int, Variable], reduced: Values) -> None:
        """Adds what a pass reduced, and what then is known, to ``reduced``."""
        for p, total in totals.items():
            reduced[p] = self._emitter.splat(self._horizontal(p, total.value))
        self._evaluate_reduced(reduced)

    def _row_pass(
        self,
        phase: Phase,
        places: list[Place],
        extent: ir.Value,
        totals: dict[int, Variable],
        reduced: Values,
        cached_from: ir.Value,
        beside: Beside | None = None,
    ) -> ir.Value:
        """One pass over a row; how many elements were done ``beside`` it."""
        emitter = self._emitter
        unroll = unroll_factor(phase.cost, self._kinds)
        step = unroll * emitter.lanes
        shared: ir.Value = emitter.integer(0)
        if beside is not None:
            shared = emitter.mul(emitter.divide(beside.extent, step), step)
        begin: ir.Value = emitter.integer(0)
        if self._stream is not None and phase.outputs:
            # The last pass, which reduces nothing.
            body = self._row_body(phase, places, {}, reduced, cached_from)
            begin = vector_head(emitter, begin, extent, places[-1], body)
        with emitter.loop(begin, extent, BLOCK * step) as start:
            stop = emitter.minimum(emitter.add(start, BLOCK * step), extent)
            partial = {p: [emitter.variable(self._identity(p)) for _ in range(unroll)] for p in totals}
            body = self._row_body(phase, places, partial, reduced, cached_from)
            if beside is not None:
                middle = emitter.maximum(start, emitter.minimum(shared, stop))
                start = whole_vectors(emitter, start, middle, (unroll,), beside.after(emitter, body))
            vector_loop(emitter, start, stop, unroll, body)
            for p, total in totals.items():
                for lane in partial[p]:
                    total.value = self._combine(p, total.value, lane.value)
        return shared

    def _row_body(
        self,
        phase: Phase,
        places: list[Place],
        partial: dict[int, list[Variable]],
        reduced: Values,
        cached_from: ir.Value,
    ) -> Callable[[list[ir.Value], Mask | None], None]:
        emitter = self._emitter

        def body(indices: list[ir.Value], mask: Mask | None) -> None:
            results = []
            for index in indices:
                if phase is self._fetching:
                    for number in self._ahead.operands:
                        places[number].prefetch(emitter, index, self._ahead.distance)
                slot = emitter.add(cached_from, index)
                results.append(self._compute(phase, places, dict(reduced), index, mask, slot))
            for number, (index, values) in enumerate(zip(indices, results, strict=True)):
                for p in phase.reductions:
                    value = values[self._expression.instructions[p].arguments[0]]
                    if mask is not None:
                        value = emitter.builder.select(mask.bits, value, self._identity(p))
                    partial[p][number].value = self._combine(p, partial[p][number].value, value)
                self._store(phase, places, values, index, mask)

        return body

    def columns(self, indices: list[ir.Value], mask: Mask | None) -> None:
        """All passes for the columns of some neighbouring vectors."""
        emitter = self._emitter
        reduced = [dict(self._scalars) for _ in indices]
        for values in reduced:
            self._evaluate_reduced(values)
        width = len(indices) * emitter.lanes
        for phase in self._plan.phases:
            totals = {p: [emitter.variable(self._identity(p)) for _ in indices] for p in phase.reductions}
            odometer = Odometer(emitter, self._region, len(self._operands))
            with emitter.loop(0, self._points, BLOCK) as start:
                stop = emitter.minimum(emitter.add(start, BLOCK), self._points)
                partial = {p: [emitter.variable(self._identity(p)) for _ in indices] for p in totals}
                with emitter.loop(start, stop) as point:
                    places = self._places(self._moved(odometer.offsets))
                    results = []
                    for number, index in enumerate(indices):
                        slot = emitter.add(emitter.mul(point, width), number * emitter.lanes)
                        results.append(self._compute(phase, places, dict(reduced[number]), index, mask, slot))
                    for number, (index, values) in enumerate(zip(indices, results, strict=True)):
                        for p in phase.reductions:
                            value = values[self._expression.instructions[p].arguments[0]]
                            partial[p][number].value = self._combine(p, partial[p][number].value, value)
                        self._store(phase, places, values, index, mask)
                    odometer.advance()
                for p, variables in totals.items():
                    for number, total in enumerate(variables):
                        total.value = self._combine(p, total.value, partial[p][number].value)
            for number, values in enumerate(reduced):
                for p, variables in totals.items():
                    values[p] = variables[number].value
                self._evaluate_reduced(values)
        places = self._places(self._offsets, hoist=False)
        for index, values in zip(indices, reduced, strict=True):
            for number, output in enumerate(self._expression.outputs):
                if self._reduced[output]:
                    places[len(self._numbers) + number].store(emitter, values[output], index, mask)

    def _moved(self, region_offsets: list[ir.Value]) -> list[ir.Value]:
        """The offsets of a point of the region."""
        return [self._emitter.add(a, b) for a, b in zip(self._offsets, region_offsets, strict=True)]

    def _places(self, offsets: list[ir.Value], *, hoist: bool = True) -> list[Place]:
        emitter = self._emitter
        places = [
            operand.at(emitter, offset) for operand, offset in zip(self._operands, offsets, strict=True)
        ]
        if hoist:
            for place in places[: len(self._numbers)]:
                place.hoist(emitter)
        return places

    def _compute(
        self,
        phase: Phase,
        places: list[Place],
        values: Values,
        index: ir.Value,
        mask: Mask | None,
        slot: ir.Value,
    ) -> Values:
        """Adds a pass's values at ``index`` to ``values``; cached ones are at ``slot`` of the scratch."""
        emitter, expression = self._emitter, self._expression
        inputs = {
            (operand.access.label == "index", number): place
            for operand, number, place in zip(self._operands, self._numbers, places, strict=False)
        }
        loaded: dict[int, ir.Value] = {}

        def read(number: int, dtype: DType) -> ir.Value:
            if number not in loaded:
                loaded[number] = inputs[False, number].load(emitter, index, mask)
            return loaded[number]

        def coordinate(axis: int) -> ir.Value:
            return inputs[True, axis].load(emitter, index, mask)

        earlier = self._plan.phases[: self._plan.phases.index(phase)]
        fresh: list[int] = []
        for number, position in enumerate(self._plan.cached):
            if any(self._needs(other, position) for other in earlier):
                if self._needs(phase, position):
                    values[position] = self._cache(number, position, slot, None)
            elif self._needs(phase, position):
                fresh.append(number)
        for root in phase.roots:
            evaluate(emitter, expression, root, values, read, coordinate)
        for number in fresh:
            position = self._plan.cached[number]
            self._cache(number, position, slot, values[position])
        return values

    def _needs(self, phase: Phase, position: int) -> bool:
        pending, seen = list(phase.roots), set[int]()
        while pending:
            current = pending.pop()
            if current == position:
                return True
            if current not in seen and not self._reduced[current]:
                seen.add(current)
                pending.extend(self._expression.instructions[current].operands)
        return False

    def _cache(self, number: int, position: int, slot: ir.Value, value: ir.Value | None) -> Any:
        """Loads, or with ``value`` stores, the ``number``-th cached value."""
        emitter = self._emitter
        dtype = accumulator(self._expression.instructions[position].dtype)
        base = emitter.offset(emitter.scratch, emitter.mul(number, self._cache_stride))
        pointer = emitter.element(base, slot, dtype)
        if value is None:
            return emitter.load(pointer, dtype)
        return emitter.store(value, pointer, dtype)

    def _store(
        self, phase: Phase, places: list[Place], values: Values, index: ir.Value, mask: Mask | None
    ) -> None:
        for number in phase.outputs:
            value = values[self._expression.outputs[number]]
            place = places[len(self._numbers) + number]
            if self._stream is None:
                place.store(self._emitter, value, index, mask)
            elif mask is None:
                place.stream(self._emitter, value, index)
            else:
                place.stream_part(self._emitter, self._stream, value, index, mask)

    def _evaluate_reduced(self, values: Values) -> None:
        """Adds what hangs on constants and known reductions only."""
        for position, instruction in enumerate(self._expression.instructions):
            if position in values or not self._reduced[position] or instruction.op in REDUCTIONS:
                continue
            if all(argument in values for argument in instruction.operands):
                evaluate(self._emitter, self._expression, position, values, _no_input)

    def _identity(self, position: int) -> ir.Value:
        return identity(self._emitter, self._expression.instructions[position])

    def _combine(self, position: int, a: ir.Value, b: ir.Value, emitter: Core | None = None) -> ir.Value:
        instruction = self._expression.instructions[position]
        function = COMBINE[instruction.op]
        result: ir.Value = function(emitter or self._emitter, instruction.dtype, instruction.dtype, a, b)
        return result

    def _horizontal(self, position: int, vector: ir.Value) -> ir.Value:
        return self._emitter.horizontal(vector, lambda half, a, b: self._combine(position, a, b, half))


COMBINE: dict[str, Callable[..., ir.Value]] = {
    "reduce_sum": arithmetic.add,
    "reduce_prod": arithmetic.mul,
    "reduce_max": arithmetic.maximum,
    "reduce_min": arithmetic.minimum,
}


def _no_input(number: int, dtype: DType) -> ir.Value:
    raise AssertionError("a reduced value reads no input")
