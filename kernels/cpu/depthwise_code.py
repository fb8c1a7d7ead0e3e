"""Code of depthwise convolution: no copies, no zeros around the input.

Lines of taps outside of the input are left out of a list that the register kernel walks; along x taps
outside read zeros.
"""

from __future__ import annotations

from dataclasses import replace

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
        self._taps = emitter.mul(
            emitter.mul(self._word["kernel_z"], self._word["kernel_y"]), self._word["kernel_x"]
        )
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
        no_bits = emitter.fill(0, ir.IntType(8 * (emitter.target.vector_bytes // self._choices.tile.lanes)))
        for at in range(0, self._zero_bytes, emitter.target.vector_bytes):
            emitter.store_stored(no_bits, emitter.offset(self._zeros, at))
        with emitter.loop(emitter.first, emitter.last) as number:
            line_tile = emitter.modulo(number, word["line_tiles"])
            channel_tile = emitter.divide(number, word["line_tiles"])
            first_line, last_line = emitter.share(word["lines"], word["line_tiles"], line_tile)
            first, last = (
                emitter.mul(panel, self._choices.tile.width)
                for panel in emitter.share(self._panels, word["channel_tiles"], channel_tile)
            )
            last = emitter.minimum(last, word["channels"])
            records = emitter.offset(self._zeros, self._zero_bytes)
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
    def _panels(self) -> ir.Value:
        width = self._choices.tile.width
        return self._emitter.ceil_div(self._word["channels"], width)

    @property
    def _zeros(self) -> ir.Value:
        """What taps outside of the input read: zeros for a tile's channels, after the sums."""
        return self._emitter.offset(self._emitter.scratch, self._choices.tile.rows * self._choices.row_bytes)

    @property
    def _zero_bytes(self) -> int:
        return self._choices.tile.width * self._choices.x_dtype.itemsize

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
        panel = emitter.divide(channel, choices.tile.width)
        panel_bytes = emitter.mul(self._taps, choices.w_row_bytes)
        window = Window(
            lines=emitter.offset(record, self._header_bytes),
            count=count,
            x=emitter.element(x, channel, choices.x_dtype),
            step=word["step_x"],
            extent=word["in_x"],
            first=I64(0),
            zeros=self._zeros,
            w=emitter.offset(emitter.operand(1), emitter.mul(panel, panel_bytes)),
            taps=word["kernel_x"],
            dilation=word["dilation_x"],
            stride=word["stride_x"],
            columns=columns,
            tile=emitter.scratch,
        )
        position = emitter.variable(I64(0))
        for positions in _position_counts(choices.tile.rows):
            left = emitter.sub(word["out_x"], position.value)
            stop = emitter.add(position.value, emitter.mul(emitter.divide(left, positions), positions))
            with emitter.loop(position.value, stop, positions) as at:
                self._call(positions, window, places, at)
            position.value = stop

    def _list_lines(self, lines: ir.Value, z: ir.Value, y: ir.Value) -> ir.Value:
        """Writes the offsets of the lines of taps inside of the input; returns their number."""
        emitter, word, builder = self._emitter, self._word, self._emitter.builder
        first_z = emitter.sub(emitter.mul(z, word["stride_z"]), word["pad_z"])
        first_y = emitter.sub(emitter.mul(y, word["stride_y"]), word["pad_y"])
        w_line = emitter.mul(word["kernel_x"], self._choices.w_row_bytes)
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

    def _call(self, positions: int, window: Window, places: list[Place], at: ir.Value) -> None:
        """Computes ``positions`` positions from ``at`` on: whole vectors, then what is left over."""
        emitter, word, tile = self._emitter, self._word, self._choices.tile
        first = emitter.sub(emitter.mul(at, word["stride_x"]), word["pad_x"])
        places = [place.row(emitter, at) for place in places]
        done: ir.Value = I64(0)

        def piece(core: ir.Function, done: ir.Value) -> None:
            moved = replace(
                window,
                x=emitter.element(window.x, done, self._choices.x_dtype),
                w=emitter.element(window.w, done, self._choices.w_dtype),
                first=first,
                columns=emitter.sub(window.columns, done),
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
