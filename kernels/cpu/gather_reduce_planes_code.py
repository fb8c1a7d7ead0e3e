"""Code of GatherReduce where columns are planes: vectors run over rows of the output.

See :mod:`onnxplan.kernels.cpu.gather_reduce`.
"""

from __future__ import annotations

import math

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.gather_reduce_code import combined
from onnxplan.kernels.cpu.llvm_types import FLOAT, I8, I32, I64, zeros
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.cpu.walk_code import vector_loop

_NAMES = (
    "units", "per_tile", "rows", "block", "columns", "taps", "extent", "plane", "position_tap",
    "weight_tap", "out_plane",
)  # fmt: skip


class _Planes:
    """What rows of the output are made of, and how products are combined."""

    def __init__(self, emitter: Emitter, kind: str, word: dict[str, ir.Value]) -> None:
        self.emitter, self.kind, self.word = emitter, kind, word

    def reduce(self, row: ir.Value, mask: Mask | None, column: ir.Value, count: int) -> None:
        """Computes and stores a vector of rows from ``row`` on of ``count`` columns from ``column`` on."""
        emitter, builder, word = self.emitter, self.emitter.builder, self.word
        start = 0.0 if self.kind == "sum" else -math.inf
        totals = [emitter.variable(emitter.fill(start, FLOAT)) for _ in range(count)]
        found = emitter.variable(emitter.fill(0, I8))
        planes = [
            emitter.offset(emitter.operand(0), emitter.mul(emitter.add(column, number), word["plane"]))
            for number in range(count)
        ]
        with emitter.loop(0, word["taps"]) as tap:
            at = emitter.offset(emitter.operand(1), emitter.mul(tap, word["position_tap"]))
            position = emitter.load_stored(emitter.element(at, row, DType.INT64), I64, mask)
            # As unsigned, negative positions lie beyond the end too.
            valid = builder.icmp_unsigned("<", position, emitter.splat(word["extent"]))
            place = builder.trunc(position, emitter.vector(I32))
            at = emitter.offset(emitter.operand(2), emitter.mul(tap, word["weight_tap"]))
            weight = emitter.load(emitter.element(at, row, DType.FLOAT32), DType.FLOAT32, mask)
            for plane, total in zip(planes, totals, strict=True):
                operands = self._gather(plane, place, valid), weight
                result = combined(emitter, self.kind, DType.FLOAT32, operands, total.value)
                total.value = builder.select(valid, result, total.value)
            found.value = builder.or_(found.value, builder.zext(valid, emitter.vector(I8)))
        some = builder.icmp_unsigned("!=", found.value, emitter.fill(0, I8))
        for number, total in enumerate(totals):
            plane = emitter.mul(emitter.add(column, number), word["out_plane"])
            to = emitter.element(emitter.offset(emitter.operand(3), plane), row, DType.FLOAT32)
            value = builder.select(some, total.value, emitter.fill(0.0, FLOAT))
            emitter.store(value, to, DType.FLOAT32, mask)

    def _gather(self, plane: ir.Value, place: ir.Value, valid: ir.Value) -> ir.Value:
        """The elements of a plane at the positions that are ``valid``."""
        emitter, builder = self.emitter, self.emitter.builder
        vector = emitter.vector(FLOAT)
        if emitter.target.isa == "avx512":
            arguments = [zeros(vector), plane, place, valid, I32(4)]
            return emitter.intrinsic("llvm.x86.avx512.mask.gather.dps.512", vector, arguments)
        lanes = builder.bitcast(builder.sext(valid, emitter.vector(I32)), vector)
        arguments = [zeros(vector), plane, place, lanes, I8(4)]
        return emitter.intrinsic("llvm.x86.avx2.gather.d.ps.256", vector, arguments)


def build_gather_reduce_planes(variant: Variant, target: Target) -> ObjectCode:
    """``variant``: kind, and how many columns share what is read of positions and weights.

    Operands: table, positions, weights and output, all of which have adjoining rows; floats are float32.
    """
    kind, most = variant
    assert isinstance(kind, str)
    assert isinstance(most, int)
    emitter = Emitter.kernel(kernel_symbol("gather_reduce_planes", variant), target, target.vector_bytes // 4)
    word = {name: emitter.parameter(number) for number, name in enumerate(_NAMES)}
    planes = _Planes(emitter, kind, word)
    start = emitter.mul(emitter.first, word["per_tile"])
    stop = emitter.minimum(emitter.mul(emitter.last, word["per_tile"]), word["units"])
    with emitter.loop(start, stop) as unit:
        groups = emitter.ceil_div(word["columns"], most)
        column = emitter.mul(emitter.modulo(unit, groups), most)
        row = emitter.mul(emitter.divide(unit, groups), word["block"])
        end = emitter.minimum(emitter.add(row, word["block"]), word["rows"])
        whole = emitter.less(emitter.add(column, most - 1), word["columns"])

        def some(column: ir.Value, count: int, row: ir.Value = row, end: ir.Value = end) -> None:
            def body(indices: list[ir.Value], mask: Mask | None) -> None:
                planes.reduce(indices[0], mask, column, count)

            vector_loop(emitter, row, end, 1, body)

        with emitter.branch(whole) as (together, apart):
            with together:
                some(column, most)
            with apart, emitter.loop(column, word["columns"]) as single:
                some(single, 1)
    return emitter.finish()
