"""The two products of attention by AMX's tiles, from pairs of bfloat16 (:mod:`onnxplan.kernels.cpu.pairs`).

A group has as many queries as two tiles have rows. Queries and weights stand as bfloat16 row by row, filled
up with zeros to whole tiles, which are loaded from there; keys and values are packed as pairs in panels as
wide as a tile. Sums are float32.
"""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.attention import PAIRED
from onnxplan.kernels.cpu.attention_rows import Softmax, factor_of_sums
from onnxplan.kernels.cpu.attention_tiles import LINE_BYTES, word
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.llvm_types import I1, I32, I64, POINTER, storage_type
from onnxplan.kernels.cpu.matrix_tiles import SIDE, TILE_ROW_BYTES
from onnxplan.kernels.cpu.matrix_tiles_code import (
    LONE_A,
    LONE_B,
    LONE_SUM,
    TILE_BYTES,
    move_tile,
    multiply_tiles,
    needs_features,
)
from onnxplan.kernels.cpu.pack_code import Panel, panel_packer
from onnxplan.kernels.cpu.pair_code import round_to_bfloat16
from onnxplan.kernels.cpu.pairs import PAIR, PAIR_UNIT
from onnxplan.kernels.cpu.registers import local_function


def pair_scorer(emitter: Emitter) -> ir.Function:
    """As :func:`~onnxplan.kernels.cpu.attention_tiles.scorer`, of queries and keys of bfloat16.

    Raises ``ValueError`` where this machine lacks AMX, which the plan's target has.
    """
    needs_features(emitter, ("+amx-tile", "+amx-bf16"))
    inner = local_function(emitter, "score_pairs", [POINTER, POINTER, POINTER, POINTER, I64], PAIRED.lanes)
    queries, _, panels, scores, keys = inner.function.args
    pitch, score_pitch = word(inner, "query_pitch"), word(inner, "score_pitch")
    steps, panel_step = inner.ceil_div(word(inner, "depth"), PAIR_UNIT), word(inner, "k_panel")
    # The next group's queries arrive meanwhile.
    with inner.loop(PAIRED.rows, 2 * PAIRED.rows) as row:
        line = inner.offset(queries, inner.mul(row, pitch))
        with inner.loop(0, inner.mul(steps, TILE_ROW_BYTES), LINE_BYTES) as start:
            inner.prefetch(inner.offset(line, start))
    with inner.loop(0, inner.ceil_div(keys, SIDE)) as panel, inner.loop(0, PAIRED.rows, SIDE) as row:
        multiply_tiles(inner, "tilezero", LONE_SUM)
        left = inner.offset(queries, inner.mul(row, pitch))
        _add_products(inner, left, pitch, inner.offset(panels, inner.mul(panel, panel_step)), steps)
        line = inner.offset(scores, inner.mul(row, score_pitch))
        place = inner.offset(line, inner.mul(panel, TILE_ROW_BYTES))
        move_tile(inner, "tilestored64", LONE_SUM, place, score_pitch)
    inner.builder.ret_void()
    return inner.function


def _add_products(inner: Emitter, a: ir.Value, a_pitch: ir.Value, b: ir.Value, steps: ir.Value) -> None:
    """Adds a row of ``steps`` tiles by a panel of as many to the open sums."""
    with inner.loop(0, steps) as step:
        move_tile(inner, "tileloadd64", LONE_A, inner.offset(a, inner.mul(step, TILE_ROW_BYTES)), a_pitch)
        move_tile(inner, "tileloadd64", LONE_B, inner.offset(b, inner.mul(step, TILE_BYTES)), TILE_ROW_BYTES)
        multiply_tiles(inner, "tdpbf16ps", LONE_SUM, LONE_A, LONE_B)


def pair_valuer(emitter: Emitter, softmax: Softmax, out_dtype: DType, *, whole: bool) -> ir.Function:
    """As :func:`~onnxplan.kernels.cpu.attention_tiles.valuer`, of weights and values of bfloat16."""
    types = [POINTER, POINTER, POINTER, POINTER, POINTER, POINTER, I64, I1]
    inner = local_function(emitter, "weigh_pairs", types, PAIRED.lanes)
    weights, _, values, results, sums, out, keys, last = inner.function.args
    pitch, panel_step = word(inner, "score_pitch"), word(inner, "v_panel")
    steps, panels = inner.ceil_div(keys, PAIR_UNIT), word(inner, "panels")
    with inner.loop(0, panels) as panel, inner.loop(0, PAIRED.rows, SIDE) as row:
        number = inner.add(inner.mul(panel, PAIRED.rows), row)
        place = inner.offset(results, inner.mul(number, TILE_ROW_BYTES))
        move_tile(inner, "tileloadd64", LONE_SUM, place, TILE_ROW_BYTES)
        right = inner.offset(values, inner.mul(panel, panel_step))
        _add_products(inner, inner.offset(weights, inner.mul(row, pitch)), pitch, right, steps)
        move_tile(inner, "tilestored64", LONE_SUM, place, TILE_ROW_BYTES)
    with inner.when(last), inner.loop(0, PAIRED.rows) as row:
        _finish_row(inner, softmax, out_dtype, (results, sums, out), row, whole=whole)
    inner.builder.ret_void()
    return inner.function


def _finish_row(
    inner: Emitter,
    softmax: Softmax,
    out_dtype: DType,
    places: tuple[ir.Value, ir.Value, ir.Value],
    row: ir.Value,
    *,
    whole: bool,
) -> None:
    """Writes a row of results, divided by its sum, which becomes a factor; ``places`` are of all rows."""
    results, sums, out = places
    dtype, lanes, width = softmax.dtype, PAIRED.lanes, word(inner, "width")
    at = inner.element(sums, inner.mul(row, lanes), dtype)
    factor = factor_of_sums(inner, softmax, inner.load(at, dtype))
    inner.store(factor, at, dtype)
    own = inner.offset(results, inner.mul(row, softmax.row_bytes))
    target = inner.offset(out, inner.mul(row, word(inner, "out_row")))
    with inner.loop(0, word(inner, "panels")) as panel:
        column = inner.mul(panel, lanes)
        limit = None if whole else inner.mask(inner.sub(width, column))
        total = inner.load(inner.offset(own, inner.mul(panel, PAIRED.rows * softmax.row_bytes)), dtype)
        result = convert.cast(inner, dtype, out_dtype, inner.builder.fmul(total, factor))
        inner.store(result, inner.element(target, column, out_dtype), out_dtype, limit)


def copy_rounded(
    emitter: Emitter,
    source: ir.Value,
    step: ir.Value | None,
    dtype: DType,
    length: ir.Value,
    target: ir.Value,
) -> None:
    """Copies ``length`` elements of type ``dtype`` as bfloat16, filled up with zeros to whole tiles.

    They are ``step`` bytes apart; ``None`` says that they are neighbours.
    """
    wide = emitter.with_lanes(PAIR_UNIT)
    whole = emitter.builder.and_(length, I64(-PAIR_UNIT))
    rest = emitter.sub(length, whole)

    def copy(first: ir.Value, limit: Mask | None) -> None:
        if step is None:
            numbers = wide.load_stored(wide.element(source, first, dtype), storage_type(dtype), limit)
        else:
            begin = wide.offset(source, wide.mul(first, step))
            numbers = wide.load_strided_stored(begin, step, storage_type(dtype), limit)
            if limit is not None:
                numbers = wide.builder.select(limit.bits, numbers, ir.Constant(numbers.type, None))
        at = wide.element(target, first, DType.BFLOAT16)
        wide.store_stored(_rounded(wide, numbers, dtype), at)

    with emitter.loop(0, whole, PAIR_UNIT) as first:
        copy(first, None)
    with emitter.when(emitter.less(0, rest)):
        copy(whole, wide.mask(rest))


def _rounded(wide: Emitter, numbers: ir.Value, dtype: DType) -> ir.Value:
    """Numbers as they stand in memory as bfloat16."""
    return round_to_bfloat16(wide, numbers) if dtype is DType.FLOAT32 else numbers


def pair_packer(emitter: Emitter, dtype: DType, kind: str) -> ir.Function:
    """A function that packs a panel of :data:`PAIRED`'s width as pairs of bfloat16.

    Arguments: a :class:`Panel`'s, with the parameters behind the first of them, and ``stage``.
    ``kind`` is one of :func:`onnxplan.kernels.cpu.pack.access_kind`. The depth is filled up with zeros to
    whole tiles. ``stage`` has room for the panel's columns as :func:`copy_rounded` writes them, with the
    pitch that the parameters have.
    """
    transpose = None
    if kind == "columns":
        transpose = panel_packer(emitter, PAIR * DType.BFLOAT16.itemsize, PAIRED.lanes, 1, kind)
    types = [POINTER, POINTER, POINTER, I64, I64, I64, I64, POINTER]
    inner = local_function(emitter, f"pack_pairs_{kind}", types, PAIRED.lanes)
    target, _, *values, stage = inner.function.args
    panel = Panel(target, *values)
    pairs = inner.mul(inner.ceil_div(panel.depth, PAIR_UNIT), SIDE)
    if transpose is None:
        _interleave(inner, panel, pairs, dtype, kind)
    else:
        pitch = word(inner, "stage_pitch")
        with inner.loop(0, panel.columns) as column:
            source = inner.offset(panel.source, inner.mul(column, panel.column_step))
            target = inner.offset(stage, inner.mul(column, pitch))
            copy_rounded(inner, source, None, dtype, panel.depth, target)
        of_pairs = Panel(panel.target, stage, pairs, panel.columns, I64(PAIR * 2), pitch)
        inner.builder.call(transpose, of_pairs.values)
    inner.builder.ret_void()
    return inner.function


def _interleave(inner: Emitter, panel: Panel, pairs: ir.Value, dtype: DType, kind: str) -> None:
    """Packs ``pairs`` pairs of rows, whose columns are neighbours or strided."""
    builder, wide = inner.builder, inner.with_lanes(PAIR * inner.lanes)
    limit = inner.mask(panel.columns)
    order = [at + half for at in range(inner.lanes) for half in (0, inner.lanes)]
    places = ir.Constant(ir.VectorType(I32, len(order)), [I32(place) for place in order])

    def row(depth: ir.Value) -> ir.Value:
        at = inner.offset(panel.source, inner.mul(depth, panel.depth_step))
        if kind == "rows":
            return inner.load_stored(at, storage_type(dtype), limit)
        loaded = inner.load_strided_stored(at, panel.column_step, storage_type(dtype), limit)
        return builder.select(limit.bits, loaded, ir.Constant(loaded.type, None))

    def store(pair: ir.Value, low: ir.Value, high: ir.Value) -> None:
        numbers = _rounded(wide, inner.join(low, high), dtype)
        slot = inner.offset(panel.target, inner.mul(pair, TILE_ROW_BYTES))
        wide.store_stored(builder.shuffle_vector(numbers, numbers, places), slot)

    full = inner.divide(panel.depth, PAIR)
    with inner.loop(0, full) as pair:
        depth = inner.mul(pair, PAIR)
        store(pair, row(depth), row(inner.add(depth, 1)))
    used = inner.ceil_div(panel.depth, PAIR)
    with inner.when(inner.less(full, used)):
        low = row(inner.mul(full, PAIR))
        store(full, low, ir.Constant(low.type, None))
    with inner.loop(used, pairs) as pair:
        slot = inner.offset(panel.target, inner.mul(pair, TILE_ROW_BYTES))
        inner.store_stored(inner.fill(0, I32), slot)
