"""Code of the Resample kernels; see :mod:`onnxplan.kernels.cpu.resample`."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.columns import Group, Lane, for_groups
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import I32, I64, storage_type, undefined
from onnxplan.kernels.cpu.objects import ObjectCode
from onnxplan.kernels.cpu.pack_code import axis_offsets

_NAMES = (
    "units", "per_tile", "blocks", "block", "count", "x_inner", "y_inner",
    "extent", "x_step", "outputs", "y_step", "taps",
    "place_row", "place_tap", "weight_row", "weight_tap", "axes",
)  # fmt: skip


class _Resample:
    """What the forms share: types, operands and parameters."""

    def __init__(self, emitter: Emitter, dtype: DType, weight: DType) -> None:
        self.emitter, self.dtype, self.weight = emitter, dtype, weight
        self.sums = DType.FLOAT64 if DType.FLOAT64 in (dtype, weight) else DType.FLOAT32
        self.word = {name: emitter.parameter(number) for number, name in enumerate(_NAMES)}

    def inside(self, position: ir.Value) -> ir.Value:
        """An ``i64`` position moved to the nearest that exists."""
        last = self.emitter.sub(self.word["extent"], 1)
        return self.emitter.maximum(self.emitter.minimum(position, last), 0)

    def taps(self) -> ir.Value:
        """The number of taps: none where there is nothing to read."""
        return self.emitter.builder.select(
            self.emitter.less(0, self.word["extent"]), self.word["taps"], I64(0)
        )

    def add(self, total: ir.Value, value: ir.Value, weight: ir.Value) -> ir.Value:
        """``total + value * weight``; ``value`` is of the element type, ``weight`` of the weights'."""
        emitter = self.emitter
        value = convert.cast(emitter, self.dtype, self.sums, value)
        weight = convert.cast(emitter, self.weight, self.sums, weight)
        return emitter.fma(value, weight, total)

    def finished(self, total: ir.Value) -> ir.Value:
        return convert.cast(self.emitter, self.sums, self.dtype, total)

    def across(self, x: ir.Value, y: ir.Value, output: ir.Value, first: ir.Value, last: ir.Value) -> None:
        """One output position, vectors over an axis where elements of both tensors adjoin."""
        emitter, word = self.emitter, self.word
        lane = Lane(self.dtype, None)
        places = emitter.offset(emitter.operand(1), emitter.mul(output, word["place_row"]))
        weights = emitter.offset(emitter.operand(2), emitter.mul(output, word["weight_row"]))
        y = emitter.offset(y, emitter.mul(output, word["y_step"]))
        taps = self.taps()

        def group(part: Group) -> None:
            sums = [emitter.variable(emitter.constant(0, self.sums)) for _ in range(part.count)]
            with emitter.loop(0, taps) as tap:
                at = emitter.offset(places, emitter.mul(tap, word["place_tap"]))
                place = emitter.builder.sext(emitter.builder.load(at, align=4, typ=I32), I64)
                source = emitter.offset(x, emitter.mul(self.inside(place), word["x_step"]))
                weight = emitter.load_broadcast(
                    emitter.offset(weights, emitter.mul(tap, word["weight_tap"])), self.weight
                )
                for number, total in enumerate(sums):
                    value = lane.load(emitter, lane.at(emitter, source, part, number), part.mask)
                    total.value = self.add(total.value, value, weight)
            for number, total in enumerate(sums):
                target = lane.at(emitter, y, part, number)
                lane.store(emitter, self.finished(total.value), target, part.mask)

        for_groups(emitter, first, last, group)

    def along(self, x: ir.Value, y: ir.Value, *, strided: bool) -> None:
        """All output positions of one row, vectors over them; elements are picked one by one."""
        emitter, word = self.emitter, self.word
        places = Lane(DType.INT32, word["place_row"] if strided else None)
        weights = Lane(self.weight, word["weight_row"] if strided else None)
        result = Lane(self.dtype, word["y_step"] if strided else None)
        taps = self.taps()

        def group(part: Group) -> None:
            for number in range(part.count):
                total = emitter.variable(emitter.constant(0, self.sums))
                with emitter.loop(0, taps) as tap:
                    place_row = emitter.offset(emitter.operand(1), emitter.mul(tap, word["place_tap"]))
                    weight_row = emitter.offset(emitter.operand(2), emitter.mul(tap, word["weight_tap"]))
                    place = places.load(emitter, places.at(emitter, place_row, part, number), part.mask)
                    weight = weights.load(emitter, weights.at(emitter, weight_row, part, number), part.mask)
                    total.value = self.add(total.value, self._picked(x, place), weight)
                target = result.at(emitter, y, part, number)
                result.store(emitter, self.finished(total.value), target, part.mask)

        for_groups(emitter, 0, word["outputs"], group)

    def _picked(self, x: ir.Value, place: ir.Value) -> ir.Value:
        """The elements of a row at the positions ``place`` (a vector of ``i32``)."""
        emitter, builder = self.emitter, self.emitter.builder
        last = emitter.splat(builder.trunc(emitter.sub(self.word["extent"], 1), I32))
        zero = emitter.fill(0, I32)
        place = builder.select(builder.icmp_signed(">", place, last), last, place)
        place = builder.select(builder.icmp_signed("<", place, zero), zero, place)
        moved = builder.mul(builder.zext(place, emitter.vector(I64)), emitter.splat(self.word["x_step"]))
        stored: ir.Value = undefined(emitter.vector(storage_type(self.dtype)))
        for lane in range(emitter.lanes):
            address = emitter.offset(x, emitter.extract(moved, lane))
            stored = builder.insert_element(stored, emitter.load_scalar(address, self.dtype), I32(lane))
        return convert.widen(emitter, stored, self.dtype)


def build_resample(variant: Variant, target: Target) -> ObjectCode:
    """``variant``: element type, type of the weights, form and lanes.

    Forms: ``across`` has vectors over another axis, whose elements adjoin; ``along`` and ``strided`` over the
    outputs, where elements of the result and of the tables adjoin or not.
    """
    label, weight, form, lanes = variant
    assert isinstance(label, str)
    assert isinstance(weight, str)
    assert isinstance(lanes, int)
    emitter = Emitter.kernel("resample", target, lanes)
    resample = _Resample(emitter, DType.from_label(label), DType.from_label(weight))
    word = resample.word
    axes = emitter.offset(emitter.function.args[1], 8 * len(_NAMES))
    start = emitter.mul(emitter.first, word["per_tile"])
    stop = emitter.minimum(emitter.mul(emitter.last, word["per_tile"]), word["units"])
    with emitter.loop(start, stop) as unit:
        rest = emitter.divide(unit, word["blocks"])
        outputs: ir.Value = word["outputs"] if form == "across" else I64(1)
        outer = axis_offsets(emitter, axes, word["axes"], emitter.divide(rest, outputs), 2)
        x, y = (emitter.offset(emitter.operand(3 * number), outer[number]) for number in range(2))
        first = emitter.mul(emitter.modulo(unit, word["blocks"]), word["block"])
        last = emitter.minimum(emitter.add(first, word["block"]), word["count"])
        if form == "across":
            resample.across(x, y, emitter.modulo(rest, outputs), first, last)
        else:
            with emitter.loop(first, last) as row:
                x_row = emitter.offset(x, emitter.mul(row, word["x_inner"]))
                y_row = emitter.offset(y, emitter.mul(row, word["y_inner"]))
                resample.along(x_row, y_row, strided=form == "strided")
    return emitter.finish()
