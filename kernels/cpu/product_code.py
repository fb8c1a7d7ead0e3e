"""Code of a blocked matrix product: tiles, blocks of the depth, register tiles.

MatMul and Conv differ in where the rows of A come from only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import Place
from onnxplan.kernels.cpu.llvm_types import I64
from onnxplan.kernels.cpu.microkernel import MicroKernel, MicroKernels, Source
from onnxplan.kernels.cpu.objects import ObjectCode, compile_module
from onnxplan.kernels.cpu.pack_code import Panel, axis_offsets, panel_packer
from onnxplan.kernels.cpu.product import WORDS
from onnxplan.kernels.cpu.tiling import RegisterTile, sum_dtype


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

    ``words`` is how many words of a record of the batch axes are A's; ``begin`` gets their sums.
    """

    words: int
    has_taps: bool

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
    last vector); or ``scratch_<kind>``, packed by each tile (kinds of :func:`~.pack.access_kind`).
    """

    target: Target
    tile: RegisterTile
    b_dtype: DType
    b_layout: str
    epilogue: Epilogue

    @property
    def dtype(self) -> DType:
        return sum_dtype(self.epilogue.accumulator)


def product_words(emitter: Emitter) -> dict[str, ir.Value]:
    """The values of :data:`~onnxplan.kernels.cpu.product.WORDS`."""
    return {name: emitter.parameter(number) for number, name in enumerate(WORDS)}


def emit_product(emitter: Emitter, code: ProductCode, rows: RowSource, parameters: int) -> ObjectCode:
    """Writes the rest of a kernel: operands are A, B, the output and the extras.

    ``parameters`` is the number of words before those of the output and the extras (row and column step
    each), after which the records of the batch axes follow: extent, A's words, B, output, extras.
    """
    word = product_words(emitter)
    operands = len(code.epilogue.dtypes)
    micro = MicroKernel(
        code.target, code.b_dtype, code.tile, code.b_layout == "rows_masked", rows.has_taps, code.epilogue
    )
    kernels = MicroKernels(emitter, micro)
    steps = [
        (emitter.parameter(parameters + 2 * number), emitter.parameter(parameters + 2 * number + 1))
        for number in range(operands)
    ]
    axes = emitter.offset(emitter.function.args[1], 8 * (parameters + 2 * operands))
    packer = None
    if code.b_layout.startswith("scratch_"):
        kind = code.b_layout.removeprefix("scratch_")
        packer = panel_packer(emitter, code.b_dtype.itemsize, code.tile.lanes, code.tile.vectors, kind)
    with emitter.loop(emitter.first, emitter.last) as number:
        row_tile = emitter.modulo(number, word["row_tiles"])
        rest = emitter.divide(number, word["row_tiles"])
        column_tile = emitter.modulo(rest, word["column_tiles"])
        batch_tile = emitter.divide(rest, word["column_tiles"])
        first_row = emitter.mul(row_tile, word["tile_rows"])
        row_count = emitter.minimum(word["tile_rows"], emitter.sub(word["rows"], first_row))
        first_panel = emitter.mul(column_tile, word["tile_panels"])
        panels = emitter.divide(emitter.add(word["columns"], code.tile.width - 1), code.tile.width)
        last_panel = emitter.minimum(emitter.add(first_panel, word["tile_panels"]), panels)
        first_batch = emitter.mul(batch_tile, word["tile_batch"])
        last_batch = emitter.minimum(emitter.add(first_batch, word["tile_batch"]), word["batch"])
        with emitter.loop(first_batch, last_batch) as batch:
            offsets = axis_offsets(emitter, axes, word["axes"], batch, rows.words + 1 + operands)
            rows.begin(offsets[: rows.words], first_row, row_count)
            b = emitter.offset(emitter.operand(1), offsets[rows.words])
            if packer is not None:
                b = _pack_scratch(emitter, code, word, packer, b, first_panel, last_panel)
            places = [
                Place(emitter.offset(emitter.operand(2 + i), offset), *steps[i])
                for i, offset in enumerate(offsets[rows.words + 1 :])
            ]
            tile = _Tile(first_row, row_count, first_panel, last_panel, b, places)
            _emit_tile(emitter, code, kernels, rows, word, tile)
    emitter.builder.ret_void()
    return compile_module(emitter.module, emitter.function.name, code.target, light=True)


@dataclass(frozen=True, slots=True)
class _Tile:
    first_row: ir.Value
    rows: ir.Value
    first_panel: ir.Value
    last_panel: ir.Value
    b: ir.Value
    places: list[Place]


def _emit_tile(
    emitter: Emitter,
    code: ProductCode,
    kernels: MicroKernels,
    rows: RowSource,
    word: dict[str, ir.Value],
    tile: _Tile,
) -> None:
    builder = emitter.builder
    block_bytes = code.tile.rows * code.tile.width * code.dtype.itemsize
    single = builder.icmp_signed("==", word["depth_blocks"], I64(1))
    # With one block of the depth all register tiles use the same accumulators.
    block_step = builder.select(single, I64(0), I64(block_bytes))
    table = emitter.offset(emitter.scratch, word["table"])
    with emitter.loop(0, word["depth_blocks"]) as number:
        block = rows.block(number, tile.first_row, tile.rows)
        last = builder.icmp_signed("==", number, emitter.sub(word["depth_blocks"], 1))
        b_block = emitter.offset(tile.b, emitter.mul(block.start, word["b_row"]))
        tap_table = emitter.offset(table, emitter.mul(block.first_tap, rows.tap_step))
        accumulators = emitter.variable(emitter.scratch)
        with emitter.loop(0, tile.rows, code.tile.rows) as row:
            count = emitter.minimum(emitter.sub(tile.rows, row), code.tile.rows)
            row_table = emitter.offset(tap_table, emitter.mul(row, 8))
            row_places = [place.row(emitter, emitter.add(tile.first_row, row)) for place in tile.places]
            with emitter.loop(tile.first_panel, tile.last_panel) as panel:
                column = emitter.mul(panel, code.tile.width)
                source = Source(
                    table=row_table,
                    tap_step=rows.tap_step,
                    taps=block.taps,
                    a_offset=block.a_offset,
                    a_step=rows.step,
                    b=emitter.offset(b_block, emitter.mul(panel, word["b_panel"])),
                    b_step=word["b_row"],
                    length=block.length,
                    tile=accumulators.value,
                    accumulate=number,
                    columns=emitter.minimum(emitter.sub(word["columns"], column), code.tile.width),
                )
                places = [place.column(emitter, column) for place in row_places]
                kernels.call(emitter, source, count, places, single, last)
                accumulators.value = emitter.offset(accumulators.value, block_step)


def _pack_scratch(
    emitter: Emitter,
    code: ProductCode,
    word: dict[str, ir.Value],
    packer: ir.Function,
    b: ir.Value,
    first_panel: ir.Value,
    last_panel: ir.Value,
) -> ir.Value:
    """Packs a tile's panels; returns where panel 0 would stand."""
    scratch = emitter.offset(emitter.scratch, word["b_scratch"])
    base = emitter.offset(scratch, emitter.sub(0, emitter.mul(first_panel, word["b_panel"])))
    with emitter.loop(first_panel, last_panel) as panel:
        column = emitter.mul(panel, code.tile.width)
        panel_values = Panel(
            target=emitter.offset(base, emitter.mul(panel, word["b_panel"])),
            source=emitter.offset(b, emitter.mul(column, word["b_column"])),
            depth=word["depth"],
            columns=emitter.minimum(emitter.sub(word["columns"], column), code.tile.width),
            depth_step=word["b_depth"],
            column_step=word["b_column"],
        )
        emitter.builder.call(packer, panel_values.values)
    return base
