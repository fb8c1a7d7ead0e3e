"""Code of the general convolution: rows are the taps of output positions, in place or copied side by side."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.conv_address_code import AddressedTaps
from onnxplan.kernels.cpu.conv_position_code import Positions, conv_words, lies_inside
from onnxplan.kernels.cpu.conv_taps import CONV_WORDS
from onnxplan.kernels.cpu.conv_tile_code import TiledTaps
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.llvm_types import I64, POINTER
from onnxplan.kernels.cpu.matrix_tiles_code import TileProduct
from onnxplan.kernels.cpu.microkernel import round_up_rows
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.cpu.product import WORDS
from onnxplan.kernels.cpu.product_code import Block, ProductCode, RowSource, emit_product, product_words
from onnxplan.kernels.cpu.quad_code import QuadProduct
from onnxplan.kernels.cpu.quads import QUAD
from onnxplan.kernels.cpu.tiling import RegisterTile, sum_dtype


def build_conv(variant: Variant, target: Target) -> ObjectCode:
    """The kernel of the general step of :func:`onnxplan.kernels.cpu.conv_taps.emit_conv_taps`."""
    kind, x_label, w_label, tile_sizes, epilogue_variant = variant
    assert isinstance(epilogue_variant, tuple)
    assert isinstance(tile_sizes, tuple)
    tile = RegisterTile(*(int(str(size)) for size in tile_sizes))
    epilogue = Epilogue.from_variant(epilogue_variant)
    emitter = Emitter.kernel(kernel_symbol("conv", variant), target, tile.lanes)
    x_dtype, w_dtype = (DType.from_label(str(label)) for label in (x_label, w_label))
    row_kind = str(kind).removeprefix("quads_")
    quads = QuadProduct(x_dtype, w_dtype) if row_kind != kind else None
    tiles = TileProduct(x_dtype, w_dtype) if kind == "tiles" else None
    code = ProductCode(target, tile, w_dtype, "packed", epilogue, quads=quads, tiles=tiles)
    source: RowSource
    if tiles is not None:
        source = TiledTaps(emitter, tiles)
    elif row_kind == "addressed":
        source = AddressedTaps(emitter, tile)
    elif quads is None:
        source = CopiedTaps(emitter, x_dtype, sum_dtype(epilogue.accumulator), row_kind, tile)
    else:
        bytes_emitter = emitter.with_lanes(target.vector_bytes)
        source = CopiedTaps(bytes_emitter, x_dtype, x_dtype, row_kind, tile, QUAD)
    return emit_product(emitter, code, source, len(WORDS) + len(CONV_WORDS))


class CopiedTaps:
    """Rows copied into scratch memory, converted to type ``sums``, zeros where taps lie outside.

    ``kind``: ``lines`` copies what a line of taps along x reads as one run, ``taps`` does so for each tap.
    The product takes ``element`` neighbours as one; of the last what is too much is undefined.
    """

    words = 2
    has_taps = False
    copies = True

    def __init__(
        self, emitter: Emitter, dtype: DType, sums: DType, kind: str, tile: RegisterTile, element: int = 1
    ) -> None:
        self.step_bytes: int | None = sums.itemsize * element
        self._emitter, self._dtype, self._sums, self._kind, self._tile = emitter, dtype, sums, kind, tile
        self._element = element
        self._common = product_words(emitter)
        self._word = conv_words(emitter)

    @property
    def step(self) -> ir.Value:
        return I64(self._sums.itemsize * self._element)

    @property
    def tap_step(self) -> ir.Value:
        return I64(0)

    def begin(self, offsets: list[ir.Value], first_row: ir.Value, rows: ir.Value) -> None:
        emitter, word = self._emitter, self._word
        copies = emitter.offset(emitter.scratch, self._common["a_scratch"])
        table = emitter.offset(emitter.scratch, self._common["table"])
        with emitter.loop(0, round_up_rows(emitter, rows, self._tile)) as entry:
            row = emitter.minimum(entry, emitter.sub(rows, 1))
            address = emitter.offset(copies, emitter.mul(row, word["pitch"]))
            emitter.builder.store(address, emitter.offset(table, emitter.mul(entry, 8)), align=8)
        origin = emitter.offset(emitter.operand(0), offsets[0])
        positions = Positions(emitter, word, emitter.add(offsets[1], first_row))
        records = emitter.offset(emitter.scratch, word["positions"])
        with emitter.loop(0, rows) as row:
            record = emitter.offset(records, emitter.mul(row, 32))
            emitter.builder.store(emitter.offset(origin, positions.offset()), record, align=8)
            for number, axis in enumerate("zyx"):
                emitter.builder.store(
                    positions.first_tap(axis), emitter.offset(record, 8 + 8 * number), align=8
                )
            positions.advance()

    def block(self, number: ir.Value, first_row: ir.Value, rows: ir.Value) -> Block:
        emitter, word = self._emitter, self._word
        first_tap = emitter.mul(number, word["block_taps"])
        taps = emitter.minimum(word["block_taps"], emitter.sub(word["taps"], first_tap))
        first_line = emitter.divide(first_tap, word["kernel_x"])
        lines = emitter.divide(taps, word["kernel_x"])
        start_z = emitter.divide(first_line, word["kernel_y"])
        start_y = emitter.modulo(first_line, word["kernel_y"])
        records = emitter.offset(emitter.scratch, word["positions"])
        copies = emitter.offset(emitter.scratch, self._common["a_scratch"])
        run = _Run(emitter, emitter.mul(word["kernel_x"], word["channels"]))
        reach = emitter.mul(emitter.sub(word["kernel_x"], 1), word["dilation_x"])
        with emitter.loop(0, rows) as row:
            record = emitter.offset(records, emitter.mul(row, 32))
            base = emitter.builder.load(record, align=8, typ=POINTER)
            first = {
                axis: emitter.builder.load(emitter.offset(record, 8 + 8 * axis_number), align=8, typ=I64)
                for axis_number, axis in enumerate("zyx")
            }
            target = emitter.offset(copies, emitter.mul(row, word["pitch"]))
            within = emitter.builder.and_(
                lies_inside(emitter, first["x"], word["in_x"]),
                lies_inside(emitter, emitter.add(first["x"], reach), word["in_x"]),
            )
            with emitter.branch(within) as (whole, part):
                with whole, emitter.branch(self._plane_inside(first)) as (all_inside, some_inside):
                    with all_inside:
                        self._copy_plane(lines, start_y, base, target, run)
                    with some_inside:
                        self._copy_lines(lines, start_z, start_y, base, first, target, run, None)
                with part:
                    inside = self._taps_inside(first["x"])
                    self._copy_lines(lines, start_z, start_y, base, first, target, run, inside)
        start, length = (emitter.mul(count, word["channels"]) for count in (first_tap, taps))
        return Block(
            start=emitter.divide(start, self._element),
            length=emitter.ceil_div(length, self._element),
            taps=I64(1),
            first_tap=I64(0),
            a_offset=I64(0),
        )

    def _plane_inside(self, first: dict[str, ir.Value]) -> ir.Value:
        """Is there one plane of taps, and none of its lines outside of ``x``?"""
        emitter, word, builder = self._emitter, self._word, self._emitter.builder
        reach = emitter.mul(emitter.sub(word["kernel_y"], 1), word["dilation_y"])
        inside = builder.icmp_signed("==", word["kernel_z"], I64(1))
        for coordinate, axis in ((first["z"], "z"), (first["y"], "y"), (emitter.add(first["y"], reach), "y")):
            inside = builder.and_(inside, lies_inside(emitter, coordinate, word[f"in_{axis}"]))
        return inside

    def _copy_plane(
        self, count: ir.Value, start_y: ir.Value, base: ir.Value, target: ir.Value, run: _Run
    ) -> None:
        """Copies ``count`` lines of taps that lie inside of ``x``."""
        emitter, word = self._emitter, self._word
        step = emitter.mul(word["dilation_y"], word["step_y"])
        line = emitter.variable(emitter.offset(base, emitter.mul(start_y, step)))
        at = emitter.variable(target)
        with emitter.loop(0, count):
            self._copy_taps(at.value, line.value, I64(0), word["kernel_x"], run)
            line.value = emitter.offset(line.value, step)
            at.value = self._at(at.value, run.count)

    def _copy_lines(
        self,
        count: ir.Value,
        start_z: ir.Value,
        start_y: ir.Value,
        base: ir.Value,
        first: dict[str, ir.Value],
        target: ir.Value,
        run: _Run,
        inside: tuple[ir.Value, ir.Value] | None,
    ) -> None:
        """Copies ``count`` lines of taps; ``inside`` is the range of taps along x to read, or all of them."""
        emitter, word, builder = self._emitter, self._word, self._emitter.builder
        tap_z, tap_y = emitter.variable(start_z), emitter.variable(start_y)
        at = emitter.variable(target)
        with emitter.loop(0, count):
            moved_z = emitter.mul(tap_z.value, word["dilation_z"])
            moved_y = emitter.mul(tap_y.value, word["dilation_y"])
            valid = builder.and_(
                lies_inside(emitter, emitter.add(first["z"], moved_z), word["in_z"]),
                lies_inside(emitter, emitter.add(first["y"], moved_y), word["in_y"]),
            )
            moved = emitter.add(emitter.mul(moved_z, word["step_z"]), emitter.mul(moved_y, word["step_y"]))
            line = emitter.offset(base, moved)
            if inside is not None:
                self._copy_line(valid, line, at.value, inside)
            else:
                with emitter.branch(valid) as (read, skip):
                    with read:
                        self._copy_taps(at.value, line, I64(0), word["kernel_x"], run)
                    with skip:
                        self._zero(at.value, run.count)
            at.value = self._at(at.value, run.count)
            next_y = emitter.add(tap_y.value, 1)
            wraps = builder.icmp_signed("==", next_y, word["kernel_y"])
            tap_y.value = builder.select(wraps, I64(0), next_y)
            tap_z.value = emitter.add(tap_z.value, builder.zext(wraps, I64))

    def _taps_inside(self, first: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The range of taps along x that read inside of ``x``."""
        emitter, word = self._emitter, self._word
        dilation = word["dilation_x"]
        before = emitter.maximum(emitter.sub(0, first), 0)
        start = emitter.ceil_div(before, dilation)
        left = emitter.maximum(emitter.sub(word["in_x"], first), 0)
        stop = emitter.ceil_div(left, dilation)
        stop = emitter.minimum(stop, word["kernel_x"])
        return emitter.minimum(start, stop), stop

    def _copy_line(
        self, valid: ir.Value, line: ir.Value, target: ir.Value, inside: tuple[ir.Value, ir.Value]
    ) -> None:
        """Zeros, the taps that lie inside if the line does, zeros."""
        emitter, word, builder = self._emitter, self._word, self._emitter.builder
        start = builder.select(valid, inside[0], word["kernel_x"])
        stop = builder.select(valid, inside[1], word["kernel_x"])
        self._zero(target, emitter.mul(start, word["channels"]))
        run = _Run(emitter, emitter.mul(emitter.sub(stop, start), word["channels"]))
        self._copy_taps(target, line, start, stop, run)
        end = self._at(target, emitter.mul(stop, word["channels"]))
        self._zero(end, emitter.mul(emitter.sub(word["kernel_x"], stop), word["channels"]))

    def _copy_taps(
        self, target: ir.Value, line: ir.Value, start: ir.Value, stop: ir.Value, run: _Run
    ) -> None:
        """Copies the taps from ``start`` up to ``stop``, which are ``run`` long in all."""
        emitter, word = self._emitter, self._word
        step = emitter.mul(word["step_x"], word["dilation_x"])
        if self._kind == "lines":
            source = emitter.offset(line, emitter.mul(start, step))
            self._copy(self._at(target, emitter.mul(start, word["channels"])), source, run)
            return
        each = _Run(emitter, word["channels"])
        with emitter.loop(start, stop) as tap:
            source = emitter.offset(line, emitter.mul(tap, step))
            self._copy(self._at(target, emitter.mul(tap, word["channels"])), source, each)

    def _at(self, pointer: ir.Value, index: ir.Value) -> ir.Value:
        return self._emitter.element(pointer, index, self._sums)

    def _zero(self, target: ir.Value, count: ir.Value) -> None:
        """Whole vectors: what is too much is overwritten by what follows in the row, or is padding."""
        emitter = self._emitter
        zero = emitter.constant(0, self._sums)
        with emitter.loop(0, count, emitter.lanes) as k:
            emitter.store(zero, self._at(target, k), self._sums)

    def _copy(self, target: ir.Value, source: ir.Value, run: _Run) -> None:
        emitter = self._emitter

        def copy(k: ir.Value, mask: Mask | None) -> None:
            value = emitter.load(emitter.element(source, k, self._dtype), self._dtype, mask)
            converted = convert.cast(emitter, self._dtype, self._sums, value)
            emitter.store(converted, self._at(target, k), self._sums)

        with emitter.loop(0, run.full, emitter.lanes) as k:
            copy(k, None)
        with emitter.when(emitter.less(run.full, run.count)):
            copy(run.full, run.mask)


class _Run:
    """``count`` neighbouring elements: ``full`` in whole vectors, the rest under ``mask``."""

    def __init__(self, emitter: Emitter, count: ir.Value) -> None:
        self.count = count
        self.full = emitter.builder.and_(count, I64(-emitter.lanes))
        self.mask = emitter.mask(emitter.sub(count, self.full))
