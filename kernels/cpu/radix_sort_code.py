"""Code that sorts entries by their bytes, the lowest first.

Each pass keeps the order of equal bytes; those in which all entries have the same byte are left out. No
comparison is guessed wrongly, so long rows take a third of the time of merging.
"""

from __future__ import annotations

from typing import Protocol

from llvmlite import ir

from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.emitter_core import Number
from onnxplan.kernels.cpu.llvm_types import I32, I64
from onnxplan.kernels.cpu.sort import BUCKETS


class Entries(Protocol):
    """Arrays of unsigned integers of ``size`` bytes: keys in the upper half, positions in the lower."""

    emitter: Emitter
    size: int

    def load(self, array: ir.Value, number: Number) -> ir.Value: ...

    def store(self, value: ir.Value, array: ir.Value, number: Number) -> None: ...


def radix_sort(
    entries: Entries, array: ir.Value, other: ir.Value, tables: ir.Value, count: ir.Value, *, in_order: bool
) -> ir.Value:
    """Sorts ``count`` entries (one or more) of ``array``; returns where they are.

    ``other`` is a second place for them, ``tables`` is of :func:`~onnxplan.kernels.cpu.sort.table_bytes`.
    Where entries are ``in_order`` of their positions, bytes of keys are enough.
    """
    emitter, builder = entries.emitter, entries.emitter.builder
    half = 4 * entries.size
    shifts = [*range(half, 2 * half, 8)] if in_order else [*range(0, 32, 8), *range(half, 2 * half, 8)]
    nbytes = I64(4 * BUCKETS * len(shifts))
    emitter.clear_bytes(tables, nbytes)
    buckets = [
        _Buckets(emitter, emitter.offset(tables, 4 * BUCKETS * number), shift)
        for number, shift in enumerate(shifts)
    ]
    with emitter.loop(0, count) as number:
        entry = entries.load(array, number)
        for each in buckets:
            each.increase(entry)
    source, target = emitter.variable(array), emitter.variable(other)
    for each in buckets:
        first = each.load(each.place(entries.load(array, 0)))
        shared = builder.icmp_unsigned("==", first, builder.trunc(count, I32))
        with emitter.when(builder.not_(shared)):
            each.number_to_start()
            read, written = source.value, target.value
            with emitter.loop(0, count) as number:
                entry = entries.load(read, number)
                entries.store(entry, written, builder.zext(each.increase(entry), I64))
            source.value, target.value = written, read
    return source.value


class _Buckets:
    """A table with a number for each value of the byte that begins ``shift`` bits above an entry's lowest."""

    def __init__(self, emitter: Emitter, table: ir.Value, shift: int) -> None:
        self._emitter, self._table, self._shift = emitter, table, shift

    def place(self, entry: ir.Value) -> ir.Value:
        """Address of the number that belongs to ``entry``."""
        builder = self._emitter.builder
        found = builder.and_(builder.lshr(entry, entry.type(self._shift)), entry.type(BUCKETS - 1))
        if entry.type.width > 64:
            found = builder.trunc(found, I64)
        return self._emitter.offset(self._table, self._emitter.mul(found, 4))

    def load(self, place: ir.Value) -> ir.Value:
        return self._emitter.builder.load(place, align=4, typ=I32)

    def increase(self, entry: ir.Value) -> ir.Value:
        """Adds one to the number of ``entry``; returns what it was."""
        place = self.place(entry)
        number = self.load(place)
        self._emitter.builder.store(self._emitter.builder.add(number, I32(1)), place, align=4)
        return number

    def number_to_start(self) -> None:
        """Makes of how many entries a bucket has the position at which it begins."""
        emitter, builder = self._emitter, self._emitter.builder
        total = emitter.variable(I32(0))
        with emitter.loop(0, BUCKETS) as bucket:
            place = emitter.offset(self._table, emitter.mul(bucket, 4))
            count = self.load(place)
            builder.store(total.value, place, align=4)
            total.value = builder.add(total.value, count)
