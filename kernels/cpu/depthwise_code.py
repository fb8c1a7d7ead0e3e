"""Code of depthwise convolution: no copies, no zeros around the input.

Lines of taps outside of the input are left out of a list that the register kernel walks. Along x the
positions whose taps all lie inside are computed several at once, those at the borders one by one with
fewer taps.
"""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.depthwise import WORDS
from onnxplan.kernels.cpu.depthwise_registers import Choices, Window, register_kernel
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import (
    Place,
    place_values,
    tile_finisher,
)
from onnxplan.kernels.cpu.llvm_types import I64
from onnxplan.kernels.cpu.objects import ObjectCode, compile_module, kernel_symbol
from onnxplan.kernels.cpu.tiling import RegisterTile


def build_depthwise(variant: Variant, target: Target) -> ObjectCode:
    """The kernel of the step of :func:`onnxplan.kernels.cpu.depthwise.emit_depthwise`."""
    x_label, w_label, sizes, taps, stride, epilogue_variant = variant
    assert isinstance(taps, int)
    assert isinstance(stride, int)
    assert isinstance(sizes, tuple)
    assert isinstance(epilogue_variant, tuple)
    tile = RegisterTile(*(int(str(size)) for size in sizes))
    choices = Choices(
        DType.from_label(str(x_label)),
        DType.from_label(str(w_label)),
        tile,
        taps,
        stride,
        Epilogue.from_variant(epilogue_variant),
    )
    emitter = Emitter.kernel(kernel_symbol("depthwise", variant), target, tile.lanes)
    _Kernel(emitter, choices).emit()
    emitter.builder.ret_void()
    return compile_module(emitter.module, emitter.function.name, target, light=True)


def _halves(count: int) -> list[int]:
    """``count, count / 2, ... 1``."""
    found = [count]
    while found[-1] > 1:
        found.append(found[-1] // 2)
    return found


def _position_counts(most: int) -> list[int]:
    return [most, *(count for count in (4, 2, 1) if count < most)]


class _Kernel:
    def __init__(self, emitter: Emitter, choices: Choices) -> None:
        self._emitter, self._choices = emitter, choices
        self._word = {name: emitter.parameter(number) for number, name in enumerate(WORDS)}
        tile = choices.tile
        self._finish = tile_finisher(emitter, choices.epilogue, tile.lanes, choices.row_bytes)
        self._cores = {
            (positions, vectors, masked): register_kernel(
                emitter, choices, positions, vectors, self._finish, masked=masked
            )
            for positions in _position_counts(tile.rows)
            for vectors, masked in [*((vectors, False) for vectors in _halves(tile.vectors)), (1, True)]
        }
        steps = len(WORDS)
        self._steps = [
            [emitter.parameter(steps + 5 * operand + axis) for axis in range(5)]
            for operand in range(len(choices.epilogue.dtypes))
        ]

    def emit(self) -> None:
        emitter, word = self._emitter, self._word
        with emitter.loop(emitter.first, emitter.last) as number:
            line_tile = emitter.modulo(number, word["line_tiles"])
            channel_tile = emitter.divide(number, word["line_tiles"])
            first_line = emitter.mul(line_tile, word["tile_lines"])
            last_line = emitter.minimum(emitter.add(first_line, word["tile_lines"]), word["lines"])
            first = emitter.mul(channel_tile, word["tile_channels"])
            last = emitter.minimum(emitter.add(first, word["tile_channels"]), word["channels"])
            records = emitter.offset(emitter.scratch, self._choices.tile.rows * self._choices.row_bytes)
            size = emitter.add(
                emitter.mul(emitter.mul(word["kernel_z"], word["kernel_y"]), 16), self._header_bytes
            )
            with emitter.loop(first_line, last_line) as line:
                record = emitter.offset(records, emitter.mul(emitter.sub(line, first_line), size))
                self._record_line(line, record)
            # Channels outside, so that the lines of the input that taps share stay in the first cache.
            with (
                emitter.loop(first, last, self._choices.tile.width) as channel,
                emitter.loop(0, emitter.sub(last_line, first_line)) as line,
            ):
                columns = emitter.minimum(emitter.sub(last, channel), self._choices.tile.width)
                self._emit_line(emitter.offset(records, emitter.mul(line, size)), channel, columns)

    @property
    def _header_bytes(self) -> int:
        """Bytes of a line's record before its list: its count, where its image starts, and its places."""
        return 8 * (2 + len(self._steps))

    def _record_line(self, line: ir.Value, record: ir.Value) -> None:
        """Writes what all channels of a line need."""
        emitter, word, builder = self._emitter, self._word, self._emitter.builder
        y = emitter.modulo(line, word["out_y"])
        rest = emitter.divide(line, word["out_y"])
        z = emitter.modulo(rest, word["out_z"])
        image = emitter.divide(rest, word["out_z"])
        header = [
            self._list_lines(emitter.offset(record, self._header_bytes), z, y),
            emitter.mul(image, word["step_n"]),
        ]
        for steps in self._steps:
            offset = emitter.mul(image, steps[0])
            for index, step in ((z, steps[1]), (y, steps[2])):
                offset = emitter.add(offset, emitter.mul(index, step))
            header.append(offset)
        for number, value in enumerate(header):
            builder.store(value, emitter.offset(record, 8 * number), align=8)

    def _emit_line(self, record: ir.Value, channel: ir.Value, columns: ir.Value) -> None:
        """All positions of a line, for ``columns`` channels from ``channel`` on."""
        emitter, word, choices = self._emitter, self._word, self._choices
        count, image, *offsets = (
            emitter.builder.load(emitter.offset(record, 8 * number), align=8, typ=I64)
            for number in range(2 + len(self._steps))
        )
        places = [
            Place(emitter.offset(emitter.operand(2 + operand), offset), steps[3], steps[4]).column(
                emitter, channel
            )
            for operand, (offset, steps) in enumerate(zip(offsets, self._steps, strict=True))
        ]
        x = emitter.offset(emitter.operand(0), image)
        window = Window(
            lines=emitter.offset(record, self._header_bytes),
            count=count,
            x=emitter.element(x, channel, choices.x_dtype),
            w=emitter.element(emitter.operand(1), channel, choices.w_dtype),
            taps=word["kernel_x"],
            x_tap=emitter.mul(word["step_x"], word["dilation_x"]),
            w_tap=emitter.mul(word["channels"], choices.w_dtype.itemsize),
            position=emitter.mul(word["step_x"], word["stride_x"]),
            columns=columns,
            tile=emitter.scratch,
        )
        self._emit_positions(window, places)

    def _list_lines(self, lines: ir.Value, z: ir.Value, y: ir.Value) -> ir.Value:
        """Writes the offsets of the lines of taps inside of the input; returns their number."""
        emitter, word, builder = self._emitter, self._word, self._emitter.builder
        first_z = emitter.sub(emitter.mul(z, word["stride_z"]), word["pad_z"])
        first_y = emitter.sub(emitter.mul(y, word["stride_y"]), word["pad_y"])
        w_line = emitter.mul(emitter.mul(word["kernel_x"], word["channels"]), self._choices.w_dtype.itemsize)
        count = emitter.variable(I64(0))
        w_offset = emitter.variable(I64(0))
        with (
            emitter.loop(0, word["kernel_z"]) as tap_z,
            emitter.loop(0, word["kernel_y"]) as tap_y,
        ):
            at_z = emitter.add(first_z, emitter.mul(tap_z, word["dilation_z"]))
            at_y = emitter.add(first_y, emitter.mul(tap_y, word["dilation_y"]))
            inside = builder.and_(
                builder.icmp_unsigned("<", at_z, word["in_z"]), builder.icmp_unsigned("<", at_y, word["in_y"])
            )
            entry = emitter.offset(lines, emitter.mul(count.value, 16))
            offset = emitter.add(emitter.mul(at_z, word["step_z"]), emitter.mul(at_y, word["step_y"]))
            # Written anyhow; an entry that does not count is written over.
            builder.store(offset, entry, align=8)
            builder.store(w_offset.value, emitter.offset(entry, 8), align=8)
            count.value = emitter.add(count.value, builder.zext(inside, I64))
            w_offset.value = emitter.add(w_offset.value, w_line)
        return count.value

    def _emit_positions(self, window: Window, places: list[Place]) -> None:
        emitter, word = self._emitter, self._word
        with emitter.loop(0, word["interior_start"]) as at:
            self._emit_border(window, places, at)
        position = emitter.variable(word["interior_start"])
        for positions in _position_counts(self._choices.tile.rows):
            left = emitter.sub(word["interior_stop"], position.value)
            stop = emitter.add(position.value, emitter.mul(emitter.divide(left, positions), positions))
            with emitter.loop(position.value, stop, positions) as at:
                first = emitter.sub(emitter.mul(at, word["stride_x"]), word["pad_x"])
                x = emitter.offset(window.x, emitter.mul(first, word["step_x"]))
                self._call(positions, window, places, at, x, window.w, window.taps)
            position.value = stop
        with emitter.loop(word["interior_stop"], word["out_x"]) as at:
            self._emit_border(window, places, at)

    def _emit_border(self, window: Window, places: list[Place], at: ir.Value) -> None:
        """One position with the taps along x that lie inside of the input."""
        emitter, word = self._emitter, self._word
        first = emitter.sub(emitter.mul(at, word["stride_x"]), word["pad_x"])
        dilation = word["dilation_x"]
        before = emitter.maximum(emitter.sub(0, first), 0)
        start = emitter.divide(emitter.add(before, emitter.sub(dilation, 1)), dilation)
        left = emitter.maximum(emitter.sub(word["in_x"], first), 0)
        stop = emitter.divide(emitter.add(left, emitter.sub(dilation, 1)), dilation)
        stop = emitter.minimum(stop, word["kernel_x"])
        start = emitter.minimum(start, stop)
        tap = emitter.add(first, emitter.mul(start, dilation))
        x = emitter.offset(window.x, emitter.mul(tap, word["step_x"]))
        w = emitter.offset(window.w, emitter.mul(start, window.w_tap))
        self._call(1, window, places, at, x, w, emitter.sub(stop, start))

    def _call(
        self,
        positions: int,
        window: Window,
        places: list[Place],
        at: ir.Value,
        x: ir.Value,
        w: ir.Value,
        taps: ir.Value,
    ) -> None:
        """Computes ``positions`` positions from ``at`` on: whole vectors, then what is left over."""
        emitter, tile = self._emitter, self._choices.tile
        done: ir.Value = I64(0)
        places = [place.row(emitter, at) for place in places]

        def piece(core: ir.Function, done: ir.Value) -> None:
            moved = Window(
                lines=window.lines,
                count=window.count,
                x=emitter.element(x, done, self._choices.x_dtype),
                w=emitter.element(w, done, self._choices.w_dtype),
                taps=taps,
                x_tap=window.x_tap,
                w_tap=window.w_tap,
                position=window.position,
                columns=emitter.sub(window.columns, done),
                tile=window.tile,
            )
            here = [place.column(emitter, done) for place in places]
            emitter.builder.call(core, moved.values + place_values(here))

        for vectors in _halves(tile.vectors):
            width = vectors * tile.lanes
            left = emitter.sub(window.columns, done)
            stop = emitter.add(done, emitter.mul(emitter.divide(left, width), width))
            with emitter.loop(done, stop, width) as column:
                piece(self._cores[positions, vectors, False], column)
            done = stop
        with emitter.when(emitter.less(done, window.columns)):
            piece(self._cores[positions, 1, True], done)
