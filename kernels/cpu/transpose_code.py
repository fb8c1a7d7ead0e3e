"""The kernel that transposes blocks in vector registers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import I32, I64, storage_type
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.cpu.select_transpose import LARGEST_BLOCK, REGION
from onnxplan.kernels.cpu.walk_code import Reader, walk_rows

SMALLEST_BLOCK = 4
# Rows a multiple of this apart fall into few sets of the first cache.
CROWDED_BYTES = 512


def build_transpose(variant: Any, target: Target) -> ObjectCode:
    """``variant`` is ``(label of an unsigned integer type, rank of the outer axes, streamed)``.

    Operands: source, result. Parameters: those of the walk (a chunk is a region of ``REGION`` squared
    elements), the extent of the source's contiguous axis ``a`` and of the result's, ``b``, then the
    source's stride along ``b`` and the result's along ``a`` in bytes. If it is ``streamed``, whole lines of
    the result are written past the caches; all its rows begin at the same place of a line.
    """
    label, rank, streamed = variant
    dtype = DType.from_label(label)
    block = min(LARGEST_BLOCK, target.vector_bytes // dtype.itemsize)
    emitter = Emitter.kernel(kernel_symbol("transpose", variant), target, block)
    reader = Reader(emitter)
    with walk_rows(emitter, reader, rank, 2) as (offsets, region):
        extent_a, extent_b, source_stride, result_stride = (reader.next() for _ in range(4))
        source = emitter.offset(emitter.operand(0), offsets[0])
        result = emitter.offset(emitter.operand(1), offsets[1])
        copy = BlockCopy(emitter, dtype, source, result, source_stride, result_stride, streamed=streamed)
        across = emitter.divide(emitter.add(extent_a, REGION - 1), REGION)
        start_a = emitter.mul(emitter.modulo(region, across), REGION)
        start_b = emitter.mul(emitter.divide(region, across), REGION)
        stop_a = emitter.minimum(emitter.add(start_a, REGION), extent_a)
        stop_b = emitter.add(start_b, REGION)
        if streamed:
            # Regions begin with lines of the result; the first and the last one have what is beside them.
            last = emitter.less(extent_b, emitter.add(stop_b, 1))
            before = emitter.modulo(
                emitter.sub(block, emitter.elements_to_line(result, dtype.itemsize)), block
            )
            start_b = emitter.sub(start_b, before)
            stop_b = emitter.builder.select(last, extent_b, emitter.sub(stop_b, before))
        else:
            stop_b = emitter.minimum(stop_b, extent_b)
        copy.region(start_a, stop_a, start_b, stop_b, block)
    if streamed:
        emitter.end_streams()
    return emitter.finish(light=True)


class BlockCopy:
    """Transposes regions of a matrix: ``a`` runs along the source's rows, ``b`` along the result's."""

    def __init__(
        self,
        emitter: Emitter,
        dtype: DType,
        source: ir.Value,
        result: ir.Value,
        source_stride: ir.Value,
        result_stride: ir.Value,
        *,
        streamed: bool = False,
        ahead: ir.Value | None = None,
    ) -> None:
        """If they are ``streamed``, rows of the result are written past the caches, line by line.

        What lies ``ahead`` elements further along ``a`` is fetched.
        """
        self._streamed, self._ahead = streamed, ahead
        self._emitter, self._dtype = emitter, dtype
        self._source, self._result = source, result
        self._source_stride, self._result_stride = source_stride, result_stride

    def region(
        self, start_a: ir.Value, stop_a: ir.Value, start_b: ir.Value, stop_b: ir.Value, block: int
    ) -> None:
        """Square blocks, the largest that fit; the last of them overlap others, and write the same again.

        ``start_b`` may be negative if rows are streamed: then the first block begins at 0 instead.
        """
        emitter = self._emitter
        if block < SMALLEST_BLOCK:
            self._elements(start_a, stop_a, start_b, stop_b)
            return
        last_a, last_b = emitter.sub(stop_a, block), emitter.sub(stop_b, block)
        first_b = emitter.maximum(start_b, 0) if self._streamed else start_b
        fits = emitter.builder.and_(
            emitter.less(start_a, emitter.add(last_a, 1)), emitter.less(first_b, emitter.add(last_b, 1))
        )
        with emitter.branch(fits) as (whole, smaller):
            with whole, self._blocks(start_a, stop_a, start_b, stop_b, block) as (a, b):
                at_b = emitter.minimum(b, last_b)
                lines = None
                if self._streamed:
                    at_b = emitter.maximum(at_b, 0)
                    lines = emitter.builder.icmp_signed("==", at_b, b)
                self._block(emitter.minimum(a, last_a), at_b, block, lines)
            with smaller:
                rest = BlockCopy(
                    emitter, self._dtype, self._source, self._result, self._source_stride,
                    self._result_stride, ahead=self._ahead,
                )  # fmt: skip
                rest.region(start_a, stop_a, first_b, stop_b, block // 2)

    @contextmanager
    def _blocks(
        self, start_a: ir.Value, stop_a: ir.Value, start_b: ir.Value, stop_b: ir.Value, block: int
    ) -> Iterator[tuple[ir.Value, ir.Value]]:
        """Runs the body for each block: along ``a`` inside, unless the result's rows share lines of a cache.

        Then each row's part is finished before the next rows, but for streamed ones, which are in no cache.
        """
        emitter, builder = self._emitter, self._emitter.builder
        if self._streamed:
            with emitter.loop(start_b, stop_b, block) as b, emitter.loop(start_a, stop_a, block) as a:
                yield a, b
            return
        crowded = builder.icmp_signed("==", builder.and_(self._result_stride, I64(CROWDED_BYTES - 1)), I64(0))

        def either(first: ir.Value, second: ir.Value) -> ir.Value:
            return builder.select(crowded, first, second)

        with (
            emitter.loop(either(start_a, start_b), either(stop_a, stop_b), block) as outer,
            emitter.loop(either(start_b, start_a), either(stop_b, stop_a), block) as inner,
        ):
            yield either(outer, inner), either(inner, outer)

    def _source_at(self, a: ir.Value, b: ir.Value) -> ir.Value:
        row = self._emitter.offset(self._source, self._emitter.mul(b, self._source_stride))
        return self._emitter.element(row, a, self._dtype)

    def _result_at(self, a: ir.Value, b: ir.Value) -> ir.Value:
        row = self._emitter.offset(self._result, self._emitter.mul(a, self._result_stride))
        return self._emitter.element(row, b, self._dtype)

    def _block(self, a: ir.Value, b: ir.Value, block: int, lines: ir.Value | None) -> None:
        """A square block: each stage interleaves rows that are half the block apart.

        ``lines`` says that its rows are lines of the result, to be streamed.
        """
        emitter = self._emitter.with_lanes(block)
        element = storage_type(self._dtype)
        if self._ahead is not None:
            following = emitter.add(a, self._ahead)
            for i in range(block):
                emitter.prefetch(self._source_at(following, emitter.add(b, i)))
        rows = [emitter.load_stored(self._source_at(a, emitter.add(b, i)), element) for i in range(block)]
        low = ir.Constant(ir.VectorType(I32, block), [I32(i // 2 + block * (i % 2)) for i in range(block)])
        high = ir.Constant(
            ir.VectorType(I32, block), [I32((block + i) // 2 + block * (i % 2)) for i in range(block)]
        )
        for _ in range(block.bit_length() - 1):
            stage: list[ir.Value] = []
            for first, second in zip(rows[: block // 2], rows[block // 2 :], strict=True):
                stage.append(emitter.builder.shuffle_vector(first, second, low))
                stage.append(emitter.builder.shuffle_vector(first, second, high))
            rows = stage
        places = [self._result_at(emitter.add(a, i), b) for i in range(block)]
        if lines is None:
            for row, place in zip(rows, places, strict=True):
                emitter.store_stored(row, place)
            return
        with emitter.branch(lines) as (whole, apart):
            with whole:
                for row, place in zip(rows, places, strict=True):
                    emitter.stream_stored(row, place)
            with apart:
                for row, place in zip(rows, places, strict=True):
                    emitter.store_stored(row, place)

    def _elements(self, start_a: ir.Value, stop_a: ir.Value, start_b: ir.Value, stop_b: ir.Value) -> None:
        """One by one, where there are few along an axis."""
        emitter, element = self._emitter, storage_type(self._dtype)
        size = self._dtype.itemsize
        with emitter.loop(start_a, stop_a) as a, emitter.loop(start_b, stop_b) as b:
            value = emitter.builder.load(self._source_at(a, b), align=size, typ=element)
            emitter.builder.store(value, self._result_at(a, b), align=size)
