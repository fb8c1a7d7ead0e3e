"""Code of the Sort kernel; see :mod:`onnxplan.kernels.cpu.sort`.

An element becomes an unsigned integer: a key that compares as the element does, above its position. So equal
entries do not exist, any way to sort is stable, and positions come along for free.
"""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.emitter_core import Number
from onnxplan.kernels.cpu.llvm_types import I1, I32, I64, POINTER
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.cpu.pack_code import axis_offsets
from onnxplan.kernels.cpu.radix_sort_code import radix_sort
from onnxplan.kernels.cpu.sort import entry_bytes

_NAMES = (
    "units", "per_tile", "extent", "kept", "entries", "x_step", "value_step", "position_step", "axes",
)  # fmt: skip

# Runs of this length are sorted by insertion before any are merged.
RUN = 8
# Fewer entries are merged.
LEAST_RADIX = 96


class _Entries:
    """Arrays of entries in scratch memory."""

    def __init__(self, emitter: Emitter, dtype: DType, largest: bool) -> None:
        self.emitter, self.dtype, self.largest = emitter, dtype, largest
        self.size = entry_bytes(dtype)
        self.type = ir.IntType(8 * self.size)
        self.key = ir.IntType(4 * self.size)

    def at(self, array: ir.Value, number: Number) -> ir.Value:
        return self.emitter.offset(array, self.emitter.mul(number, self.size))

    def load(self, array: ir.Value, number: Number) -> ir.Value:
        return self.emitter.builder.load(self.at(array, number), align=self.size, typ=self.type)

    def store(self, value: ir.Value, array: ir.Value, number: Number) -> None:
        self.emitter.builder.store(value, self.at(array, number), align=self.size)

    def less(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.emitter.builder.icmp_unsigned("<", a, b)

    def read(self, x: ir.Value, step: ir.Value, position: ir.Value) -> ir.Value:
        """The entry of the element at ``position`` of a row."""
        emitter, builder = self.emitter, self.emitter.builder
        address = emitter.offset(x, emitter.mul(position, step))
        key = emitter.extract(self._keys(emitter.with_lanes(1).load(address, self.dtype)), 0)
        high = builder.shl(builder.zext(key, self.type), self.type(4 * self.size))
        low = position if self.size == 16 else builder.trunc(position, I32)
        return builder.or_(high, builder.zext(low, self.type))

    def _keys(self, values: ir.Value) -> ir.Value:
        """A vector of elements as unsigned integers in the order that is asked for."""
        emitter, builder = self.emitter.with_lanes(values.type.count), self.emitter.builder
        keys = emitter.vector(self.key)
        if self.dtype.is_float:
            width = self.key.width
            bits = builder.bitcast(values, keys)
            zero = builder.fcmp_ordered("==", values, emitter.like(values, 0.0))
            bits = builder.select(zero, emitter.fill(0, self.key), bits)
            negative = builder.ashr(bits, emitter.fill(width - 1, self.key))
            bits = builder.xor(bits, builder.or_(negative, emitter.fill(1 << (width - 1), self.key)))
            nan = builder.fcmp_unordered("uno", values, values)
            values = builder.select(nan, emitter.fill(-1, self.key), bits)
        elif self.dtype.kind == "i":
            values = builder.xor(values, emitter.like(values, 1 << (values.type.element.width - 1)))
        if values.type != keys:
            values = builder.zext(values, keys)
        return builder.xor(values, emitter.fill(-1, self.key)) if self.largest else values

    def position(self, entry: ir.Value) -> ir.Value:
        builder = self.emitter.builder
        if self.size == 16:
            return builder.trunc(entry, I64)
        return builder.and_(entry, I64(0xFFFFFFFF))

    def insertion_sort(self, array: ir.Value, count: ir.Value) -> None:
        """Sorts each run of :data:`RUN` entries."""
        emitter = self.emitter
        with emitter.loop(0, count, RUN) as start:
            stop = emitter.minimum(emitter.add(start, RUN), count)
            with emitter.loop(emitter.add(start, 1), stop) as number:
                moved = self.load(array, number)
                place = emitter.variable(number)

                def larger_before() -> ir.Value:
                    before = emitter.maximum(emitter.sub(place.value, 1), start)
                    larger = self.less(moved, self.load(array, before))
                    return emitter.builder.and_(emitter.less(start, place.value), larger)

                with emitter.repeat_while(larger_before):
                    before = emitter.sub(place.value, 1)
                    self.store(self.load(array, before), array, place.value)
                    place.value = before
                self.store(moved, array, place.value)

    def sort(self, array: ir.Value, other: ir.Value, count: ir.Value, *, in_order: bool) -> ir.Value:
        """Sorts ``count`` entries of ``array``, behind which stand ``other`` and tables; where they are then.

        Are they ``in_order`` of their positions?
        """
        emitter = self.emitter
        result = emitter.variable(array)
        with emitter.branch(emitter.less(count, LEAST_RADIX)) as (few, many):
            with few:
                result.value = self.merge_sort(array, other, count)
            with many:
                result.value = radix_sort(self, array, other, self.at(other, count), count, in_order=in_order)
        return result.value

    def merge_sort(self, array: ir.Value, other: ir.Value, count: ir.Value) -> ir.Value:
        """Sorts ``count`` entries of ``array``, with ``other`` as a second place; returns where they are."""
        emitter = self.emitter
        self.insertion_sort(array, count)
        source, target = emitter.variable(array), emitter.variable(other)
        width = emitter.variable(I64(RUN))
        with emitter.repeat_while(lambda: emitter.less(width.value, count)):
            reach, runs, merged = width.value, source.value, target.value
            with emitter.loop(0, count, emitter.mul(reach, 2)) as start:
                middle = emitter.minimum(emitter.add(start, reach), count)
                stop = emitter.minimum(emitter.add(middle, reach), count)
                self._merge(runs, merged, start, middle, stop)
            source.value, target.value = merged, runs
            width.value = emitter.mul(reach, 2)
        return source.value

    def _merge(
        self, runs: ir.Value, merged: ir.Value, start: ir.Value, middle: ir.Value, stop: ir.Value
    ) -> None:
        """Two neighbouring runs into one."""
        emitter, builder = self.emitter, self.emitter.builder
        left, right, place = emitter.variable(start), emitter.variable(middle), emitter.variable(start)

        def both() -> ir.Value:
            return builder.and_(emitter.less(left.value, middle), emitter.less(right.value, stop))

        with emitter.repeat_while(both):
            a, b = self.load(runs, left.value), self.load(runs, right.value)
            second = self.less(b, a)
            self.store(builder.select(second, b, a), merged, place.value)
            taken = builder.zext(second, I64)
            right.value = emitter.add(right.value, taken)
            left.value = emitter.add(left.value, emitter.sub(1, taken))
            place.value = emitter.add(place.value, 1)
        rest = emitter.sub(middle, left.value)
        self._move(merged, place.value, runs, left.value, rest)
        self._move(merged, emitter.add(place.value, rest), runs, right.value, emitter.sub(stop, right.value))

    def _move(
        self, target: ir.Value, to: ir.Value, source: ir.Value, start: ir.Value, count: ir.Value
    ) -> None:
        nbytes = self.emitter.mul(count, self.size)
        self.emitter.copy_bytes(self.at(target, to), self.at(source, start), nbytes)

    def sift(self, heap: ir.Value, count: ir.Value, start: Number, entry: ir.Value) -> None:
        """Puts ``entry`` at ``start`` of a heap with the largest on top, or below."""
        emitter, builder = self.emitter, self.emitter.builder
        place, sinking = emitter.variable(emitter.number(start)), emitter.variable(I1(1))

        def child() -> ir.Value:
            return emitter.add(emitter.mul(place.value, 2), 1)

        with emitter.repeat_while(lambda: builder.and_(sinking.value, emitter.less(child(), count))):
            left = child()
            right = emitter.minimum(emitter.add(left, 1), emitter.sub(count, 1))
            a, b = self.load(heap, left), self.load(heap, right)
            second = self.less(a, b)
            larger = builder.select(second, b, a)
            with emitter.branch(self.less(entry, larger)) as (down, stay):
                with down:
                    self.store(larger, heap, place.value)
                    place.value = builder.select(second, right, left)
                with stay:
                    sinking.value = I1(0)
        self.store(entry, heap, place.value)

    def smallest(
        self, heap: ir.Value, count: ir.Value, x: ir.Value, step: ir.Value, extent: ir.Value, adjoin: bool
    ) -> None:
        """The ``count`` smallest entries of a row of at least as many elements as lanes, in any order."""
        emitter, builder = self.emitter, self.emitter.builder
        with emitter.loop(0, count) as number:
            self.store(self.read(x, step, number), heap, number)
        parents = emitter.divide(count, 2)
        with emitter.loop(0, parents) as number:
            place = emitter.sub(emitter.sub(parents, 1), number)
            self.sift(heap, count, place, self.load(heap, place))
        with emitter.loop(count, extent, emitter.lanes) as number:
            # The last vector ends with the row: its first elements were seen before.
            start = emitter.minimum(number, emitter.sub(extent, emitter.lanes))
            seen = builder.shl(I64(-1), emitter.sub(number, start))
            rest = emitter.variable(builder.and_(self._below_top(heap, x, step, start, adjoin), seen))
            with emitter.repeat_while(lambda: builder.icmp_unsigned("!=", rest.value, I64(0))):
                lane = emitter.intrinsic("llvm.cttz.i64", I64, [rest.value, I1(1)])
                entry = self.read(x, step, emitter.add(start, lane))
                with emitter.when(self.less(entry, self.load(heap, 0))):
                    self.sift(heap, count, 0, entry)
                rest.value = builder.and_(rest.value, emitter.sub(rest.value, 1))

    def _below_top(
        self, heap: ir.Value, x: ir.Value, step: ir.Value, start: ir.Value, adjoin: bool
    ) -> ir.Value:
        """Bits of the lanes whose elements from ``start`` may enter the heap.

        An element equal to the top may not: its position is higher.
        """
        emitter, builder = self.emitter, self.emitter.builder
        address = emitter.offset(x, emitter.mul(start, step))
        if adjoin:
            values = emitter.load(address, self.dtype)
        else:
            values = emitter.load_strided(address, step, self.dtype)
        top = builder.lshr(self.load(heap, 0), self.type(4 * self.size))
        top = emitter.splat(builder.trunc(top, self.key))
        below = builder.icmp_unsigned("<", self._keys(values), top)
        bits = builder.bitcast(below, ir.IntType(emitter.lanes))
        return builder.zext(bits, I64)


def build_sort(variant: Variant, target: Target) -> ObjectCode:
    """``variant``: element type, whether the largest come first, whether a heap picks those to sort.

    Then whether a row's elements adjoin, and how many are compared with the heap's top at once.
    """
    label, largest, heap, adjoin, lanes = variant
    assert isinstance(label, str)
    assert isinstance(lanes, int)
    dtype = DType.from_label(label)
    emitter = Emitter.kernel(kernel_symbol("sort", variant), target, lanes)
    entries = _Entries(emitter, dtype, bool(largest))
    word = {name: emitter.parameter(number) for number, name in enumerate(_NAMES)}
    axes = emitter.offset(emitter.function.args[1], 8 * len(_NAMES))
    start = emitter.mul(emitter.first, word["per_tile"])
    stop = emitter.minimum(emitter.mul(emitter.last, word["per_tile"]), word["units"])
    element = ir.IntType(8 * dtype.itemsize)
    with emitter.loop(start, stop) as unit:
        outer = axis_offsets(emitter, axes, word["axes"], unit, 3)
        x, values, order = (emitter.offset(emitter.operand(number), outer[number]) for number in range(3))
        array = emitter.builder.bitcast(emitter.scratch, POINTER)
        other = entries.at(array, word["entries"])
        if heap:
            entries.smallest(array, word["entries"], x, word["x_step"], word["extent"], bool(adjoin))
        else:
            with emitter.loop(0, word["entries"]) as number:
                entries.store(entries.read(x, word["x_step"], number), array, number)
        result = entries.sort(array, other, word["entries"], in_order=not heap)
        with emitter.loop(0, word["kept"]) as number:
            position = entries.position(entries.load(result, number))
            source = emitter.offset(x, emitter.mul(position, word["x_step"]))
            value = emitter.builder.load(source, align=dtype.itemsize, typ=element)
            to = emitter.offset(values, emitter.mul(number, word["value_step"]))
            emitter.builder.store(value, to, align=dtype.itemsize)
            at = emitter.offset(order, emitter.mul(number, word["position_step"]))
            emitter.builder.store(position, at, align=8)
    return emitter.finish()
