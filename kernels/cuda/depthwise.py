"""Convolution in groups of few channels: each thread sums up one output element.

Neighbouring threads have neighbouring channels, so that input, weights and output are read in runs.
"""

from __future__ import annotations

from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cuda.conv_window import (
    declare_window,
    find_taps,
    split,
    window_reach,
    window_words,
)
from onnxplan.kernels.cuda.epilogue import in_place_extras
from onnxplan.kernels.cuda.indexing import BLOCK_THREADS, index_type
from onnxplan.kernels.cuda.product_code import Results, factor, sum_text
from onnxplan.kernels.cuda.source import KernelSource, KernelText, check_words
from onnxplan.kernels.geometry import ceil_div, reach
from onnxplan.kernels.matrices import distinct_bytes

FAMILY = "depthwise"


def emit_depthwise(emit: StepEmitter, conv: Convolution, accumulator: DType, epilogue: Expression) -> None:
    """Emits the step of a convolution; ``epilogue`` is an expression of the sum and the extras."""
    x, w, output = conv.x, conv.w, conv.output
    results = (*conv.extras, output)
    windows = window_words(x, output, conv.kernel, conv.strides, conv.dilations, conv.pads)
    largest = max(output.size, window_reach(x, windows), reach(w), *map(reach, results))
    index = index_type(largest, [])
    parameters = [output.size, output.shape[-1], conv.features, conv.channels]
    for view in (x, *results):
        parameters += [view.strides[0], view.strides[-1]]
    parameters += w.strides[-2:]
    for axis, window in enumerate(windows):
        parameters += [*window, w.strides[axis], *(view.strides[1 + axis] for view in (x, *results))]
    operands = (x, w, *results)
    check_words(len(operands), len(parameters))
    what = Results(epilogue, accumulator, tuple(view.dtype for view in results))
    variant = (BLOCK_THREADS, (x.dtype.label, w.dtype.label), what.variant, len(windows), index)
    emit.step(
        KernelSpec(FAMILY, variant),
        operands,
        (len(operands) - 1,),
        tuple(parameters),
        tiles=ceil_div(output.size, BLOCK_THREADS),
        flops=(2 * conv.taps * conv.channels + epilogue.cost) * output.size,
        bytes_moved=sum(map(distinct_bytes, operands)),
        in_place=in_place_extras(output, conv.extras, 2),
    )


def build_depthwise(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, (x type, weight type), results, spatial axes, index type)``.

    Operands: x, the weights, the extras, the output. Parameters: points, channels of the output, output and
    input channels of a group; strides along images and channels of x and of the results; those of the
    weights along channels; for each axis its window, and the strides of the weights, x and the results.
    """
    threads, labels, results_variant, spatial, index = variant
    results = Results.from_variant(*results_variant)
    x_type, w_type = (DType.from_label(label) for label in labels)
    kernel = KernelText(threads)
    kernel.operand("x", x_type, alone=True)
    kernel.operand("w", w_type, alone=True)
    results.declare_operands(kernel)
    numbers = range(len(results.dtypes))
    placed = ["x", *(f"r{number}" for number in numbers)]
    for name in ("points", "all_features", "features", "channels"):
        kernel.parameter(name, index)
    for name in placed:
        kernel.parameter(f"{name}_image", index)
        kernel.parameter(f"{name}_channel", index)
    kernel.parameter("w_channel", index)
    kernel.parameter("w_feature", index)
    for axis in range(spatial):
        declare_window(kernel, axis, index)
        for name in ("w", *placed):
            kernel.parameter(f"{name}_step{axis}", index)
    axes = range(spatial)
    names = ["image", *(f"o{axis}" for axis in axes), "feature"]
    kernel.line(
        f"const {index} point = ({index})blockIdx.x * {threads} + ({index})threadIdx.x;",
        "if (point >= points) return;",
        *split("point", names, [*(f"outputs{axis}" for axis in axes), "all_features"], index),
        *(line for axis in axes for line in find_taps(axis, f"o{axis}", index)),
        f"const {index} x_start = image * x_image + feature / features * channels * x_channel;",
        f"const {index} w_start = feature * w_feature;",
        f"{sum_text(results.accumulator)} total = 0;",
        *_sum_up(results.accumulator, x_type, w_type, spatial, index),
    )
    places = []
    for number in numbers:
        along = " + ".join(f"o{axis} * r{number}_step{axis}" for axis in axes)
        places.append(f"image * r{number}_image + feature * r{number}_channel + {along}")
    kernel.line(*results.store("total", places))
    return kernel.source(FAMILY)


def _sum_up(accumulator: DType, x_type: DType, w_type: DType, spatial: int, index: str) -> list[str]:
    """A loop for each axis over the taps inside, and one over the channels of a group."""
    lines: list[str] = []
    x_at, w_at = "x_start", "w_start"
    for axis in range(spatial):
        lines += [
            f"for ({index} tap{axis} = first{axis}; tap{axis} < last{axis}; ++tap{axis}) {{",
            f"const {index} x_at{axis} = {x_at} + (start{axis} + tap{axis} * dilation{axis}) * x_step{axis};",
            f"const {index} w_at{axis} = {w_at} + tap{axis} * w_step{axis};",
        ]
        x_at, w_at = f"x_at{axis}", f"w_at{axis}"
    left = factor(x_type, accumulator, f"x[{x_at} + channel * x_channel]")
    right = factor(w_type, accumulator, f"w[{w_at} + channel * w_channel]")
    return [
        *lines,
        f"for ({index} channel = 0; channel < channels; ++channel)",
        f"total += {left} * {right};",
        "}" * spatial,
    ]
