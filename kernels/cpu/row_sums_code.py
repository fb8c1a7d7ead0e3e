"""Code of :mod:`onnxplan.kernels.cpu.row_sums`: several rows of B at a time are added to sums in memory."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import Place, place_values, tile_finisher
from onnxplan.kernels.cpu.llvm_types import I64, POINTER
from onnxplan.kernels.cpu.objects import ObjectCode, compile_module, kernel_symbol
from onnxplan.kernels.cpu.pack_code import axis_offsets
from onnxplan.kernels.cpu.registers import local_function, multiply_add
from onnxplan.kernels.cpu.row_sums import GROUP_BYTES, WORDS
from onnxplan.kernels.cpu.tiling import sum_dtype

MOST_DEPTH = 8
"""Rows of B that are added at a time; each is a stream of memory."""


def build_row_sums(variant: Variant, target: Target) -> ObjectCode:
    """The kernel of the step of :func:`onnxplan.kernels.cpu.row_sums.emit_row_sums`."""
    rows, a_label, b_label, lanes, epilogue_variant = variant
    assert isinstance(rows, int)
    assert isinstance(lanes, int)
    assert isinstance(epilogue_variant, tuple)
    epilogue = Epilogue.from_variant(epilogue_variant)
    sums = sum_dtype(epilogue.accumulator)
    group_columns = GROUP_BYTES // sums.itemsize
    emitter = Emitter.kernel(kernel_symbol("row_sums", variant), target, lanes)
    operands = len(epilogue.dtypes)
    word = {name: emitter.parameter(number) for number, name in enumerate(WORDS)}
    steps = [
        (emitter.parameter(len(WORDS) + 2 * number), emitter.parameter(len(WORDS) + 2 * number + 1))
        for number in range(operands)
    ]
    axes = emitter.offset(emitter.function.args[1], 8 * (len(WORDS) + 2 * operands))
    add = _adder(emitter, rows, DType.from_label(str(a_label)), DType.from_label(str(b_label)), sums)
    finish = tile_finisher(emitter, epilogue, lanes, GROUP_BYTES)
    with emitter.loop(emitter.first, emitter.last) as number:
        first = emitter.mul(emitter.modulo(number, word["column_tiles"]), word["tile_columns"])
        last = emitter.minimum(emitter.add(first, word["tile_columns"]), word["columns"])
        first_batch = emitter.mul(emitter.divide(number, word["column_tiles"]), word["tile_batch"])
        last_batch = emitter.minimum(emitter.add(first_batch, word["tile_batch"]), word["batch"])
        with emitter.loop(first_batch, last_batch) as batch:
            a_offset, b_offset, *offsets = axis_offsets(emitter, axes, word["axes"], batch, 2 + operands)
            a = emitter.offset(emitter.operand(0), a_offset)
            b = emitter.offset(emitter.operand(1), b_offset)
            places = [
                Place(emitter.offset(emitter.operand(2 + i), offset), *steps[i])
                for i, offset in enumerate(offsets)
            ]
            with emitter.loop(first, last, group_columns) as group:
                columns = emitter.minimum(emitter.sub(last, group), group_columns)
                start = emitter.element(b, group, DType.from_label(str(b_label)))
                arguments = [word["rows"], a, word["a_row"], word["a_depth"], start, word["b_row"]]
                emitter.builder.call(add, [*arguments, word["depth"], columns, emitter.scratch])
                here = [place.column(emitter, group) for place in places]
                emitter.builder.call(finish, [emitter.scratch, word["rows"], columns, *place_values(here)])
    emitter.builder.ret_void()
    return compile_module(emitter.module, emitter.function.name, target, light=True)


def _adder(emitter: Emitter, rows: int, a_dtype: DType, b_dtype: DType, sums: DType) -> ir.Function:
    """``(count, a, a_row, a_depth, b, b_row, depth, columns, sums)``: the sums of ``count`` rows."""
    types = [I64, POINTER, I64, I64, POINTER, I64, I64, I64, POINTER]
    inner = local_function(emitter, "add_rows", types, emitter.lanes)
    count, a, a_row, a_depth, b, b_row, depth, columns, memory = inner.function.args
    last_row = inner.sub(count, 1)
    a_rows = [inner.offset(a, inner.mul(inner.minimum(row, last_row), a_row)) for row in range(rows)]
    targets = [inner.offset(memory, row * GROUP_BYTES) for row in range(rows)]
    full = inner.builder.and_(columns, I64(-inner.lanes))
    rest = inner.sub(columns, full)
    for target in targets:
        with inner.loop(0, columns, inner.lanes) as column:
            inner.store(inner.constant(0, sums), inner.element(target, column, sums), sums)

    def add(k: ir.Value, together: int) -> None:
        sources = [inner.offset(b, inner.mul(inner.add(k, i), b_row)) for i in range(together)]
        factors = [
            [
                convert.cast(
                    inner,
                    a_dtype,
                    sums,
                    inner.load_broadcast(inner.offset(at, inner.mul(inner.add(k, i), a_depth)), a_dtype),
                )
                for i in range(together)
            ]
            for at in a_rows
        ]

        def vector(column: ir.Value, mask: Mask | None) -> None:
            loaded = [
                convert.cast(
                    inner,
                    b_dtype,
                    sums,
                    inner.load(inner.element(source, column, b_dtype), b_dtype, mask),
                )
                for source in sources
            ]
            for row, target in zip(factors, targets, strict=True):
                place = inner.element(target, column, sums)
                total = inner.load(place, sums)
                for factor, value in zip(row, loaded, strict=True):
                    total = multiply_add(inner, sums, factor, value, total)
                inner.store(total, place, sums)

        with inner.loop(0, full, inner.lanes) as column:
            vector(column, None)
        with inner.when(inner.less(0, rest)):
            vector(full, inner.mask(rest))

    together = max(2, min(MOST_DEPTH, inner.target.vector_registers // (2 * rows)))
    whole = inner.mul(inner.divide(depth, together), together)
    with inner.loop(0, whole, together) as k:
        add(k, together)
    with inner.loop(whole, depth) as k:
        add(k, 1)
    inner.builder.ret_void()
    return inner.function
