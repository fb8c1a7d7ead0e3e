"""GatherReduce: weighted rows from where positions point, summed or compared. Selection and code."""

from __future__ import annotations

import math
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import GatherReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.expression_code import literal_of
from onnxplan.kernels.cuda.indexing import (
    BLOCK_THREADS,
    axis_words,
    declare_axes,
    index_type,
    offsets,
    points_of,
)
from onnxplan.kernels.cuda.source import KernelSource, KernelText
from onnxplan.kernels.geometry import Axis, axes_of, ceil_div, collapse, pad_axes
from onnxplan.kernels.scalar import cuda_expression
from onnxplan.kernels.scalar_cuda import cast, compute_type, loaded, stored

_TABLE, _POSITIONS, _WEIGHTS, _OUTPUT = range(4)


def select_gather_reduce(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a GatherReduce of any float type and strides."""
    primitive = operation.primitive
    assert isinstance(primitive, GatherReduce)
    table, positions, weights = operation.inputs
    output = operation.outputs[0]
    dtype = table.dtype
    if not dtype.is_float:
        raise NotImplementedError(f"no CUDA kernel for gather_reduce of {dtype}")
    if output.size == 0:
        return
    extent, taps = table.shape[0], positions.shape[1]
    strides = [(0, table.strides[1]), (positions.strides[0], 0), (weights.strides[0], 0), output.strides]
    axes = pad_axes(collapse(axes_of(output.shape, strides), (_OUTPUT, _TABLE)), 4)
    points = points_of(axes)
    along = (table.strides[0], positions.strides[1], weights.strides[1], 0)
    index = index_type(points, [*axes, Axis(max(extent, taps), along)])
    emit.step(
        KernelSpec(
            "gather_reduce",
            (BLOCK_THREADS, primitive.kind, dtype.label, weights.dtype.label, len(axes), index),
        ),
        (table, positions, weights, output),
        (3,),
        (points, extent, taps, *along[:3], *axis_words(axes)),
        tiles=ceil_div(points, BLOCK_THREADS),
        flops=2 * output.size * taps,
        bytes_moved=output.size * (taps + 1) * dtype.itemsize,
    )


def build_gather_reduce(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, kind, type of the table, type of the weights, rank, index type)``.

    Parameters: points of the output, rows of the table, taps, strides of table, positions and weights from
    one row or tap to the next, the axes.
    """
    threads, kind, label, weight_label, rank, index = variant
    dtype, weight_type = DType.from_label(label), DType.from_label(weight_label)
    sums = DType.FLOAT64 if DType.FLOAT64 in (dtype, weight_type) else DType.FLOAT32
    total = compute_type(sums)
    kernel = KernelText(threads)
    kernel.operand("table", dtype, alone=True)
    kernel.operand("positions", DType.INT64, alone=True)
    kernel.operand("weights", weight_type, alone=True)
    kernel.operand("output", dtype, written=True, alone=True)
    kernel.parameter("points", index)
    kernel.parameter("extent")
    kernel.parameter("taps", index)
    for name in ("table_row", "position_tap", "weight_tap"):
        kernel.parameter(name, index)
    declare_axes(kernel, "axis", rank, 4, index)
    value = cast(dtype, sums, loaded(dtype, f"table[at{_TABLE} + ({index})position * table_row]"))
    weight = cast(weight_type, sums, loaded(weight_type, f"weights[at{_WEIGHTS}]"))
    if kind == "sum":
        combined = f"{'fma' if sums is DType.FLOAT64 else 'fmaf'}(value, weight, total)"
    else:
        combined = cuda_expression("max", sums, sums, "total", "value * weight")
    result = stored(dtype, cast(sums, dtype, f"(empty ? {literal_of(0.0, sums)} : total)"))
    kernel.line(
        f"const {index} point = ({index})blockIdx.x * {threads} + ({index})threadIdx.x;",
        "if (point >= points) return;",
        *offsets("axis", rank, range(4), index, "point", "at"),
        f"{total} total = {literal_of(0.0 if kind == 'sum' else -math.inf, sums)};",
        "bool empty = true;",
        f"for ({index} tap = 0; tap < taps; ++tap) {{",
        f"const long long position = positions[at{_POSITIONS}];",
        "if (position >= 0 && position < extent) {",
        f"const {total} value = {value};",
        f"const {total} weight = {weight};",
        f"total = {combined};",
        "empty = false;",
        "}",
        f"at{_POSITIONS} += position_tap;",
        f"at{_WEIGHTS} += weight_tap;",
        "}",
        f"output[at{_OUTPUT}] = {result};",
    )
    return kernel.source("gather_reduce")
