"""Code of :mod:`onnxplan.kernels.cpu.block_matmul`."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.block_matmul import FEW_FAMILY, MANY_FAMILY, ROWS_AT_ONCE, WORDS
from onnxplan.kernels.cpu.block_unpack_code import Unpacking
from onnxplan.kernels.cpu.block_weights import BlockFormat
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import Place, place_values, tile_finisher
from onnxplan.kernels.cpu.llvm_types import FLOAT, I64, POINTER
from onnxplan.kernels.cpu.matmul_code import MatrixRows
from onnxplan.kernels.cpu.objects import ObjectCode, compile_module, kernel_symbol
from onnxplan.kernels.cpu.product import WORDS as PRODUCT_WORDS
from onnxplan.kernels.cpu.product_code import ProductCode, emit_product
from onnxplan.kernels.cpu.registers import Grid, carry_loop, local_function, zeros
from onnxplan.kernels.cpu.tiling import RegisterTile

FLOAT32 = DType.FLOAT32
HEIGHTS = (1, 2, 4, ROWS_AT_ONCE)
REGISTERS = 30
"""Vector registers for sums; two more hold what is multiplied."""


# Few rows


def build_block_rows(variant: Variant, target: Target) -> ObjectCode:
    """The kernel for few rows: ``a`` is copied to scratch memory, as floats filled up to whole blocks."""
    a_label, form_variant, lanes, epilogue_variant = variant
    assert isinstance(form_variant, tuple)
    assert isinstance(lanes, int)
    assert isinstance(epilogue_variant, tuple)
    form, epilogue = BlockFormat.from_variant(form_variant), Epilogue.from_variant(epilogue_variant)
    emitter = Emitter.kernel(kernel_symbol(FEW_FAMILY, variant), target, lanes)
    word = {name: emitter.parameter(number) for number, name in enumerate(WORDS)}
    places = [
        Place(
            emitter.operand(2 + number),
            emitter.parameter(len(WORDS) + 2 * number),
            emitter.parameter(len(WORDS) + 2 * number + 1),
        )
        for number in range(len(epilogue.dtypes))
    ]
    cores = {rows: _rows_core(emitter, form, rows) for rows in HEIGHTS}
    finish = tile_finisher(emitter, epilogue, lanes, form.width * 4)
    _copy_rows(emitter, form, DType.from_label(str(a_label)), word)
    panel_bytes = emitter.mul(word["blocks"], form.record)
    tile = emitter.offset(emitter.scratch, word["tile"])
    sums = emitter.offset(emitter.scratch, word["sums"])
    first = emitter.mul(emitter.first, word["tile_panels"])
    last = emitter.minimum(emitter.mul(emitter.last, word["tile_panels"]), word["panels"])
    with emitter.loop(first, last) as panel, emitter.loop(0, word["rows"], ROWS_AT_ONCE) as row:
        record = emitter.offset(emitter.operand(1), emitter.mul(panel, panel_bytes))
        count = emitter.minimum(emitter.sub(word["rows"], row), ROWS_AT_ONCE)
        a = emitter.offset(emitter.scratch, emitter.mul(row, word["a_pitch"]))
        row_sums = emitter.offset(sums, emitter.mul(row, word["sums_pitch"]))
        arguments = [a, word["a_pitch"], row_sums, word["sums_pitch"], record, word["blocks"], tile, count]
        done = emitter.function.append_basic_block("rows.end")
        for height, core in cores.items():
            with emitter.when(emitter.builder.icmp_signed("<=", count, I64(height))):
                emitter.builder.call(core, arguments)
                emitter.builder.branch(done)
        emitter.builder.unreachable()
        emitter.builder.position_at_end(done)
        column = emitter.mul(panel, form.width)
        columns = emitter.minimum(emitter.sub(word["columns"], column), form.width)
        here = [place.row(emitter, row).column(emitter, column) for place in places]
        emitter.builder.call(finish, [tile, count, columns, *place_values(here)])
    emitter.builder.ret_void()
    return compile_module(emitter.module, emitter.function.name, target, light=True)


def _copy_rows(emitter: Emitter, form: BlockFormat, dtype: DType, word: dict[str, ir.Value]) -> None:
    """Copies the rows of ``a``, and sums each block of them where zero points need that."""
    lanes, depth = emitter.lanes, word["depth"]
    whole = emitter.builder.and_(depth, I64(-lanes))
    rest = emitter.sub(depth, whole)
    mask = emitter.mask(rest)
    extent = emitter.mul(word["blocks"], form.block)
    with emitter.loop(0, word["rows"]) as row:
        source = emitter.offset(emitter.operand(0), emitter.mul(row, word["a_row"]))
        target = emitter.offset(emitter.scratch, emitter.mul(row, word["a_pitch"]))
        with emitter.loop(0, whole, lanes) as k:
            value = convert.cast(
                emitter, dtype, FLOAT32, emitter.load(emitter.element(source, k, dtype), dtype)
            )
            emitter.store(value, emitter.element(target, k, FLOAT32), FLOAT32)
        with emitter.loop(whole, extent) as k:
            emitter.builder.store(ir.Constant(FLOAT, 0.0), emitter.element(target, k, FLOAT32), align=4)
        with emitter.when(emitter.less(0, rest)):
            loaded = emitter.load(emitter.element(source, whole, dtype), dtype, mask)
            value = convert.cast(emitter, dtype, FLOAT32, loaded)
            emitter.store(value, emitter.element(target, whole, FLOAT32), FLOAT32, mask)
        if form.zeros is not None:
            _sum_blocks(emitter, form, word, row, target)


def _sum_blocks(
    emitter: Emitter, form: BlockFormat, word: dict[str, ir.Value], row: ir.Value, values: ir.Value
) -> None:
    """Writes the sum of each block of a row's ``values``."""
    sums = emitter.offset(emitter.scratch, emitter.add(word["sums"], emitter.mul(row, word["sums_pitch"])))
    narrow = emitter.with_lanes(
        next(n for n in (16, 8, 4, 2, 1) if n <= emitter.lanes and form.block % n == 0)
    )
    with emitter.loop(0, word["blocks"]) as block:
        start = emitter.element(values, emitter.mul(block, form.block), FLOAT32)
        total = narrow.constant(0, FLOAT32)
        for k in range(0, form.block, narrow.lanes):
            total = narrow.builder.fadd(total, narrow.load(narrow.element(start, k, FLOAT32), FLOAT32))
        scalar = narrow.horizontal(total, lambda half, x, y: half.builder.fadd(x, y))
        emitter.builder.store(scalar, emitter.element(sums, block, FLOAT32), align=4)


def _rows_core(emitter: Emitter, form: BlockFormat, rows: int) -> ir.Function:
    """``(a, a_pitch, sums, sums_pitch, panel, blocks, tile, count)``: ``count`` rows by a panel.

    There are up to ``rows`` of them. Where registers allow it a block is summed by itself and scaled once;
    else each number is scaled.
    """
    types = [POINTER, I64, POINTER, I64, POINTER, I64, POINTER, I64]
    inner = local_function(emitter, f"block_rows_{rows}", types, emitter.lanes)
    a, pitch, sums, sums_pitch, panel, blocks, tile, count = inner.function.args
    unpacking = Unpacking(inner, form)
    vectors = unpacking.vectors
    scales_once = 2 * rows * vectors <= REGISTERS
    last = inner.sub(count, 1)
    row = [inner.minimum(number, last) for number in range(rows)]
    starts = [inner.offset(a, inner.mul(number, pitch)) for number in row]
    row_sums = [inner.offset(sums, inner.mul(number, sums_pitch)) for number in row]

    def products(
        weights: list[ir.Value], address: ir.Value, number: int, totals: list[ir.Value]
    ) -> list[ir.Value]:
        at = inner.offset(address, 4 * number)
        value = inner.splat(inner.builder.load(at, align=4, typ=FLOAT))
        return [inner.fma(value, weight, total) for weight, total in zip(weights, totals, strict=True)]

    def block(number: ir.Value, values: list[ir.Value], totals: Grid) -> tuple[list[ir.Value], Grid]:
        record, *addresses = values
        scales = unpacking.scales(record)
        points = unpacking.zeros(record) if form.zeros is not None else None
        shifts = (
            None
            if points is None
            else [
                inner.builder.fneg(inner.builder.fmul(scale, point))
                for scale, point in zip(scales, points, strict=True)
            ]
        )

        def word(words: list[ir.Value], places: list[ir.Value], grid: Grid) -> Grid:
            for position in range(form.each):
                weights = [unpacking.numbers(item, position) for item in words]
                if not scales_once:
                    weights = scaled(weights)
                grid = [
                    products(weights, place, position, line) for place, line in zip(places, grid, strict=True)
                ]
            return grid

        def scaled(weights: list[ir.Value]) -> list[ir.Value]:
            if shifts is None:
                return [inner.builder.fmul(w, scale) for w, scale in zip(weights, scales, strict=True)]
            return [
                inner.fma(w, scale, shift) for w, scale, shift in zip(weights, scales, shifts, strict=True)
            ]

        if scales_once:
            own = unpacking.for_words(record, addresses, zeros(inner, FLOAT32, rows, vectors), word)
            following: Grid = []
            for line, total, row_sum in zip(own, totals, row_sums, strict=True):
                result = [inner.fma(s, o, t) for s, o, t in zip(scales, line, total, strict=True)]
                if shifts is not None:
                    at = inner.element(row_sum, number, FLOAT32)
                    whole = inner.splat(inner.builder.load(at, align=4, typ=FLOAT))
                    result = [inner.fma(shift, whole, r) for shift, r in zip(shifts, result, strict=True)]
                following.append(result)
        else:
            following = unpacking.for_words(record, addresses, totals, word)
        moved = [inner.offset(address, 4 * form.block) for address in addresses]
        return [inner.offset(record, form.record), *moved], following

    _, totals = carry_loop(inner, blocks, [panel, *starts], zeros(inner, FLOAT32, rows, vectors), block)
    for number, line in enumerate(totals):
        for vector, total in enumerate(line):
            slot = inner.offset(tile, 4 * (number * form.width + vector * inner.lanes))
            inner.store(total, slot, FLOAT32)
    inner.builder.ret_void()
    return inner.function


# Many rows


def build_block_matmul(variant: Variant, target: Target) -> ObjectCode:
    """The kernel for many rows: a blocked product whose panels are unpacked block by block."""
    a_kind, a_label, form_variant, tile_sizes, epilogue_variant = variant
    assert isinstance(form_variant, tuple)
    assert isinstance(tile_sizes, tuple)
    assert isinstance(epilogue_variant, tuple)
    form, epilogue = BlockFormat.from_variant(form_variant), Epilogue.from_variant(epilogue_variant)
    tile = RegisterTile(*(int(str(size)) for size in tile_sizes))
    emitter = Emitter.kernel(kernel_symbol(MANY_FAMILY, variant), target, tile.lanes)
    code = ProductCode(target, tile, FLOAT32, "unpacked", epilogue, blocks=form)
    rows = MatrixRows(emitter, DType.from_label(str(a_label)), FLOAT32, str(a_kind), tile)
    return emit_product(emitter, code, rows, len(PRODUCT_WORDS) + 3)
