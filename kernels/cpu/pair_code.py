"""Code that rounds float32 to bfloat16 and reads pairs of it (:mod:`onnxplan.kernels.cpu.pairs`)."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import FLOAT, I16, I32
from onnxplan.kernels.cpu.pairs import PAIR


def load_rounded(emitter: Emitter, row: ir.Value, pair: ir.Value, count: ir.Value | None) -> ir.Value:
    """Pairs from ``pair`` on of a row of float32, rounded, as a vector of i32.

    ``count`` is how many there are, the rest being zero; ``None`` fills the vector.
    """
    wide = emitter.with_lanes(PAIR * emitter.lanes)
    limit = None if count is None else wide.mask(emitter.mul(count, PAIR))
    numbers = wide.load(emitter.element(row, emitter.mul(pair, PAIR), DType.FLOAT32), DType.FLOAT32, limit)
    return emitter.builder.bitcast(round_to_bfloat16(wide, numbers), emitter.vector(I32))


def round_to_bfloat16(emitter: Emitter, numbers: ir.Value) -> ir.Value:
    """32 of float32 as bfloat16 stands in memory: rounded to nearest even, subnormal ones to zero.

    Source: Intel, "Intel 64 and IA-32 Architectures Software Developer's Manual", VCVTNE2PS2BF16.
    """
    builder, half = emitter.builder, emitter.lanes // 2
    low, high = (
        builder.shuffle_vector(
            numbers, numbers, ir.Constant(ir.VectorType(I32, half), list(range(at, at + half)))
        )
        for at in (0, half)
    )
    signature = ir.FunctionType(emitter.vector(I16), [ir.VectorType(FLOAT, half)] * 2)
    # The last factor in AT&T's order becomes the upper half.
    return builder.asm(signature, "vcvtne2ps2bf16 $1, $2, $0", "=v,v,v", [low, high], side_effect=False)
