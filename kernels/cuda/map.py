"""Elementwise maps and copies: selection and code."""

from __future__ import annotations

import math
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Instruction, identity
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.expression_code import Names, statements
from onnxplan.kernels.cuda.indexing import (
    BLOCK_THREADS,
    axis_words,
    declare_axes,
    index_type,
    offsets,
    points_of,
)
from onnxplan.kernels.cuda.source import KernelSource, KernelText, check_words
from onnxplan.kernels.geometry import (
    axes_of,
    carrier,
    ceil_div,
    collapse,
    flip_negative,
    in_place_pairs,
    pad_axes,
    unique_bytes,
)
from onnxplan.kernels.scalar_cuda import loaded, stored

POINTS_PER_THREAD = 4


def select_map(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a MapReduce without reductions."""
    primitive = operation.primitive
    assert isinstance(primitive, MapReduce)
    expression, shape = primitive.expression, primitive.shape
    if 0 in shape:
        return
    used = sorted({i.arguments[0] for i in expression.instructions if i.op == "input"})
    indexed = sorted({i.arguments[0] for i in expression.instructions if i.op == "index"})
    views = [operation.inputs[number] for number in used] + list(operation.outputs)
    count = len(used)
    # Coordinates are operands too: they must not be reversed, so nothing is.
    if not indexed:
        views = flip_negative(views, range(count, len(views)))
    kernel_types = [view.dtype for view in views]
    strides = [list(view.strides) for view in views]
    if primitive.name == "copy" and views[0].dtype is views[-1].dtype:
        element, parts = carrier(views[0].dtype)
        expression, kernel_types = identity(element), [element] * 2
        shape = (*shape, parts)
        strides = [[*(stride * parts for stride in row), 1] for row in strides]
    strides += [[int(axis == wanted) for axis in range(len(shape))] for wanted in indexed]
    priority = [*range(count, len(views)), *range(count)]
    axes = pad_axes(collapse(axes_of(shape, strides), priority), len(strides))
    points = points_of(axes)
    labels = tuple(dtype.label for dtype in kernel_types)
    numbers = (*used, *indexed)
    variant = (BLOCK_THREADS, expression, labels, numbers, count, len(axes), index_type(points, axes))
    parameters = (points, *axis_words(axes))
    check_words(len(views), len(parameters))
    emit.step(
        KernelSpec("map", variant),
        tuple(views),
        tuple(range(count, len(views))),
        parameters,
        tiles=ceil_div(points, BLOCK_THREADS * POINTS_PER_THREAD),
        flops=math.prod(primitive.shape) * expression.cost,
        bytes_moved=sum(map(unique_bytes, views)),
        in_place=in_place_pairs(views[:count], views[count:]),
    )


def build_map(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, expression, labels, numbers, inputs, rank, index type)``.

    Operands are the inputs that are read, then the outputs, of types ``labels``; ``numbers`` are the
    expression's numbers of the inputs, then the axes of coordinates, which have strides like operands.
    Parameters: points, then the axes.
    """
    threads, expression, labels, numbers, inputs, rank, index = variant
    dtypes = [DType.from_label(label) for label in labels]
    kernel = KernelText(threads)
    for position, dtype in enumerate(dtypes):
        kernel.operand(f"x{position}", dtype, written=position >= inputs)
    kernel.parameter("points", index)
    placed = len(labels) + len(numbers) - inputs
    declare_axes(kernel, "axis", rank, placed, index)
    kernel.line(
        f"const {index} first = ({index})blockIdx.x * {threads * POINTS_PER_THREAD} + ({index})threadIdx.x;",
        "#pragma unroll",
        f"for (int item = 0; item < {POINTS_PER_THREAD}; ++item) {{",
        f"const {index} point = first + item * {threads};",
        "if (point >= points) break;",
        *offsets("axis", rank, range(placed), index, "point", "at"),
    )
    input_places = {number: place for place, number in enumerate(numbers[:inputs])}
    index_places = {axis: len(labels) + place for place, axis in enumerate(numbers[inputs:])}

    def leaf(instruction: Instruction) -> str:
        number = instruction.arguments[0]
        if instruction.op == "index":
            return f"at{index_places[number]}"
        place = input_places[number]
        return loaded(dtypes[place], f"x{place}[at{place}]")

    names: Names = {}
    kernel.line(*statements(expression, expression.outputs, names, leaf))
    for place, output in enumerate(expression.outputs, inputs):
        kernel.line(f"x{place}[at{place}] = {stored(dtypes[place], names[output])};")
    kernel.line("}")
    return kernel.source("map")
