"""Code of the Scatter kernel; see :mod:`onnxplan.kernels.cpu.scatter`."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.columns import Group, Lane, for_groups
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import I1, I64
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.scalar import cpu_function

_NAMES = (
    "columns", "per_tile", "rows", "extent", "position_step", "update_step", "update_inner", "out_step",
    "out_inner", "size",
)  # fmt: skip


def build_scatter(variant: Variant, target: Target) -> ObjectCode:
    """``variant``: ``none`` and the bytes of an element (0: columns adjoin and are runs), or else the
    kind of combination, the element type, whether columns adjoin, and lanes."""
    kind = variant[0]
    lanes = variant[3] if kind != "none" else 1
    assert isinstance(kind, str)
    assert isinstance(lanes, int)
    emitter = Emitter.kernel(kernel_symbol("scatter", variant), target, lanes)
    word = {name: emitter.parameter(number) for number, name in enumerate(_NAMES)}
    first = emitter.mul(emitter.first, word["per_tile"])
    last = emitter.minimum(emitter.mul(emitter.last, word["per_tile"]), word["columns"])
    with emitter.loop(0, word["rows"]) as row:
        at = emitter.offset(emitter.operand(0), emitter.mul(row, word["position_step"]))
        position = emitter.builder.load(at, align=8, typ=I64)
        # As unsigned, negative positions lie beyond the end too.
        with emitter.when(emitter.builder.icmp_unsigned("<", position, word["extent"])):
            source = emitter.offset(emitter.operand(1), emitter.mul(row, word["update_step"]))
            to = emitter.offset(emitter.operand(2), emitter.mul(position, word["out_step"]))
            if kind == "none":
                _copy(emitter, word, source, to, first, last, variant[1])
            else:
                dtype = DType.from_label(str(variant[1]))
                _combine(emitter, word, source, to, first, last, kind, dtype, bool(variant[2]))
    return emitter.finish()


def _copy(
    emitter: Emitter,
    word: dict[str, ir.Value],
    source: ir.Value,
    to: ir.Value,
    first: ir.Value,
    last: ir.Value,
    width: object,
) -> None:
    """The columns from ``first`` to ``last`` of one row."""
    assert isinstance(width, int)
    if not width:
        start = emitter.mul(first, word["size"])
        length = emitter.mul(emitter.sub(last, first), word["size"])
        arguments = [emitter.offset(to, start), emitter.offset(source, start), length, I1(0)]
        emitter.intrinsic("llvm.memcpy.p0.p0.i64", ir.VoidType(), arguments)
        return
    element = ir.IntType(8 * width)
    with emitter.loop(first, last) as column:
        read = emitter.offset(source, emitter.mul(column, word["update_inner"]))
        value = emitter.builder.load(read, align=1, typ=element)
        written = emitter.offset(to, emitter.mul(column, word["out_inner"]))
        emitter.builder.store(value, written, align=1)


def _combine(
    emitter: Emitter,
    word: dict[str, ir.Value],
    source: ir.Value,
    to: ir.Value,
    first: ir.Value,
    last: ir.Value,
    kind: str,
    dtype: DType,
    adjoining: bool,
) -> None:
    """The columns from ``first`` to ``last`` of one row, combined with what is there."""
    update = Lane(dtype, None if adjoining else word["update_inner"])
    result = Lane(dtype, None if adjoining else word["out_inner"])

    def group(part: Group) -> None:
        for number in range(part.count):
            read = update.load(emitter, update.at(emitter, source, part, number), part.mask)
            at = result.at(emitter, to, part, number)
            before = result.load(emitter, at, part.mask)
            value = cpu_function(kind)(emitter, dtype, dtype, before, read)
            result.store(emitter, value, at, part.mask)

    for_groups(emitter, first, last, group)
