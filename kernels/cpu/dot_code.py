"""Code of :mod:`onnxplan.kernels.cpu.dot`: dot products of one row with several columns at once."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.dot import COLUMNS, FAMILY, GROUP
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.few_rows_code import FewRows, Finish, Group, Walk, Word, build_few_rows
from onnxplan.kernels.cpu.llvm_types import I64, POINTER
from onnxplan.kernels.cpu.objects import ObjectCode
from onnxplan.kernels.cpu.registers import Grid, carry_loop, local_function, multiply_add, zeros


def build_dot(variant: Variant, target: Target) -> ObjectCode:
    """The kernel of the step of :func:`onnxplan.kernels.cpu.dot.emit_dot`."""
    return build_few_rows(FAMILY, variant, target, lambda choices: GROUP, _prepare)


def _prepare(emitter: Emitter, choices: FewRows) -> Walk:
    core = _register_kernel(emitter, choices.a_dtype, choices.b_dtype, choices.sums)

    def compute(word: Word, group: Group, finish: Finish) -> None:
        with emitter.loop(0, word["rows"]) as row:
            a_row = emitter.offset(group.a, emitter.mul(row, word["a_row"]))
            with emitter.loop(0, group.columns, COLUMNS) as column:
                # What is too much of the last columns repeats the last one.
                left = emitter.sub(group.columns, column)
                start = emitter.offset(group.b, emitter.mul(column, word["b_column"]))
                target_sums = emitter.element(emitter.scratch, column, choices.sums)
                arguments = [a_row, start, word["b_column"], left, word["depth"], target_sums]
                emitter.builder.call(core, arguments)
            finish(I64(1), group.columns, [place.row(emitter, row) for place in group.places])

    return compute


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
