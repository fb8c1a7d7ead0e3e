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
from onnxplan.kernels.cpu.select_transpose import REGION
from onnxplan.kernels.cpu.walk_code import Reader, walk_rows

SMALLEST_BLOCK = 4
# Rows a multiple of this apart fall into few sets of the first cache.
CROWDED_BYTES = 512


def build_transpose(variant: Any, target: Target) -> ObjectCode:
    """``variant`` is ``(label of an unsigned integer type, rank of the outer axes)``.

    Operands: source, result. Parameters: those of the walk (a chunk is a region of ``REGION`` squared
    elements), the extent of the source's contiguous axis ``a`` and of the result's, ``b``, then the
    source's stride along ``b`` and the result's along ``a`` in bytes.
    """
    label, rank = variant
    dtype = DType.from_label(label)
    block = min(16, target.vector_bytes // dtype.itemsize)
    emitter = Emitter.kernel(kernel_symbol("transpose", variant), target, block)
    reader = Reader(emitter)
    with walk_rows(emitter, reader, rank, 2) as (offsets, region):
        extent_a, extent_b, source_stride, result_stride = (reader.next() for _ in range(4))
        source = emitter.offset(emitter.operand(0), offsets[0])
        result = emitter.offset(emitter.operand(1), offsets[1])
        copy = _Copy(emitter, dtype, source, result, source_stride, result_stride)
        across = emitter.divide(emitter.add(extent_a, REGION - 1), REGION)
        start_a = emitter.mul(emitter.modulo(region, across), REGION)
        start_b = emitter.mul(emitter.divide(region, across), REGION)
        stop_a = emitter.minimum(emitter.add(start_a, REGION), extent_a)
        stop_b = emitter.minimum(emitter.add(start_b, REGION), extent_b)
        copy.region(start_a, stop_a, start_b, stop_b, block)
    return emitter.finish(light=True)


class _Copy:
    def __init__(
        self,
        emitter: Emitter,
        dtype: DType,
        source: ir.Value,
        result: ir.Value,
        source_stride: ir.Value,
        result_stride: ir.Value,
    ) -> None:
        self._emitter, self._dtype = emitter, dtype
        self._source, self._result = source, result
        self._source_stride, self._result_stride = source_stride, result_stride

    def region(
        self, start_a: ir.Value, stop_a: ir.Value, start_b: ir.Value, stop_b: ir.Value, block: int
    ) -> None:
        """Square blocks, the largest that fit; the last of them overlap others, and write the same again."""
        emitter = self._emitter
        if block < SMALLEST_BLOCK:
            self._elements(start_a, stop_a, start_b, stop_b)
            return
        last_a, last_b = emitter.sub(stop_a, block), emitter.sub(stop_b, block)
        fits = emitter.builder.and_(
            emitter.less(start_a, emitter.add(last_a, 1)), emitter.less(start_b, emitter.add(last_b, 1))
        )
        with emitter.branch(fits) as (whole, smaller):
            with whole, self._blocks(start_a, stop_a, start_b, stop_b, block) as (a, b):
                self._block(emitter.minimum(a, last_a), emitter.minimum(b, last_b), block)
            with smaller:
                self.region(start_a, stop_a, start_b, stop_b, block // 2)

    @contextmanager
    def _blocks(
        self, start_a: ir.Value, stop_a: ir.Value, start_b: ir.Value, stop_b: ir.Value, block: int
    ) -> Iterator[tuple[ir.Value, ir.Value]]:
        """Runs the body for each block: along ``a`` inside, unless the result's rows share lines of a cache.

        Then each row's part is finished before the next rows.
        """
        emitter, builder = self._emitter, self._emitter.builder
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

    def _block(self, a: ir.Value, b: ir.Value, block: int) -> None:
        """A square block: each stage interleaves rows that are half the block apart."""
        emitter = self._emitter.with_lanes(block)
        element = storage_type(self._dtype)
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
        for i, row in enumerate(rows):
            emitter.store_stored(row, self._result_at(emitter.add(a, i), b))

    def _elements(self, start_a: ir.Value, stop_a: ir.Value, start_b: ir.Value, stop_b: ir.Value) -> None:
        """One by one, where there are few along an axis."""
        emitter, element = self._emitter, storage_type(self._dtype)
        size = self._dtype.itemsize
        with emitter.loop(start_a, stop_a) as a, emitter.loop(start_b, stop_b) as b:
            value = emitter.builder.load(self._source_at(a, b), align=size, typ=element)
            emitter.builder.store(value, self._result_at(a, b), align=size)
