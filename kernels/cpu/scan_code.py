"""Code of the Scan kernels; see :mod:`onnxplan.kernels.cpu.scan`."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import arithmetic
from onnxplan.kernels.cpu.columns import Group, Lane, for_groups
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import I32
from onnxplan.kernels.cpu.objects import ObjectCode
from onnxplan.kernels.cpu.pack_code import axis_offsets

_NAMES = (
    "units", "per_tile", "blocks", "block", "count", "x_inner", "y_inner",
    "extent", "x_step", "y_step", "axes",
)  # fmt: skip


class _Scan:
    """What the forms share: the operation, its identity, and where results go."""

    def __init__(self, emitter: Emitter, kind: str, dtype: DType, exclusive: bool) -> None:
        self.emitter, self.dtype, self.exclusive = emitter, dtype, exclusive
        self.combine = arithmetic.add if kind == "sum" else arithmetic.mul
        self.identity = 0 if kind == "sum" else 1
        self.word = {name: emitter.parameter(number) for number, name in enumerate(_NAMES)}

    def across(self, x: ir.Value, y: ir.Value, first: ir.Value, last: ir.Value, *, strided: bool) -> None:
        """Vectors over the inner axis; each steps along the scanned axis."""
        emitter, word = self.emitter, self.word
        source = Lane(self.dtype, word["x_inner"] if strided else None)
        result = Lane(self.dtype, word["y_inner"] if strided else None)

        def group(part: Group) -> None:
            sums = [emitter.variable(emitter.constant(self.identity, self.dtype)) for _ in range(part.count)]
            with emitter.loop(0, word["extent"]) as position:
                x_at = emitter.offset(x, emitter.mul(position, word["x_step"]))
                y_at = emitter.offset(y, emitter.mul(position, word["y_step"]))
                for number, total in enumerate(sums):
                    value = source.load(emitter, source.at(emitter, x_at, part, number), part.mask)
                    before = total.value
                    total.value = self.combine(emitter, self.dtype, self.dtype, before, value)
                    chosen = before if self.exclusive else total.value
                    result.store(emitter, chosen, result.at(emitter, y_at, part, number), part.mask)

        for_groups(emitter, first, last, group)

    def along(self, x: ir.Value, y: ir.Value, *, reverse: bool) -> None:
        """One row whose elements adjoin: vectors along it, scanned by doubling, then the rest one by one."""
        emitter, dtype = self.emitter, self.dtype
        lanes, extent = emitter.lanes, self.word["extent"]
        single = emitter.with_lanes(1)
        total = emitter.variable(single.constant(self.identity, dtype))
        whole = emitter.mul(emitter.divide(extent, lanes), lanes)

        def at(pointer: ir.Value, position: ir.Value, width: int) -> ir.Value:
            if not reverse:
                return emitter.element(pointer, position, dtype)
            return emitter.element(pointer, emitter.sub(1 - width, position), dtype)

        with emitter.loop(0, whole, lanes) as position:
            value = emitter.load(at(x, position, lanes), dtype)
            carry = emitter.splat(emitter.extract(total.value, 0))
            sums = self.combine(emitter, dtype, dtype, self._doubled(value, reverse=reverse), carry)
            last = emitter.extract(sums, 0 if reverse else lanes - 1)
            total.value = single.splat(last)
            if self.exclusive:
                sums = self._shifted(sums, carry, 1, reverse=reverse)
            emitter.store(sums, at(y, position, lanes), dtype)
        with emitter.loop(whole, extent) as position:
            before = total.value
            value = single.load(at(x, position, 1), dtype)
            total.value = self.combine(single, dtype, dtype, before, value)
            single.store(before if self.exclusive else total.value, at(y, position, 1), dtype)

    def _doubled(self, value: ir.Value, *, reverse: bool) -> ir.Value:
        """Running results within a vector."""
        distance = 1
        identity = self.emitter.constant(self.identity, self.dtype)
        while distance < self.emitter.lanes:
            moved = self._shifted(value, identity, distance, reverse=reverse)
            value = self.combine(self.emitter, self.dtype, self.dtype, moved, value)
            distance *= 2
        return value

    def _shifted(self, value: ir.Value, fill: ir.Value, distance: int, *, reverse: bool) -> ir.Value:
        """Lanes moved by ``distance`` in the direction of the scan; lanes of ``fill`` move in."""
        lanes = self.emitter.lanes
        if reverse:
            order = [lane + distance for lane in range(lanes)]
            pair = (value, fill)
        else:
            order = [lane + lanes - distance for lane in range(lanes)]
            pair = (fill, value)
        mask = ir.Constant(ir.VectorType(I32, lanes), [I32(lane) for lane in order])
        return self.emitter.builder.shuffle_vector(*pair, mask)


def build_scan(variant: Variant, target: Target) -> ObjectCode:
    """``variant``: kind, element type, exclusive, form and lanes.

    Forms: ``across`` and ``strided`` have vectors over another axis, whose elements adjoin or not; ``along``
    and ``reversed`` over the scanned axis, whose elements adjoin in memory forwards or backwards.
    """
    kind, label, exclusive, form, lanes = variant
    assert isinstance(kind, str)
    assert isinstance(label, str)
    assert isinstance(lanes, int)
    emitter = Emitter.kernel("scan", target, lanes)
    scan = _Scan(emitter, kind, DType.from_label(label), bool(exclusive))
    word = scan.word
    axes = emitter.offset(emitter.function.args[1], 8 * len(_NAMES))
    start = emitter.mul(emitter.first, word["per_tile"])
    stop = emitter.minimum(emitter.mul(emitter.last, word["per_tile"]), word["units"])
    with emitter.loop(start, stop) as unit:
        outer = axis_offsets(emitter, axes, word["axes"], emitter.divide(unit, word["blocks"]), 2)
        x, y = (emitter.offset(emitter.operand(number), outer[number]) for number in range(2))
        first = emitter.mul(emitter.modulo(unit, word["blocks"]), word["block"])
        last = emitter.minimum(emitter.add(first, word["block"]), word["count"])
        if form in ("along", "reversed"):
            with emitter.loop(first, last) as row:
                x_row = emitter.offset(x, emitter.mul(row, word["x_inner"]))
                y_row = emitter.offset(y, emitter.mul(row, word["y_inner"]))
                scan.along(x_row, y_row, reverse=form == "reversed")
        else:
            scan.across(x, y, first, last, strided=form == "strided")
    return emitter.finish()
