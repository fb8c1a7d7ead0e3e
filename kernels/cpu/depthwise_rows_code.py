"""Code of depthwise convolution along rows; see :mod:`onnxplan.kernels.cpu.depthwise_rows`.

Lines of some planes, or of a band of one, are copied between zeros, even and odd positions and lines apart
where the stride is 2. The taps of one column stay in registers while they go down all lines of a register
tile, so that a column loads each value and each weight once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.depthwise_rows import WORDS, Tile
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import (
    PLACE_TYPES,
    Place,
    emit_epilogue,
    place_values,
    places_of,
    tile_finisher,
)
from onnxplan.kernels.cpu.llvm_types import I32, I64, POINTER
from onnxplan.kernels.cpu.objects import ObjectCode, compile_module, kernel_symbol
from onnxplan.kernels.cpu.registers import Grid, local_function, multiply_add, settled, zeros


@dataclass(frozen=True, slots=True)
class Choices:
    """What is compiled in: taps and strides are those along y and x."""

    dtype: DType
    tile: Tile
    taps_y: int
    taps_x: int
    stride_y: int
    stride_x: int
    epilogue: Epilogue

    @property
    def vector_bytes(self) -> int:
        return self.tile.lanes * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of sums in memory."""
        return self.tile.vectors * self.vector_bytes


def build_depthwise_rows(variant: Variant, target: Target) -> ObjectCode:
    """The kernel of the step of :func:`onnxplan.kernels.cpu.depthwise_rows.emit_depthwise_rows`."""
    label, shape, taps, strides, epilogue = variant
    assert isinstance(label, str)
    assert isinstance(shape, tuple)
    assert isinstance(taps, tuple)
    assert isinstance(strides, tuple)
    assert isinstance(epilogue, tuple)
    tile = Tile(*(int(str(size)) for size in shape))
    taps_y, taps_x, stride_y, stride_x = (int(str(size)) for size in (*taps, *strides))
    choices = Choices(
        DType.from_label(label), tile, taps_y, taps_x, stride_y, stride_x, Epilogue.from_variant(epilogue)
    )
    emitter = Emitter.kernel(kernel_symbol("depthwise_rows", variant), target, tile.lanes)
    _Kernel(emitter, choices).emit()
    emitter.builder.ret_void()
    return compile_module(emitter.module, emitter.function.name, target, light=True)


@dataclass(frozen=True, slots=True)
class _LineCopy:
    """How all lines are copied.

    ``places`` are where even and odd positions go, in bytes from a line's start; ``whole`` positions fill
    vectors, and ``masks`` tell what of the vectors after them is in the line.
    """

    places: list[ir.Value]
    whole: ir.Value
    masks: list[Mask]


class _Kernel:
    def __init__(self, emitter: Emitter, choices: Choices) -> None:
        self._emitter, self._choices = emitter, choices
        self._word = {name: emitter.parameter(number) for number, name in enumerate(WORDS)}
        self._steps = [
            [emitter.parameter(len(WORDS) + 4 * operand + axis) for axis in range(4)]
            for operand in range(len(choices.epilogue.dtypes))
        ]
        self._finish = tile_finisher(emitter, choices.epilogue, choices.tile.lanes, choices.row_bytes)
        self._cores = {vectors: self._core(vectors) for vectors in sorted({1, choices.tile.vectors})}

    def emit(self) -> None:
        emitter, word = self._emitter, self._word
        start = emitter.mul(emitter.first, word["per_tile"])
        stop = emitter.minimum(emitter.mul(emitter.last, word["per_tile"]), word["units"])
        self._clear(emitter.scratch, word["sums"])
        copy = self._line_copy()
        with emitter.loop(start, stop) as unit:
            group, band = emitter.divide(unit, word["bands"]), emitter.modulo(unit, word["bands"])
            y = emitter.mul(band, word["band"])
            rows = emitter.minimum(emitter.sub(word["out_y"], y), word["band"])
            first = emitter.mul(group, word["group"])
            count = emitter.minimum(emitter.sub(word["planes"], first), word["group"])
            # All are copied before any is read: a load that meets several stores waits for them.
            with emitter.loop(0, count) as number:
                image, channel = self._image_and_channel(emitter.add(first, number))
                x = emitter.operand(0)
                for index, step in ((image, "step_n"), (channel, "step_c")):
                    x = emitter.offset(x, emitter.mul(index, word[step]))
                self._copy_band(x, self._slot(number), y, rows, copy)
            with emitter.loop(0, count) as number:
                image, channel = self._image_and_channel(emitter.add(first, number))
                places = []
                for operand, steps in enumerate(self._steps):
                    pointer = emitter.operand(2 + operand)
                    for index, step in ((image, steps[0]), (channel, steps[1]), (y, steps[2])):
                        pointer = emitter.offset(pointer, emitter.mul(index, step))
                    places.append(Place(pointer, steps[2], steps[3]))
                self._multiply_band(self._slot(number), self._weights(channel), rows, places)

    def _image_and_channel(self, plane: ir.Value) -> tuple[ir.Value, ir.Value]:
        channels = self._word["channels"]
        return self._emitter.divide(plane, channels), self._emitter.modulo(plane, channels)

    def _slot(self, number: ir.Value) -> ir.Value:
        """Where the copied lines of a plane of a group begin."""
        emitter, word = self._emitter, self._word
        return emitter.offset(emitter.scratch, emitter.add(word["lead"], emitter.mul(number, word["slot"])))

    def _weights(self, channel: ir.Value) -> ir.Value:
        taps = self._choices.taps_y * self._choices.taps_x
        return self._emitter.element(
            self._emitter.operand(1), self._emitter.mul(channel, taps), self._choices.dtype
        )

    def _clear(self, pointer: ir.Value, nbytes: ir.Value) -> None:
        """Zeros in at least ``nbytes`` bytes, up to a vector more."""
        emitter, dtype = self._emitter, self._choices.dtype
        with emitter.loop(0, nbytes, self._choices.vector_bytes) as at:
            emitter.store(emitter.constant(0, dtype), emitter.offset(pointer, at), dtype)

    def _line_copy(self) -> _LineCopy:
        """What the copies of all lines have in common, computed once."""
        emitter, word, stride = self._emitter, self._word, self._choices.stride_x
        step = stride * emitter.lanes
        whole = emitter.mul(emitter.divide(word["in_x"], step), step)
        rest = emitter.sub(word["in_x"], whole)
        places = []
        for parity in range(stride):
            position = emitter.add(word["pad_x"], parity)
            phase = emitter.mul(emitter.modulo(position, stride), word["phase_x"])
            index = emitter.mul(emitter.divide(position, stride), self._choices.dtype.itemsize)
            places.append(emitter.add(phase, index))
        masks = [emitter.mask(emitter.sub(rest, part * emitter.lanes)) for part in range(stride)]
        return _LineCopy(places, whole, masks)

    def _copy_band(self, x: ir.Value, slot: ir.Value, y: ir.Value, rows: ir.Value, copy: _LineCopy) -> None:
        """Copies the lines that ``rows`` output rows from ``y`` on read; zeros for those outside."""
        emitter, word, choices = self._emitter, self._word, self._choices
        first = emitter.sub(emitter.mul(y, choices.stride_y), word["pad_y"])
        count = emitter.add(emitter.mul(emitter.sub(rows, 1), choices.stride_y), choices.taps_y)
        begin = emitter.minimum(emitter.maximum(emitter.sub(0, first), 0), count)
        end = emitter.maximum(emitter.minimum(emitter.sub(word["in_y"], first), count), begin)
        # Where bands are whole planes, the same lines are outside in all of them and stay as they were.
        with emitter.when(emitter.less(1, word["bands"])):
            for start, stop in ((I64(0), begin), (end, count)):
                with emitter.loop(start, stop) as number, emitter.loop(0, choices.stride_x) as phase:
                    line = emitter.offset(self._line(slot, number), emitter.mul(word["phase_x"], phase))
                    self._clear(line, word["pitch"])
        step_y = word["step_y"]
        source = emitter.variable(emitter.offset(x, emitter.mul(emitter.add(first, begin), step_y)))
        with emitter.loop(begin, end) as number:
            self._copy_line(source.value, self._line(slot, number), copy)
            source.value = emitter.offset(source.value, step_y)

    def _line(self, slot: ir.Value, number: ir.Value) -> ir.Value:
        """Where a copied line begins."""
        emitter, word = self._emitter, self._word
        if self._choices.stride_y == 1:
            return emitter.offset(slot, emitter.mul(number, word["pitch"]))
        phase = emitter.offset(slot, emitter.mul(emitter.modulo(number, 2), word["phase_y"]))
        return emitter.offset(phase, emitter.mul(emitter.divide(number, 2), word["pitch"]))

    def _copy_line(self, source: ir.Value, line: ir.Value, copy: _LineCopy) -> None:
        """Copies a line behind its padding in whole vectors.

        The zeros at the end of the last one reach into the next line, which is written later.
        """
        emitter, dtype, stride = self._emitter, self._choices.dtype, self._choices.stride_x
        lanes = emitter.lanes

        def part(at: ir.Value, masks: Sequence[Mask | None]) -> None:
            start = emitter.element(source, at, dtype)
            values = [
                emitter.load(emitter.element(start, number * lanes, dtype), dtype, mask)
                for number, mask in enumerate(masks)
            ]
            for parity, place in enumerate(copy.places):
                value = values[0]
                if stride > 1:
                    order = [I32(stride * lane + parity) for lane in range(lanes)]
                    value = emitter.builder.shuffle_vector(
                        *values, ir.Constant(ir.VectorType(I32, lanes), order)
                    )
                target = emitter.element(emitter.offset(line, place), emitter.divide(at, stride), dtype)
                emitter.store(value, target, dtype)

        with emitter.loop(0, copy.whole, stride * lanes) as at:
            part(at, [None] * stride)
        with emitter.when(emitter.less(copy.whole, self._word["in_x"])):
            part(copy.whole, copy.masks)

    def _multiply_band(self, slot: ir.Value, w: ir.Value, rows: ir.Value, places: list[Place]) -> None:
        """The output rows of a band, a register tile at a time."""
        emitter, word, choices = self._emitter, self._word, self._choices
        tile = choices.tile
        sums = emitter.offset(emitter.scratch, word["sums"])
        with emitter.loop(0, rows, tile.rows) as row:
            top = emitter.offset(slot, emitter.mul(row, word["pitch"]))
            left = emitter.sub(rows, row)
            here = [place.row(emitter, row) for place in places]
            at = emitter.variable(I64(0))

            def core(vectors: int) -> None:
                column = at.value
                columns = emitter.sub(word["out_x"], column)
                moved = [place.column(emitter, column) for place in here]
                x = emitter.element(top, column, choices.dtype)
                arguments = [x, word["pitch"], word["phase_x"], word["phase_y"], w, left, columns, sums]
                emitter.builder.call(self._cores[vectors], arguments + place_values(moved))
                at.value = emitter.add(column, vectors * tile.lanes)

            if tile.vectors > 1:
                wide = emitter.sub(word["out_x"], (tile.vectors - 1) * tile.lanes)
                with emitter.repeat_while(lambda: emitter.less(at.value, wide)):
                    core(tile.vectors)
            with emitter.when(emitter.less(at.value, word["out_x"])):
                core(1)

    def _core(self, vectors: int) -> ir.Function:
        """``(x, pitch, phase_x, phase_y, w, rows, columns, sums, *places)``.

        No more than ``rows`` rows and ``columns`` columns are written.
        """
        choices = self._choices
        arguments = [POINTER, I64, I64, I64, POINTER, I64, I64, POINTER]
        arguments += PLACE_TYPES * len(choices.epilogue.dtypes)
        inner = local_function(self._emitter, f"core_{vectors}", arguments, choices.tile.lanes)
        x, pitch, phase_x, phase_y, w, rows, columns, memory, *rest = inner.function.args
        sums = self._sums(inner, vectors, x, (pitch, phase_x, phase_y), w)
        if choices.epilogue.is_cheap:
            self._write(inner, sums, rows, columns, places_of(rest))
        else:
            for row, totals in enumerate(sums):
                for vector, total in enumerate(totals):
                    offset = row * choices.row_bytes + vector * choices.vector_bytes
                    inner.store(total, inner.offset(memory, offset), choices.dtype)
            count = inner.minimum(rows, choices.tile.rows)
            columns = inner.minimum(columns, vectors * choices.tile.lanes)
            inner.builder.call(self._finish, [memory, count, columns, *rest])
        inner.builder.ret_void()
        return inner.function

    def _sums(
        self, inner: Emitter, vectors: int, x: ir.Value, steps: tuple[ir.Value, ...], w: ir.Value
    ) -> Grid:
        """The sums of a register tile, column of taps by column."""
        choices, (pitch, phase_x, phase_y) = self._choices, steps
        tile, dtype = choices.tile, choices.dtype
        sums = zeros(inner, dtype, tile.rows, vectors)
        for tap_x in range(choices.taps_x):
            weights = [
                inner.load_broadcast(
                    inner.offset(w, (tap_y * choices.taps_x + tap_x) * dtype.itemsize), dtype
                )
                for tap_y in range(choices.taps_y)
            ]
            phase = inner.offset(x, inner.mul(phase_x, tap_x % choices.stride_x))
            first = tap_x // choices.stride_x * dtype.itemsize
            for number in range((tile.rows - 1) * choices.stride_y + choices.taps_y):
                used = [
                    (row, tap_y)
                    for row, tap_y in product(range(tile.rows), range(choices.taps_y))
                    if row * choices.stride_y + tap_y == number
                ]
                line = inner.offset(phase, inner.mul(phase_y, number % choices.stride_y))
                line = inner.offset(line, inner.mul(pitch, number // choices.stride_y))
                for vector in range(vectors if used else 0):
                    place = inner.offset(line, first + vector * choices.vector_bytes)
                    value = inner.load(place, dtype)
                    for row, tap_y in used:
                        sums[row][vector] = multiply_add(
                            inner, dtype, value, weights[tap_y], sums[row][vector]
                        )
            sums = [[settled(inner, total) for total in totals] for totals in sums]
        return sums

    def _write(
        self, inner: Emitter, sums: Grid, rows: ir.Value, columns: ir.Value, places: list[Place]
    ) -> None:
        """Finishes the sums in registers and stores them."""
        lanes = self._choices.tile.lanes
        masks = [inner.mask(inner.sub(columns, vector * lanes)) for vector in range(len(sums[0]))]
        for row, totals in enumerate(sums):
            with inner.when(inner.less(I64(row), rows)):
                here = [place.row(inner, I64(row)) for place in places]
                for vector, total in enumerate(totals):
                    column = I64(vector * lanes)
                    emit_epilogue(inner, self._choices.epilogue, total, here, column, masks[vector])
