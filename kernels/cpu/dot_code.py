"""Code of :mod:`onnxplan.kernels.cpu.dot`: dot products of one row with several columns at once."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.dot import COLUMNS, GROUP, WORDS
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import Place, place_values, tile_finisher
from onnxplan.kernels.cpu.llvm_types import I64, POINTER
from onnxplan.kernels.cpu.objects import ObjectCode, compile_module, kernel_symbol
from onnxplan.kernels.cpu.pack_code import axis_offsets
from onnxplan.kernels.cpu.registers import Grid, carry_loop, local_function, multiply_add, zeros
from onnxplan.kernels.cpu.tiling import sum_dtype


def build_dot(variant: Variant, target: Target) -> ObjectCode:
    """The kernel of the step of :func:`onnxplan.kernels.cpu.dot.emit_dot`."""
    a_label, b_label, lanes, epilogue_variant = variant
    assert isinstance(lanes, int)
    assert isinstance(epilogue_variant, tuple)
    epilogue = Epilogue.from_variant(epilogue_variant)
    sums = sum_dtype(epilogue.accumulator)
    emitter = Emitter.kernel(kernel_symbol("dot", variant), target, lanes)
    operands = len(epilogue.dtypes)
    word = {name: emitter.parameter(number) for number, name in enumerate(WORDS)}
    steps = [
        (emitter.parameter(len(WORDS) + 2 * number), emitter.parameter(len(WORDS) + 2 * number + 1))
        for number in range(operands)
    ]
    axes = emitter.offset(emitter.function.args[1], 8 * (len(WORDS) + 2 * operands))
    core = _register_kernel(emitter, DType.from_label(str(a_label)), DType.from_label(str(b_label)), sums)
    finish = tile_finisher(emitter, epilogue, lanes, GROUP * sums.itemsize)
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
            with emitter.loop(first, last, GROUP) as group, emitter.loop(0, word["rows"]) as row:
                columns = emitter.minimum(emitter.sub(last, group), GROUP)
                a_row = emitter.offset(a, emitter.mul(row, word["a_row"]))
                with emitter.loop(0, columns, COLUMNS) as column:
                    # What is too much of the last columns repeats the last one.
                    left = emitter.sub(columns, column)
                    start = emitter.offset(b, emitter.mul(emitter.add(group, column), word["b_column"]))
                    target_sums = emitter.element(emitter.scratch, column, sums)
                    arguments = [a_row, start, word["b_column"], left, word["depth"], target_sums]
                    emitter.builder.call(core, arguments)
                here = [place.row(emitter, row).column(emitter, group) for place in places]
                emitter.builder.call(finish, [emitter.scratch, I64(1), columns, *place_values(here)])
    emitter.builder.ret_void()
    return compile_module(emitter.module, emitter.function.name, target, light=True)


def _register_kernel(emitter: Emitter, a_dtype: DType, b_dtype: DType, sums: DType) -> ir.Function:
    """``(a, b, column_step, columns, depth, sums)``: dot products of a row with up to ``COLUMNS`` columns."""
    inner = local_function(emitter, "dot_columns", [POINTER, POINTER, I64, I64, I64, POINTER], emitter.lanes)
    a, b, step, columns, depth, target = inner.function.args
    last = inner.sub(columns, 1)
    addresses = [inner.offset(b, inner.mul(inner.minimum(i, last), step)) for i in range(COLUMNS)]
    full = inner.builder.and_(depth, I64(-inner.lanes))

    def load(pointer: ir.Value, at: ir.Value, dtype: DType, mask: Mask | None) -> ir.Value:
        value = inner.load(inner.element(pointer, at, dtype), dtype, mask)
        return convert.cast(inner, dtype, sums, value)

    def products(at: ir.Value, totals: Grid, mask: Mask | None) -> Grid:
        left = load(a, at, a_dtype, mask)
        row = [
            multiply_add(inner, sums, left, load(address, at, b_dtype, mask), total)
            for address, total in zip(addresses, totals[0], strict=True)
        ]
        return [row]

    def vector(number: ir.Value, _: list[ir.Value], totals: Grid) -> tuple[list[ir.Value], Grid]:
        return [], products(inner.mul(number, inner.lanes), totals, None)

    count = inner.divide(full, inner.lanes)
    _, totals = carry_loop(inner, count, [], zeros(inner, sums, 1, COLUMNS), vector)
    # One pass or none over what is left of the depth.
    rest = inner.sub(depth, full)
    mask = inner.mask(rest)
    more = inner.builder.zext(inner.less(0, rest), I64)
    _, totals = carry_loop(inner, more, [], totals, lambda _, __, grid: ([], products(full, grid, mask)))
    for number, total in enumerate(totals[0]):
        scalar = inner.horizontal(
            total,
            lambda half, x, y: half.builder.fadd(x, y) if sums.is_float else half.builder.add(x, y),
        )
        inner.builder.store(scalar, inner.element(target, number, sums), align=sums.itemsize)
    inner.builder.ret_void()
    return inner.function
