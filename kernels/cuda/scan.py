"""Running sums and products: selection. The code is in ``scan_code``."""

from __future__ import annotations

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Scan
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cuda.block_form import BlockForm, is_split_worthwhile, part_length
from onnxplan.kernels.cuda.indexing import axis_words, index_type
from onnxplan.kernels.cuda.scan_code import build_scan
from onnxplan.kernels.cuda.source import check_words
from onnxplan.kernels.geometry import Axis, axes_of, ceil_div, collapse, in_place_pairs, pad_axes
from onnxplan.kernels.phases import accumulator

__all__ = ["build_scan", "select_scan"]


def select_scan(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of a Scan of any float or integer type."""
    primitive = operation.primitive
    assert isinstance(primitive, Scan)
    x, y = operation.inputs[0], operation.outputs[0]
    if x.dtype.kind not in "fiu":
        raise NotImplementedError(f"no CUDA kernel for scan of {x.dtype}")
    if y.size == 0:
        return
    axis, extent = primitive.axis, x.shape[primitive.axis]
    if primitive.reverse:
        x, y = (view.slice(axis, extent - 1, extent, -1) for view in (x, y))
    results, weight = y.size // extent, 2 * x.dtype.itemsize
    form = _form(x, axis, results, target)
    if not is_split_worthwhile(form, results, extent, weight, target):
        _emit(primitive, "whole", x, y, None, form, emit, extent)
        return
    length = part_length(form, results, extent, weight, target)
    parts = ceil_div(extent, length)
    size, kind = parts * results, accumulator(x.dtype)
    totals, carries = (
        View.dense(emit.temporary(kind, size, name), (parts, results)) for name in ("totals", "carries")
    )
    _emit(primitive, "totals", x, y, totals, form, emit, length)
    select_scan(Operation(Scan(primitive.kind, 0, exclusive=True), (totals,), (carries,)), emit, target)
    _emit(primitive, "parts", x, y, carries, form, emit, length)


def _form(x: View, axis: int, results: int, target: Target) -> BlockForm:
    extent, line = x.shape[axis], abs(x.strides[axis])
    neighbours = any(
        other != axis and x.shape[other] > 1 and 0 < abs(x.strides[other]) < line for other in range(x.rank)
    )
    if neighbours or extent <= 4:
        return BlockForm("column", 256, 256)
    if extent > 1024 or (extent > 256 and results < 8 * target.threads):
        return BlockForm("row", 256, 1)
    return BlockForm("row", 256, 8)


def _emit(
    primitive: Scan,
    mode: str,
    x: View,
    y: View,
    between: View | None,
    form: BlockForm,
    emit: StepEmitter,
    length: int,
) -> None:
    """Emits the step of a ``mode`` of :func:`build_scan`; ``between`` are the totals or the carries."""
    axis, extent = primitive.axis, x.shape[primitive.axis]
    results = y.size // extent
    kept = [other for other in range(x.rank) if other != axis]
    axes = axes_of(
        [x.shape[other] for other in kept], [[view.strides[other] for other in kept] for view in (x, y)]
    )
    outer = pad_axes(collapse(axes, (0, 1)), 2)
    steps = (x.strides[axis], y.strides[axis])
    split = mode != "whole"
    parts = ceil_div(extent, length) if split else 1
    index = index_type(max(extent, results, parts * results), [*outer, Axis(extent, steps)])
    variant = (
        form.threads, form.name, form.columns, mode, primitive.kind, x.dtype.label, primitive.exclusive,
        len(outer), index,
    )  # fmt: skip
    parameters = [results, extent, *steps, *axis_words(outer)]
    if split:
        parameters += [form.blocks(results), length, results]
    views = {"whole": (x, y), "totals": (x, between), "parts": (x, y, between)}[mode]
    operands = tuple(view for view in views if view is not None)
    check_words(len(operands), len(parameters))
    emit.step(
        KernelSpec("scan", variant),
        operands,
        (1,),
        tuple(parameters),
        tiles=form.blocks(results) * parts,
        flops=x.size,
        bytes_moved=(1 if mode == "totals" else 2) * x.size * x.dtype.itemsize,
        in_place=() if mode == "totals" else in_place_pairs([x], [y]),
    )
