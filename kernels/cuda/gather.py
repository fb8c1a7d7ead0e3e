"""Gather: words of the output copied from where indices point. Selection and code."""

from __future__ import annotations

from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Gather, GatherElements
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.indexing import (
    BLOCK_THREADS,
    NARROW_LIMIT,
    axis_words,
    declare_axes,
    index_type,
    offsets,
    points_of,
)
from onnxplan.kernels.cuda.source import KernelSource, KernelText, check_words
from onnxplan.kernels.cuda.words import WORD_TYPES, word_axes
from onnxplan.kernels.gather_strides import gather_strides
from onnxplan.kernels.geometry import Axis, ceil_div, pad_axes

WORDS_PER_THREAD = 4
_DATA, _INDICES, _OUTPUT = range(3)


def select_gather(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a Gather or GatherElements of any element type but strings."""
    primitive = operation.primitive
    assert isinstance(primitive, Gather | GatherElements)
    data, indices = operation.inputs
    output = operation.outputs[0]
    if data.dtype is DType.STRING or indices.dtype not in (DType.INT32, DType.INT64):
        raise NotImplementedError(f"no CUDA kernel for gather of {data.dtype} by {indices.dtype}")
    if output.size == 0:
        return
    axis = primitive.axis
    strides = [*gather_strides(primitive, data, indices), output.strides]
    distances = (data.strides[axis], data.offset, output.offset)
    axes, width, (gathered, *_) = word_axes(output.shape, strides, (_OUTPUT, _DATA), data.dtype, distances)
    axes = pad_axes(axes, 3)
    points, extent = points_of(axes), data.shape[axis]
    index = index_type(points, axes)
    if abs(gathered) * extent + _reach(axes) >= NARROW_LIMIT:
        index = "long long"
    index_bytes = indices.dtype.itemsize if extent else 0
    parameters = (points, extent, gathered, *axis_words(axes))
    check_words(3, len(parameters))
    emit.step(
        KernelSpec("gather", (BLOCK_THREADS, width, index_bytes, len(axes), index)),
        (data, indices, output),
        (2,),
        parameters,
        tiles=ceil_div(points, BLOCK_THREADS * WORDS_PER_THREAD),
        flops=0,
        bytes_moved=2 * output.size * output.dtype.itemsize + indices.size * indices.dtype.itemsize,
    )


def _reach(axes: list[Axis]) -> int:
    return sum(abs(axis.strides[_DATA]) * (axis.extent - 1) for axis in axes)


def build_gather(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, bytes of a word, bytes of an index, rank, index type)``.

    Without indices (0 bytes) there is nothing to gather from, and the output is filled with zeros.
    Parameters: words of the output, positions along the gathered axis, words from one to the next, the axes.
    """
    threads, width, index_bytes, rank, index = variant
    word = WORD_TYPES[width]
    kernel = KernelText(threads)
    kernel.operand("data", DType.UINT8, alone=True)
    kernel.operand("indices", DType.INT32 if index_bytes == 4 else DType.INT64, alone=True)
    kernel.operand("output", DType.UINT8, written=True, alone=True)
    kernel.parameter("points", index)
    kernel.parameter("extent")
    kernel.parameter("gathered", index)
    declare_axes(kernel, "axis", rank, 3, index)
    wanted = (_DATA, _INDICES, _OUTPUT) if index_bytes else (_OUTPUT,)
    kernel.line(
        f"const {word}* const from = (const {word}*)data;",
        f"{word}* const to = ({word}*)output;",
        f"const {index} first = ({index})blockIdx.x * {threads * WORDS_PER_THREAD} + ({index})threadIdx.x;",
        "#pragma unroll",
        f"for (int item = 0; item < {WORDS_PER_THREAD}; ++item) {{",
        f"const {index} point = first + item * {threads};",
        "if (point >= points) break;",
        *offsets("axis", rank, wanted, index, "point", "at"),
    )
    if index_bytes:
        kernel.line(
            f"long long position = indices[at{_INDICES}];",
            "if (position < 0) position += extent;",
            "position = position < 0 ? 0 : (position < extent ? position : extent - 1);",
            f"to[at{_OUTPUT}] = from[at{_DATA} + ({index})position * gathered];",
        )
    else:
        kernel.line(f"const {word} zero = {{}};", f"to[at{_OUTPUT}] = zero;")
    kernel.line("}")
    return kernel.source("gather")
