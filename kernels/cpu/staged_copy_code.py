"""Code of the staged copies; see :mod:`onnxplan.kernels.cpu.staged_copy`."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.llvm_types import storage_type
from onnxplan.kernels.cpu.objects import ObjectCode, kernel_symbol
from onnxplan.kernels.cpu.select_transpose import LARGEST_BLOCK
from onnxplan.kernels.cpu.stream_code import UNROLL, stream_bytes
from onnxplan.kernels.cpu.transpose_code import BlockCopy
from onnxplan.kernels.cpu.walk_code import Reader, vector_loop, walk_rows


def build_staged_copy(variant: Any, target: Target) -> ObjectCode:
    """``variant`` is ``(form, label of an unsigned integer type, rank of the outer axes)``.

    Forms: ``rows`` copies rows that are such in the source too, ``blocks`` transposes, where what follows in
    the source are the elements at the same place of the next rows. Operands: source, result. Parameters:
    those of the walk, whose third operand counts rows; the number of rows that adjoin in the result, how many
    of them are put together at once, the elements of a row, and the bytes in the source from one row to the
    next (``rows``), or from one element of a row to the next.
    """
    form, label, rank = variant
    dtype = DType.from_label(label)
    lanes = min(LARGEST_BLOCK, target.vector_bytes // dtype.itemsize)
    emitter = Emitter.kernel(kernel_symbol("staged_copy", variant), target, lanes)
    reader = Reader(emitter)
    with walk_rows(emitter, reader, rank, 3) as (offsets, _):
        rows, most, width, step = (reader.next() for _ in range(4))
        source = emitter.offset(emitter.operand(0), offsets[0])
        count = emitter.minimum(emitter.sub(rows, offsets[2]), most)
        row_bytes = emitter.mul(width, dtype.itemsize)
        if form == "rows":
            _copy_rows(emitter, dtype, source, count, width, step)
        else:
            ahead = emitter.mul(most, dtype.itemsize)
            copy = BlockCopy(emitter, dtype, source, emitter.scratch, step, row_bytes, ahead=ahead)
            copy.region(emitter.integer(0), count, emitter.integer(0), width, lanes)
        result = emitter.offset(emitter.operand(1), offsets[1])
        stream_bytes(emitter, result, emitter.scratch, emitter.mul(count, row_bytes))
    emitter.end_streams()
    return emitter.finish(light=True)


def _copy_rows(
    emitter: Emitter, dtype: DType, source: ir.Value, count: ir.Value, width: ir.Value, step: ir.Value
) -> None:
    """``count`` rows of ``width`` elements, ``step`` bytes apart, side by side into the scratch."""
    element = storage_type(dtype)
    with emitter.loop(0, count) as number:
        read = emitter.offset(source, emitter.mul(number, step))
        written = emitter.element(emitter.scratch, emitter.mul(number, width), dtype)

        def copy(indices: list[ir.Value], mask: Mask | None) -> None:
            values = [emitter.load_stored(emitter.element(read, i, dtype), element, mask) for i in indices]
            for index, value in zip(indices, values, strict=True):
                emitter.store_stored(value, emitter.element(written, index, dtype), mask)

        vector_loop(emitter, emitter.integer(0), width, UNROLL, copy)
