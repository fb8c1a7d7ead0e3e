"""Selects kernels for MatMul."""

from __future__ import annotations

import math
from dataclasses import replace

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import MatMul
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.dot import emit_dot, prefers_dot
from onnxplan.kernels.cpu.epilogue import describe_epilogue, shared_with_output
from onnxplan.kernels.cpu.mapreduce import dense_copy, emit_copy
from onnxplan.kernels.cpu.pack import access_kind, pack, packed_depth, panel_count
from onnxplan.kernels.cpu.part_tiling import cut_parts, depth_of_parts
from onnxplan.kernels.cpu.product import lay_out_scratch, place_words, product_seconds
from onnxplan.kernels.cpu.product_form import ProductForm, product_form
from onnxplan.kernels.cpu.quads import rows_of_quads
from onnxplan.kernels.cpu.row_sums import emit_row_sums, prefers_row_sums
from onnxplan.kernels.cpu.tiling import (
    TILES_A_THREAD,
    Extents,
    Problem,
    RegisterTile,
    Tiling,
    ceil_div,
    cut,
    depth_block,
    round_up,
    sum_dtype,
)
from onnxplan.kernels.matrices import Matrices, batch_records, distinct_bytes, fold_batch, transposed

FAMILY = "matmul"

# Runtime operands with fewer rows to use each element of B for are read in place rather than packed.
ROWS_WORTH_PACKING = 512
# A is copied as a whole where as many columns use each of its elements.
COLUMNS_WORTH_REORDERING = 128
# A result of fewer rows or columns is not worth a copy to get its elements into order.
ROWS_WORTH_TRANSPOSING = 16
# Blocks of A up to this size are read in place whatever their strides.
IN_PLACE_BYTES = 16384


def select_matmul(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of a MatMul: packing of B where it pays at run time, and the product."""
    primitive = operation.primitive
    assert isinstance(primitive, MatMul)
    a, b, *extras = operation.inputs
    matrices = Matrices(a, b, operation.outputs[0], tuple(extras))
    emit_matmul(emit, target, matrices, primitive)


def emit_matmul(emit: StepEmitter, target: Target, matrices: Matrices, primitive: MatMul) -> None:
    """The steps for matrices that need not be an operation's own views."""
    if matrices.output.size == 0:
        return
    matrices = fold_batch(matrices)
    if _better_copied(matrices):
        output = matrices.output
        result = View.dense(emit.temporary(output.dtype, output.size, "rows"), output.shape)
        emit_matmul(emit, target, replace(matrices, output=result), primitive)
        emit_copy(result, output, emit, target)
        return
    if _better_transposed(matrices):
        matrices = transposed(matrices)
    if prefers_dot(matrices):
        emit_dot(emit, target, matrices, primitive)
        return
    if prefers_row_sums(matrices):
        emit_row_sums(emit, target, matrices, primitive)
        return
    sums = sum_dtype(primitive.accumulator)
    extents = Extents(matrices.rows, matrices.depth, matrices.columns)
    form = product_form(target, matrices.a.dtype, matrices.b, extents, primitive.accumulator)
    if form.quads:
        matrices = replace(matrices, a=rows_of_quads(emit, target, matrices.a))
    elif _worth_reordering(matrices, form, sums):
        matrices = replace(matrices, a=dense_copy(matrices.a, emit, target, "rows"))
    output, extras = matrices.output, matrices.extras
    rank = output.rank
    epilogue = describe_epilogue(primitive.epilogue, primitive.accumulator, output, extras, rank - 1)
    tile, tiles, speed = form.tile, form.tiles, form.speed(target)
    batch = math.prod(output.shape[:-2])
    problem = Problem(
        batch,
        matrices.rows,
        matrices.columns,
        packed_depth(matrices.depth, form.element, form.row_unit),
        sums.itemsize,
        form.element_bytes,
        output.dtype.itemsize,
    )
    tiling = _cut(target, form, matrices, problem)
    copied_row = tiling.depth * form.copied_bytes if tiles else 0
    if tiles:
        kind, pitch, a_scratch = "tiles", tile.rows * copied_row, tiling.rows * copied_row
    elif form.quads:
        kind, pitch, a_scratch = "quads", 0, 0
    else:
        kind, pitch, a_scratch = left_operand(tile, matrices, tiling, sums)
    layout = _b_layout(target, form, matrices, tiling)
    right = _right_operand(emit, form, matrices, tiling, layout)
    copies = kind in ("rows", "columns", "strided", "tiles")
    scratch = lay_out_scratch(
        tile,
        tiling,
        sums.itemsize,
        right.scratch,
        a_scratch,
        8 * tiling.rows,
        copies=copies,
        parts=form.parts,
    )
    a_size = matrices.a.dtype.itemsize
    bytes_moved = sum(map(distinct_bytes, (matrices.a, right.view, output, *extras)))
    axes, records = batch_records((matrices.a, right.axes, output, *extras))
    parameters = [
        matrices.rows,
        matrices.columns,
        ceil_div(matrices.depth, form.element),
        tiling.row_tiles,
        tiling.column_tiles,
        *tiling.steps,
        batch,
        tiling.batch,
        tiling.depth,
        tiling.depth_blocks,
        *right.words,
        scratch.b,
        scratch.a,
        scratch.table,
        axes,
        matrices.a.strides[-2] * a_size,
        matrices.a.strides[-1] * a_size * form.element,
        pitch,
        *place_words((output, *extras), rank - 2, rank - 1),
        *records,
    ]
    variant = (
        kind,
        matrices.a.dtype.label,
        layout,
        right.view.dtype.label,
        (tile.rows, tile.vectors, tile.lanes),
        epilogue.variant,
    )
    emit.step(
        KernelSpec(FAMILY, variant),
        (matrices.a, right.view, output, *extras),
        (2,),
        tuple(parameters),
        tiles=tiling.tiles,
        flops=(2 * matrices.depth + epilogue.expression.cost) * output.size,
        bytes_moved=bytes_moved,
        scratch=scratch.size,
        in_place=tuple([(2, 3 + number) for number in shared_with_output(output, extras)]),
        seconds=product_seconds(speed, problem, bytes_moved) if tiles or form.quads else None,
    )


def _cut(target: Target, form: ProductForm, matrices: Matrices, problem: Problem) -> Tiling:
    if form.parts:
        return cut_parts(form.speed(target), problem, depth_of_parts(target, problem.depth))
    depth = problem.depth
    if not form.tiles:
        size = problem.a_itemsize
        depth = depth_block(target, form.tile, depth, size, matrices.rows, matrices.columns)
    b = matrices.b
    packs = not b.is_constant and access_kind(b.strides[-2], b.strides[-1], matrices.columns) != "rows"
    return cut(
        form.speed(target),
        form.tile,
        problem,
        depth=depth,
        depth_blocks=max(1, ceil_div(problem.depth, depth)),
        columns_first=packs,
        copied_row=depth * form.copied_bytes if form.tiles else 0,
        rereads=form.tiles,
        tiles_a_thread=2 if form.tiles else TILES_A_THREAD,
    )


def _better_transposed(matrices: Matrices) -> bool:
    """Is ``out^T = b^T a^T`` the better reading: columns that are no neighbours, or a lone one?"""
    output = matrices.output
    row_stride, column_stride = output.strides[-2:]
    if matrices.columns == 1 and matrices.rows > 1:
        return row_stride == 1
    return column_stride != 1 and (row_stride == 1 or matrices.rows == 1) and matrices.columns > 1


def _worth_reordering(matrices: Matrices, form: ProductForm, sums: DType) -> bool:
    """Must A be copied, or had it better be, so that elements of a row are neighbours?"""
    a = matrices.a
    own = all(stride or extent == 1 for stride, extent in zip(a.strides, a.shape, strict=True))
    ordered = access_kind(a.strides[-2], a.strides[-1], matrices.depth) == "rows"
    if form.tiles:
        return not ordered
    return (
        own
        and not ordered
        and same_bits(a.dtype, sums)
        and matrices.rows * matrices.depth * sums.itemsize > IN_PLACE_BYTES
        and matrices.columns >= COLUMNS_WORTH_REORDERING
    )


def _better_copied(matrices: Matrices) -> bool:
    """Is it better to transpose the result afterwards than to compute ``out^T = b^T a^T``?

    That would use constants which are packed once as rows, and pack the other operand in every run.
    """
    small = min(matrices.rows, matrices.columns) < ROWS_WORTH_TRANSPOSING
    return matrices.b.is_constant and matrices.output.strides[-1] != 1 and not small


@dataclass(frozen=True, slots=True)
class _RightOperand:
    """``view`` is the operand, ``axes`` has the batch axes' strides in it, ``words`` are parameters."""

    view: View
    axes: View
    words: tuple[int, int, int, int]
    scratch: int


def _b_layout(target: Target, form: ProductForm, matrices: Matrices, tiling: Tiling) -> str:
    b, tile = matrices.b, form.tile
    if form.tiles or form.quads:
        return "packed"
    if b.is_constant or matrices.depth == 0:
        return "packed"
    kind = access_kind(b.strides[-2], b.strides[-1], matrices.columns)
    if kind == "rows" and matrices.rows <= ROWS_WORTH_PACKING:
        if matrices.columns % tile.width == 0:
            return "rows"
        if target.isa == "avx512" or (target.isa == "avx2" and b.dtype.itemsize in (4, 8)):
            return "rows_masked"
    # A tile that covers all rows packs its own part of B; there is nothing to share it with.
    panels = tiling.panels * matrices.depth * tile.width * b.dtype.itemsize
    shared = any(stride == 0 and n > 1 for stride, n in zip(b.strides[:-2], b.shape[:-2], strict=True))
    if tiling.row_tiles == 1 and not shared and panels <= target.cache_bytes[-1] // 4:
        return f"scratch_{kind}"
    return "packed"


def _right_operand(
    emit: StepEmitter, form: ProductForm, matrices: Matrices, tiling: Tiling, layout: str
) -> _RightOperand:
    b = matrices.b
    size = b.dtype.itemsize
    row = form.panel.width * form.element_bytes
    panel = packed_depth(matrices.depth, form.element, form.unit) * row
    depth_step, column_step = b.strides[-2] * size, b.strides[-1] * size
    if matrices.depth == 0:
        return _RightOperand(b, b, (panel, row, 0, 0), 0)
    if layout == "packed":
        packed, axes = packed_batch(emit, b, form)
        return _RightOperand(packed, axes, (panel, row, 0, 0), form.split_bytes)
    if layout.startswith("scratch"):
        return _RightOperand(b, b, (panel, row, depth_step, column_step), tiling.panels * panel)
    return _RightOperand(b, b, (row, depth_step, depth_step, column_step), 0)


def packed_batch(emit: StepEmitter, b: View, form: ProductForm) -> tuple[View, View]:
    """Packs ``b (*batch, depth, columns)``, shared matrices once.

    Returns the packed view and one of the batch axes' strides in it (the last two axes mean nothing).
    """
    distinct = b
    for axis in range(b.rank - 2):
        if b.strides[axis] == 0:
            distinct = distinct.slice(axis, 0, 1)
    tile, element = form.panel, form.element
    packed = pack(emit, distinct, tile, element=element, unit=form.unit, dtype=form.b_dtype)
    depth = packed_depth(b.shape[-2], element, form.unit)
    step = panel_count(b.shape[-1], tile) * depth * element * tile.width
    strides = [0] * b.rank
    for axis in reversed(range(b.rank - 2)):
        if distinct.shape[axis] > 1:
            strides[axis] = step
            step *= distinct.shape[axis]
    return packed, View(packed.storage, 0, b.shape, tuple(strides))


def left_operand(tile: RegisterTile, matrices: Matrices, tiling: Tiling, sums: DType) -> tuple[str, int, int]:
    """How A is read, the bytes of a copied row (or block of rows), and of all copies of a tile."""
    a, itemsize = matrices.a, sums.itemsize
    row_stride, depth_stride = a.strides[-2:]
    kind = access_kind(row_stride, depth_stride, matrices.depth)
    small = tiling.rows * tiling.depth * itemsize <= IN_PLACE_BYTES
    if same_bits(a.dtype, sums) and (kind == "rows" or small):
        return "in_place" if kind == "rows" else "in_place_strided", 0, 0
    if kind == "columns":
        pitch = tile.rows * tiling.depth * itemsize
        return kind, pitch, ceil_div(tiling.rows, tile.rows) * pitch + tile.lanes * itemsize * 2
    # Rows that are a power of two apart would fall into the same lines of the cache.
    pitch = round_up(tiling.depth * itemsize, 64) + 64
    return kind, pitch, tiling.rows * pitch


def same_bits(dtype: DType, sums: DType) -> bool:
    return dtype.is_float == sums.is_float and dtype.itemsize == sums.itemsize
