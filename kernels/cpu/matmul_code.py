"""Code of MatMul: rows of A in place, or copied block by block into a thread's scratch memory."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.llvm_types import I64
from onnxplan.kernels.cpu.matrix_tiles import TILE_ROW_BYTES
from onnxplan.kernels.cpu.matrix_tiles_code import TileProduct, copy_tiles
from onnxplan.kernels.cpu.microkernel import round_up_rows
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.cpu.product import WORDS
from onnxplan.kernels.cpu.product_code import Block, ProductCode, emit_product, product_words
from onnxplan.kernels.cpu.quad_code import QuadProduct
from onnxplan.kernels.cpu.tiling import RegisterTile, sum_dtype


def build_matmul(variant: Variant, target: Target) -> ObjectCode:
    """The kernel of a step of :func:`onnxplan.kernels.cpu.matmul.select_matmul`."""
    a_kind, a_label, b_layout, b_label, tile_sizes, epilogue_variant = variant
    assert isinstance(epilogue_variant, tuple)
    assert isinstance(tile_sizes, tuple)
    tile = RegisterTile(*(int(str(size)) for size in tile_sizes))
    epilogue = Epilogue.from_variant(epilogue_variant)
    emitter = Emitter.kernel(kernel_symbol("matmul", variant), target, tile.lanes)
    a_dtype, b_dtype = (DType.from_label(str(label)) for label in (a_label, b_label))
    quads = QuadProduct(a_dtype, b_dtype) if a_kind == "quads" else None
    tiles = TileProduct(a_dtype, b_dtype) if a_kind == "tiles" else None
    code = ProductCode(target, tile, b_dtype, str(b_layout), epilogue, quads=quads, tiles=tiles)
    source = MatrixRows(emitter, a_dtype, sum_dtype(epilogue.accumulator), str(a_kind), tile, tiles)
    return emit_product(emitter, code, source, len(WORDS) + 3)


class MatrixRows:
    """Rows of a matrix.

    ``kind``: ``in_place`` (elements of a row are neighbours), ``quads`` (the same, elements are quads of
    bytes), ``blocks`` (a register tile's rows side by side, then the next ones) or ``in_place_strided``; or
    copied and converted to the type of the sums: ``rows`` (elements of a row are neighbours), ``columns``
    (elements of a column are) or ``strided``; or copied as ``tiles``. The parameters after the common ones:
    A's row and depth step, and bytes of a copied row, or for ``blocks``, ``columns`` and ``tiles`` of a block
    of rows.
    """

    words = 1
    has_taps = False

    def __init__(
        self,
        emitter: Emitter,
        dtype: DType,
        sums: DType,
        kind: str,
        tile: RegisterTile,
        tiles: TileProduct | None = None,
    ) -> None:
        self._emitter, self._dtype, self._sums, self._kind, self._tile = emitter, dtype, sums, kind, tile
        self._tiles = tiles
        self._word = product_words(emitter)
        self._row_step, self._depth_step, self._pitch = (
            emitter.parameter(len(WORDS) + number) for number in range(3)
        )
        self._origin = emitter.variable(emitter.operand(0))
        self.copies = kind in ("rows", "columns", "strided", "tiles")
        self._inside_step = TILE_ROW_BYTES if kind == "tiles" else sums.itemsize
        self.step_bytes = self._known_step()

    def _known_step(self) -> int | None:
        if self._kind == "in_place_strided":
            return None
        return self._sums.itemsize * (self._tile.rows if self._kind in ("columns", "blocks") else 1)

    @property
    def step(self) -> ir.Value:
        return self._depth_step if self.step_bytes is None else I64(self.step_bytes)

    @property
    def tap_step(self) -> ir.Value:
        return I64(0)

    def begin(self, offsets: list[ir.Value], first_row: ir.Value, rows: ir.Value) -> None:
        emitter = self._emitter
        origin = emitter.offset(
            emitter.operand(0), emitter.add(offsets[0], emitter.mul(first_row, self._row_step))
        )
        self._origin.value = origin
        table = emitter.offset(emitter.scratch, self._word["table"])
        copies = emitter.offset(emitter.scratch, self._word["a_scratch"])
        with emitter.loop(0, round_up_rows(emitter, rows, self._tile)) as entry:
            row = emitter.minimum(entry, emitter.sub(rows, 1))
            if self._kind in ("columns", "blocks", "tiles"):
                block = emitter.divide(row, self._tile.rows)
                inside = emitter.mul(emitter.modulo(row, self._tile.rows), self._inside_step)
                place = emitter.add(emitter.mul(block, self._pitch), inside)
                address = emitter.offset(copies if self.copies else origin, place)
            elif not self.copies:
                address = emitter.offset(origin, emitter.mul(row, self._row_step))
            else:
                address = emitter.offset(copies, emitter.mul(row, self._pitch))
            emitter.builder.store(address, emitter.offset(table, emitter.mul(entry, 8)), align=8)

    def block(self, number: ir.Value, first_row: ir.Value, rows: ir.Value) -> Block:
        emitter, word = self._emitter, self._word
        start = emitter.mul(number, word["depth_block"])
        length = emitter.minimum(word["depth_block"], emitter.sub(word["depth"], start))
        offset = emitter.mul(start, self._depth_step)
        if not self.copies:
            return Block(start, length, I64(1), I64(0), offset)
        source = emitter.offset(self._origin.value, offset)
        copies = emitter.offset(emitter.scratch, word["a_scratch"])
        if self._tiles is not None:
            copy_tiles(emitter, self._tiles, source, self._row_step, copies, self._pitch, rows, length)
        elif self._kind == "columns":
            self._copy_columns(source, copies, rows, length)
        else:
            self._copy_rows(source, copies, rows, length)
        return Block(start, length, I64(1), I64(0), I64(0))

    def _copy_rows(self, source: ir.Value, copies: ir.Value, rows: ir.Value, length: ir.Value) -> None:
        emitter, lanes = self._emitter, self._tile.lanes
        full = emitter.builder.and_(length, I64(-lanes))
        rest = emitter.sub(length, full)
        mask = emitter.mask(rest)
        with emitter.loop(0, rows) as row:
            row_source = emitter.offset(source, emitter.mul(row, self._row_step))
            row_copy = emitter.offset(copies, emitter.mul(row, self._pitch))

            def copy(k: ir.Value, masked: bool, at: ir.Value = row_source, to: ir.Value = row_copy) -> None:
                limit = mask if masked else None
                if self._kind == "rows":
                    value = emitter.load(emitter.element(at, k, self._dtype), self._dtype, limit)
                else:
                    place = emitter.offset(at, emitter.mul(k, self._depth_step))
                    value = emitter.load_strided(place, self._depth_step, self._dtype, limit)
                self._store(value, emitter.element(to, k, self._sums))

            with emitter.loop(0, full, lanes) as k:
                copy(k, masked=False)
            with emitter.when(emitter.less(0, rest)):
                copy(full, masked=True)

    def _copy_columns(self, source: ir.Value, copies: ir.Value, rows: ir.Value, length: ir.Value) -> None:
        """Copies blocks of a register tile's rows, for each depth its rows side by side.

        A whole vector is stored for each depth; what is too much of it the next one overwrites.
        """
        tile = self._tile
        # Vectors no wider than a block's rows need: wider ones would span more lines of the cache.
        emitter = self._emitter.with_lanes(min(tile.lanes, 1 << (tile.rows - 1).bit_length()))
        starts = range(0, tile.rows, emitter.lanes)
        with emitter.loop(0, rows, tile.rows) as row:
            block_source = emitter.offset(source, emitter.mul(row, self._row_step))
            block_copy = emitter.offset(copies, emitter.mul(emitter.divide(row, tile.rows), self._pitch))
            count = emitter.minimum(emitter.sub(rows, row), tile.rows)
            masks = [emitter.mask(emitter.sub(count, start)) for start in starts]
            with emitter.loop(0, length) as k:
                at = emitter.offset(block_source, emitter.mul(k, self._depth_step))
                to = emitter.offset(block_copy, emitter.mul(k, tile.rows * self._sums.itemsize))
                for start, mask in zip(starts, masks, strict=True):
                    value = emitter.load(emitter.element(at, start, self._dtype), self._dtype, mask)
                    converted = convert.cast(emitter, self._dtype, self._sums, value)
                    emitter.store(converted, emitter.element(to, start, self._sums), self._sums)

    def _store(self, value: ir.Value, pointer: ir.Value) -> None:
        self._emitter.store(convert.cast(self._emitter, self._dtype, self._sums, value), pointer, self._sums)
