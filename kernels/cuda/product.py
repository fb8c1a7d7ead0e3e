"""Our own matrix product: all element types, any strides and batch axes, any epilogue, in one step.

Where there are too few tiles to fill the device the depth is cut into pieces, whose sums a map adds up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, identity
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cuda.epilogue import in_place_extras, sum_of_parts
from onnxplan.kernels.cuda.indexing import axis_words, declare_axes, index_type, offsets
from onnxplan.kernels.cuda.map import select_map
from onnxplan.kernels.cuda.product_code import (
    THREADS,
    Results,
    Tile,
    declare_places,
    declare_tiles,
    find_tile,
    fitting_tile,
    matrix_feed,
    multiply,
    store_tile,
    sum_type,
)
from onnxplan.kernels.cuda.source import KernelSource, KernelText, check_words
from onnxplan.kernels.geometry import Axis, axes_of, ceil_div, pad_axes, reach
from onnxplan.kernels.matrices import Matrices, distinct_bytes, fold_batch, transposed

FAMILY = "product"

# A piece of the depth is at least this deep, and there are at most so many.
LEAST_PIECE = 256
PIECES = (16, 8, 4, 2)


def emit_product(
    emit: StepEmitter, target: Target, matrices: Matrices, accumulator: DType, epilogue: Expression
) -> None:
    """Emits the steps of a product; ``epilogue`` is an expression of the sum and the extras.

    The output is not empty; a product of depth 0 is the epilogue of zeros.
    """
    if _better_transposed(matrices):
        matrices = transposed(matrices)
    rows, columns, depth = matrices.rows, matrices.columns, matrices.depth
    batch = math.prod(matrices.output.shape[:-2])
    tile = fitting_tile(rows, columns, batch, accumulator, target)
    pieces = piece_count(target, batch * ceil_div(rows, tile.rows) * ceil_div(columns, tile.columns), depth)
    if pieces > 1:
        parts = Parts.make(emit, matrices.output, matrices.extras, accumulator, pieces)
        whole = Matrices(matrices.a, matrices.b, parts.first, ())
        _emit_step(emit, tile, whole, accumulator, identity(sum_type(accumulator)), parts)
        parts.emit_sum(emit, target, epilogue)
    else:
        _emit_step(emit, tile, matrices, accumulator, epilogue, None)


def _better_transposed(matrices: Matrices) -> bool:
    """Is ``out^T = b^T a^T`` the better reading, with columns that are neighbours?"""
    row_stride, column_stride = matrices.output.strides[-2:]
    return column_stride != 1 and row_stride == 1 and matrices.columns > 1


def piece_count(target: Target, tiles: int, depth: int) -> int:
    """Into how many pieces the depth is cut so that ``tiles`` become enough for the device."""
    for pieces in PIECES:
        if depth >= pieces * LEAST_PIECE and tiles * pieces <= 2 * target.threads:
            return pieces
    return 1


@dataclass(frozen=True, slots=True)
class Parts:
    """Sums of pieces of the depth, ``views`` of a temporary, and what is made of them."""

    views: tuple[View, ...]
    output: View
    extras: tuple[View, ...]

    @staticmethod
    def make(
        emit: StepEmitter, output: View, extras: Sequence[View], accumulator: DType, count: int
    ) -> Parts:
        storage = emit.temporary(sum_type(accumulator), count * output.size, "partial sums")
        whole = View.dense(storage, (count, *output.shape))
        views = tuple(whole.slice(0, number, 1).squeeze((0,)) for number in range(count))
        return Parts(views, output, tuple(extras))

    @property
    def first(self) -> View:
        return self.views[0]

    @property
    def whole(self) -> View:
        """All parts in one view, as the step's operand."""
        return View.dense(self.first.storage, (len(self.views), *self.first.shape))

    def emit_sum(self, emit: StepEmitter, target: Target, epilogue: Expression) -> None:
        """Adds the parts up, always in the same order, and stores their epilogue."""
        expression = sum_of_parts(epilogue, self.first.dtype, len(self.views))
        primitive = MapReduce(expression, self.output.shape)
        select_map(Operation(primitive, (*self.views, *self.extras), (self.output,)), emit, target)


def tile_words(
    rows: int, columns: int, depth: int, tile: Tile, pieces: int, batch: int
) -> tuple[int, list[int]]:
    """The number of blocks, and the parameters that every product begins with."""
    chunk = max(1, ceil_div(ceil_div(depth, pieces), tile.depth)) * tile.depth
    row_tiles, column_tiles = ceil_div(rows, tile.rows), ceil_div(columns, tile.columns)
    words = [rows, columns, depth, chunk, row_tiles, column_tiles, pieces]
    return batch * pieces * row_tiles * column_tiles, words


def _emit_step(
    emit: StepEmitter,
    tile: Tile,
    matrices: Matrices,
    accumulator: DType,
    epilogue: Expression,
    parts: Parts | None,
) -> None:
    folded = fold_batch(matrices)
    a, b, output = folded.a, folded.b, folded.output
    results = (*folded.extras, output)
    rows, columns, depth = folded.rows, folded.columns, folded.depth
    pieces = len(parts.views) if parts else 1
    blocks, words = tile_words(rows, columns, depth, tile, pieces, math.prod(output.shape[:-2]))
    operands = (a, b, *results)
    batch = pad_axes(axes_of(output.shape[:-2], [view.strides[:-2] for view in operands]), len(operands))
    split_stride = output.size if parts else 0
    distances = [reach(view) for view in operands]
    largest = max(rows, columns, depth, *distances, distances[-1] + (pieces - 1) * split_stride)
    index = index_type(largest, [])
    row_axis = Axis(rows, tuple(view.strides[-2] for view in results))
    parameters = [
        *words,
        a.strides[-2],
        a.strides[-1],
        int(abs(a.strides[-1]) <= abs(a.strides[-2])),
        b.strides[-1],
        b.strides[-2],
        int(abs(b.strides[-2]) < abs(b.strides[-1])),
        *axis_words([row_axis]),
        *(view.strides[-1] for view in results),
        split_stride,
        *axis_words(batch),
    ]
    what = Results(epilogue, accumulator, tuple(view.dtype for view in results))
    variant = (THREADS, tile.variant, (a.dtype.label, b.dtype.label), what.variant, len(batch), index)
    check_words(len(operands), len(parameters))
    written = (a, b, parts.whole) if parts else operands
    emit.step(
        KernelSpec(FAMILY, variant),
        written,
        (len(written) - 1,),
        tuple(parameters),
        tiles=blocks,
        flops=2 * output.size * depth + epilogue.cost * output.size,
        bytes_moved=sum(map(distinct_bytes, written)),
        in_place=in_place_extras(output, folded.extras, 2),
    )


def build_product(variant: Any, target: Target) -> KernelSource:
    """``variant`` is ``(threads, tile, (a type, b type), results, batch axes, index type)``.

    Operands: a, b, the extras, the output. Parameters: those of the tiles, of both matrices, the places of
    results, the batch axes.
    """
    threads, extents, labels, results_variant, rank, index = variant
    tile, results = Tile(*extents), Results.from_variant(*results_variant)
    dtypes = [DType.from_label(label) for label in labels]
    kernel = KernelText(threads)
    for name, dtype in zip(("left", "right"), dtypes, strict=True):
        kernel.operand(name, dtype, alone=True)
    results.declare_operands(kernel)
    declare_tiles(kernel, index)
    feeds = [
        matrix_feed(kernel, name, dtype, results.accumulator, tile, index, rows=name == "left")
        for name, dtype in zip(("left", "right"), dtypes, strict=True)
    ]
    declare_places(kernel, results, 1, index)
    count = 2 + len(results.dtypes)
    declare_axes(kernel, "batch", rank, count, index)
    find_tile(kernel, tile, index)
    kernel.line(
        *offsets("batch", rank, range(count), index, "batch", "start"),
        f"const {index} left_start = start0, right_start = start1;",
    )
    multiply(kernel, tile, results.accumulator, index, feeds)
    starts = [f"start{2 + number}" for number in range(len(results.dtypes))]
    store_tile(kernel, tile, results, 1, index, starts)
    return kernel.source(FAMILY)
