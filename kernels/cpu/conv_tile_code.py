"""Rows of a convolution copied as tiles: what the taps meet in ``x``, 64 bytes of the depth after another."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cpu.conv_address_code import TapAddresses
from onnxplan.kernels.cpu.conv_position_code import conv_words
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import I64, POINTER, storage_type
from onnxplan.kernels.cpu.matrix_tiles import SIDE, TILE, TILE_ROW_BYTES
from onnxplan.kernels.cpu.matrix_tiles_code import TileProduct
from onnxplan.kernels.cpu.product_code import Block, product_words

_ELEMENT_BYTES = TILE_ROW_BYTES // SIDE


class TiledTaps:
    """Rows as the kernels of :mod:`.matrix_tiles_code` and :mod:`.part_product_code` take them.

    The channels of all taps follow one another without gaps, so that taps begin anywhere in a tile. What is
    left of the last tile is filled up with zeros. Addresses of taps stand in the table behind those of rows.
    """

    words = 2
    has_taps = False
    copies = True
    step_bytes: int | None = _ELEMENT_BYTES

    def __init__(self, emitter: Emitter, product: TileProduct) -> None:
        self._emitter, self._product = product.wide(emitter), product
        self._common, self._word = product_words(emitter), conv_words(emitter)
        self._addresses = TapAddresses(emitter)
        self._table = emitter.offset(emitter.scratch, self._common["table"])
        self._taps = emitter.offset(self._table, self._word["pitch"])
        self._copies = emitter.offset(emitter.scratch, self._common["a_scratch"])

    @property
    def step(self) -> ir.Value:
        return I64(_ELEMENT_BYTES)

    @property
    def tap_step(self) -> ir.Value:
        return I64(0)

    def begin(self, offsets: list[ir.Value], first_row: ir.Value, rows: ir.Value) -> None:
        emitter = self._emitter
        with emitter.loop(0, rows, TILE.rows) as row:
            entry = emitter.offset(self._table, emitter.mul(row, 8))
            emitter.builder.store(self._block_of_rows(row), entry, align=8)
        self._addresses.write(self._taps, offsets, first_row, rows, rows)

    def _block_of_rows(self, row: ir.Value) -> ir.Value:
        """Where the copies of the ``TILE.rows`` rows from ``row`` on stand."""
        emitter = self._emitter
        row_bytes = emitter.mul(
            self._common["depth_block"], self._product.step // TILE.rows // self._product.unit
        )
        return emitter.offset(self._copies, emitter.mul(row, row_bytes))

    def block(self, number: ir.Value, first_row: ir.Value, rows: ir.Value) -> Block:
        emitter, word = self._emitter, self._word
        start = emitter.mul(number, self._common["depth_block"])
        length = emitter.minimum(self._common["depth_block"], emitter.sub(self._common["depth"], start))
        first = emitter.mul(start, emitter.lanes // self._product.unit)
        depth = emitter.mul(word["taps"], word["channels"])
        with emitter.loop(0, emitter.ceil_div(length, self._product.unit)) as tile:
            begin = emitter.add(first, emitter.mul(tile, emitter.lanes))
            end = emitter.minimum(emitter.add(begin, emitter.lanes), depth)
            last_tap = emitter.divide(emitter.sub(end, 1), word["channels"])
            with emitter.loop(emitter.divide(begin, word["channels"]), emitter.add(last_tap, 1)) as tap:
                self._copy_tap(tile, tap, begin, end, rows)
        return Block(start, length, I64(1), I64(0), I64(0))

    def _copy_tap(
        self, tile: ir.Value, tap: ir.Value, begin: ir.Value, end: ir.Value, rows: ir.Value
    ) -> None:
        """Copies what a tile, which spans the depth from ``begin`` to ``end``, has of the channels of a tap.

        What is behind them in the tile is zero, until the next tap is copied.
        """
        emitter, word = self._emitter, self._word
        first_of_tap = emitter.mul(tap, word["channels"])
        start = emitter.maximum(first_of_tap, begin)
        stop = emitter.minimum(emitter.add(first_of_tap, word["channels"]), end)
        channel, inside = emitter.sub(start, first_of_tap), emitter.sub(start, begin)
        read, written = (
            emitter.mask(emitter.sub(stop, start)),
            emitter.mask(emitter.sub(emitter.lanes, inside)),
        )
        addresses = emitter.offset(self._taps, emitter.mul(tap, word["pitch"]))
        place = emitter.add(
            emitter.mul(tile, self._product.step), emitter.mul(inside, self._product.stored.itemsize)
        )
        with emitter.loop(0, rows, TILE.rows) as first_row:
            block = emitter.offset(self._block_of_rows(first_row), place)
            entries = emitter.element(addresses, first_row, DType.INT64)
            with emitter.loop(0, emitter.minimum(emitter.sub(rows, first_row), TILE.rows)) as row:
                entry = emitter.element(entries, row, DType.INT64)
                source = emitter.builder.load(entry, align=8, typ=POINTER)
                at = emitter.element(source, channel, self._product.a)
                elements = emitter.load_stored(at, storage_type(self._product.a), read)
                target = emitter.offset(block, emitter.mul(row, TILE_ROW_BYTES))
                self._product.store(emitter, elements, target, written)
