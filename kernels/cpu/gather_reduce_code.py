"""Code of the GatherReduce kernel; see :mod:`onnxplan.kernels.cpu.gather_reduce`."""

from __future__ import annotations

import math

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.columns import Group, Lane, for_groups
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import I1, I64, compute_type
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.scalar import cpu_function

_NAMES = (
    "units", "per_tile", "blocks", "block", "columns", "taps", "extent", "table_row", "table_inner",
    "position_row", "position_inner", "weight_row", "weight_inner", "out_row", "out_inner",
)  # fmt: skip


class _Row:
    """One row of the output: where its positions and weights are, and how products are combined."""

    def __init__(self, emitter: Emitter, kind: str, dtype: DType, weight: DType, adjoining: bool) -> None:
        self.emitter, self.kind, self.dtype, self.weight = emitter, kind, dtype, weight
        self.word = {name: emitter.parameter(number) for number, name in enumerate(_NAMES)}
        self.source = Lane(dtype, None if adjoining else self.word["table_inner"])
        self.result = Lane(dtype, None if adjoining else self.word["out_inner"])

    def reduce(self, row: ir.Value, part: Group) -> None:
        """Computes and stores the columns of ``part``."""
        emitter, builder, word = self.emitter, self.emitter.builder, self.word
        positions = emitter.offset(emitter.operand(1), emitter.mul(row, word["position_row"]))
        weights = emitter.offset(emitter.operand(2), emitter.mul(row, word["weight_row"]))
        start = 0.0 if self.kind == "sum" else -math.inf
        totals = [emitter.variable(emitter.fill(start, compute_type(self.dtype))) for _ in range(part.count)]
        empty = emitter.variable(I1(1))
        with emitter.loop(0, word["taps"]) as tap:
            at = emitter.offset(positions, emitter.mul(tap, word["position_inner"]))
            position = builder.load(at, align=8, typ=I64)
            # As unsigned, negative positions lie beyond the end too.
            with emitter.when(builder.icmp_unsigned("<", position, word["extent"])):
                at = emitter.offset(weights, emitter.mul(tap, word["weight_inner"]))
                weight = emitter.load_broadcast(at, self.weight)
                table = emitter.offset(emitter.operand(0), emitter.mul(position, word["table_row"]))
                for number, total in enumerate(totals):
                    where = self.source.at(emitter, table, part, number)
                    value = self.source.load(emitter, where, part.mask)
                    total.value = combined(emitter, self.kind, self.weight, (value, weight), total.value)
                empty.value = I1(0)
        output = emitter.offset(emitter.operand(3), emitter.mul(row, word["out_row"]))
        zero = emitter.fill(0.0, compute_type(self.dtype))
        for number, total in enumerate(totals):
            found = builder.select(empty.value, zero, total.value)
            self.result.store(emitter, found, self.result.at(emitter, output, part, number), part.mask)


def combined(
    emitter: Emitter, kind: str, dtype: DType, operands: tuple[ir.Value, ir.Value], total: ir.Value
) -> ir.Value:
    """``total`` with the product of ``operands``: a sum, or the largest of both, of type ``dtype``."""
    if kind == "sum":
        return emitter.fma(*operands, total)
    return cpu_function("max")(emitter, dtype, dtype, total, emitter.builder.fmul(*operands))


def build_gather_reduce(variant: Variant, target: Target) -> ObjectCode:
    """``variant``: kind, element types of table and weights, whether columns adjoin, and lanes."""
    kind, label, weight, adjoining, lanes = variant
    assert isinstance(kind, str)
    assert isinstance(label, str)
    assert isinstance(weight, str)
    assert isinstance(lanes, int)
    emitter = Emitter.kernel(kernel_symbol("gather_reduce", variant), target, lanes)
    rows = _Row(emitter, kind, DType.from_label(label), DType.from_label(weight), bool(adjoining))
    word = rows.word
    start = emitter.mul(emitter.first, word["per_tile"])
    stop = emitter.minimum(emitter.mul(emitter.last, word["per_tile"]), word["units"])
    with emitter.loop(start, stop) as unit:
        row = emitter.divide(unit, word["blocks"])
        first = emitter.mul(emitter.modulo(unit, word["blocks"]), word["block"])
        last = emitter.minimum(emitter.add(first, word["block"]), word["columns"])
        for_groups(emitter, first, last, lambda part: rows.reduce(row, part))
    return emitter.finish()
