"""The kernel that transposes blocks in vector registers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import I32, I64, storage_type
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.cpu.select_transpose import LARGEST_BLOCK, REGION, staged_row_bytes
from onnxplan.kernels.cpu.stream_code import stream_bytes
from onnxplan.kernels.cpu.walk_code import Reader, walk_rows

SMALLEST_BLOCK = 4
# Rows a multiple of this apart fall into few sets of the first cache.
CROWDED_BYTES = 512


def build_transpose(variant: Any, target: Target) -> ObjectCode:
    """``variant`` is ``(label of an unsigned integer type, rank of the outer axes, streamed)``.

    Operands: source, result. Parameters: those of the walk (a chunk is a region of ``REGION`` squared
    elements), the extent of the source's contiguous axis ``a`` and of the result's, ``b``, then the
    source's stride along ``b`` and the result's along ``a`` in bytes. If it is ``streamed``, regions are put
    together in a thread's scratch and then written past the caches; all rows of the result begin at the same
    place of a line.
    """
    label, rank, streamed = variant
    dtype = DType.from_label(label)
    emitter = Emitter.kernel(kernel_symbol("transpose", variant), target, largest_block(dtype, target))
    reader = Reader(emitter)
    with walk_rows(emitter, reader, rank, 2) as (offsets, region):
        places = [emitter.offset(emitter.operand(i), offset) for i, offset in enumerate(offsets)]
        matrix = Matrix(dtype, *places, *(reader.next() for _ in range(4)))
        if streamed:
            _stream_region(emitter, matrix, region)
        else:
            _copy_region(emitter, matrix, region)
    if streamed:
        emitter.end_streams()
    return emitter.finish(light=True)


def largest_block(dtype: DType, target: Target) -> int:
    """Rows and columns of the blocks that are transposed in registers."""
    return min(LARGEST_BLOCK, target.vector_bytes // dtype.itemsize)


@dataclass(frozen=True, slots=True)
class Matrix:
    """What is transposed: ``a`` runs along the source's rows, ``b`` along the result's; strides are bytes."""

    dtype: DType
    source: ir.Value
    result: ir.Value
    extent_a: ir.Value
    extent_b: ir.Value
    source_stride: ir.Value
    result_stride: ir.Value

    def start(self, emitter: Emitter, region: ir.Value) -> tuple[ir.Value, ir.Value]:
        """Where a region begins along ``a`` and ``b``; they follow each other along ``a``."""
        across = emitter.ceil_div(self.extent_a, REGION)
        a, b = emitter.modulo(region, across), emitter.divide(region, across)
        return emitter.mul(a, REGION), emitter.mul(b, REGION)


def _copy_region(emitter: Emitter, matrix: Matrix, region: ir.Value) -> None:
    start_a, start_b = matrix.start(emitter, region)
    stop_a = emitter.minimum(emitter.add(start_a, REGION), matrix.extent_a)
    stop_b = emitter.minimum(emitter.add(start_b, REGION), matrix.extent_b)
    strides = matrix.source_stride, matrix.result_stride
    copy = BlockCopy(emitter, matrix.dtype, matrix.source, matrix.result, *strides)
    copy.region(start_a, stop_a, start_b, stop_b, emitter.lanes)


def _stream_region(emitter: Emitter, matrix: Matrix, region: ir.Value) -> None:
    """A region by way of the scratch: memory takes lines that adjoin faster one after the other.

    The region after it is fetched into the second cache meanwhile, as this one fills the first.
    """
    dtype, size = matrix.dtype, matrix.dtype.itemsize
    start_a, start_b = matrix.start(emitter, region)
    next_a, next_b = matrix.start(emitter, emitter.add(region, 1))
    ahead = emitter.add(
        emitter.mul(emitter.sub(next_a, start_a), size),
        emitter.mul(emitter.sub(next_b, start_b), matrix.source_stride),
    )
    stop_a = emitter.minimum(emitter.add(start_a, REGION), matrix.extent_a)
    # Regions begin with lines of the result; the first and the last one have what is beside them.
    last = emitter.less(matrix.extent_b, emitter.add(start_b, REGION + 1))
    line = emitter.target.vector_bytes // size
    after = emitter.with_lanes(line).elements_to_line(matrix.result, size)
    start_b = emitter.sub(start_b, emitter.modulo(emitter.sub(line, after), line))
    stop_b = emitter.builder.select(last, matrix.extent_b, emitter.add(start_b, REGION))
    pitch = staged_row_bytes(dtype, emitter.target)
    corner = emitter.add(emitter.mul(start_a, pitch), emitter.mul(start_b, size))
    staged = emitter.offset(emitter.scratch, emitter.sub(0, corner))
    strides = matrix.source_stride, emitter.integer(pitch)
    copy = BlockCopy(emitter, dtype, matrix.source, staged, *strides, ahead=ahead, locality=2)
    first_b = emitter.maximum(start_b, 0)
    copy.region(start_a, stop_a, first_b, stop_b, emitter.lanes)
    count = emitter.mul(emitter.sub(stop_b, first_b), size)
    with emitter.loop(start_a, stop_a) as a:
        row = emitter.offset(matrix.result, emitter.mul(a, matrix.result_stride))
        staged_row = emitter.offset(staged, emitter.mul(a, pitch))
        staged_place = emitter.element(staged_row, first_b, dtype)
        stream_bytes(emitter, emitter.element(row, first_b, dtype), staged_place, count)


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
        ahead: ir.Value | None = None,
        locality: int = 3,
    ) -> None:
        """What lies ``ahead`` bytes further in the source is fetched, ``locality`` says into which cache."""
        self._ahead, self._locality = ahead, locality
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
        if self._ahead is not None:
            for i in range(block):
                following = emitter.offset(self._source_at(a, emitter.add(b, i)), self._ahead)
                emitter.prefetch(following, locality=self._locality)
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
