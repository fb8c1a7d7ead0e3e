"""The kernel of elementwise maps and of copies whose rows are contiguous or strided."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.emitter import Emitter, Mask, evaluate
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.cpu.operand_code import Access, Place, read_operands, vector_head
from onnxplan.kernels.cpu.streaming import LEAST_AHEAD, fetches
from onnxplan.kernels.cpu.vector_shape import lane_count, map_unroll
from onnxplan.kernels.cpu.walk_code import Reader, vector_loop, walk_rows


def build_map(variant: Any, target: Target) -> ObjectCode:
    """``variant`` is ``(expression, labels, kinds, numbers, rank, streamed)``.

    Operands are the expression's inputs and coordinates, then the outputs: ``labels`` and ``kinds`` are
    those of :class:`~onnxplan.kernels.cpu.operand_code.Access`, ``numbers`` the input or axis that each but
    the outputs stands for. ``rank`` is the number of outer axes. If it is ``streamed``, the one output is
    written past the caches, and if that is costly, inputs are fetched ahead. Parameters: those of the
    expression, as doubles, those of the walk, the inner extent, the length of a chunk, the inner strides.
    """
    expression, labels, kinds, numbers, rank, streamed = variant
    accesses = [Access(label, kind) for label, kind in zip(labels, kinds, strict=True)]
    lanes = lane_count(expression, labels, target)
    unroll = map_unroll(expression, kinds)
    emitter = Emitter.kernel(kernel_symbol("map", variant), target, lanes)
    reader = Reader(emitter)
    scalars = reader.scalars(expression)
    with walk_rows(emitter, reader, rank, len(accesses)) as (offsets, chunk):
        extent, length = reader.next(), reader.next()
        operands = read_operands(emitter, reader, accesses)
        places = [operand.at(emitter, offset) for operand, offset in zip(operands, offsets, strict=True)]
        for place in places[: len(numbers)]:
            place.hoist(emitter)
        start = emitter.mul(chunk, length)
        stop = emitter.minimum(emitter.add(start, length), extent)
        row = _Row(emitter, expression, scalars, places, accesses, numbers, streamed=streamed)
        if streamed:
            start = vector_head(emitter, start, stop, places[-1], row.compute)
        vector_loop(emitter, start, stop, unroll, row.compute)
    if streamed:
        emitter.end_streams()
    return emitter.finish(light=True)


class _Row:
    def __init__(
        self,
        emitter: Emitter,
        expression: Expression,
        scalars: dict[int, ir.Value],
        places: list[Place],
        accesses: list[Access],
        numbers: tuple[int, ...],
        *,
        streamed: bool,
    ) -> None:
        self._emitter, self._expression, self._streamed = emitter, expression, streamed
        self._scalars, self._fetches = scalars, fetches(expression, streamed=streamed)
        self._outputs = places[len(numbers) :]
        inputs = list(zip(accesses[: len(numbers)], numbers, places[: len(numbers)], strict=True))
        self._inputs = {number: place for access, number, place in inputs if access.label != "index"}
        self._coordinates = {number: place for access, number, place in inputs if access.label == "index"}

    def compute(self, indices: list[ir.Value], mask: Mask | None) -> None:
        """The vectors at ``indices``; all of them are loaded before any is stored."""
        if self._fetches and mask is None:
            for index in indices:
                for place in self._inputs.values():
                    place.prefetch(self._emitter, index, self._emitter.integer(LEAST_AHEAD))
        results = [self._evaluate(index, mask) for index in indices]
        for index, values in zip(indices, results, strict=True):
            for place, value in zip(self._outputs, values, strict=True):
                if self._streamed and mask is None:
                    place.stream(self._emitter, value, index)
                else:
                    place.store(self._emitter, value, index, mask)

    def _evaluate(self, index: ir.Value, mask: Mask | None) -> list[ir.Value]:
        loaded: dict[int, ir.Value] = {}

        def read(number: int, dtype: DType) -> ir.Value:
            if number not in loaded:
                loaded[number] = self._inputs[number].load(self._emitter, index, mask)
            return loaded[number]

        def coordinate(axis: int) -> ir.Value:
            return self._coordinates[axis].load(self._emitter, index, mask)

        values = dict(self._scalars)
        return [
            evaluate(self._emitter, self._expression, output, values, read, coordinate)
            for output in self._expression.outputs
        ]
