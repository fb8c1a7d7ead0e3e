"""Code of the Pool kernels; see :mod:`onnxplan.kernels.cpu.pool`."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import arithmetic, convert
from onnxplan.kernels.cpu.columns import Group, Lane, for_groups
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import I64, compute_type
from onnxplan.kernels.cpu.objects import ObjectCode
from onnxplan.kernels.cpu.pool_window import Window, neutral, window_at

_NAMES = (
    "units", "per_tile", "blocks", "block", "channels", "plane",
    "x_channel", "y_channel", "place_channel", "x_image", "y_image", "place_image",
)  # fmt: skip
_AXIS_NAMES = (
    "outputs", "extent", "kernel", "stride", "pad", "dilation", "limit",
    "x_step", "y_step", "place_step", "place",
)  # fmt: skip

Words = dict[str, ir.Value]


class _Pool:
    def __init__(self, emitter: Emitter, kind: str, dtype: DType, *, dilated: bool, adjoining: bool) -> None:
        self.emitter, self.kind, self.dtype, self.dilated = emitter, kind, dtype, dilated
        self.word: Words = {name: emitter.parameter(number) for number, name in enumerate(_NAMES)}
        self.axes: list[Words] = [
            {
                name: emitter.parameter(len(_NAMES) + axis * len(_AXIS_NAMES) + number)
                for number, name in enumerate(_AXIS_NAMES)
            }
            for axis in range(3)
        ]
        steps = [None if adjoining else self.word[f"{name}_channel"] for name in ("x", "y", "place")]
        self.source, self.result = Lane(dtype, steps[0]), Lane(dtype, steps[1])
        self.positions = Lane(DType.INT64, steps[2])

    def position(self, image: ir.Value, outputs: list[ir.Value]) -> None:
        """All channels at one output position."""
        emitter, word = self.emitter, self.word
        windows = [
            window_at(emitter, axis, output, self.kind, dilated=self.dilated)
            for axis, output in zip(self.axes, outputs, strict=True)
        ]
        x = self._moved(emitter.operand(0), "x", image, [window.start for window in windows])
        y = self._moved(emitter.operand(1), "y", image, outputs)
        if self.kind == "argmax":
            places = self._moved(emitter.operand(2), "place", image, outputs)
            plane = emitter.mul(emitter.mul(image, word["channels"]), word["plane"])
            for_groups(
                emitter, 0, word["channels"], lambda part: self._argmax(x, y, places, plane, windows, part)
            )
        elif self.kind == "max":
            for_groups(emitter, 0, word["channels"], lambda part: self._max(x, y, windows, part))
        else:
            for_groups(emitter, 0, word["channels"], lambda part: self._average(x, y, windows, part))

    def _moved(self, pointer: ir.Value, name: str, image: ir.Value, positions: list[ir.Value]) -> ir.Value:
        emitter = self.emitter
        offset = emitter.mul(image, self.word[f"{name}_image"])
        for axis, position in zip(self.axes, positions, strict=True):
            offset = emitter.add(offset, emitter.mul(position, axis[f"{name}_step"]))
        return emitter.offset(pointer, offset)

    def _max(self, x: ir.Value, y: ir.Value, windows: list[Window], part: Group) -> None:
        emitter = self.emitter
        best = [emitter.variable(neutral(emitter, self.dtype, self.kind)) for _ in range(part.count)]

        def tap(pointer: ir.Value, _: ir.Value) -> None:
            for number, winner in enumerate(best):
                value = self.source.load(emitter, self.source.at(emitter, pointer, part, number), part.mask)
                winner.value = arithmetic.maximum(emitter, self.dtype, self.dtype, value, winner.value)

        self._for_taps(x, windows, tap)
        for number, winner in enumerate(best):
            target = self.result.at(emitter, y, part, number)
            self.result.store(emitter, winner.value, target, part.mask)

    def _argmax(
        self, x: ir.Value, y: ir.Value, places: ir.Value, plane: ir.Value, windows: list[Window], part: Group
    ) -> None:
        emitter, builder = self.emitter, self.emitter.builder
        best = [emitter.variable(neutral(emitter, self.dtype, self.kind)) for _ in range(part.count)]
        found = [emitter.variable(emitter.fill(-1, I64)) for _ in range(part.count)]

        def tap(pointer: ir.Value, place: ir.Value) -> None:
            here = emitter.splat(place)
            for number, (winner, position) in enumerate(zip(best, found, strict=True)):
                value = self.source.load(emitter, self.source.at(emitter, pointer, part, number), part.mask)
                better = self._beats(value, winner.value)
                # The first element of a window wins whatever it is.
                better = builder.or_(better, builder.icmp_signed("<", position.value, emitter.fill(0, I64)))
                winner.value = builder.select(better, value, winner.value)
                position.value = builder.select(better, here, position.value)

        self._for_taps(x, windows, tap)
        for number, (winner, position) in enumerate(zip(best, found, strict=True)):
            target = self.result.at(emitter, y, part, number)
            self.result.store(emitter, winner.value, target, part.mask)
            channel = builder.add(
                emitter.splat(emitter.add(part.start, number * emitter.lanes)), emitter.lane_numbers()
            )
            start = builder.add(builder.mul(channel, emitter.splat(self.word["plane"])), emitter.splat(plane))
            zero = emitter.fill(0, I64)
            inside = builder.select(builder.icmp_signed("<", position.value, zero), zero, position.value)
            target = self.positions.at(emitter, places, part, number)
            self.positions.store(emitter, builder.add(start, inside), target, part.mask)

    def _average(self, x: ir.Value, y: ir.Value, windows: list[Window], part: Group) -> None:
        emitter = self.emitter
        sums = [emitter.variable(emitter.constant(0, self.dtype)) for _ in range(part.count)]

        def tap(pointer: ir.Value, _: ir.Value) -> None:
            for number, total in enumerate(sums):
                value = self.source.load(emitter, self.source.at(emitter, pointer, part, number), part.mask)
                total.value = emitter.builder.fadd(total.value, value)

        self._for_taps(x, windows, tap)
        count: ir.Value = I64(1)
        for window in windows:
            count = emitter.mul(count, window.counted)
        divisor = emitter.splat(emitter.builder.sitofp(count, compute_type(self.dtype)))
        for number, total in enumerate(sums):
            mean = emitter.builder.fdiv(total.value, divisor)
            if self.dtype not in (DType.FLOAT32, DType.FLOAT64):
                mean = convert.round_to(emitter, mean, self.dtype)
            self.result.store(emitter, mean, self.result.at(emitter, y, part, number), part.mask)

    def _for_taps(
        self, x: ir.Value, windows: list[Window], body: Callable[[ir.Value, ir.Value], None]
    ) -> None:
        """Runs ``body`` with the address of channel 0 and the flattened position of each tap inside."""
        emitter = self.emitter

        def nest(axis: int, pointer: ir.Value, place: ir.Value) -> None:
            if axis == len(windows):
                body(pointer, place)
                return
            word, window = self.axes[axis], windows[axis]
            with emitter.loop(window.first, window.last) as number:
                moved = emitter.mul(number, word["dilation"]) if self.dilated else number
                here = emitter.mul(emitter.add(window.start, moved), word["place"])
                nest(
                    axis + 1,
                    emitter.offset(pointer, emitter.mul(moved, word["x_step"])),
                    emitter.add(place, here),
                )

        nest(0, x, I64(0))

    def _beats(self, value: ir.Value, best: ir.Value) -> ir.Value:
        builder = self.emitter.builder
        if self.dtype.kind == "i":
            return builder.icmp_signed(">", value, best)
        if self.dtype.kind == "u":
            return builder.icmp_unsigned(">", value, best)
        larger = builder.fcmp_unordered(">", value, best)
        return builder.and_(larger, builder.fcmp_ordered("ord", best, best))


def build_pool(variant: Variant, target: Target) -> ObjectCode:
    """``variant``: kind, element type, whether taps are dilated, whether channels adjoin, and lanes.

    Kinds: ``max``, ``argmax`` (with positions), ``average`` (over taps inside) and ``counted`` (over taps
    inside of the padded input).
    """
    kind, label, dilated, adjoining, lanes = variant
    assert isinstance(kind, str)
    assert isinstance(label, str)
    assert isinstance(lanes, int)
    emitter = Emitter.kernel("pool", target, lanes)
    pool = _Pool(emitter, kind, DType.from_label(label), dilated=bool(dilated), adjoining=bool(adjoining))
    word, axes = pool.word, pool.axes
    start = emitter.mul(emitter.first, word["per_tile"])
    stop = emitter.minimum(emitter.mul(emitter.last, word["per_tile"]), word["units"])
    with emitter.loop(start, stop) as unit:
        rest = emitter.divide(unit, word["blocks"])
        middle = emitter.modulo(rest, axes[1]["outputs"])
        rest = emitter.divide(rest, axes[1]["outputs"])
        outer = emitter.modulo(rest, axes[0]["outputs"])
        image = emitter.divide(rest, axes[0]["outputs"])
        first = emitter.mul(emitter.modulo(unit, word["blocks"]), word["block"])
        last = emitter.minimum(emitter.add(first, word["block"]), axes[2]["outputs"])
        with emitter.loop(first, last) as inner:
            pool.position(image, [outer, middle, inner])
    return emitter.finish(light=True)
