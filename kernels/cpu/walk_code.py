"""Loops over the outer axes of an iteration space: an odometer that keeps each operand's byte offset.

The parameters of a walk are, in this order (``geometry.walk_parameters`` makes them): number of rows, rows
per tile, chunks per row, then for each outer axis from the outermost its extent and the operands' strides in
bytes. A row is one combination of outer coordinates and one chunk of the inner axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from llvmlite import ir

from onnxplan.compiler.expression import Expression
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.emitter_core import Variable


class Reader:
    """Hands out a kernel's parameters one after another."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter
        self._position = 0

    def next(self) -> ir.Value:
        self._position += 1
        return self._emitter.parameter(self._position - 1)

    def scalars(self, expression: Expression) -> dict[int, ir.Value]:
        """The next parameters are those of ``expression``: their values by position, in all lanes."""
        found = {}
        for position, instruction in enumerate(expression.instructions):
            if instruction.op == "parameter":
                found[position] = self._emitter.float_parameter(self._position, instruction.dtype)
                self._position += 1
        return found


@dataclass(frozen=True, slots=True)
class OuterAxis:
    extent: ir.Value
    strides: tuple[ir.Value, ...]


def read_axes(reader: Reader, rank: int, operands: int) -> list[OuterAxis]:
    return [OuterAxis(reader.next(), tuple(reader.next() for _ in range(operands))) for _ in range(rank)]


class Odometer:
    """Coordinates and byte offsets of a position in some axes, in variables."""

    def __init__(self, emitter: Emitter, axes: Sequence[OuterAxis], operands: int) -> None:
        self._emitter, self._axes = emitter, axes
        zero = emitter.integer(0)
        self._coordinates = [emitter.variable(zero) for _ in axes]
        self._offsets = [emitter.variable(zero) for _ in range(operands)]

    @property
    def offsets(self) -> list[ir.Value]:
        return [variable.value for variable in self._offsets]

    def move_to(self, position: ir.Value) -> None:
        """Sets the coordinates of the row-major ``position``; they must be zero before."""
        emitter = self._emitter
        for axis, coordinate in zip(reversed(self._axes), reversed(self._coordinates), strict=True):
            coordinate.value = emitter.modulo(position, axis.extent)
            position = emitter.divide(position, axis.extent)
            for offset, stride in zip(self._offsets, axis.strides, strict=True):
                offset.value = emitter.add(offset.value, emitter.mul(coordinate.value, stride))

    def advance(self) -> None:
        """Moves on by one position."""
        self._advance(len(self._axes) - 1)

    def _advance(self, level: int) -> None:
        if level < 0:
            return
        emitter, axis, coordinate = self._emitter, self._axes[level], self._coordinates[level]
        coordinate.value = emitter.add(coordinate.value, 1)
        for offset, stride in zip(self._offsets, axis.strides, strict=True):
            offset.value = emitter.add(offset.value, stride)
        if level == 0:
            return
        full = emitter.builder.icmp_signed("==", coordinate.value, axis.extent)
        with emitter.when(full):
            coordinate.value = emitter.integer(0)
            for offset, stride in zip(self._offsets, axis.strides, strict=True):
                offset.value = emitter.sub(offset.value, emitter.mul(axis.extent, stride))
            self._advance(level - 1)


@contextmanager
def walk_rows(
    emitter: Emitter, reader: Reader, rank: int, operands: int
) -> Iterator[tuple[list[ir.Value], ir.Value]]:
    """Runs the body for each row of the call's tiles: yields the operands' byte offsets and the chunk."""
    start, stop, chunks, odometer = _tile_rows(emitter, reader, rank, operands)
    chunk: Variable = emitter.variable(emitter.integer(0))
    with emitter.when(emitter.less(0, start)):
        chunk.value = emitter.modulo(start, chunks)
        odometer.move_to(emitter.divide(start, chunks))
    with emitter.loop(start, stop):
        yield odometer.offsets, chunk.value
        chunk.value = emitter.add(chunk.value, 1)
        with emitter.when(emitter.builder.icmp_signed("==", chunk.value, chunks)):
            chunk.value = emitter.integer(0)
            odometer.advance()


@contextmanager
def walk_rows_and_end(
    emitter: Emitter, reader: Reader, rank: int, operands: int
) -> Iterator[tuple[list[ir.Value], ir.Value]]:
    """As :func:`walk_rows` of rows in one chunk, and once more behind the last row, if there is one.

    Yields the offsets and whether there is a row, an ``i1``; behind the last the offsets are still its.
    """
    start, stop, _, odometer = _tile_rows(emitter, reader, rank, operands)
    with emitter.when(emitter.less(0, start)):
        odometer.move_to(start)
    end = emitter.builder.select(emitter.less(start, stop), emitter.add(stop, 1), stop)
    with emitter.loop(start, end) as row:
        yield odometer.offsets, emitter.less(row, stop)
        with emitter.when(emitter.less(emitter.add(row, 1), stop)):
            odometer.advance()


def _tile_rows(
    emitter: Emitter, reader: Reader, rank: int, operands: int
) -> tuple[ir.Value, ir.Value, ir.Value, Odometer]:
    """The rows from which and up to which the call's tiles go, chunks of a row, and an odometer at 0."""
    rows, per_tile, chunks = reader.next(), reader.next(), reader.next()
    axes = read_axes(reader, rank, operands)
    start = emitter.mul(emitter.first, per_tile)
    stop = emitter.minimum(emitter.mul(emitter.last, per_tile), rows)
    return start, stop, chunks, Odometer(emitter, axes, operands)


def whole_vectors(
    emitter: Emitter,
    start: ir.Value,
    stop: ir.Value,
    counts: Iterable[int],
    body: Callable[[list[ir.Value]], None],
) -> ir.Value:
    """Calls ``body(indices)`` for the whole vectors from ``start`` up to ``stop``; returns where they end.

    ``counts`` says how many at a time: first the first of them as often as it fits, then the others.
    """
    lanes = emitter.lanes
    position = start
    for count in dict.fromkeys(counts):
        step = count * lanes
        whole = emitter.mul(emitter.divide(emitter.sub(stop, position), step), step)
        end = emitter.add(position, whole)
        with emitter.loop(position, end, step) as index:
            body([emitter.add(index, i * lanes) for i in range(count)])
        position = end
    return position


def vector_loop(
    emitter: Emitter,
    start: ir.Value,
    stop: ir.Value,
    unroll: int,
    body: Callable[[list[ir.Value], Mask | None], None],
    *,
    always_masked: bool = False,
) -> None:
    """Calls ``body(indices, mask)`` for the vectors from ``start`` up to ``stop``.

    First ``unroll`` whole vectors at a time, then one, then what is left under a mask. With
    ``always_masked`` the last two are one, which is less code.
    """
    counts = (unroll,) if always_masked else (unroll, 1)
    position = whole_vectors(emitter, start, stop, counts, lambda indices: body(indices, None))
    if always_masked and unroll > 1:
        with emitter.loop(position, stop, emitter.lanes) as index:
            body([index], emitter.mask(emitter.sub(stop, index)))
    else:
        with emitter.when(emitter.less(position, stop)):
            body([position], emitter.mask(emitter.sub(stop, position)))
