"""Code of the Scatter kernel; see :mod:`onnxplan.kernels.cpu.scatter`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.columns import Group, Lane, for_groups
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import I64
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.scalar import cpu_function

_NAMES = (
    "columns", "columns_per_tile", "rows", "extent", "extent_per_tile", "position_step", "update_step",
    "update_inner", "out_step", "out_inner", "size",
)  # fmt: skip
# Updates whose places are looked up before the first of them is written; both lists stay in the first cache.
BLOCK = 256
# Updates that are written while what is in the place of a later one comes from memory.
AHEAD = 16


def build_scatter(variant: Variant, target: Target) -> ObjectCode:
    """``variant``: ``none``, the bytes of an element (0: columns adjoin and are runs) and whether tiles share
    the rows of the output out, or else the kind of combination, the element type, whether columns adjoin,
    and lanes."""
    kind = variant[0]
    lanes = variant[3] if kind != "none" else 1
    assert isinstance(kind, str)
    assert isinstance(lanes, int)
    emitter = Emitter.kernel(kernel_symbol("scatter", variant), target, lanes)
    word = {name: emitter.parameter(number) for number, name in enumerate(_NAMES)}
    first, last = _share(emitter, word["columns"], word["columns_per_tile"])
    # Writing waits for nothing, so that there is no use in looking ahead where all updates are a tile's own.
    updates = _all_updates if kind == "none" and not variant[2] else _own_updates
    with updates(emitter, word) as (source, to):
        if kind == "none":
            _copy(emitter, word, source, to, first, last, variant[1])
        else:
            dtype = DType.from_label(str(variant[1]))
            _combine(emitter, word, source, to, first, last, kind, dtype, bool(variant[2]))
    return emitter.finish()


def _share(emitter: Emitter, extent: ir.Value, per_tile: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The part of an axis that the kernel's tiles cover, ``per_tile`` each; all of it if that is 0."""
    is_whole = emitter.builder.icmp_signed("==", per_tile, I64(0))
    stop = emitter.minimum(emitter.mul(emitter.last, per_tile), extent)
    return emitter.mul(emitter.first, per_tile), emitter.builder.select(is_whole, extent, stop)


@contextmanager
def _all_updates(emitter: Emitter, word: dict[str, ir.Value]) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Runs the body with the addresses of an update and its place, for all positions in the output."""
    with emitter.loop(0, word["rows"]) as row:
        position = _position(emitter, word, row)
        # As unsigned, negative positions lie beyond the end too.
        with emitter.when(emitter.builder.icmp_unsigned("<", position, word["extent"])):
            source = emitter.offset(emitter.operand(1), emitter.mul(row, word["update_step"]))
            yield source, emitter.offset(emitter.operand(2), emitter.mul(position, word["out_step"]))


@contextmanager
def _own_updates(emitter: Emitter, word: dict[str, ir.Value]) -> Iterator[tuple[ir.Value, ir.Value]]:
    """:func:`_all_updates` for rows of the output that the tiles own, whose places are fetched ahead.

    Which updates these are is found out without a branch, as no processor could predict it.
    """
    builder = emitter.builder
    first, last = _share(emitter, word["extent"], word["extent_per_tile"])
    width = emitter.sub(last, first)
    sources, places = emitter.stack(I64, BLOCK), emitter.stack(I64, BLOCK)
    with emitter.loop(0, word["rows"], BLOCK) as start:
        count = emitter.variable(I64(0))
        with emitter.loop(start, emitter.minimum(emitter.add(start, BLOCK), word["rows"])) as row:
            position = _position(emitter, word, row)
            source = emitter.mul(row, word["update_step"])
            builder.store(source, emitter.element(sources, count.value, DType.INT64))
            place = emitter.mul(position, word["out_step"])
            builder.store(place, emitter.element(places, count.value, DType.INT64))
            is_own = builder.icmp_unsigned("<", emitter.sub(position, first), width)
            count.value = emitter.add(count.value, builder.zext(is_own, I64))
        found = count.value
        with emitter.loop(0, found) as number:
            later = emitter.minimum(emitter.add(number, AHEAD), emitter.sub(found, 1))
            emitter.prefetch(_addressed(emitter, 2, places, later), write=True)
            yield _addressed(emitter, 1, sources, number), _addressed(emitter, 2, places, number)


def _position(emitter: Emitter, word: dict[str, ir.Value], row: ir.Value) -> ir.Value:
    at = emitter.offset(emitter.operand(0), emitter.mul(row, word["position_step"]))
    return emitter.builder.load(at, align=8, typ=I64)


def _addressed(emitter: Emitter, operand: int, offsets: ir.Value, number: ir.Value) -> ir.Value:
    """The address in an operand to which entry ``number`` of ``offsets`` points."""
    at = emitter.element(offsets, number, DType.INT64)
    return emitter.offset(emitter.operand(operand), emitter.builder.load(at, align=8, typ=I64))


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
        emitter.copy_bytes(emitter.offset(to, start), emitter.offset(source, start), length)
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
