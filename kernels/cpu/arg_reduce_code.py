"""Code of the ArgReduce kernels; see :mod:`onnxplan.kernels.cpu.arg_reduce`."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.columns import VECTORS, Group, Lane, for_groups
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.emitter_core import Variable
from onnxplan.kernels.cpu.llvm_types import I32, I64
from onnxplan.kernels.cpu.objects import ObjectCode
from onnxplan.kernels.cpu.pack_code import axis_offsets

_NAMES = ("units", "per_tile", "blocks", "block", "count", "x_inner", "y_inner", "extent", "step", "axes")


@dataclass(frozen=True, slots=True)
class Order:
    """Which of two elements wins; ``last`` is for equals."""

    kind: str
    dtype: DType
    last: bool

    def _compare(self, emitter: Emitter, relation: str, a: ir.Value, b: ir.Value) -> ir.Value:
        if self.dtype.is_float:
            return emitter.builder.fcmp_ordered(relation, a, b)
        if self.dtype.kind == "i":
            return emitter.builder.icmp_signed(relation, a, b)
        return emitter.builder.icmp_unsigned(relation, a, b)

    def beats(self, emitter: Emitter, later: ir.Value, best: ir.Value) -> ir.Value:
        """Does an element take the place of one before it?"""
        relation = (">" if self.kind == "max" else "<") + ("=" if self.last else "")
        builder = emitter.builder
        if self.dtype.is_float and not self.last:
            better = builder.fcmp_unordered(relation, later, best)
            return builder.and_(better, builder.fcmp_ordered("ord", best, best))
        better = self._compare(emitter, relation, later, best)
        if self.dtype.is_float:
            better = builder.or_(better, builder.fcmp_unordered("uno", later, later))
        return better

    def merge(
        self, emitter: Emitter, a: tuple[ir.Value, ir.Value], b: tuple[ir.Value, ir.Value]
    ) -> tuple[ir.Value, ir.Value]:
        """The winners of elements and positions ``a`` and ``b``, whichever comes first."""
        builder = emitter.builder
        relation = ">" if self.kind == "max" else "<"
        better = self._compare(emitter, relation, b[0], a[0])
        equal = self._compare(emitter, "==", b[0], a[0])
        if self.dtype.is_float:
            nan_a, nan_b = (builder.fcmp_unordered("uno", value, value) for value in (a[0], b[0]))
            better = builder.or_(better, builder.and_(nan_b, builder.not_(nan_a)))
            equal = builder.or_(equal, builder.and_(nan_a, nan_b))
        preferred = builder.icmp_signed(">" if self.last else "<", b[1], a[1])
        take = builder.or_(better, builder.and_(equal, preferred))
        return builder.select(take, b[0], a[0]), builder.select(take, b[1], a[1])


class Best:
    """The winners so far, lane by lane."""

    def __init__(self, emitter: Emitter, order: Order, value: ir.Value) -> None:
        self.emitter, self.order = emitter, order
        self.value: Variable = emitter.variable(value)
        self.position: Variable = emitter.variable(emitter.fill(0, I32))

    def offer(self, value: ir.Value, position: ir.Value, mask: Mask | None = None) -> None:
        """``position`` holds 32-bit integers, all above those offered before."""
        builder = self.emitter.builder
        better = self.order.beats(self.emitter, value, self.value.value)
        if mask is not None:
            better = builder.and_(better, mask.bits)
        self.value.value = builder.select(better, value, self.value.value)
        self.position.value = builder.select(better, position, self.position.value)

    @property
    def pair(self) -> tuple[ir.Value, ir.Value]:
        return self.value.value, self.position.value


def _across(
    emitter: Emitter, order: Order, word: dict[str, ir.Value], x: ir.Value, y: ir.Value, part: Group
) -> None:
    """Vectors over an axis that is kept; the output's elements are ``y_inner`` bytes apart."""
    source, result = Lane(order.dtype, None), Lane(DType.INT64, word["y_inner"])
    best = [
        Best(emitter, order, source.load(emitter, source.at(emitter, x, part, number), part.mask))
        for number in range(part.count)
    ]
    with emitter.loop(1, word["extent"]) as position:
        at = emitter.offset(x, emitter.mul(position, word["step"]))
        here = emitter.splat(emitter.builder.trunc(position, I32))
        for number, winner in enumerate(best):
            value = source.load(emitter, source.at(emitter, at, part, number), part.mask)
            winner.offer(value, here)
    for number, winner in enumerate(best):
        wide = emitter.builder.zext(winner.position.value, emitter.vector(I64))
        result.store(emitter, wide, result.at(emitter, y, part, number), part.mask)


def _along(
    emitter: Emitter, order: Order, word: dict[str, ir.Value], x: ir.Value, *, strided: bool
) -> ir.Value:
    """The position in one row, by vectors along it."""
    lanes, extent = emitter.lanes, word["extent"]
    source = Lane(order.dtype, word["step"] if strided else None)
    first = emitter.load_broadcast(x, order.dtype)
    best = [Best(emitter, order, first) for _ in range(VECTORS)]

    def group(part: Group) -> None:
        for number in range(part.count):
            value = source.load(emitter, source.at(emitter, x, part, number), part.mask)
            start = emitter.splat(emitter.builder.trunc(emitter.add(part.start, number * lanes), I32))
            here = emitter.builder.add(start, emitter.lane_numbers(I32))
            best[number].offer(value, here, part.mask)

    for_groups(emitter, 0, extent, group)
    value, position = best[0].pair
    for other in best[1:]:
        value, position = order.merge(emitter, (value, position), other.pair)
    while value.type.count > 1:
        (low, high), (low_at, high_at) = emitter.halves(value), emitter.halves(position)
        narrow = emitter.with_lanes(low.type.count)
        value, position = order.merge(narrow, (low, low_at), (high, high_at))
    return emitter.builder.zext(emitter.extract(position, 0), I64)


def build_arg_reduce(variant: Variant, target: Target) -> ObjectCode:
    """``variant``: kind, element type, last, form and lanes.

    Forms: ``across`` has vectors over a kept axis, ``along`` and ``strided`` over the reduced axis, whose
    elements adjoin or not.
    """
    kind, label, last, form, lanes = variant
    assert isinstance(kind, str)
    assert isinstance(label, str)
    assert isinstance(lanes, int)
    emitter = Emitter.kernel("arg_reduce", target, lanes)
    order = Order(kind, DType.from_label(label), bool(last))
    word = {name: emitter.parameter(number) for number, name in enumerate(_NAMES)}
    axes = emitter.offset(emitter.function.args[1], 8 * len(_NAMES))
    start = emitter.mul(emitter.first, word["per_tile"])
    stop = emitter.minimum(emitter.mul(emitter.last, word["per_tile"]), word["units"])
    with emitter.loop(start, stop) as unit:
        outer = axis_offsets(emitter, axes, word["axes"], emitter.divide(unit, word["blocks"]), 2)
        x, y = (emitter.offset(emitter.operand(number), outer[number]) for number in range(2))
        begin = emitter.mul(emitter.modulo(unit, word["blocks"]), word["block"])
        end = emitter.minimum(emitter.add(begin, word["block"]), word["count"])
        with emitter.branch(emitter.less(0, word["extent"])) as (some, none):
            with none, emitter.loop(begin, end) as row:
                at = emitter.offset(y, emitter.mul(row, word["y_inner"]))
                emitter.builder.store(I64(0), at, align=8)
            with some:
                if form == "across":
                    for_groups(emitter, begin, end, lambda part: _across(emitter, order, word, x, y, part))
                else:
                    with emitter.loop(begin, end) as row:
                        x_row = emitter.offset(x, emitter.mul(row, word["x_inner"]))
                        at = emitter.offset(y, emitter.mul(row, word["y_inner"]))
                        found = _along(emitter, order, word, x_row, strided=form == "strided")
                        emitter.builder.store(found, at, align=8)
    return emitter.finish()
