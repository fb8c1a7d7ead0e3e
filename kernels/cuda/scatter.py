"""Selects kernels for Scatter: a copy of the data, then rows written or combined in order of their updates.

Results never depend on which thread is first. For few updates each looks through the others: one that is
not the first (of combinations) or the last (of assignments) of its row leaves the row to that one. Of many
assignments the last of each row is found by an atomic maximum of their numbers; many combinations are sorted
by row, which keeps the order of equal ones, and the first of each row works off those that follow.
"""

from __future__ import annotations

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, Instruction, identity
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import MapReduce, Scatter, Sort
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cuda.indexing import BLOCK_THREADS, axis_words, index_type, points_of
from onnxplan.kernels.cuda.map import select_map
from onnxplan.kernels.cuda.sort import select_sort
from onnxplan.kernels.cuda.words import word_axes
from onnxplan.kernels.geometry import Axis, ceil_div, pad_axes

FEW_UPDATES = 64
"""Up to so many, each update looks through all others: cheaper than further kernel calls."""


def select_scatter(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of a Scatter of any element type but strings; combinations need numbers or booleans."""
    primitive = operation.primitive
    assert isinstance(primitive, Scatter)
    data, positions, updates = operation.inputs
    output = operation.outputs[0]
    dtype, kind = data.dtype, primitive.kind
    if dtype is DType.STRING or (kind != "none" and dtype.kind not in "fiub"):
        raise NotImplementedError(f"no CUDA kernel for scatter ({kind}) of {dtype}")
    if output.size == 0:
        return
    copy = Operation(MapReduce(identity(dtype), data.shape), (data,), (output,), operation.nodes)
    select_map(copy, emit, target)
    if updates.size == 0:
        return
    if positions.size <= FEW_UPDATES:
        _write(emit, kind, "few", positions, (positions,), updates, output)
    elif kind == "none":
        winners = _winners(operation, emit, target)
        _write(emit, kind, "last", positions, (positions, winners), updates, output)
    else:
        sorted_positions, order = (
            View.dense(emit.temporary(DType.INT64, positions.size, name), positions.shape)
            for name in ("positions", "order")
        )
        ordered = Operation(Sort(0), (positions,), (sorted_positions, order), operation.nodes)
        select_sort(ordered, emit, target)
        _write(emit, kind, "sorted", sorted_positions, (sorted_positions, order), updates, output)


def _winners(operation: Operation, emit: StepEmitter, target: Target) -> View:
    """For each row of the output the number of its last update, -1 without any."""
    positions, rows = operation.inputs[1], operation.outputs[0].shape[0]
    dtype = DType.INT32 if positions.size < 1 << 31 else DType.INT64
    winners = View.dense(emit.temporary(dtype, rows, "winners"), (rows,))
    nothing = Expression((Instruction("constant", (), dtype, -1),), (0,))
    select_map(Operation(MapReduce(nothing, (rows,)), (), (winners,), operation.nodes), emit, target)
    emit.step(
        KernelSpec("scatter_winners", (BLOCK_THREADS, dtype.label)),
        (positions, winners),
        (1,),
        (positions.size, rows, positions.strides[0]),
        tiles=ceil_div(positions.size, BLOCK_THREADS),
        flops=0,
        bytes_moved=(8 + 2 * dtype.itemsize) * positions.size,
    )
    return winners


def _write(
    emit: StepEmitter,
    kind: str,
    form: str,
    positions: View,
    tables: tuple[View, ...],
    updates: View,
    output: View,
) -> None:
    """Emits the step that changes rows of the output, a word of an update a thread."""
    count, columns = updates.shape
    rows = output.shape[0]
    strides = [(0, updates.strides[1]), (0, output.strides[1]), (1, 0)]
    distances = (updates.strides[0], output.strides[0], updates.offset, output.offset)
    if kind == "none":
        axes, width, apart = word_axes((count, columns), strides, (1, 0), updates.dtype, distances)
    else:
        both = zip((count, columns), *strides, strict=True)
        axes, width, apart = [Axis(extent, tuple(row)) for extent, *row in both], 0, list(distances)
    update_row, output_row = apart[:2]
    axes = pad_axes(axes, 3)
    points = points_of(axes)
    reach = Axis(max(count, rows), (update_row, output_row, 1))
    index = index_type(points, [*axes, reach])
    emit.step(
        KernelSpec(
            "scatter",
            (BLOCK_THREADS, kind, form, tables[-1].dtype.label, *_element(width, output), len(axes), index),
        ),
        (*tables, updates, output),
        (len(tables) + 1,),
        (points, count, rows, positions.strides[0], update_row, output_row, *axis_words(axes)),
        tiles=ceil_div(points, BLOCK_THREADS),
        flops=updates.size if kind != "none" else 0,
        bytes_moved=2 * updates.size * updates.dtype.itemsize + 8 * count,
    )


def _element(width: int, output: View) -> tuple[str, int]:
    """What a variant tells of elements: their type where they are combined, else the bytes of a word."""
    return ("", width) if width else (output.dtype.label, 0)
