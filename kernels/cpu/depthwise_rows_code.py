"""Code of depthwise convolution along rows; see :mod:`onnxplan.kernels.cpu.depthwise_rows`.

A band of input lines is copied between zeros, even and odd positions apart where the stride is 2. Every
vector of a line is loaded once for all output rows of a register tile.
"""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.depthwise_rows import WORDS
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import (
    PLACE_TYPES,
    Place,
    emit_epilogue,
    place_values,
    places_of,
    tile_finisher,
)
from onnxplan.kernels.cpu.line_code import Line
from onnxplan.kernels.cpu.llvm_types import I64, POINTER
from onnxplan.kernels.cpu.objects import ObjectCode, compile_module, kernel_symbol
from onnxplan.kernels.cpu.registers import local_function, multiply_add, settled, zeros

# Vectors of the register kernel: two where there are as many, one with a mask for the rest.
VECTORS = 2


@dataclass(frozen=True, slots=True)
class Choices:
    """What is compiled in: ``rows`` output rows of a register tile, taps and strides along y and x."""

    dtype: DType
    lanes: int
    rows: int
    taps_y: int
    taps_x: int
    stride_y: int
    stride_x: int
    epilogue: Epilogue

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of sums in memory."""
        return VECTORS * self.lanes * self.dtype.itemsize


def build_depthwise_rows(variant: Variant, target: Target) -> ObjectCode:
    """The kernel of the step of :func:`onnxplan.kernels.cpu.depthwise_rows.emit_depthwise_rows`."""
    label, lanes, rows, taps, strides, epilogue = variant
    assert isinstance(label, str)
    assert isinstance(lanes, int)
    assert isinstance(rows, int)
    assert isinstance(taps, tuple)
    assert isinstance(strides, tuple)
    assert isinstance(epilogue, tuple)
    taps_y, taps_x, stride_y, stride_x = (int(str(size)) for size in (*taps, *strides))
    choices = Choices(
        DType.from_label(label),
        lanes,
        rows,
        taps_y,
        taps_x,
        stride_y,
        stride_x,
        Epilogue.from_variant(epilogue),
    )
    emitter = Emitter.kernel(kernel_symbol("depthwise_rows", variant), target, choices.lanes)
    _Kernel(emitter, choices).emit()
    emitter.builder.ret_void()
    return compile_module(emitter.module, emitter.function.name, target, light=True)


class _Kernel:
    def __init__(self, emitter: Emitter, choices: Choices) -> None:
        self._emitter, self._choices = emitter, choices
        self._word = {name: emitter.parameter(number) for number, name in enumerate(WORDS)}
        self._steps = [
            [emitter.parameter(len(WORDS) + 4 * operand + axis) for axis in range(4)]
            for operand in range(len(choices.epilogue.dtypes))
        ]
        self._finish = tile_finisher(emitter, choices.epilogue, choices.lanes, choices.row_bytes)
        self._cores = {vectors: self._core(vectors) for vectors in (VECTORS, 1)}
        self._line_bytes = emitter.mul(self._word["pitch"], choices.stride_x)

    def emit(self) -> None:
        emitter, word, choices = self._emitter, self._word, self._choices
        start = emitter.mul(emitter.first, word["per_tile"])
        stop = emitter.minimum(emitter.mul(emitter.last, word["per_tile"]), word["units"])
        self._clear(emitter.scratch, word["sums"])
        with emitter.loop(start, stop) as unit:
            plane, band = emitter.divide(unit, word["bands"]), emitter.modulo(unit, word["bands"])
            image, channel = (
                operation(plane, word["channels"]) for operation in (emitter.divide, emitter.modulo)
            )
            y = emitter.mul(band, word["band"])
            rows = emitter.minimum(emitter.sub(word["out_y"], y), word["band"])
            x = emitter.operand(0)
            for index, step in ((image, "step_n"), (channel, "step_c")):
                x = emitter.offset(x, emitter.mul(index, word[step]))
            self._copy_band(x, y, rows)
            w = emitter.element(
                emitter.operand(1), emitter.mul(channel, choices.taps_y * choices.taps_x), choices.dtype
            )
            places = []
            for operand, steps in enumerate(self._steps):
                pointer = emitter.operand(2 + operand)
                for index, step in ((image, steps[0]), (channel, steps[1]), (y, steps[2])):
                    pointer = emitter.offset(pointer, emitter.mul(index, step))
                places.append(Place(pointer, steps[2], steps[3]))
            self._multiply_band(w, rows, places)

    def _clear(self, pointer: ir.Value, nbytes: ir.Value) -> None:
        emitter, dtype = self._emitter, self._choices.dtype
        with emitter.loop(0, nbytes, emitter.lanes * dtype.itemsize) as at:
            emitter.store(emitter.constant(0, dtype), emitter.offset(pointer, at), dtype)

    def _copy_band(self, x: ir.Value, y: ir.Value, rows: ir.Value) -> None:
        """Copies the lines that ``rows`` output rows from ``y`` on read; zeros for those outside."""
        emitter, word, choices = self._emitter, self._word, self._choices
        first = emitter.sub(emitter.mul(y, choices.stride_y), word["pad_y"])
        count = emitter.add(emitter.mul(emitter.sub(rows, 1), choices.stride_y), choices.taps_y)
        with emitter.loop(0, count) as number:
            row = emitter.add(first, number)
            target = emitter.offset(emitter.scratch, emitter.mul(number, self._line_bytes))
            inside = emitter.builder.icmp_unsigned("<", row, word["in_y"])
            with emitter.branch(inside) as (then, otherwise):
                with then:
                    source = emitter.offset(x, emitter.mul(row, word["step_y"]))
                    line = Line(target, choices.dtype, choices.stride_x, word["pitch"])
                    line.write(
                        emitter,
                        word["pad_x"],
                        I64(0),
                        word["in_x"],
                        lambda at, masks: [
                            emitter.load(
                                emitter.element(
                                    source, emitter.add(at, vector * emitter.lanes), choices.dtype
                                ),
                                choices.dtype,
                                mask,
                            )
                            for vector, mask in enumerate(masks)
                        ],
                    )
                with otherwise:
                    self._clear(target, self._line_bytes)

    def _multiply_band(self, w: ir.Value, rows: ir.Value, places: list[Place]) -> None:
        """The output rows of a band, some rows and vectors at a time."""
        emitter, word, choices = self._emitter, self._word, self._choices
        sums = emitter.offset(emitter.scratch, word["sums"])
        lines = emitter.mul(self._line_bytes, choices.stride_y)
        wide = emitter.sub(word["out_x"], (VECTORS - 1) * choices.lanes)
        with emitter.loop(0, rows, choices.rows) as row:
            top = emitter.offset(emitter.scratch, emitter.mul(row, lines))
            left = emitter.sub(rows, row)
            here = [place.row(emitter, row) for place in places]
            at = emitter.variable(I64(0))

            def core(vectors: int) -> None:
                column = at.value
                columns = emitter.minimum(emitter.sub(word["out_x"], column), vectors * choices.lanes)
                moved = [place.column(emitter, column) for place in here]
                x = emitter.element(top, column, choices.dtype)
                arguments = [x, self._line_bytes, word["pitch"], w, left, columns, sums]
                emitter.builder.call(self._cores[vectors], arguments + place_values(moved))
                at.value = emitter.add(column, vectors * choices.lanes)

            with emitter.repeat_while(lambda: emitter.less(at.value, wide)):
                core(VECTORS)
            with emitter.when(emitter.less(at.value, word["out_x"])):
                core(1)

    def _core(self, vectors: int) -> ir.Function:
        """``(x, line bytes, pitch, w, rows, columns, sums, *places)``: at most ``columns`` are written."""
        choices, size = self._choices, self._choices.dtype.itemsize
        arguments = [POINTER, I64, I64, POINTER, I64, I64, POINTER]
        arguments += PLACE_TYPES * len(choices.epilogue.dtypes)
        inner = local_function(self._emitter, f"core_{vectors}", arguments, choices.lanes)
        x, line_bytes, pitch, w, rows, columns, memory, *rest = inner.function.args
        sums = zeros(inner, choices.dtype, choices.rows, vectors)
        # Weights that do not fit into registers beside the sums are loaded for each line.
        used = choices.taps_y * choices.taps_x + (choices.rows + 1) * vectors
        reloads = used > inner.target.vector_registers
        for number in range((choices.rows - 1) * choices.stride_y + choices.taps_y):
            line = inner.offset(x, inner.mul(line_bytes, number))
            for tap_x in range(choices.taps_x):
                phase = inner.offset(line, inner.mul(pitch, tap_x % choices.stride_x))
                values = [
                    inner.load(
                        inner.offset(phase, (tap_x // choices.stride_x + vector * choices.lanes) * size),
                        choices.dtype,
                    )
                    for vector in range(vectors)
                ]
                for row, totals in enumerate(sums):
                    tap_y = number - row * choices.stride_y
                    if 0 <= tap_y < choices.taps_y:
                        weight = inner.load_broadcast(
                            inner.offset(w, (tap_y * choices.taps_x + tap_x) * size), choices.dtype
                        )
                        for vector, value in enumerate(values):
                            totals[vector] = multiply_add(inner, choices.dtype, value, weight, totals[vector])
            if reloads:
                sums = [[settled(inner, total) for total in totals] for totals in sums]
        places = places_of(rest)
        if choices.epilogue.is_cheap:
            masks = [inner.mask(inner.sub(columns, vector * choices.lanes)) for vector in range(vectors)]
            for row, totals in enumerate(sums):
                with inner.when(inner.less(I64(row), rows)):
                    here = [place.row(inner, I64(row)) for place in places]
                    for vector, total in enumerate(totals):
                        column = I64(vector * choices.lanes)
                        emit_epilogue(inner, choices.epilogue, total, here, column, masks[vector])
        else:
            for row, totals in enumerate(sums):
                for vector, total in enumerate(totals):
                    place = row * choices.row_bytes + vector * choices.lanes * size
                    inner.store(total, inner.offset(memory, place), choices.dtype)
            count = inner.minimum(rows, choices.rows)
            inner.builder.call(self._finish, [memory, count, columns, *rest])
        inner.builder.ret_void()
        return inner.function
