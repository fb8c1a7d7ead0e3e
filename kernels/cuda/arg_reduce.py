"""Positions of the largest or smallest elements: selection and code."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import ArgReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cuda.block_form import (
    BlockForm,
    choose_form,
    declare_shared,
    declare_threads,
    exchange,
    is_split_worthwhile,
    part_length,
)
from onnxplan.kernels.cuda.indexing import axis_words, declare_axes, index_type, offsets
from onnxplan.kernels.cuda.source import KernelSource, KernelText, check_words
from onnxplan.kernels.geometry import Axis, axes_of, ceil_div, collapse, pad_axes
from onnxplan.kernels.scalar_cuda import compute_type, loaded


def select_arg_reduce(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of an ArgReduce of any type but strings and complex numbers."""
    primitive = operation.primitive
    assert isinstance(primitive, ArgReduce)
    x, y = operation.inputs[0], operation.outputs[0]
    dtype, extent = x.dtype, x.shape[primitive.axis]
    if dtype.kind not in "fiub":
        raise NotImplementedError(f"no CUDA kernel for arg_reduce of {dtype}")
    if y.size == 0:
        return
    results, weight = y.size, dtype.itemsize
    others = [axis for axis in range(x.rank) if axis != primitive.axis]
    line = abs(x.strides[primitive.axis])
    row = not any(x.shape[axis] > 1 and 0 < abs(x.strides[axis]) < line for axis in others)
    form = choose_form(row, results, extent, target)
    if not is_split_worthwhile(form, results, extent, weight, target):
        _emit(primitive, x, None, y, form, emit, extent, 0)
        return
    length = part_length(form, results, extent, weight, target)
    parts = ceil_div(extent, length)
    small = y.shape
    winners = View.dense(emit.temporary(DType.INT64, parts * results, "winners"), (parts, *small))
    first = View(winners.storage, 0, small, winners.strides[1:])
    _emit(primitive, x, None, first, form, emit, length, results)
    # Position along the reduced axis is where the candidates of a line are.
    strides = list(first.strides)
    strides[primitive.axis] = results
    shape = (*small[: primitive.axis], parts, *small[primitive.axis + 1 :])
    candidates = View(winners.storage, 0, shape, tuple(strides))
    _emit(primitive, x, candidates, y, choose_form(False, results, parts, target), emit, parts, 0)


def _emit(
    primitive: ArgReduce,
    x: View,
    candidates: View | None,
    y: View,
    form: BlockForm,
    emit: StepEmitter,
    length: int,
    part_stride: int,
) -> None:
    """Emits one step; with ``candidates`` only the positions that they hold are looked at."""
    axis, read = primitive.axis, x if candidates is None else candidates
    points, results = read.shape[axis], y.size
    views = (x, y) if candidates is None else (x, y, candidates)
    kept = [other for other in range(x.rank) if other != axis]
    axes = axes_of(
        [x.shape[other] for other in kept], [[view.strides[other] for other in kept] for view in views]
    )
    outer = pad_axes(collapse(axes, range(len(views))), len(views))
    along = [x.strides[axis], 0, read.strides[axis]]
    reach = Axis(x.shape[axis], tuple(along[: len(views)]))
    parts = ceil_div(points, length) if part_stride else 1
    index = index_type(max(points, results, x.shape[axis], parts * part_stride), [*outer, reach])
    variant = (
        form.threads, form.name, form.columns, bool(part_stride), primitive.kind, x.dtype.label,
        primitive.last, candidates is not None, len(outer), index,
    )  # fmt: skip
    parameters = [results, points, x.strides[axis], read.strides[axis], *axis_words(outer)]
    if part_stride:
        parameters += [form.blocks(results), length, part_stride]
    check_words(len(views), len(parameters))
    emit.step(
        KernelSpec("arg_reduce", variant),
        views,
        (1,),
        tuple(parameters),
        tiles=form.blocks(results) * parts,
        flops=points * results,
        bytes_moved=points * results * x.dtype.itemsize + parts * results * 8,
    )


def build_arg_reduce(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, form, columns, split, kind, label, last, candidates, rank, index type)``.

    Form and columns are those of :class:`~onnxplan.kernels.cuda.block_form.BlockForm`. Operands: x, y, and
    with ``candidates`` the positions to look at. Parameters: kept points, points of a line, the distances
    along a line of x and of candidates, the kept axes; with ``split`` those of ``declare_threads``.
    """
    threads, name, columns, split, kind, label, last_wins, candidates, rank, index = variant
    form, dtype = BlockForm(name, threads, columns), DType.from_label(label)
    value = compute_type(dtype)
    kernel = KernelText(threads)
    kernel.function(_is_better(value, ">" if kind == "max" else "<", ">" if last_wins else "<"))
    kernel.operand("x", dtype)
    kernel.operand("y", DType.INT64, written=True)
    if candidates:
        kernel.operand("candidates", DType.INT64)
    for parameter in ("columns", "points", "x_step", "candidate_step"):
        kernel.parameter(parameter, index)
    operands = range(3 if candidates else 2)
    declare_axes(kernel, "kept", rank, len(operands), index)
    declare_threads(kernel, form, index, split=split)
    kernel.line(*offsets("kept", rank, operands, index, "(active ? column : 0)", "base"))
    declare_shared(kernel, form, 2)
    position = f"({index})candidates[base2 + point * candidate_step]" if candidates else "point"
    kernel.line(
        f"{value} best = ({value})0;",
        f"{index} found = -1;",
        "#pragma unroll 4",
        f"for ({index} point = start + lane; point < last; point += {form.lanes}) {{",
        f"const {index} position = {position};",
        f"const {value} element = {loaded(dtype, 'x[base0 + position * x_step]')};",
        *_merge(["element", "position"]),
        "}",
    )
    exchange(kernel, form, [(value, "best"), (index, "found")], _merge, again=False)
    kernel.line(
        "if (active && lane == 0)",
        f"    y[base1{' + part * part_stride' if split else ''}] = found < 0 ? 0 : (long long)found;",
    )
    return kernel.source("arg_reduce")


def _merge(names: Sequence[str]) -> list[str]:
    element, position = names
    return [
        f"if (onnxplan_is_better({element}, {position}, best, found)) {{",
        f"best = {element};",
        f"found = {position};",
        "}",
    ]


@functools.cache
def _is_better(value: str, compare: str, order: str) -> str:
    return f"""
ONNXPLAN_INLINE bool onnxplan_is_better({value} a, long long a_at, {value} b, long long b_at) {{
    if (a_at < 0 || b_at < 0) return a_at >= 0;
    const bool a_nan = a != a, b_nan = b != b;
    if (a_nan != b_nan) return a_nan;
    if (!a_nan && a != b) return a {compare} b;
    return a_at {order} b_at;
}}
"""
