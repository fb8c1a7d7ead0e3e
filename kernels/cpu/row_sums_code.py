"""Code of :mod:`onnxplan.kernels.cpu.row_sums`: several rows of B at a time are added to sums in memory."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.few_rows_code import FewRows, Finish, Group, Walk, Word, build_few_rows
from onnxplan.kernels.cpu.llvm_types import I64, POINTER
from onnxplan.kernels.cpu.objects import ObjectCode
from onnxplan.kernels.cpu.registers import local_function, multiply_add
from onnxplan.kernels.cpu.row_sums import FAMILY, GROUP_BYTES

MOST_DEPTH = 8
"""Rows of B that are added at a time; each is a stream of memory."""


def build_row_sums(variant: Variant, target: Target) -> ObjectCode:
    """The kernel of the step of :func:`onnxplan.kernels.cpu.row_sums.emit_row_sums`."""
    return build_few_rows(
        FAMILY, variant, target, lambda choices: GROUP_BYTES // choices.sums.itemsize, _prepare
    )


def _prepare(emitter: Emitter, choices: FewRows) -> Walk:
    add = _adder(emitter, choices.rows, choices.a_dtype, choices.b_dtype, choices.sums)

    def compute(word: Word, group: Group, finish: Finish) -> None:
        arguments = [word["rows"], group.a, word["a_row"], word["a_depth"], group.b, word["b_row"]]
        emitter.builder.call(add, [*arguments, word["depth"], group.columns, emitter.scratch])
        finish(word["rows"], group.columns, group.places)

    return compute


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
