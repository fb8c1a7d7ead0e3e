"""Code of products of pairs of bfloat16 (:mod:`onnxplan.kernels.cpu.pairs`)."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import FLOAT, I32, I64
from onnxplan.kernels.cpu.registers import Grid, multiply_add


@dataclass(frozen=True, slots=True)
class PairProduct:
    """Multiplies rows of float32 by pairs of bfloat16, or tiles of pairs by each other."""

    tile_instruction = "llvm.x86.tdpbf16ps"
    tile_feature = "+amx-bf16"

    def multiply_row(
        self, inner: Emitter, rows: list[ir.Value], a_step: ir.Value, b: ir.Value, sums: Grid
    ) -> Grid:
        """Adds the products of a row of B and what stands at ``rows``: float32, half of ``a_step`` apart."""
        pairs = [
            inner.load(inner.offset(b, j * inner.target.vector_bytes), DType.INT32)
            for j in range(len(sums[0]))
        ]
        for half in range(2):
            columns = [self._widen(inner, pair, half) for pair in pairs]
            moved = inner.mul(inner.builder.lshr(a_step, I64(1)), half)
            factors = [
                inner.splat(inner.builder.load(inner.offset(row, moved), align=4, typ=FLOAT)) for row in rows
            ]
            sums = [
                [
                    multiply_add(inner, DType.FLOAT32, a, column, total)
                    for column, total in zip(columns, row, strict=True)
                ]
                for a, row in zip(factors, sums, strict=True)
            ]
        return sums

    @staticmethod
    def _widen(inner: Emitter, pairs: ir.Value, half: int) -> ir.Value:
        builder = inner.builder
        if half:
            bits = builder.and_(pairs, inner.fill(-1 << 16, I32))
        else:
            bits = builder.shl(pairs, inner.fill(16, I32))
        return builder.bitcast(bits, inner.vector(FLOAT))


def load_pairs(
    emitter: Emitter, source: ir.Value, dtype: DType, pair: ir.Value, count: ir.Value | None
) -> ir.Value:
    """Pairs of bfloat16 from ``pair`` on of a row of float32 or bfloat16, as a vector of i32.

    ``count`` is how many there are, the rest being zero; ``None`` fills the vector.
    """
    if dtype is DType.BFLOAT16:
        limit = None if count is None else emitter.mask(count)
        return emitter.load(emitter.element(source, pair, DType.INT32), DType.INT32, limit)
    at = emitter.offset(source, emitter.mul(pair, 2 * dtype.itemsize))
    halves = []
    for start in (0, emitter.lanes):
        limit = None if count is None else emitter.mask(emitter.sub(emitter.mul(count, 2), start))
        halves.append(emitter.load(emitter.offset(at, start * dtype.itemsize), dtype, limit))
    # The instruction's first factor becomes the upper half.
    signature = ir.FunctionType(emitter.vector(I32), [emitter.vector(FLOAT)] * 2)
    code = "vcvtne2ps2bf16 $1, $2, $0"
    return emitter.builder.asm(signature, code, "=v,v,v", halves, side_effect=False)
