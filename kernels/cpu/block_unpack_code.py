"""Code that turns numbers of few bits, laid out by :mod:`onnxplan.kernels.cpu.block_weights`, into floats."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.block_weights import BlockFormat
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import FLOAT, I32, I64, POINTER
from onnxplan.kernels.cpu.registers import Grid, carry_loop, local_function

FLOAT32 = DType.FLOAT32

UNROLL = 8
"""Numbers of a column that are unpacked without a loop, at least those of a word."""

AHEAD_BYTES = 2048
"""How far ahead of what is read memory is asked for."""


class Unpacking:
    """How numbers become floats in the functions of one module."""

    def __init__(self, inner: Emitter, form: BlockFormat) -> None:
        self._inner, self.form = inner, form
        self._middle = 1 << (form.bits - 1) if form.zeros is None else 0
        self.vectors = form.width // inner.lanes
        self._tabled = inner.target.isa == "avx512" and inner.lanes == 16 and form.bits <= 4

    def words(self, pointer: ir.Value) -> list[ir.Value]:
        """One word of each column of a panel."""
        inner = self._inner
        size = 4 * inner.lanes
        return [inner.load_stored(inner.offset(pointer, size * v), I32) for v in range(self.vectors)]

    def numbers(self, words: ir.Value, position: int) -> ir.Value:
        """The numbers at ``position`` in ``words`` as floats, less their zero point if that is fixed."""
        inner, bits = self._inner, self.form.bits
        moved = words if position == 0 else inner.builder.lshr(words, inner.fill(bits * position, I32))
        if self._tabled:
            # A permutation looks at the lowest 4 bits only.
            values = [float((i & ((1 << bits) - 1)) - self._middle) for i in range(16)]
            table = ir.Constant(inner.vector(FLOAT), [ir.Constant(FLOAT, value) for value in values])
            name = "llvm.x86.avx512.permvar.sf.512"
            return inner.intrinsic(name, inner.vector(FLOAT), [table, moved])
        if position < self.form.each - 1:
            moved = inner.builder.and_(moved, inner.fill((1 << bits) - 1, I32))
        real = inner.builder.sitofp(moved, inner.vector(FLOAT))
        if not self._middle:
            return real
        return inner.builder.fsub(real, inner.fill(float(self._middle), FLOAT))

    def scales(self, record: ir.Value) -> list[ir.Value]:
        return self._row(record, self.form.scales)

    def zeros(self, record: ir.Value) -> list[ir.Value]:
        """The zero points of the columns as floats, where they are not fixed."""
        assert self.form.zeros is not None
        return self._row(self._inner.offset(record, self.form.zeros_at), self.form.zeros)

    def _row(self, pointer: ir.Value, dtype: DType) -> list[ir.Value]:
        inner = self._inner
        loaded = (
            inner.load(inner.element(pointer, v * inner.lanes, dtype), dtype) for v in range(self.vectors)
        )
        return [convert.cast(inner, dtype, FLOAT32, value) for value in loaded]

    def for_words(
        self, record: ir.Value, values: list[ir.Value], sums: Grid, body: Callable[..., Grid]
    ) -> Grid:
        """Runs ``body(words, first, values, sums)`` for all words of a block, the first number of each given.

        ``values`` are addresses that move on by the numbers of a word, 4 bytes each.
        """
        inner, form = self._inner, self.form
        step = 4 * form.width
        start = inner.offset(record, form.numbers_at)

        def several(count: int) -> Callable[..., tuple[list[ir.Value], Grid]]:
            def run(number: ir.Value, carried: list[ir.Value], grid: Grid) -> tuple[list[ir.Value], Grid]:
                at, *addresses = carried
                for _ in range(count):
                    for line in range(0, step, 64):
                        inner.prefetch(inner.offset(at, AHEAD_BYTES + line))
                    grid = body(self.words(at), addresses, grid)
                    at = inner.offset(at, step)
                    addresses = [inner.offset(address, 4 * form.each) for address in addresses]
                return [at, *addresses], grid

            return run

        count = next(n for n in range(max(1, UNROLL // form.each), 0, -1) if form.words % n == 0)
        _, sums = carry_loop(inner, I64(form.words // count), [start, *values], sums, several(count))
        return sums


def panel_unpacker(emitter: Emitter, form: BlockFormat) -> ir.Function:
    """``(target, record, blocks)``: writes the weights of blocks of a panel as rows of floats."""
    inner = local_function(emitter, "unpack_blocks", [POINTER, POINTER, I64], emitter.lanes)
    target, first, blocks = inner.function.args
    unpacking = Unpacking(inner, form)
    with inner.loop(0, blocks) as number:
        record = inner.offset(first, inner.mul(number, form.record))
        row = inner.offset(target, inner.mul(number, 4 * form.width * form.block))
        scales = unpacking.scales(record)
        points = unpacking.zeros(record) if form.zeros is not None else None
        start = inner.offset(record, form.numbers_at)
        with inner.loop(0, form.words) as word:
            words = unpacking.words(inner.offset(start, inner.mul(word, 4 * form.width)))
            rows = inner.offset(row, inner.mul(word, 4 * form.width * form.each))
            for position in range(form.each):
                for vector, item in enumerate(words):
                    value = unpacking.numbers(item, position)
                    if points is not None:
                        value = inner.builder.fsub(value, points[vector])
                    slot = inner.offset(rows, 4 * (position * form.width + vector * inner.lanes))
                    inner.store(inner.builder.fmul(value, scales[vector]), slot, FLOAT32)
    inner.builder.ret_void()
    return inner.function
