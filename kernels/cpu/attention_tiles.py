"""The two products of attention for a group of queries: scores of a block of keys, and what they weigh.

A group has as many queries as a register tile has rows, always all of them, and B's rows are filled up to
whole panels: so each product is one loop of one micro-kernel, and little code.
"""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.attention import WORDS
from onnxplan.kernels.cpu.attention_rows import Softmax, factor_of_sums
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.llvm_types import I1, I64, POINTER, compute_type
from onnxplan.kernels.cpu.registers import Grid, carry_loop, local_function, zeros
from onnxplan.kernels.cpu.tiling import RegisterTile

LINE_BYTES = 64


def word(inner: Emitter, name: str) -> ir.Value:
    """A parameter word inside a function whose second argument are the parameters, as a kernel's is."""
    return inner.parameter(WORDS.index(name))


def scorer(emitter: Emitter, tile: RegisterTile, k_dtype: DType, sums: DType) -> ir.Function:
    """A function that stores the products of a group of queries and a block of keys.

    Arguments: the first query, the parameters, panels of keys, where the scores go, and the number of keys.
    Rows of scores have room for whole vectors.
    """
    types = [POINTER, POINTER, POINTER, POINTER, I64]
    inner = local_function(emitter, "score", types, tile.lanes)
    queries, _, panels, scores, keys = inner.function.args
    pitch = word(inner, "query_pitch")
    a_rows = _lines(inner, queries, pitch, tile.rows)
    targets = _lines(inner, scores, word(inner, "score_pitch"), tile.rows)
    depth, panel_step = word(inner, "depth"), word(inner, "k_panel")
    step = tile.width * k_dtype.itemsize

    def product(first: ir.Value, key: ir.Value, vectors: int) -> None:
        start = zeros(inner, sums, tile.rows, vectors)
        grid = _product(inner, a_rows, _Panel(first, step, depth, k_dtype), start, sums)
        for target, row in zip(targets, grid, strict=True):
            at = inner.element(target, key, sums)
            for number, value in enumerate(row):
                inner.store(value, inner.element(at, number * tile.lanes, sums), sums)

    # The next group's queries arrive meanwhile.
    with inner.loop(tile.rows, 2 * tile.rows) as row:
        line = inner.offset(queries, inner.mul(row, pitch))
        with inner.loop(0, inner.mul(depth, sums.itemsize), LINE_BYTES) as start:
            inner.prefetch(inner.offset(line, start))
    whole = inner.divide(keys, tile.width)
    with inner.loop(0, whole) as panel:
        first = inner.offset(panels, inner.mul(panel, panel_step))
        product(first, inner.mul(panel, tile.width), tile.vectors)
    # Vectors of the last panel one by one: most of it may be empty.
    start = inner.mul(whole, tile.width)
    rest = inner.offset(panels, inner.mul(whole, panel_step))
    with inner.loop(start, keys, tile.lanes) as key:
        product(inner.element(rest, inner.sub(key, start), k_dtype), key, 1)
    inner.builder.ret_void()
    return inner.function


def valuer(
    emitter: Emitter, softmax: Softmax, v_dtype: DType, out_dtype: DType, *, whole: bool
) -> ir.Function:
    """A function that adds the weighted values of a block of keys to the results of a group of queries.

    Arguments: the weights, the parameters, the block's panels of values, the results so far, the sums of
    the weights, the output's first row, the number of keys, and whether they are the last. Then the results
    go to the output, divided by their sums, and the sums become factors. ``whole`` says that values fill
    whole panels.
    """
    types = [POINTER, POINTER, POINTER, POINTER, POINTER, POINTER, I64, I1]
    tile, dtype = softmax.tile, softmax.dtype
    inner = local_function(emitter, "weigh_values", types, tile.lanes)
    weights, _, values, results, sums, out, keys, last = inner.function.args
    builder, lanes = inner.builder, tile.lanes
    a_rows = _lines(inner, weights, word(inner, "score_pitch"), tile.rows)
    factors = [inner.element(sums, row * lanes, dtype) for row in range(tile.rows)]
    targets = _lines(inner, out, word(inner, "out_row"), tile.rows)
    step, panel_step, width = tile.width * v_dtype.itemsize, word(inner, "v_panel"), word(inner, "width")
    with inner.when(last), inner.loop(0, tile.rows) as row:
        at = inner.element(sums, inner.mul(row, lanes), dtype)
        inner.store(factor_of_sums(inner, softmax, inner.load(at, dtype)), at, dtype)
    with inner.loop(0, word(inner, "panels")) as panel:
        place = inner.offset(results, inner.mul(panel, tile.rows * softmax.row_bytes))
        slots = [
            [inner.element(place, row * tile.width + vector * lanes, dtype) for vector in range(tile.vectors)]
            for row in range(tile.rows)
        ]
        before = [[inner.load(slot, dtype) for slot in row] for row in slots]
        first = inner.offset(values, inner.mul(panel, panel_step))
        grid = _product(inner, a_rows, _Panel(first, step, keys, v_dtype), before, dtype)
        with inner.branch(last) as (finish, store):
            with finish:
                column = inner.mul(panel, tile.width)
                limits = [
                    None if whole else inner.mask(inner.sub(inner.sub(width, column), vector * lanes))
                    for vector in range(tile.vectors)
                ]
                for target, factor, row in zip(targets, factors, grid, strict=True):
                    share = inner.load(factor, dtype)
                    at = inner.element(target, column, out_dtype)
                    for vector, (value, limit) in enumerate(zip(row, limits, strict=True)):
                        result = convert.cast(inner, dtype, out_dtype, builder.fmul(value, share))
                        inner.store(result, inner.element(at, vector * lanes, out_dtype), out_dtype, limit)
            with store:
                for slot_row, row in zip(slots, grid, strict=True):
                    for slot, value in zip(slot_row, row, strict=True):
                        inner.store(value, slot, dtype)
    builder.ret_void()
    return inner.function


def _lines(inner: Emitter, first: ir.Value, pitch: ir.Value, rows: int) -> list[ir.Value]:
    return [inner.offset(first, inner.mul(pitch, row)) for row in range(rows)]


@dataclass(frozen=True, slots=True)
class _Panel:
    """B of a product: its first row, the bytes from one row to the next, the number of rows, their type."""

    pointer: ir.Value
    step: int
    rows: ir.Value
    dtype: DType


def _product(inner: Emitter, a_rows: list[ir.Value], b: _Panel, start: Grid, dtype: DType) -> Grid:
    """``start`` and the products of rows of A, whose elements are neighbours and of type ``dtype``, and B."""
    element = compute_type(dtype)

    def step(index: ir.Value, values: list[ir.Value], sums: Grid) -> tuple[list[ir.Value], Grid]:
        (line,) = values
        columns = []
        for vector in range(len(sums[0])):
            loaded = inner.load(inner.element(line, vector * inner.lanes, b.dtype), b.dtype)
            columns.append(convert.cast(inner, b.dtype, dtype, loaded))
        grid = []
        for a_row, row in zip(a_rows, sums, strict=True):
            at = inner.element(a_row, index, dtype)
            a = inner.splat(inner.builder.load(at, align=dtype.itemsize, typ=element))
            grid.append([inner.fma(a, column, total) for column, total in zip(columns, row, strict=True)])
        return [inner.offset(line, b.step)], grid

    return carry_loop(inner, b.rows, [b.pointer], start, step)[1]
