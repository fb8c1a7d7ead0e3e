"""Code of Winograd's convolution: a block of output tiles at a time, from input to epilogue.

See :mod:`onnxplan.kernels.cpu.winograd`. A block's scratch memory holds its transformed inputs
``(points, tiles, channels)``, the sums of a panel ``(points, tiles, width)`` and one finished output tile.
"""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import Place
from onnxplan.kernels.cpu.fetch_code import ahead_step
from onnxplan.kernels.cpu.llvm_types import I64
from onnxplan.kernels.cpu.microkernel import (
    MicroKernel,
    MicroKernels,
    Source,
    round_up_rows,
    row_blocks,
)
from onnxplan.kernels.cpu.objects import ObjectCode, compile_module, kernel_symbol
from onnxplan.kernels.cpu.tiling import RegisterTile
from onnxplan.kernels.cpu.winograd import WORDS
from onnxplan.kernels.cpu.winograd_transforms import F32, input_transform, output_transform


def build_winograd(variant: Variant, target: Target) -> ObjectCode:
    """The kernel of the step of :func:`onnxplan.kernels.cpu.winograd.emit_winograd`."""
    m, sizes, epilogue_variant = variant
    assert isinstance(m, int)
    assert isinstance(sizes, tuple)
    assert isinstance(epilogue_variant, tuple)
    tile = RegisterTile(*(int(str(size)) for size in sizes))
    emitter = Emitter.kernel(kernel_symbol("winograd", variant), target, tile.lanes)
    micro = MicroKernel(
        target,
        DType.FLOAT32,
        tile,
        masked=False,
        taps=False,
        epilogue=Epilogue.from_variant(epilogue_variant),
        a_step=4,
        b_step=4 * tile.width,
        ahead=True,
    )
    _Kernel(emitter, micro, m).emit()
    emitter.builder.ret_void()
    return compile_module(emitter.module, emitter.function.name, target, light=True)


class _Kernel:
    def __init__(self, emitter: Emitter, micro: MicroKernel, m: int) -> None:
        self._emitter, self._micro, self._m = emitter, micro, m
        self._extent = m + 2
        self._word = {name: emitter.parameter(number) for number, name in enumerate(WORDS)}
        self._steps = [
            [emitter.parameter(len(WORDS) + 4 * operand + axis) for axis in range(4)]
            for operand in range(len(micro.epilogue.dtypes))
        ]
        self._kernels = MicroKernels(emitter, micro, fuses=False)
        self._transform_input = input_transform(emitter, m)
        self._transform_output = output_transform(emitter, m, micro.row_bytes)
        self._input_plane, self._sums_plane = self._word["input_plane"], self._word["sums_plane"]

    def emit(self) -> None:
        emitter, word, width = self._emitter, self._word, self._micro.tile.width
        zeros = self._scratch("zeros")
        with emitter.loop(0, word["zero_bytes"], emitter.target.vector_bytes) as at:
            emitter.store(emitter.constant(0, F32), emitter.offset(zeros, at), F32)
        panels = emitter.ceil_div(word["features"], width)
        with emitter.loop(emitter.first, emitter.last) as number:
            first = emitter.mul(emitter.modulo(number, word["blocks"]), word["block_tiles"])
            count = emitter.minimum(word["block_tiles"], emitter.sub(word["tiles"], first))
            first_panel = emitter.mul(emitter.divide(number, word["blocks"]), word["block_panels"])
            last_panel = emitter.minimum(emitter.add(first_panel, word["block_panels"]), panels)
            self._list_rows(count)
            with emitter.loop(0, count) as tile:
                self._emit_input(emitter.add(first, tile), tile)
            # The next tile reads the same panels for other rows, if there are any, or those that follow.
            more_rows = emitter.less(emitter.add(first, count), word["tiles"])
            following = emitter.builder.select(more_rows, first_panel, last_panel)
            with emitter.loop(first_panel, last_panel) as panel:
                column = emitter.mul(panel, width)
                columns = emitter.minimum(emitter.sub(word["features"], column), width)
                more_panels = emitter.less(emitter.add(panel, 1), last_panel)
                next_panel = emitter.builder.select(more_panels, emitter.add(panel, 1), following)
                self._emit_products(count, panel, next_panel, columns)
                with emitter.loop(0, count) as tile:
                    self._emit_output(emitter.add(first, tile), tile, column, columns)

    def _scratch(self, name: str) -> ir.Value:
        return self._emitter.offset(self._emitter.scratch, self._word[name])

    def _list_rows(self, count: ir.Value) -> None:
        """Row addresses for the first pair of points; the micro-kernel may read more rows than there are."""
        emitter = self._emitter
        table = self._scratch("table")
        entries = round_up_rows(emitter, count, self._micro.tile)
        with emitter.loop(0, entries) as entry:
            row = emitter.minimum(entry, emitter.sub(count, 1))
            address = emitter.offset(emitter.scratch, emitter.mul(row, self._word["pitch"]))
            emitter.builder.store(address, emitter.offset(table, emitter.mul(entry, 8)), align=8)

    def _locate(self, tile: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        """An output tile's image, and its first position along y and x."""
        emitter, word = self._emitter, self._word
        x = emitter.modulo(tile, word["tiles_x"])
        rest = emitter.divide(tile, word["tiles_x"])
        y = emitter.modulo(rest, word["tiles_y"])
        image = emitter.divide(rest, word["tiles_y"])
        return image, emitter.mul(y, self._m), emitter.mul(x, self._m)

    def _emit_input(self, tile: ir.Value, row: ir.Value) -> None:
        """Transforms the inputs of an output tile; those outside of ``x`` are zeros."""
        emitter, word, builder = self._emitter, self._word, self._emitter.builder
        image, y, x = self._locate(tile)
        origin = emitter.offset(emitter.operand(0), emitter.mul(image, word["step_n"]))
        zeros, addresses = self._scratch("zeros"), self._scratch("addresses")
        columns = []
        for number in range(self._extent):
            at = emitter.sub(emitter.add(x, number), word["pad_x"])
            columns.append((builder.icmp_unsigned("<", at, word["in_x"]), emitter.mul(at, word["step_x"])))
        with emitter.loop(0, self._extent) as line:
            at = emitter.sub(emitter.add(y, line), word["pad_y"])
            inside_y = builder.icmp_unsigned("<", at, word["in_y"])
            start = emitter.offset(origin, emitter.mul(at, word["step_y"]))
            entries = emitter.offset(addresses, emitter.mul(line, 8 * self._extent))
            for number, (inside_x, offset) in enumerate(columns):
                inside = builder.and_(inside_y, inside_x)
                address = builder.select(inside, emitter.offset(start, offset), zeros)
                builder.store(address, emitter.offset(entries, 8 * number), align=8)
        target = emitter.offset(emitter.scratch, emitter.mul(row, word["pitch"]))
        builder.call(self._transform_input, [addresses, target, self._input_plane, word["channels"]])

    def _emit_products(
        self, count: ir.Value, panel: ir.Value, next_panel: ir.Value, columns: ir.Value
    ) -> None:
        """The sums of a panel's columns for all tiles of the block, at every pair of points.

        The weights of the next pair are fetched meanwhile, a share by each call.
        """
        emitter, word, micro = self._emitter, self._word, self._micro
        table, sums = self._scratch("table"), self._scratch("sums")
        points = self._extent**2
        point_bytes = emitter.mul(word["channels"], micro.row_bytes)
        weights, next_weights = (
            emitter.offset(emitter.operand(1), emitter.mul(emitter.mul(number, points), point_bytes))
            for number in (panel, next_panel)
        )
        step = ahead_step(emitter, I64(micro.row_bytes), row_blocks(emitter, count, micro.tile))
        with emitter.loop(0, points) as point:
            b = emitter.offset(weights, emitter.mul(point, point_bytes))
            plane = emitter.offset(sums, emitter.mul(point, self._sums_plane))
            more = emitter.less(point, points - 1)
            ahead = emitter.variable(
                emitter.builder.select(more, emitter.offset(b, point_bytes), next_weights)
            )
            with emitter.loop(0, count, micro.tile.rows) as row:
                source = Source(
                    table=emitter.offset(table, emitter.mul(row, 8)),
                    tap_step=I64(0),
                    taps=I64(1),
                    a_offset=emitter.mul(point, self._input_plane),
                    a_step=I64(4),
                    b=b,
                    b_step=I64(micro.row_bytes),
                    length=word["channels"],
                    tile=emitter.offset(plane, emitter.mul(row, micro.row_bytes)),
                    accumulate=I64(0),
                    columns=columns,
                    ahead=ahead.value,
                    ahead_step=step,
                )
                rows = emitter.minimum(emitter.sub(count, row), micro.tile.rows)
                self._kernels.sum(emitter, source, rows)
                ahead.value = emitter.offset(ahead.value, emitter.mul(step, word["channels"]))

    def _emit_output(self, tile: ir.Value, row: ir.Value, column: ir.Value, columns: ir.Value) -> None:
        """Transforms the sums of an output tile and runs the epilogue where it lies inside of the output."""
        emitter, word, micro = self._emitter, self._word, self._micro
        finished = self._scratch("finished")
        sums = emitter.offset(self._scratch("sums"), emitter.mul(row, micro.row_bytes))
        vectors = emitter.ceil_div(columns, micro.lanes)
        emitter.builder.call(self._transform_output, [sums, finished, self._sums_plane, vectors])
        image, y, x = self._locate(tile)
        lines = emitter.minimum(emitter.sub(word["out_y"], y), self._m)
        positions = emitter.minimum(emitter.sub(word["out_x"], x), self._m)
        with emitter.loop(0, lines) as line:
            places = []
            for operand, steps in enumerate(self._steps):
                offset = I64(0)
                for index, step in zip((image, emitter.add(y, line), x, column), steps, strict=True):
                    offset = emitter.add(offset, emitter.mul(index, step))
                pointer = emitter.offset(emitter.operand(2 + operand), offset)
                places.append(Place(pointer, steps[2], steps[3]))
            source = emitter.offset(finished, emitter.mul(line, self._m * micro.row_bytes))
            self._kernels.finish(emitter, source, positions, columns, places)
