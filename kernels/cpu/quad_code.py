"""Code of sums of products of bytes, four at a time, or of words, two at a time, in 32-bit lanes."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import I16, I32
from onnxplan.kernels.cpu.objects import machine_description

_FEATURES = {"avx512": "+avx512vnni", "avx2": "+avxvnni"}


@dataclass(frozen=True, slots=True)
class QuadProduct:
    """Multiplies quads of types ``a`` and ``b``, of which one is uint8 and the other int8.

    Sums are exact modulo 2**32: where there are no dot products, bytes are widened to words first, because
    ``vpmaddubsw`` would saturate.
    """

    a: DType
    b: DType

    def factors(self, emitter: Emitter, quads: ir.Value, *, left: bool) -> list[ir.Value]:
        """A vector of quads (``i32``) as :meth:`add` takes them; ``left`` says that they are of A."""
        if emitter.target.dot_products:
            return [quads]
        builder = emitter.builder
        words = builder.bitcast(quads, ir.VectorType(I16, 2 * emitter.lanes))
        eight = emitter.like(words, 8)
        if (self.a if left else self.b) is DType.UINT8:
            return [builder.and_(words, emitter.like(words, 0xFF)), builder.lshr(words, eight)]
        return [builder.ashr(builder.shl(words, eight), eight), builder.ashr(words, eight)]

    def add(self, emitter: Emitter, a: list[ir.Value], b: list[ir.Value], total: ir.Value) -> ir.Value:
        """``total`` plus the sum of the four products of each lane."""
        if emitter.target.dot_products:
            unsigned, signed = (a, b) if self.a is DType.UINT8 else (b, a)
            return _dot_of_bytes(emitter, total, unsigned[0], signed[0])
        for left, right in zip(a, b, strict=True):
            total = emitter.builder.add(total, _pair_products(emitter, left, right))
        return total


def add_product(emitter: Emitter, a: ir.Value, b: ir.Value, total: ir.Value) -> ir.Value:
    """``total + a * b`` in ``i32`` lanes of numbers that fit int16; ``a`` or ``b`` has no high words."""
    builder = emitter.builder
    if emitter.target.dot_products:
        _require_dot_products(emitter)
        # LLVM would make two instructions of the intrinsic, to shorten chains of sums.
        signature = ir.FunctionType(total.type, [total.type] * 3)
        code, register = ("vpdpwssd", "v") if emitter.target.isa == "avx512" else ("{vex} vpdpwssd", "x")
        constraints = f"={register},{register},{register},0"
        return builder.asm(signature, f"{code} $2, $1, $0", constraints, [a, b, total], side_effect=False)
    words = ir.VectorType(I16, 2 * emitter.lanes)
    return builder.add(total, _pair_products(emitter, builder.bitcast(a, words), builder.bitcast(b, words)))


def _dot_of_bytes(emitter: Emitter, total: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    _require_dot_products(emitter)
    name = f"llvm.x86.avx512.vpdpbusd.{32 * emitter.lanes}"
    return emitter.intrinsic(name, total.type, [total, unsigned, signed])


def _require_dot_products(emitter: Emitter) -> None:
    """Raises ``ValueError`` where this machine has neither AVX512_VNNI nor AVX_VNNI, which the plan wants."""
    needed = _FEATURES[emitter.target.isa]
    if needed not in machine_description(emitter.target.isa)[2].split(","):
        raise ValueError(f"this processor lacks {needed[1:]}, which the plan's target has")


def _pair_products(emitter: Emitter, a: ir.Value, b: ir.Value) -> ir.Value:
    """Sums of two neighbouring products of signed words, which 32 bits hold."""
    bits = 32 * emitter.lanes
    name = {128: "sse2.pmadd.wd", 256: "avx2.pmadd.wd", 512: "avx512.pmaddw.d.512"}[bits]
    return emitter.intrinsic(f"llvm.x86.{name}", emitter.vector(I32), [a, b])
