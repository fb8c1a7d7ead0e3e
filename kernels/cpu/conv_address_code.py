"""Rows of a convolution in place: a table of the addresses that taps read."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cpu.conv_position_code import Positions, conv_words, lies_inside
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import I64
from onnxplan.kernels.cpu.microkernel import round_up_rows
from onnxplan.kernels.cpu.product_code import Block, product_words
from onnxplan.kernels.cpu.tiling import RegisterTile

# Rows whose addresses are computed at once.
ADDRESSES = 8


class TapAddresses:
    """For every tap and position of a tile the address of its channels, or of zeros outside of ``x``.

    Addresses of a tap stand ``pitch`` bytes from those of the one before.
    """

    def __init__(self, emitter: Emitter) -> None:
        self._emitter, self._word = emitter, conv_words(emitter)

    def write(
        self, table: ir.Value, offsets: list[ir.Value], first_row: ir.Value, rows: ir.Value, entries: ir.Value
    ) -> None:
        """Fills ``table`` for ``rows`` rows, and up to ``entries`` with the last one's addresses.

        ``offsets`` are the sums of the batch axes' words. Whole vectors are written.
        """
        emitter, word = self._emitter, self._word
        zeros = emitter.offset(emitter.scratch, word["zeros"])
        zero = emitter.fill(0, ir.IntType(8 * (emitter.target.vector_bytes // emitter.lanes)))
        with emitter.loop(0, word["zero_bytes"], emitter.target.vector_bytes) as at:
            emitter.store_stored(zero, emitter.offset(zeros, at))
        origin = emitter.offset(emitter.operand(0), offsets[0])
        positions = Positions(emitter, word, emitter.add(offsets[1], first_row))
        entries = emitter.mul(emitter.ceil_div(entries, ADDRESSES), ADDRESSES)
        columns = self._list_rows(positions, origin, rows, entries)
        self._address_taps(table, columns, zeros, entries)

    def _list_rows(
        self, positions: Positions, origin: ir.Value, rows: ir.Value, entries: ir.Value
    ) -> dict[str, ir.Value]:
        """Writes what each row's first tap reads: its address, and its coordinates by axis.

        Returns where each of them stands; the last row is repeated up to ``entries``.
        """
        emitter, word = self._emitter, self._word
        start = emitter.offset(emitter.scratch, word["positions"])
        step = emitter.add(word["pitch"], 8 * ADDRESSES)
        names = ("address", *"zyx")
        columns = {name: emitter.offset(start, emitter.mul(step, i)) for i, name in enumerate(names)}
        lines = emitter.sub(emitter.add(word["out_x"], rows), positions.left_in_line())
        lines = emitter.ceil_div(lines, word["out_x"])
        row = emitter.variable(I64(0))
        with emitter.loop(0, lines):
            count = emitter.minimum(positions.left_in_line(), emitter.sub(rows, row.value))
            self._list_line(
                positions, origin, {name: self._entry(columns[name], row.value) for name in names}, count
            )
            positions.advance(count)
            row.value = emitter.add(row.value, count)
        for column in columns.values():
            last = emitter.offset(column, emitter.mul(emitter.sub(rows, 1), 8))
            value = emitter.builder.load(last, align=8, typ=I64)
            with emitter.loop(rows, entries) as row:
                emitter.builder.store(value, emitter.offset(column, emitter.mul(row, 8)), align=8)
        return columns

    def _list_line(
        self, positions: Positions, origin: ir.Value, columns: dict[str, ir.Value], count: ir.Value
    ) -> None:
        """The same for ``count`` positions of a line in whole vectors: what is too much is overwritten."""
        emitter, word = self._emitter.with_lanes(ADDRESSES), self._word
        address = emitter.builder.ptrtoint(emitter.offset(origin, positions.offset()), I64)
        steps = {"address": emitter.mul(word["stride_x"], word["step_x"]), "x": word["stride_x"]}
        lanes = emitter.lane_numbers()
        for name, column in columns.items():
            value = emitter.splat(address if name == "address" else positions.first_tap(name))
            step = emitter.splat(steps.get(name, I64(0)))
            first = emitter.builder.add(value, emitter.builder.mul(step, lanes))
            with emitter.loop(0, count, ADDRESSES) as i:
                moved = emitter.builder.mul(step, emitter.splat(i))
                emitter.store_stored(emitter.builder.add(first, moved), self._entry(column, i))

    def _entry(self, column: ir.Value, row: ir.Value) -> ir.Value:
        return self._emitter.offset(column, self._emitter.mul(row, 8))

    def _address_taps(
        self, table: ir.Value, columns: dict[str, ir.Value], zeros: ir.Value, entries: ir.Value
    ) -> None:
        """Writes the table, tap by tap, several rows at a time."""
        emitter, word = self._emitter.with_lanes(ADDRESSES), self._word
        builder = emitter.builder
        tap_table = emitter.variable(table)
        nowhere = emitter.splat(builder.ptrtoint(zeros, I64))
        with (
            emitter.loop(0, word["kernel_z"]) as tap_z,
            emitter.loop(0, word["kernel_y"]) as tap_y,
            emitter.loop(0, word["kernel_x"]) as tap_x,
        ):
            moved = {
                axis: emitter.mul(tap, word[f"dilation_{axis}"])
                for axis, tap in zip("zyx", (tap_z, tap_y, tap_x), strict=True)
            }
            offset: ir.Value = I64(0)
            for axis, distance in moved.items():
                offset = emitter.add(offset, emitter.mul(distance, word[f"step_{axis}"]))
            with emitter.loop(0, entries, ADDRESSES) as row:

                def listed(name: str, row: ir.Value = row) -> ir.Value:
                    return emitter.load_stored(emitter.element(columns[name], row, DType.INT64), I64)

                within = None
                for axis, distance in moved.items():
                    coordinate = builder.add(listed(axis), emitter.splat(distance))
                    valid = lies_inside(emitter, coordinate, emitter.splat(word[f"in_{axis}"]))
                    within = valid if within is None else builder.and_(within, valid)
                address = builder.add(listed("address"), emitter.splat(offset))
                entry = emitter.element(tap_table.value, row, DType.INT64)
                emitter.store_stored(builder.select(within, address, nowhere), entry)
            tap_table.value = emitter.offset(tap_table.value, word["pitch"])


class AddressedTaps:
    """Rows in place: the micro-kernel reads the channels of a tap where they are."""

    words = 2
    has_taps = True
    copies = False

    def __init__(self, emitter: Emitter, tile: RegisterTile) -> None:
        self._emitter, self._tile = emitter, tile
        self.step_bytes: int | None = emitter.target.vector_bytes // tile.lanes
        self._common = product_words(emitter)
        self._word = conv_words(emitter)
        self._itemsize = I64(self.step_bytes)

    @property
    def step(self) -> ir.Value:
        return self._itemsize

    @property
    def tap_step(self) -> ir.Value:
        return self._word["pitch"]

    def begin(self, offsets: list[ir.Value], first_row: ir.Value, rows: ir.Value) -> None:
        emitter = self._emitter
        table = emitter.offset(emitter.scratch, self._common["table"])
        # The micro-kernel may compute more rows than there are.
        entries = round_up_rows(emitter, rows, self._tile)
        TapAddresses(emitter).write(table, offsets, first_row, rows, entries)

    def block(self, number: ir.Value, first_row: ir.Value, rows: ir.Value) -> Block:
        emitter, word = self._emitter, self._word
        first_tap = emitter.mul(emitter.divide(number, word["channel_blocks"]), word["block_taps"])
        channel = emitter.mul(emitter.modulo(number, word["channel_blocks"]), word["channel_block"])
        length = emitter.minimum(word["channel_block"], emitter.sub(word["channels"], channel))
        return Block(
            start=emitter.add(emitter.mul(first_tap, word["channels"]), channel),
            length=length,
            taps=emitter.minimum(word["block_taps"], emitter.sub(word["taps"], first_tap)),
            first_tap=first_tap,
            a_offset=emitter.mul(channel, self._itemsize),
        )
