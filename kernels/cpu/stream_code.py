"""Writing what a thread has put together past the caches."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.llvm_types import FLOAT, I8, I32, I64, POINTER, zeros
from onnxplan.kernels.cpu.walk_code import whole_vectors

UNROLL = 4
FLOAT32 = DType.FLOAT32


def stream_bytes(emitter: Emitter, to: ir.Value, source: ir.Value, count: ir.Value) -> None:
    """Writes ``count`` bytes past the caches, but for those beside whole vectors of the result."""
    wide = emitter.with_lanes(emitter.target.vector_bytes)
    head = emitter.minimum(wide.elements_to_line(to, 1), count)
    _move(emitter, to, source, emitter.integer(0), head)

    def stream(indices: list[ir.Value]) -> None:
        values = [wide.load_stored(emitter.offset(source, index), I8) for index in indices]
        for index, value in zip(indices, values, strict=True):
            wide.stream_stored(value, emitter.offset(to, index))

    stop = whole_vectors(wide, head, count, (UNROLL, 1), stream)
    _move(emitter, to, source, stop, count)


def _move(emitter: Emitter, to: ir.Value, source: ir.Value, start: ir.Value, stop: ir.Value) -> None:
    """The few bytes from ``start`` up to ``stop``."""
    with emitter.when(emitter.less(start, stop)):
        count = emitter.sub(stop, start)
        emitter.copy_bytes(emitter.offset(to, start), emitter.offset(source, start), count)


class FloatStream:
    """Vectors that follow each other in a result, written past the caches wherever it begins.

    What does not fill a vector of the result waits in a register for what follows: written in two parts, it
    would be read before, and the stores behind it wait for that. Where a result begins or ends within a
    vector, that part alone is written, and not past the caches.
    """

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter = emitter.with_lanes(emitter.target.vector_bytes // FLOAT32.itemsize)
        zero = emitter.integer(0)
        # The address of the vector to be written next; how many of its lanes are known, and which of these
        # stand before the result. They are the last lanes of ``_before``.
        self._line, self._known, self._skipped = (emitter.variable(zero) for _ in range(3))
        self._before = emitter.variable(zeros(emitter.vector(FLOAT)))

    def move_to(self, to: ir.Value) -> None:
        """What is appended next belongs ``to`` this place: writes what waits, unless it goes on there."""
        emitter = self._emitter
        address = emitter.builder.ptrtoint(to, I64)
        size = FLOAT32.itemsize
        end = emitter.add(self._line.value, emitter.mul(self._known.value, size))
        with emitter.when(emitter.builder.icmp_signed("!=", end, address)):
            self.end()
            inside = emitter.builder.and_(address, I64(emitter.lanes * size - 1))
            self._line.value = emitter.sub(address, inside)
            self._known.value = self._skipped.value = emitter.divide(inside, size)

    def append(self, value: ir.Value) -> None:
        """A whole vector, of elements of 4 or 8 bytes as stored."""
        value = self._floats(value)
        self._write(value)
        self._before.value = value

    def append_first(self, value: ir.Value, count: ir.Value) -> None:
        """The first ``count`` lanes of a vector as for :meth:`append`: none, all, or any number between."""
        emitter = self._emitter
        count = emitter.mul(count, emitter.lanes // value.type.count)
        value = self._floats(value)
        known = emitter.add(self._known.value, count)
        with emitter.branch(emitter.less(known, emitter.lanes)) as (then, otherwise):
            with then:
                self._known.value = known
            with otherwise:
                self._write(value)
                self._known.value = emitter.sub(known, emitter.lanes)
        self._before.value = self._window(value, count)

    def _floats(self, value: ir.Value) -> ir.Value:
        return self._emitter.builder.bitcast(value, self._emitter.vector(FLOAT))

    def end(self) -> None:
        """Writes what waits."""
        emitter = self._emitter
        with emitter.when(emitter.less(self._skipped.value, self._known.value)):
            waiting = self._window(self._before.value, emitter.sub(emitter.lanes, self._known.value))
            self._write_lanes(waiting, self._known.value)
        self._skipped.value = self._known.value

    def _write(self, value: ir.Value) -> None:
        """The vector that ``value`` completes."""
        emitter = self._emitter
        full = self._window(value, emitter.sub(emitter.lanes, self._known.value))
        with emitter.branch(emitter.less(0, self._skipped.value)) as (then, otherwise):
            with then:
                self._write_lanes(full, I64(emitter.lanes))
                self._skipped.value = I64(0)
            with otherwise:
                emitter.stream(full, self._pointer(), FLOAT32)
        self._line.value = emitter.add(self._line.value, emitter.lanes * FLOAT32.itemsize)

    def _write_lanes(self, value: ir.Value, last: ir.Value) -> None:
        """The lanes up to ``last``, excluded, but for those before the result."""
        emitter, builder = self._emitter, self._emitter.builder
        numbers = emitter.lane_numbers(I32)
        first, stop = (emitter.splat(builder.trunc(n, I32)) for n in (self._skipped.value, last))
        bits = builder.and_(
            builder.icmp_signed("<=", first, numbers), builder.icmp_signed("<", numbers, stop)
        )
        emitter.store(value, self._pointer(), FLOAT32, Mask(last, bits))

    def _window(self, value: ir.Value, start: ir.Value) -> ir.Value:
        """A vector of the lanes of what was before and then ``value``'s, from the ``start``-th on."""
        emitter, builder = self._emitter, self._emitter.builder
        places = builder.add(emitter.lane_numbers(I32), emitter.splat(builder.trunc(start, I32)))
        return emitter.permute_two(self._before.value, value, places)

    def _pointer(self) -> ir.Value:
        return self._emitter.builder.inttoptr(self._line.value, POINTER)
