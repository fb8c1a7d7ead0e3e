"""Code of a blocked matrix product: tiles, blocks of the depth, register tiles.

MatMul and Conv differ in where the rows of A come from only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.block_unpack_code import panel_unpacker
from onnxplan.kernels.cpu.block_weights import BlockFormat
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.emitter_core import Variable
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import Place
from onnxplan.kernels.cpu.fetch_code import PAGE_BYTES, PAGES_AHEAD, ahead_step
from onnxplan.kernels.cpu.llvm_types import I64, POINTER
from onnxplan.kernels.cpu.matrix_tiles import GROUP_BYTES, TILE, TILE_ROW_BYTES
from onnxplan.kernels.cpu.matrix_tiles_code import TileKernels, TileProduct
from onnxplan.kernels.cpu.microkernel import MicroKernel, MicroKernels, Source, row_blocks
from onnxplan.kernels.cpu.objects import ObjectCode, compile_module
from onnxplan.kernels.cpu.pack_code import Panel, axis_offsets, panel_packer
from onnxplan.kernels.cpu.part_product_code import PartBlock, PartKernels, PartRows
from onnxplan.kernels.cpu.parts import BYTES, SUM_BYTES
from onnxplan.kernels.cpu.product import WORDS
from onnxplan.kernels.cpu.quad_code import QuadProduct
from onnxplan.kernels.cpu.tiling import ROW_BLOCKS_THAT_FETCH, RegisterTile, sum_dtype

LEAST_BYTES_AHEAD = 2 * PAGES_AHEAD * PAGE_BYTES
"""Of fewer bytes of B a good part of what is fetched ahead would lie behind it."""

Kernels = MicroKernels | TileKernels | PartKernels

PackPanel = Callable[[ir.Value, ir.Value, ir.Value, ir.Value], None]
"""``(target, b, column, columns)``: writes the code that packs the columns of B from ``column`` on."""


@dataclass(frozen=True, slots=True)
class Block:
    """A range of the depth: rows ``start`` to ``start + taps * length`` of B, and how to address A in it."""

    start: ir.Value
    length: ir.Value
    taps: ir.Value
    first_tap: ir.Value
    a_offset: ir.Value


class RowSource(Protocol):
    """Where the rows of A come from. ``begin`` fills the table of row addresses for the rows of a tile.

    ``words`` is how many words of a record of the batch axes are A's; ``begin`` gets their sums. ``copies``
    says that ``block`` copies rows; ``step_bytes`` is ``step`` where it is known.
    """

    words: int
    has_taps: bool
    copies: bool
    step_bytes: int | None

    def begin(self, offsets: list[ir.Value], first_row: ir.Value, rows: ir.Value) -> None: ...

    def block(self, number: ir.Value, first_row: ir.Value, rows: ir.Value) -> Block: ...

    @property
    def step(self) -> ir.Value:
        """Bytes from one element of a row to the next."""
        ...

    @property
    def tap_step(self) -> ir.Value:
        """Bytes from one tap's row addresses to the next tap's."""
        ...


@dataclass(frozen=True, slots=True)
class ProductCode:
    """The choices compiled into a product kernel.

    ``b_layout``: ``packed``; ``rows`` or ``rows_masked`` (in place, the latter if the columns do not fill the
    last vector); ``scratch_<kind>``, packed by each tile (kinds of :func:`~.pack.access_kind`);
    ``gathered``, packed by each tile in the family's own way; or ``unpacked``, weights in the layout
    ``blocks``, each block of the depth unpacked where it is used.
    Elements are quads of bytes with ``quads``, groups that tile registers multiply with ``tiles``.
    """

    target: Target
    tile: RegisterTile
    b_dtype: DType
    b_layout: str
    epilogue: Epilogue
    blocks: BlockFormat | None = None
    quads: QuadProduct | None = None
    tiles: TileProduct | None = None

    @property
    def dtype(self) -> DType:
        return sum_dtype(self.epilogue.accumulator)

    @property
    def b_row(self) -> int | None:
        """Bytes of a row of B where they are known."""
        if self.b_layout.startswith("rows"):
            return None
        return self.tile.width * (GROUP_BYTES if self.quads or self.tiles else self.b_dtype.itemsize)

    @property
    def fetches_ahead(self) -> bool:
        return self.b_layout == "packed" and not self.splits

    @property
    def splits(self) -> bool:
        """Are panels of B split into parts before rows meet them?"""
        return self.tiles is not None and self.tiles.parts > 1


def product_words(emitter: Emitter) -> dict[str, ir.Value]:
    """The values of :data:`~onnxplan.kernels.cpu.product.WORDS`."""
    return {name: emitter.parameter(number) for number, name in enumerate(WORDS)}


def emit_product(
    emitter: Emitter,
    code: ProductCode,
    rows: RowSource,
    parameters: int,
    pack: PackPanel | None = None,
) -> ObjectCode:
    """Writes the rest of a kernel: operands are A, B, the output and the extras.

    ``parameters`` is the number of words before those of the output and the extras (row and column step
    each), after which the records of the batch axes follow: extent, A's words, B, output, extras.
    ``pack`` packs panels of a B that is ``gathered``.
    """
    word = product_words(emitter)
    operands = len(code.epilogue.dtypes)
    kernels = _kernels(emitter, code, rows)
    steps = [
        (emitter.parameter(parameters + 2 * number), emitter.parameter(parameters + 2 * number + 1))
        for number in range(operands)
    ]
    axes = emitter.offset(emitter.function.args[1], 8 * (parameters + 2 * operands))
    if code.b_layout.startswith("scratch_"):
        pack = _pack_matrix(emitter, code, word)
    unpacker = None if code.blocks is None else panel_unpacker(emitter, code.blocks)
    with kernels.configured(emitter), emitter.loop(emitter.first, emitter.last) as number:
        row_tile = emitter.modulo(emitter.divide(number, word["row_tile_step"]), word["row_tiles"])
        column_tile = emitter.modulo(emitter.divide(number, word["column_tile_step"]), word["column_tiles"])
        batch_tile = emitter.divide(number, emitter.mul(word["row_tiles"], word["column_tiles"]))
        first_row, last_row = (
            emitter.mul(place, code.tile.rows)
            for place in emitter.share(
                row_blocks(emitter, word["rows"], code.tile), word["row_tiles"], row_tile
            )
        )
        row_count = emitter.sub(emitter.minimum(last_row, word["rows"]), first_row)
        panels = emitter.ceil_div(word["columns"], code.tile.width)
        first_panel, last_panel = emitter.share(panels, word["column_tiles"], column_tile)
        first_batch = emitter.mul(batch_tile, word["tile_batch"])
        last_batch = emitter.minimum(emitter.add(first_batch, word["tile_batch"]), word["batch"])
        with emitter.loop(first_batch, last_batch) as batch:
            offsets = axis_offsets(emitter, axes, word["axes"], batch, rows.words + 1 + operands)
            rows.begin(offsets[: rows.words], first_row, row_count)
            b = emitter.offset(emitter.operand(1), offsets[rows.words])
            if pack is not None:
                b = _pack_scratch(emitter, code, word, pack, b, first_panel, last_panel)
            places = [
                Place(emitter.offset(emitter.operand(2 + i), offset), *steps[i])
                for i, offset in enumerate(offsets[rows.words + 1 :])
            ]
            # The next tile reads the same panels for other rows, if there are any, or those that follow.
            more_rows = emitter.less(emitter.add(row_tile, 1), word["row_tiles"])
            following = emitter.builder.select(more_rows, first_panel, last_panel)
            tile = _Tile(first_row, row_count, first_panel, last_panel, following, b, places)
            _TileWriter(emitter, code, kernels, rows, tile, unpacker).write()
    emitter.builder.ret_void()
    return compile_module(emitter.module, emitter.function.name, code.target, light=True)


def _kernels(emitter: Emitter, code: ProductCode, rows: RowSource) -> Kernels:
    if code.splits:
        return PartKernels(emitter, code.epilogue)
    if code.tiles:
        return TileKernels(emitter, code.tiles, code.epilogue)
    micro = MicroKernel(
        code.target,
        code.b_dtype,
        code.tile,
        masked=code.b_layout == "rows_masked",
        taps=rows.has_taps,
        epilogue=code.epilogue,
        a_step=rows.step_bytes,
        b_step=code.b_row,
        ahead=code.fetches_ahead,
        fetches_b=code.fetches_ahead,
        quads=code.quads,
    )
    return MicroKernels(emitter, micro)


@dataclass(frozen=True, slots=True)
class _Tile:
    """A tile's rows and panels; ``following`` is the panel that is read after it."""

    first_row: ir.Value
    rows: ir.Value
    first_panel: ir.Value
    last_panel: ir.Value
    following: ir.Value
    b: ir.Value
    places: list[Place]


@dataclass(frozen=True, slots=True)
class _Ahead:
    """What to fetch meanwhile: ``step`` bytes for each row of B; B itself for the first of ``few`` calls."""

    place: Variable
    step: ir.Value
    few: ir.Value

    def step_at(self, emitter: Emitter, row: ir.Value) -> ir.Value:
        """The step of :class:`~.microkernel.Source` for the call from ``row`` on."""
        first = emitter.builder.and_(self.few, emitter.builder.icmp_signed("==", row, I64(0)))
        return emitter.builder.select(first, I64(0), self.step)


class _TileWriter:
    """Writes the code of a tile: panels, blocks of the depth, blocks of rows."""

    def __init__(
        self,
        emitter: Emitter,
        code: ProductCode,
        kernels: Kernels,
        rows: RowSource,
        tile: _Tile,
        unpacker: ir.Function | None,
    ) -> None:
        self._emitter, self._code, self._kernels = emitter, code, kernels
        self._rows, self._tile = rows, tile
        self._word = product_words(emitter)
        self._single = emitter.builder.icmp_signed("==", self._word["depth_blocks"], I64(1))
        block_bytes = code.tile.rows * code.tile.width * code.dtype.itemsize
        # With one block of the depth all register tiles use the same accumulators.
        self._accumulator_step = emitter.builder.select(self._single, I64(0), I64(block_bytes))
        self._unpacker = unpacker

    def write(self) -> None:
        """All blocks of rows meet a panel before the next panel, which is fetched meanwhile.

        Where rows are copied, that is done once for each block of the depth, for all panels.
        """
        emitter, tile = self._emitter, self._tile
        depth_blocks, panels = (0, self._word["depth_blocks"]), (tile.first_panel, tile.last_panel)
        if self._rows.copies:
            with emitter.loop(*depth_blocks) as number:
                block = self._rows.block(number, tile.first_row, tile.rows)
                accumulators = emitter.variable(emitter.scratch)
                with emitter.loop(*panels) as panel:
                    self._write_panel(panel, number, block, accumulators)
        else:
            with emitter.loop(*panels) as panel, emitter.loop(*depth_blocks) as number:
                block = self._rows.block(number, tile.first_row, tile.rows)
                self._write_panel(panel, number, block, emitter.variable(emitter.scratch))

    def _write_panel(self, panel: ir.Value, number: ir.Value, block: Block, accumulators: Variable) -> None:
        """The tile's rows by block ``number`` of a panel's depth."""
        if isinstance(self._kernels, PartKernels):
            self._write_parts(self._kernels, panel, number, block)
            return
        emitter, word, tile, rows = self._emitter, self._word, self._tile, self._rows
        height, width = self._code.tile.rows, self._code.tile.width
        last = emitter.builder.icmp_signed("==", number, emitter.sub(word["depth_blocks"], 1))
        b = self._rows_of_panel(panel, block)
        table = emitter.offset(emitter.scratch, word["table"])
        table = emitter.offset(table, emitter.mul(block.first_tap, rows.tap_step))
        column = emitter.mul(panel, width)
        places = [place.row(emitter, tile.first_row).column(emitter, column) for place in tile.places]
        ahead = self._ahead(panel, block, b, last) if self._code.fetches_ahead else None
        with emitter.loop(0, tile.rows, height) as row:
            step = ahead.step_at(emitter, row) if ahead else None
            source = Source(
                table=emitter.offset(table, emitter.mul(row, 8)),
                tap_step=rows.tap_step,
                taps=block.taps,
                a_offset=block.a_offset,
                a_step=rows.step,
                b=b,
                b_step=word["b_row"],
                length=block.length,
                tile=accumulators.value,
                accumulate=number,
                columns=emitter.minimum(emitter.sub(word["columns"], column), width),
                ahead=ahead.place.value if ahead else None,
                ahead_step=step,
            )
            count = emitter.minimum(emitter.sub(tile.rows, row), height)
            row_places = [place.row(emitter, row) for place in places]
            self._kernels.call(emitter, source, count, row_places, last)
            accumulators.value = emitter.offset(accumulators.value, self._accumulator_step)
            if ahead is not None and step is not None:
                fetched = emitter.mul(step, emitter.mul(block.taps, block.length))
                ahead.place.value = emitter.offset(ahead.place.value, fetched)

    def _write_parts(self, kernels: PartKernels, panel: ir.Value, number: ir.Value, block: Block) -> None:
        """The same of products in parts: all blocks of rows meet a part of the block's depth."""
        emitter, word, tile, width = self._emitter, self._word, self._tile, self._code.tile.width
        last = emitter.builder.icmp_signed("==", number, emitter.sub(word["depth_blocks"], 1))
        next_panel = emitter.add(panel, 1)
        more = emitter.less(next_panel, tile.last_panel)
        b, following = (
            emitter.offset(self._part_of_panel(place), emitter.mul(block.start, word["b_row"]))
            for place in (panel, emitter.builder.select(more, next_panel, tile.first_panel))
        )
        own = emitter.sub(panel, tile.first_panel)
        blocks = emitter.mul(own, row_blocks(emitter, tile.rows, self._code.tile))
        sums = emitter.builder.select(self._single, I64(0), emitter.mul(blocks, 2 * SUM_BYTES))
        column = emitter.mul(panel, width)
        rows = PartRows(
            count=tile.rows,
            columns=emitter.minimum(emitter.sub(word["columns"], column), width),
            a=emitter.builder.load(emitter.offset(emitter.scratch, word["table"]), align=8, typ=POINTER),
            a_step=emitter.mul(word["depth_block"], self._code.tile.rows * BYTES),
            sums=emitter.offset(emitter.scratch, sums),
            parts=emitter.offset(emitter.scratch, word["b_scratch"]),
        )
        places = [place.row(emitter, tile.first_row).column(emitter, column) for place in tile.places]
        kernels.call(
            emitter, PartBlock(b, word["b_row"], block.length, number, following), rows, places, last
        )

    def _rows_of_panel(self, panel: ir.Value, block: Block) -> ir.Value:
        """Where the rows of B of a block begin."""
        emitter, form = self._emitter, self._code.blocks
        if form is None or self._unpacker is None:
            return emitter.offset(self._panel(panel), emitter.mul(block.start, self._word["b_row"]))
        unpacked = emitter.offset(emitter.scratch, self._word["b_scratch"])
        first = emitter.divide(block.start, form.block)
        record = emitter.offset(self._panel(panel), emitter.mul(first, form.record))
        count = emitter.ceil_div(block.length, form.block)
        emitter.builder.call(self._unpacker, [unpacked, record, count])
        return unpacked

    def _panel(self, number: ir.Value) -> ir.Value:
        return self._emitter.offset(self._tile.b, self._emitter.mul(number, self._word["b_panel"]))

    def _part_of_panel(self, number: ir.Value) -> ir.Value:
        """Where the columns begin that two tiles take of panels, which may be wider."""
        emitter, width = self._emitter, TILE_ROW_BYTES * TILE.vectors
        parts = emitter.divide(self._word["b_row"], width)
        at = emitter.mul(emitter.modulo(number, parts), width)
        return emitter.offset(self._panel(emitter.divide(number, parts)), at)

    def _ahead(self, panel: ir.Value, block: Block, b: ir.Value, last: ir.Value) -> _Ahead:
        """The block of B that comes next, spread over this block's calls, or what is near in a lone call."""
        emitter, word, tile = self._emitter, self._word, self._tile
        length = emitter.mul(block.taps, block.length)
        next_panel = emitter.add(panel, 1)
        more_panels = emitter.less(next_panel, tile.last_panel)
        place = self._panel(emitter.builder.select(more_panels, next_panel, tile.following))
        if not self._rows.copies:
            deeper = emitter.offset(b, emitter.mul(length, word["b_row"]))
            place = emitter.builder.select(last, place, deeper)
        calls = row_blocks(emitter, tile.rows, self._code.tile)
        few = emitter.less(calls, ROW_BLOCKS_THAT_FETCH)
        nbytes = emitter.mul(emitter.sub(tile.last_panel, tile.first_panel), word["b_panel"])
        few = emitter.builder.and_(few, emitter.less(LEAST_BYTES_AHEAD, nbytes))
        return _Ahead(emitter.variable(place), ahead_step(emitter, word["b_row"], calls), few)


def _pack_matrix(emitter: Emitter, code: ProductCode, word: dict[str, ir.Value]) -> PackPanel:
    kind = code.b_layout.removeprefix("scratch_")
    packer = panel_packer(emitter, code.b_dtype.itemsize, code.tile.lanes, code.tile.vectors, kind)

    def pack(target: ir.Value, b: ir.Value, column: ir.Value, columns: ir.Value) -> None:
        panel = Panel(
            target=target,
            source=emitter.offset(b, emitter.mul(column, word["b_column"])),
            depth=word["depth"],
            columns=columns,
            depth_step=word["b_depth"],
            column_step=word["b_column"],
        )
        emitter.builder.call(packer, panel.values)

    return pack


def _pack_scratch(
    emitter: Emitter,
    code: ProductCode,
    word: dict[str, ir.Value],
    pack: PackPanel,
    b: ir.Value,
    first_panel: ir.Value,
    last_panel: ir.Value,
) -> ir.Value:
    """Packs a tile's panels; returns where panel 0 would stand."""
    scratch = emitter.offset(emitter.scratch, word["b_scratch"])
    base = emitter.offset(scratch, emitter.sub(0, emitter.mul(first_panel, word["b_panel"])))
    with emitter.loop(first_panel, last_panel) as panel:
        column = emitter.mul(panel, code.tile.width)
        columns = emitter.minimum(emitter.sub(word["columns"], column), code.tile.width)
        pack(emitter.offset(base, emitter.mul(panel, word["b_panel"])), b, column, columns)
    return base
