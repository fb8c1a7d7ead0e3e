"""Code that reads pairs of bfloat16 (:mod:`onnxplan.kernels.cpu.pairs`)."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import FLOAT, I32


def load_pairs(
    emitter: Emitter, row: ir.Value, dtype: DType, pair: ir.Value, count: ir.Value | None
) -> ir.Value:
    """Pairs from ``pair`` on of a row of bfloat16, or of float32 that is rounded, as a vector of i32.

    ``count`` is how many there are, the rest being zero; ``None`` fills the vector.
    """
    if dtype is DType.BFLOAT16:
        limit = None if count is None else emitter.mask(count)
        return emitter.load(emitter.element(row, pair, DType.INT32), DType.INT32, limit)
    at = emitter.offset(row, emitter.mul(pair, 2 * dtype.itemsize))
    halves = []
    for start in (0, emitter.lanes):
        limit = None if count is None else emitter.mask(emitter.sub(emitter.mul(count, 2), start))
        halves.append(emitter.load(emitter.offset(at, start * dtype.itemsize), dtype, limit))
    signature = ir.FunctionType(emitter.vector(I32), [emitter.vector(FLOAT)] * 2)
    # The last factor in AT&T's order becomes the upper half.
    code = "vcvtne2ps2bf16 $1, $2, $0"
    return emitter.builder.asm(signature, code, "=v,v,v", halves, side_effect=False)
