"""Code of Pool for one channel; see :mod:`onnxplan.kernels.cpu.pool_rows`.

The lines of a window become one, whose neighbours are then put together. That line begins with what the
first window's padding holds, so that no tap is left out; with stride 2 its even and its odd positions stand
apart, so that those which neighbouring windows read are neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import arithmetic, convert
from onnxplan.kernels.cpu.columns import Group, for_groups
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.line_code import Line
from onnxplan.kernels.cpu.llvm_types import I32, I64, compute_type
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.cpu.pool_rows import AXIS_WORDS, WORDS
from onnxplan.kernels.cpu.pool_window import neutral, window_at

AHEAD_BYTES = 8192
"""Where planes are read through, far enough ahead of what is read: the next rows, or the next plane."""


def build_pool_rows(variant: Variant, target: Target) -> ObjectCode:
    """``variant``: kind, element type, lanes, stride (3 for any above), taps if unrolled, are they dilated?

    Kinds are those of :func:`onnxplan.kernels.cpu.pool_code.build_pool` without ``argmax``.
    """
    kind, label, lanes, stride, unrolled, dilated = variant
    assert isinstance(kind, str)
    assert isinstance(label, str)
    assert isinstance(lanes, int)
    assert isinstance(stride, int)
    assert isinstance(unrolled, int)
    emitter = Emitter.kernel(kernel_symbol("pool_rows", variant), target, lanes)
    rows = _Rows(emitter, kind, DType.from_label(label), stride, unrolled, dilated=bool(dilated))
    rows.emit()
    return emitter.finish(light=True)


class _Rows:
    def __init__(
        self, emitter: Emitter, kind: str, dtype: DType, stride: int, unrolled: int, *, dilated: bool
    ) -> None:
        self.emitter, self.kind, self.dtype = emitter, kind, dtype
        self.stride, self.unrolled, self.dilated = stride, unrolled, dilated
        self.word = {name: emitter.parameter(number) for number, name in enumerate(WORDS)}
        self.axes = [
            {
                name: emitter.parameter(len(WORDS) + axis * len(AXIS_WORDS) + number)
                for number, name in enumerate(AXIS_WORDS)
            }
            for axis in range(2)
        ]
        self.line = Line(
            emitter.scratch,
            DType.FLOAT32 if dtype.is_float and dtype.itemsize < 4 else dtype,
            2 if stride == 2 else 1,
            self.word["pitch"],
        )
        self.taps = emitter.offset(emitter.scratch, self.word["tap_table"])
        self.lines = emitter.offset(emitter.scratch, self.word["row_table"])

    def emit(self) -> None:
        emitter, word = self.emitter, self.word
        start = emitter.mul(emitter.first, word["per_tile"])
        stop = emitter.minimum(emitter.mul(emitter.last, word["per_tile"]), word["units"])
        several = emitter.less(1, word["blocks"])
        self._clear()
        self._place_taps()
        with emitter.loop(start, stop) as unit:
            # Other blocks leave elements where this one may have padding.
            with emitter.when(several):
                self._clear()
            self._unit(emitter.divide(unit, word["blocks"]), emitter.modulo(unit, word["blocks"]))

    def _clear(self) -> None:
        """Fills the line with what padding counts as."""
        emitter = self.emitter
        with emitter.loop(0, self.word["line_bytes"], emitter.lanes * self.line.dtype.itemsize) as at:
            emitter.store(self._neutral(), emitter.offset(emitter.scratch, at), self.line.dtype)

    def _place_taps(self) -> None:
        """Writes where in the line the taps of position 0 stand."""
        emitter, word = self.emitter, self.word
        if self.unrolled:
            return
        with emitter.loop(0, word["kernel"]) as tap:
            position = emitter.mul(tap, word["dilation"])
            emitter.builder.store(
                self.line.offset(emitter, position), emitter.offset(self.taps, emitter.mul(tap, 8)), align=8
            )

    def _unit(self, row: ir.Value, block: ir.Value) -> None:
        """The outputs of one block of a row."""
        emitter, word = self.emitter, self.word
        outer, inner = self.axes
        y_position = emitter.modulo(row, inner["outputs"])
        rest = emitter.divide(row, inner["outputs"])
        z_position = emitter.modulo(rest, outer["outputs"])
        image = emitter.divide(rest, outer["outputs"])
        count, counted = self._list_lines(z_position, y_position)
        first = emitter.mul(block, word["block"])
        last = emitter.minimum(emitter.add(first, word["block"]), word["outputs"])
        start = emitter.sub(emitter.mul(first, word["stride"]), word["pad"])
        begin = emitter.maximum(start, 0)
        end = emitter.minimum(emitter.add(start, word["span"]), word["extent"])
        end = emitter.maximum(begin, end)
        x = emitter.offset(emitter.operand(0), emitter.mul(image, word["x_image"]))
        y = emitter.offset(emitter.operand(1), emitter.mul(image, word["y_image"]))
        for axis, position in ((outer, z_position), (inner, y_position)):
            y = emitter.offset(y, emitter.mul(position, axis["y_step"]))
        self.line.write(
            emitter,
            emitter.sub(begin, start),
            begin,
            end,
            lambda at, masks: self._columns(x, count, at, masks),
        )
        self._reduce_taps(emitter.element(y, first, self.dtype), first, emitter.sub(last, first), counted)

    def _list_lines(self, z: ir.Value, y: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Writes the offsets of the lines that a row's windows cover; their number, and how many count."""
        emitter = self.emitter
        outer, inner = (
            window_at(emitter, axis, position, self.kind, dilated=self.dilated)
            for axis, position in zip(self.axes, (z, y), strict=True)
        )
        count = emitter.variable(I64(0))
        with (
            emitter.loop(outer.first, outer.last) as tap_z,
            emitter.loop(inner.first, inner.last) as tap_y,
        ):
            offset: ir.Value = I64(0)
            for axis, window, tap in zip(self.axes, (outer, inner), (tap_z, tap_y), strict=True):
                moved = emitter.mul(tap, axis["dilation"]) if self.dilated else tap
                offset = emitter.add(offset, emitter.mul(emitter.add(window.start, moved), axis["x_step"]))
            emitter.builder.store(offset, emitter.offset(self.lines, emitter.mul(count.value, 8)), align=8)
            count.value = emitter.add(count.value, 1)
        return count.value, emitter.mul(outer.counted, inner.counted)

    def _columns(
        self, x: ir.Value, count: ir.Value, position: ir.Value, masks: Sequence[Mask | None]
    ) -> list[ir.Value]:
        """What the listed lines hold at some vectors of positions, put together."""
        emitter = self.emitter
        totals = [emitter.variable(self._neutral()) for _ in masks]
        with emitter.loop(0, count) as number:
            offset = emitter.builder.load(
                emitter.offset(self.lines, emitter.mul(number, 8)), align=8, typ=I64
            )
            line = emitter.element(emitter.offset(x, offset), position, self.dtype)
            for vector, (total, mask) in enumerate(zip(totals, masks, strict=True)):
                at = emitter.element(line, vector * emitter.lanes, self.dtype)
                emitter.prefetch(emitter.offset(at, AHEAD_BYTES))
                value = emitter.load(at, self.dtype, mask)
                total.value = self._combine(value, total.value)
        return [total.value for total in totals]

    def _reduce_taps(self, y: ir.Value, first: ir.Value, outputs: ir.Value, counted: ir.Value) -> None:
        """Writes the outputs of windows whose lines have been put together."""
        emitter, size = self.emitter, self.line.dtype.itemsize
        step = emitter.mul(self.word["stride"], size) if self.stride > 2 else I64(size)

        def load(tap: ir.Value, part: Group, number: int) -> ir.Value:
            place = emitter.add(part.start, number * emitter.lanes)
            pointer = emitter.offset(emitter.offset(emitter.scratch, tap), emitter.mul(place, step))
            if self.stride > 2:
                return emitter.load_strided(pointer, step, self.line.dtype, part.mask)
            return emitter.load(pointer, self.line.dtype)

        def windows(part: Group) -> None:
            totals = [emitter.variable(self._neutral()) for _ in range(part.count)]

            def add(tap: ir.Value) -> None:
                for number, total in enumerate(totals):
                    total.value = self._combine(load(tap, part, number), total.value)

            if self.unrolled:
                for tap in range(self.unrolled):
                    add(self.line.offset(emitter, I64(tap)))
            else:
                with emitter.loop(0, self.word["kernel"]) as tap:
                    place = emitter.offset(self.taps, emitter.mul(tap, 8))
                    add(emitter.builder.load(place, align=8, typ=I64))
            for number, total in enumerate(totals):
                at = emitter.add(part.start, number * emitter.lanes)
                value = total.value
                if self.kind != "max":
                    value = self._mean(value, emitter.add(first, at), counted)
                emitter.store(value, emitter.element(y, at, self.dtype), self.dtype, part.mask)

        for_groups(emitter, 0, outputs, windows)

    def _mean(self, total: ir.Value, position: ir.Value, counted: ir.Value) -> ir.Value:
        """Sums of the windows from ``position`` on, divided by the taps that count."""
        emitter, word, builder = self.emitter, self.word, self.emitter.builder
        element = compute_type(self.dtype)

        def splat(value: ir.Value) -> ir.Value:
            return emitter.splat(builder.trunc(value, I32))

        def least(a: ir.Value, b: ir.Value) -> ir.Value:
            return builder.select(builder.icmp_signed("<", a, b), a, b)

        zero = emitter.fill(0, I32)
        start = builder.add(
            splat(emitter.sub(emitter.mul(position, word["stride"]), word["pad"])),
            builder.mul(emitter.lane_numbers(I32), splat(word["stride"])),
        )
        end = splat(word["limit" if self.kind == "counted" else "extent"])
        before = builder.sub(zero, least(start, zero))
        after = builder.sub(zero, least(builder.sub(start, end), zero))
        if self.dilated:
            dilation = splat(word["dilation"])
            before, after = (
                builder.udiv(builder.add(taps, builder.sub(dilation, emitter.fill(1, I32))), dilation)
                for taps in (before, after)
            )
        taps = least(splat(word["kernel"]), after)
        if self.kind == "average":
            taps = builder.sub(taps, least(taps, before))
        divisor = builder.fmul(
            builder.sitofp(taps, emitter.vector(element)), emitter.splat(builder.sitofp(counted, element))
        )
        mean = builder.fdiv(total, divisor)
        if self.dtype not in (DType.FLOAT32, DType.FLOAT64):
            mean = convert.round_to(emitter, mean, self.dtype)
        return mean

    def _combine(self, value: ir.Value, total: ir.Value) -> ir.Value:
        if self.kind == "max":
            return arithmetic.maximum(self.emitter, self.dtype, self.dtype, value, total)
        return self.emitter.builder.fadd(total, value)

    def _neutral(self) -> ir.Value:
        """What padding counts as, in all lanes: zero in sums, the lowest value for a maximum."""
        return neutral(self.emitter, self.dtype, self.kind)
