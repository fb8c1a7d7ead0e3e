"""The kernel that interleaves a few planes, or splits what is interleaved, in vector registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.llvm_types import I32, storage_type
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.cpu.stream_code import FloatStream
from onnxplan.kernels.cpu.walk_code import Reader, vector_loop, walk_rows


def build_interleave(variant: Any, target: Target) -> ObjectCode:
    """``variant`` is ``(direction, label of an unsigned integer type, number of planes, rank, streamed)``.

    Directions: ``join`` reads planes and writes their elements alternately, past the caches if it is
    ``streamed``, and ``split`` does the opposite.
    Operands: source, result. Parameters: those of the walk over ``rank`` outer axes, the elements of a plane,
    those of a chunk, and the bytes from one plane to the next.
    """
    direction, label, planes, rank, streamed = variant
    dtype = DType.from_label(label)
    lanes = min(16, target.vector_bytes // dtype.itemsize)
    emitter = Emitter.kernel(kernel_symbol("interleave", variant), target, lanes)
    reader = Reader(emitter)
    stream = FloatStream(emitter) if streamed else None
    with walk_rows(emitter, reader, rank, 2) as (offsets, chunk):
        extent, length, plane_step = reader.next(), reader.next(), reader.next()
        source, result = (emitter.offset(emitter.operand(n), offset) for n, offset in enumerate(offsets))
        copy = _Copy(emitter, dtype, planes, plane_step, stream)
        start = emitter.mul(chunk, length)
        stop = emitter.minimum(emitter.add(start, length), extent)
        if stream is not None:
            stream.move_to(emitter.element(result, emitter.mul(start, planes), dtype))

        def body(indices: list[ir.Value], mask: Mask | None) -> None:
            for index in indices:
                (copy.join if direction == "join" else copy.split)(source, result, index, mask)

        vector_loop(emitter, start, stop, 1, body)
    if stream is not None:
        stream.end()
        emitter.end_streams()
    return emitter.finish(light=True)


class _Copy:
    def __init__(
        self, emitter: Emitter, dtype: DType, planes: int, plane_step: ir.Value, stream: FloatStream | None
    ) -> None:
        self._emitter, self._dtype, self._stream = emitter, dtype, stream
        self._planes, self._plane_step = planes, plane_step

    def join(self, source: ir.Value, result: ir.Value, index: ir.Value, mask: Mask | None) -> None:
        """A vector of each plane from ``index`` on."""
        emitter, lanes, planes = self._emitter, self._emitter.lanes, self._planes
        element = storage_type(self._dtype)
        rows = [
            emitter.load_stored(self._in_plane(source, plane, index), element, mask)
            for plane in range(planes)
        ]
        for part in range(planes):
            places = range(part * lanes, (part + 1) * lanes)
            value = _pick(emitter, rows, [(place % planes, place // planes) for place in places])
            if self._stream is None:
                emitter.store_stored(value, self._in_row(result, index, part), self._part_mask(mask, part))
            elif mask is None:
                self._stream.append(value)
            else:
                self._stream.append_first(value, self._part_count(mask, part))

    def split(self, source: ir.Value, result: ir.Value, index: ir.Value, mask: Mask | None) -> None:
        """A vector of each plane from ``index`` on."""
        emitter, lanes, planes = self._emitter, self._emitter.lanes, self._planes
        element = storage_type(self._dtype)
        parts = [
            emitter.load_stored(self._in_row(source, index, part), element, self._part_mask(mask, part))
            for part in range(planes)
        ]
        for plane in range(planes):
            places = range(plane, planes * lanes, planes)
            value = _pick(emitter, parts, [divmod(place, lanes) for place in places])
            emitter.store_stored(value, self._in_plane(result, plane, index), mask)

    def _in_plane(self, pointer: ir.Value, plane: int, index: ir.Value) -> ir.Value:
        emitter = self._emitter
        start = emitter.offset(pointer, emitter.mul(self._plane_step, plane))
        return emitter.element(start, index, self._dtype)

    def _in_row(self, pointer: ir.Value, index: ir.Value, part: int) -> ir.Value:
        """Address of the ``part``-th vector of alternating elements whose first has position ``index``."""
        emitter = self._emitter
        place = emitter.add(emitter.mul(index, self._planes), part * emitter.lanes)
        return emitter.element(pointer, place, self._dtype)

    def _part_mask(self, mask: Mask | None, part: int) -> Mask | None:
        if mask is None:
            return None
        emitter = self._emitter
        return emitter.mask(emitter.sub(emitter.mul(mask.count, self._planes), part * emitter.lanes))

    def _part_count(self, mask: Mask, part: int) -> ir.Value:
        """How many lanes of the ``part``-th vector there are."""
        emitter = self._emitter
        count = emitter.sub(emitter.mul(mask.count, self._planes), part * emitter.lanes)
        return emitter.minimum(emitter.maximum(count, 0), emitter.lanes)


def _pick(emitter: Emitter, vectors: Sequence[ir.Value], picks: Sequence[tuple[int, int]]) -> ir.Value:
    """A vector of the ``(vector, lane)`` in ``picks``; each step adds the lanes of one more vector."""
    lanes = emitter.lanes
    used = sorted({vector for vector, _ in picks})
    value = vectors[used[0]]
    # With one vector only, the second operand is read nowhere.
    for number, vector in enumerate(used[1:] or used):
        order = []
        for lane, (owner, place) in enumerate(picks):
            if owner == vector and len(used) > 1:
                order.append(lanes + place)
            else:
                order.append(place if number == 0 else lane)
        value = emitter.builder.shuffle_vector(
            value, vectors[vector], ir.Constant(ir.VectorType(I32, lanes), [I32(place) for place in order])
        )
    return value
