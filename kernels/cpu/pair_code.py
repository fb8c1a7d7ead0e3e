"""Code that rounds float32 to bfloat16 (:mod:`onnxplan.kernels.cpu.pairs`)."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import FLOAT, I16, I32


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
