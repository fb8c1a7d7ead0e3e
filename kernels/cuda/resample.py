"""Resample: weighted sums of elements along one axis. Selection and code."""

from __future__ import annotations

from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Resample
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
from onnxplan.kernels.cuda.source import KernelSource, KernelText, check_words
from onnxplan.kernels.geometry import Axis, axes_of, ceil_div, collapse, pad_axes
from onnxplan.kernels.scalar_cuda import cast, compute_type, loaded, stored

_X, _PLACES, _WEIGHTS, _Y = range(4)


def select_resample(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a Resample of any float or integer type."""
    primitive = operation.primitive
    assert isinstance(primitive, Resample)
    x, places, weights = operation.inputs
    y = operation.outputs[0]
    if x.dtype.kind not in "fiu":
        raise NotImplementedError(f"no CUDA kernel for resample of {x.dtype}")
    if y.size == 0:
        return
    axis, taps = primitive.axis, places.shape[1]

    def only(stride: int) -> list[int]:
        return [stride if number == axis else 0 for number in range(y.rank)]

    x_strides = [0 if number == axis else stride for number, stride in enumerate(x.strides)]
    strides = [x_strides, only(places.strides[0]), only(weights.strides[0]), list(y.strides)]
    axes = pad_axes(collapse(axes_of(y.shape, strides), (_Y, _X)), 4)
    points, extent = points_of(axes), x.shape[axis]
    along = (x.strides[axis], places.strides[1], weights.strides[1], 0)
    index = index_type(points, [*axes, Axis(max(extent, taps), along)])
    parameters = (points, extent, taps, *along[:3], *axis_words(axes))
    check_words(4, len(parameters))
    emit.step(
        KernelSpec("resample", (BLOCK_THREADS, x.dtype.label, weights.dtype.label, len(axes), index)),
        (x, places, weights, y),
        (3,),
        parameters,
        tiles=ceil_div(points, BLOCK_THREADS),
        flops=2 * y.size * taps,
        bytes_moved=(x.size + y.size) * x.dtype.itemsize,
    )


def build_resample(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, element type, type of the weights, rank, index type)``.

    Parameters: points of the output, positions along the axis (0: the sums are empty), taps, strides of x
    from one position to the next and of places and weights from one tap to the next, the axes.
    """
    threads, label, weight_label, rank, index = variant
    dtype, weight_type = DType.from_label(label), DType.from_label(weight_label)
    sums = DType.FLOAT64 if DType.FLOAT64 in (dtype, weight_type) else DType.FLOAT32
    total = compute_type(sums)
    kernel = KernelText(threads)
    kernel.operand("x", dtype, alone=True)
    kernel.operand("places", DType.INT32, alone=True)
    kernel.operand("weights", weight_type, alone=True)
    kernel.operand("y", dtype, written=True, alone=True)
    kernel.parameter("points", index)
    kernel.parameter("extent")
    kernel.parameter("taps", index)
    for name in ("x_step", "place_tap", "weight_tap"):
        kernel.parameter(name, index)
    declare_axes(kernel, "axis", rank, 4, index)
    value = cast(dtype, sums, loaded(dtype, f"x[at{_X} + ({index})place * x_step]"))
    weight = cast(weight_type, sums, loaded(weight_type, f"weights[at{_WEIGHTS}]"))
    kernel.line(
        f"const {index} point = ({index})blockIdx.x * {threads} + ({index})threadIdx.x;",
        "if (point >= points) return;",
        *offsets("axis", rank, range(4), index, "point", "at"),
        f"{total} total = {literal_of(0.0, sums)};",
        f"for ({index} tap = 0; tap < taps && extent > 0; ++tap) {{",
        f"long long place = places[at{_PLACES}];",
        "place = place < 0 ? 0 : (place < extent ? place : extent - 1);",
        f"total = {'fma' if sums is DType.FLOAT64 else 'fmaf'}({value}, {weight}, total);",
        f"at{_PLACES} += place_tap;",
        f"at{_WEIGHTS} += weight_tap;",
        "}",
        f"y[at{_Y}] = {stored(dtype, cast(sums, dtype, 'total'))};",
    )
    return kernel.source("resample")
