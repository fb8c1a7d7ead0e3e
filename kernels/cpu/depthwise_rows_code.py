"""Code of depthwise convolution along rows; see :mod:`onnxplan.kernels.cpu.depthwise_rows`."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.depthwise_rows import WORDS, Tile
from onnxplan.kernels.cpu.depthwise_rows_registers import Choices, Plane, Window, register_kernel
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import Place, place_values, tile_finisher
from onnxplan.kernels.cpu.llvm_types import I64
from onnxplan.kernels.cpu.objects import ObjectCode, compile_module, kernel_symbol


def build_depthwise_rows(variant: Variant, target: Target) -> ObjectCode:
    """The kernel of the step of :func:`onnxplan.kernels.cpu.depthwise_rows.emit_depthwise_rows`."""
    label, shape, taps, strides, plane, epilogue = variant
    assert isinstance(label, str)
    assert isinstance(shape, tuple)
    assert isinstance(taps, tuple)
    assert isinstance(strides, tuple)
    assert isinstance(plane, tuple)
    assert isinstance(epilogue, tuple)
    tile = Tile(*(int(str(size)) for size in shape))
    taps_y, taps_x, stride_y, stride_x = (int(str(size)) for size in (*taps, *strides))
    choices = Choices(
        DType.from_label(label),
        tile,
        taps_y,
        taps_x,
        stride_y,
        stride_x,
        Plane(*(int(str(size)) for size in plane)) if plane else None,
        Epilogue.from_variant(epilogue),
    )
    emitter = Emitter.kernel(kernel_symbol("depthwise_rows", variant), target, tile.lanes)
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
        finish = tile_finisher(emitter, choices.epilogue, choices.tile.lanes, choices.row_bytes)
        starts, widths = [0], sorted({1, choices.tile.vectors})
        if choices.plane is not None:
            starts, widths = list(self._starts(choices.plane)), [choices.tile.vectors]
        self._cores = {
            (start, vectors, guarded): register_kernel(
                emitter, choices, finish, start, vectors, guarded=guarded
            )
            for start in starts
            for vectors in widths
            for guarded in (False, True)
        }

    def _starts(self, plane: Plane) -> range:
        """The first output lines of the register tiles of a known plane."""
        return range(0, plane.out_y, self._choices.tile.rows * self._choices.tile.lines)

    def emit(self) -> None:
        emitter, word = self._emitter, self._word
        start = emitter.mul(emitter.first, word["per_tile"])
        stop = emitter.minimum(emitter.mul(emitter.last, word["per_tile"]), word["units"])
        with emitter.loop(start, stop) as unit:
            plane, band = unit, I64(0)
            if self._choices.plane is None:
                plane, band = emitter.divide(unit, word["bands"]), emitter.modulo(unit, word["bands"])
            image = emitter.divide(plane, word["channels"])
            channel = emitter.modulo(plane, word["channels"])
            y = emitter.mul(band, word["band"])
            x = emitter.operand(0)
            for index, step in ((image, "step_n"), (channel, "step_c")):
                x = emitter.offset(x, emitter.mul(index, word[step]))
            places = []
            for operand, steps in enumerate(self._steps):
                pointer = emitter.operand(2 + operand)
                for index, step in ((image, steps[0]), (channel, steps[1]), (y, steps[2])):
                    pointer = emitter.offset(pointer, emitter.mul(index, step))
                places.append(Place(pointer, steps[2], steps[3]))
            if self._choices.plane is not None:
                self._multiply_plane(self._choices.plane, x, self._weights(channel), places)
            else:
                lines = emitter.minimum(emitter.sub(word["out_y"], y), word["band"])
                self._multiply_band(x, self._weights(channel), y, lines, places)

    def _weights(self, channel: ir.Value) -> ir.Value:
        taps = self._choices.taps_y * self._choices.taps_x
        return self._emitter.element(
            self._emitter.operand(1), self._emitter.mul(channel, taps), self._choices.dtype
        )

    def _multiply_plane(self, plane: Plane, x: ir.Value, w: ir.Value, places: list[Place]) -> None:
        """All lines of a plane of known extents."""
        for start in self._starts(plane):
            window = self._window(x, w, I64(start), I64(0))
            here = [place.row(self._emitter, I64(start)) for place in places]
            core = (start, self._choices.tile.vectors)
            self._call(core, window, I64(plane.out_y - start), I64(plane.out_x), here)

    def _multiply_band(
        self, x: ir.Value, w: ir.Value, y: ir.Value, lines: ir.Value, places: list[Place]
    ) -> None:
        """``lines`` output lines from ``y`` on, a register tile at a time."""
        emitter, word, tile = self._emitter, self._word, self._choices.tile
        with emitter.loop(0, lines, tile.rows) as line:
            left = emitter.sub(lines, line)
            at = emitter.variable(I64(0))

            def core(vectors: int) -> None:
                column = at.value
                window = self._window(x, w, emitter.add(y, line), column)
                here = [place.column(emitter, column).row(emitter, line) for place in places]
                self._call((0, vectors), window, left, emitter.sub(word["out_x"], column), here)
                at.value = emitter.add(column, vectors * tile.lanes)

            if tile.vectors > 1:
                wide = emitter.sub(word["out_x"], (tile.vectors - 1) * tile.lanes)
                with emitter.repeat_while(lambda: emitter.less(at.value, wide)):
                    core(tile.vectors)
            with emitter.when(emitter.less(at.value, word["out_x"])):
                core(1)

    def _window(self, x: ir.Value, w: ir.Value, y: ir.Value, column: ir.Value) -> Window:
        """What the outputs from line ``y`` and a column on read."""
        emitter, word, choices = self._emitter, self._word, self._choices
        first_y = emitter.sub(emitter.mul(y, choices.stride_y), word["pad_y"])
        first_x = emitter.sub(emitter.mul(column, choices.stride_x), word["pad_x"])
        return Window(x, word["step_y"], word["in_y"], word["in_x"], first_y, first_x, w)

    def _call(
        self,
        core: tuple[int, int],
        window: Window,
        lines: ir.Value,
        columns: ir.Value,
        places: list[Place],
    ) -> None:
        emitter = self._emitter
        arguments = [*window.values, lines, columns, emitter.scratch, *place_values(places)]
        with emitter.branch(self._may_read(window, core[1])) as (free, near_the_ends):
            with free:
                emitter.builder.call(self._cores[*core, False], arguments)
            with near_the_ends:
                emitter.builder.call(self._cores[*core, True], arguments)

    def _may_read(self, window: Window, vectors: int) -> ir.Value:
        """Do whole vectors of all lines that a register tile reads lie between the ends of ``x``?"""
        emitter, choices = self._emitter, self._choices
        tile = choices.tile
        last = emitter.add(window.first_y, choices.input_lines - 1)
        lowest = emitter.maximum(window.first_y, 1 - tile.lines)
        highest = emitter.minimum(last, emitter.sub(window.extent_y, 1))
        width = vectors * tile.lanes * choices.stride_x + choices.taps_x
        row = emitter.element(window.x, window.first_x, choices.dtype)
        begin = emitter.offset(row, emitter.mul(lowest, window.step))
        end = emitter.element(emitter.offset(row, emitter.mul(highest, window.step)), width, choices.dtype)
        first, begin, end = (
            emitter.builder.ptrtoint(pointer, I64) for pointer in (emitter.operand(0), begin, end)
        )
        stop = emitter.add(first, self._word["in_bytes"])
        outside = emitter.builder.or_(emitter.less(begin, first), emitter.less(stop, end))
        return emitter.builder.not_(outside)
