"""Code of Resample along rows; see :mod:`onnxplan.kernels.cpu.resample_rows`."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.columns import Group, for_groups
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.llvm_types import I64
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.cpu.pack_code import axis_offsets
from onnxplan.kernels.cpu.resample_rows import FAMILY, ROWS, WINDOW, WORDS
from onnxplan.kernels.cpu.stream_code import FloatStream
from onnxplan.kernels.cpu.walk_code import vector_loop, whole_vectors

FLOAT32, INT32 = DType.FLOAT32, DType.INT32


def build_resample_rows(variant: Variant, target: Target) -> ObjectCode:
    """``variant``: lines of a row and taps along it, 0 where they are not unrolled.

    Operands: x, places and weights of lines, starts and picks of vectors, y.
    """
    lines, taps = variant
    assert isinstance(lines, int)
    assert isinstance(taps, int)
    emitter = Emitter.kernel(kernel_symbol(FAMILY, variant), target, target.vector_bytes // 4)
    rows = _Rows(emitter, lines, taps)
    word = rows.word
    start = emitter.mul(emitter.first, word["per_tile"])
    stop = emitter.minimum(emitter.mul(emitter.last, word["per_tile"]), word["units"])
    axes = emitter.offset(emitter.function.args[1], 8 * len(WORDS))
    with emitter.loop(start, stop) as unit:
        outer = axis_offsets(emitter, axes, word["axes"], emitter.divide(unit, word["blocks"]), 2)
        x, y = (
            emitter.offset(emitter.operand(number), part) for number, part in zip((0, 5), outer, strict=True)
        )
        first = emitter.mul(emitter.modulo(unit, word["blocks"]), word["block"])
        last = emitter.minimum(emitter.add(first, word["block"]), word["rows"])
        rows.block(x, y, first, last)
    rows.stream.end()
    emitter.end_streams()
    return emitter.finish(light=True)


class _Rows:
    def __init__(self, emitter: Emitter, lines: int, taps: int) -> None:
        self.emitter = emitter
        self.word = {name: emitter.parameter(number) for number, name in enumerate(WORDS)}
        self.lines, self.taps = lines, taps
        self.stream = FloatStream(emitter)

    def block(self, x: ir.Value, y: ir.Value, first: ir.Value, last: ir.Value) -> None:
        """The rows from ``first`` up to ``last`` of the result ``y``.

        Lines are blended :data:`ROWS` rows ahead: by the time they are picked from, across what was written
        vector by vector, they have left the processor's store buffer, which later results fill.
        """
        emitter = self.emitter
        with emitter.loop(emitter.sub(first, ROWS), last) as row:
            ahead = emitter.add(row, ROWS)
            with emitter.when(emitter.less(ahead, last)):
                self._blend(x, ahead, self._line(ahead))
            with emitter.when(emitter.builder.icmp_signed("<=", first, row)):
                self._write(y, row, self._line(row))

    def _line(self, row: ir.Value) -> ir.Value:
        """Where in scratch the line of a row is: twice :data:`ROWS` take turns."""
        emitter = self.emitter
        turn = emitter.builder.and_(row, I64(2 * ROWS - 1))
        return emitter.offset(emitter.scratch, emitter.mul(turn, self.word["pitch"]))

    def _write(self, y: ir.Value, row: ir.Value, line: ir.Value) -> None:
        """Writes a row of ``y``, made of a line that has been blended."""
        emitter, word = self.emitter, self.word
        to = emitter.offset(y, emitter.mul(row, word["y_step"]))
        with emitter.branch(emitter.less(0, word["streamed"])) as (then, otherwise):
            with then:
                self.stream.move_to(to)
                self._stream_row(line)
            with otherwise:
                self._store_row(line, to)

    def _stream_row(self, line: ir.Value) -> None:
        emitter, outputs = self.emitter, self.word["outputs"]
        stop = whole_vectors(
            emitter, I64(0), outputs, (1,), lambda indices: self.stream.append(self._pick(line, indices[0]))
        )
        rest = emitter.sub(outputs, stop)
        with emitter.when(emitter.less(0, rest)):
            self.stream.append_first(self._pick(line, stop), rest)

    def _store_row(self, line: ir.Value, to: ir.Value) -> None:
        emitter = self.emitter

        def store(indices: list[ir.Value], mask: Mask | None) -> None:
            for index in indices:
                value = self._pick(line, index)
                emitter.store(value, emitter.element(to, index, FLOAT32), FLOAT32, mask)

        vector_loop(emitter, I64(0), self.word["outputs"], 1, store, always_masked=True)

    def _repeat(self, count: int, word: str, body: Callable[[ir.Value], None]) -> None:
        """Calls ``body`` for ``count`` numbers from 0 on, or those below a parameter where that is 0."""
        if count:
            for number in range(count):
                body(I64(number))
            return
        with self.emitter.loop(0, self.word[word]) as number:
            body(number)

    def _blend(self, x: ir.Value, row: ir.Value, target: ir.Value) -> None:
        """Puts the weighted sum of the lines of output ``row`` into scratch."""
        emitter, word = self.emitter, self.word
        table = emitter.mul(row, word["lines"])
        places, weights = (
            emitter.element(emitter.operand(number), table, dtype)
            for number, dtype in ((1, INT32), (2, FLOAT32))
        )

        def group(part: Group) -> None:
            totals = [emitter.variable(emitter.constant(0, FLOAT32)) for _ in range(part.count)]

            def add(number: ir.Value) -> None:
                place = emitter.load_scalar(emitter.element(places, number, INT32), INT32)
                offset = emitter.mul(emitter.builder.sext(place, I64), word["x_step"])
                line = emitter.element(emitter.offset(x, offset), part.start, FLOAT32)
                weight = emitter.load_broadcast(emitter.element(weights, number, FLOAT32), FLOAT32)
                for vector, total in enumerate(totals):
                    at = emitter.element(line, vector * emitter.lanes, FLOAT32)
                    value = emitter.load(at, FLOAT32, part.mask)
                    total.value = emitter.fma(value, weight, total.value)

            self._repeat(self.lines, "lines", add)
            for vector, total in enumerate(totals):
                at = emitter.add(part.start, vector * emitter.lanes)
                emitter.store(total.value, emitter.element(target, at, FLOAT32), FLOAT32, part.mask)

        for_groups(emitter, 0, word["width"], group)

    def _pick(self, line: ir.Value, index: ir.Value) -> ir.Value:
        """The vector of results from ``index`` on, a multiple of the lanes, of elements of a line."""
        emitter, builder = self.emitter, self.emitter.builder
        number = emitter.divide(index, emitter.lanes)
        start = emitter.load_scalar(emitter.element(emitter.operand(3), number, INT32), INT32)
        line = emitter.element(line, builder.sext(start, I64), FLOAT32)
        low, high = (
            emitter.load(emitter.element(line, part * emitter.lanes, FLOAT32), FLOAT32)
            for part in range(WINDOW)
        )
        entries = emitter.mul(emitter.mul(number, self.word["taps"]), 2 * emitter.lanes)
        entries = emitter.element(emitter.operand(4), entries, INT32)
        total = emitter.variable(emitter.constant(0, FLOAT32))

        def add(tap: ir.Value) -> None:
            entry = emitter.element(entries, emitter.mul(tap, 2 * emitter.lanes), INT32)
            weights = emitter.load(emitter.element(entry, emitter.lanes, INT32), FLOAT32)
            picked = emitter.permute_two(low, high, emitter.load(entry, INT32))
            total.value = emitter.fma(picked, weights, total.value)

        self._repeat(self.taps, "taps", add)
        return total.value
