"""Code of the Scatter kernels; see :mod:`onnxplan.kernels.cuda.scatter`."""

from __future__ import annotations

from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.indexing import declare_axes, offsets
from onnxplan.kernels.cuda.source import KernelSource, KernelText
from onnxplan.kernels.cuda.words import WORD_TYPES
from onnxplan.kernels.scalar import cuda_expression
from onnxplan.kernels.scalar_cuda import compute_type, loaded, stored

_UPDATES, _OUTPUT, _NUMBER = range(3)


def build_scatter_winners(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, type of the winners)``. Parameters: updates, rows, stride of positions.

    The maximum of the numbers is the same in whatever order threads come.
    """
    threads, label = variant
    dtype = DType.from_label(label)
    kernel = KernelText(threads)
    kernel.operand("positions", DType.INT64, alone=True)
    kernel.operand("winners", dtype, written=True, alone=True)
    for name in ("count", "rows", "position_step"):
        kernel.parameter(name)
    kernel.line(
        f"const long long number = (long long)blockIdx.x * {threads} + threadIdx.x;",
        "if (number >= count) return;",
        "const long long position = positions[number * position_step];",
        "if (position < 0 || position >= rows) return;",
        f"atomicMax(&winners[position], ({compute_type(dtype)})number);",
    )
    return kernel.source("scatter_winners")


def build_scatter(variant: Any, target: Target) -> KernelSource:
    """``variant``: threads, kind, form, last table's type, element type, bytes of a word, rank, index type.

    Elements have a type where they are combined and are words else. Forms and their tables, which come
    before updates and output: ``few`` positions; ``last`` positions and winners; ``sorted`` rising positions
    and the numbers of their updates. Parameters: points, updates, rows, strides of positions, and of
    updates and output from row to row, the axes of updates and columns.
    """
    threads, kind, form, table, label, width, rank, index = variant
    dtype = DType.UINT8 if width else DType.from_label(label)
    kernel = KernelText(threads)
    kernel.operand("positions", DType.INT64, alone=True)
    if form != "few":
        kernel.operand("winners" if form == "last" else "order", DType.from_label(table), alone=True)
    kernel.operand("updates", dtype, alone=True)
    kernel.operand("output", dtype, written=True, alone=True)
    for name, of in (
        ("points", index),
        ("count", index),
        ("rows", "long long"),
        ("position_step", "long long"),
    ):
        kernel.parameter(name, of)
    kernel.parameter("update_row", index)
    kernel.parameter("output_row", index)
    declare_axes(kernel, "axis", rank, 3, index)
    kernel.line(
        f"const {index} point = ({index})blockIdx.x * {threads} + ({index})threadIdx.x;",
        "if (point >= points) return;",
        *offsets("axis", rank, range(3), index, "point", "at"),
        f"const {index} number = at{_NUMBER};",
        "const long long position = positions[number * position_step];",
        "if (position < 0 || position >= rows) return;",
        f"const {index} place = at{_OUTPUT} + ({index})position * output_row;",
    )
    if kind == "none":
        word = WORD_TYPES[width]
        if form == "last":
            kernel.line("if (winners[position] != number) return;")
        else:
            kernel.line(
                f"for ({index} other = number + 1; other < count; ++other)",
                "    if (positions[other * position_step] == position) return;",
            )
        source = f"((const {word}*)updates)[at{_UPDATES} + number * update_row]"
        kernel.line(f"(({word}*)output)[place] = {source};")
        return kernel.source("scatter")
    update = f"updates[at{_UPDATES} + chosen * update_row]"
    combined = cuda_expression(kind, dtype, dtype, "value", loaded(dtype, update))
    # Rounded each time, as if stored and read again.
    step = f"value = {loaded(dtype, stored(dtype, combined))};"
    same = "positions[other * position_step] == position"
    start = f"{compute_type(dtype)} value = {loaded(dtype, 'output[place]')};"
    if form == "few":
        kernel.line(
            f"for ({index} other = 0; other < number; ++other)",
            f"    if ({same}) return;",
            start,
            f"for ({index} other = number; other < count; ++other) {{",
            f"    if (!({same})) continue;",
            f"    const {index} chosen = other;",
            f"    {step}",
            "}",
        )
    else:
        kernel.line(
            "if (number > 0 && positions[(number - 1) * position_step] == position) return;",
            start,
            f"for ({index} other = number; other < count && {same}; ++other) {{",
            f"    const {index} chosen = ({index})order[other];",
            f"    {step}",
            "}",
        )
    kernel.line(f"output[place] = {stored(dtype, 'value')};")
    return kernel.source("scatter")
