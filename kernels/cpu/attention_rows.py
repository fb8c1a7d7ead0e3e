"""What attention does row by row: exponentials under a running maximum, and what becomes of their sum."""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.attention import WORDS
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.emitter_core import Core
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import Place, finished_sums
from onnxplan.kernels.cpu.llvm_types import I1, I64, POINTER, compute_type
from onnxplan.kernels.cpu.math_exponential import exp_below, exp_weight
from onnxplan.kernels.cpu.pair_code import round_to_bfloat16
from onnxplan.kernels.cpu.registers import local_function
from onnxplan.kernels.cpu.tiling import RegisterTile

UNROLL = 2
"""Vectors of exponentials side by side."""

HEADROOM = 8.0
"""So much may scores exceed what is subtracted from them before that, and all it went into, is made anew."""


@dataclass(frozen=True, slots=True)
class Softmax:
    """Scores, sums and results are of type ``dtype``, results in tiles of ``tile``; ``kind`` as in
    :attr:`onnxplan.compiler.primitives.Attention.softmax`.

    With ``rounds`` exponentials become bfloat16, in the first half of their row, and as many zeros follow
    as fill up ``UNROLL`` vectors; the sums are still those of float32.
    """

    dtype: DType
    tile: RegisterTile
    kind: str
    rounds: bool = False

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of a tile of results."""
        return self.tile.width * self.dtype.itemsize


def _larger(emitter: Core, a: ir.Value, b: ir.Value) -> ir.Value:
    """The larger one; where one is NaN, any: the row's results are NaN whatever its maximum."""
    return emitter.builder.select(emitter.builder.fcmp_ordered(">", a, b), a, b)


def _sum(emitter: Core, a: ir.Value, b: ir.Value) -> ir.Value:
    return emitter.builder.fadd(a, b)


def row_weigher(emitter: Emitter, softmax: Softmax, score: Epilogue) -> ir.Function:
    """A function that turns products of a group of queries and a block of keys into exponentials of scores.

    Arguments: the products, the parameters, the rows' maxima so far; sums of their exponentials, a vector a
    row; their results; the number of keys; 0 if there are no results yet; and where the score's extras begin.
    Rows have room for whole vectors, which become 0 beyond the keys.
    """
    dtype, tile, lanes = softmax.dtype, softmax.tile, softmax.tile.lanes
    extras = len(score.dtypes) - 1
    types = [POINTER, POINTER, POINTER, POINTER, POINTER, I64, I64, *[POINTER] * extras]
    inner = local_function(emitter, "weigh_rows", types, lanes)
    scores, _, tops, sums, results, keys, seen, *pointers = inner.function.args
    builder = inner.builder
    pitch = inner.parameter(WORDS.index("score_pitch"))
    places = [
        Place(
            pointer,
            inner.parameter(len(WORDS) + 2 * number),
            inner.parameter(len(WORDS) + 2 * number + 1),
        )
        for number, pointer in enumerate(pointers)
    ]
    bests = inner.stack(inner.vector(compute_type(dtype)), tile.rows)
    rise = inner.variable(inner.constant(float("-inf"), dtype))
    # Maxima of all rows first: a row's exponentials then follow those of the row before without a pause.
    with inner.loop(0, tile.rows) as row:
        line = inner.offset(scores, inner.mul(row, pitch))
        best = _finish_scores(inner, score, line, [place.row(inner, row) for place in places], keys)
        inner.store(best, inner.element(bests, inner.mul(row, lanes), dtype), dtype)
        top = inner.splat(inner.load_scalar(inner.element(tops, row, dtype), dtype))
        rise.value = _larger(inner, builder.fsub(best, top), rise.value)
    number = compute_type(dtype)
    with (
        inner.when(builder.fcmp_ordered(">", inner.horizontal(rise.value, _larger), number(HEADROOM))),
        inner.loop(0, tile.rows) as row,
    ):
        best = inner.load(inner.element(bests, inner.mul(row, lanes), dtype), dtype)
        _raise_top(inner, softmax, row, best, (tops, sums, results, seen))
    with inner.loop(0, tile.rows) as row:
        top = inner.load_scalar(inner.element(tops, row, dtype), dtype)
        at = inner.element(sums, inner.mul(row, lanes), dtype)
        total = _exponentials(inner, softmax, inner.offset(scores, inner.mul(row, pitch)), top, keys)
        inner.store(builder.fadd(inner.load(at, dtype), total), at, dtype)
    builder.ret_void()
    return inner.function


def _raise_top(
    inner: Emitter, softmax: Softmax, row: ir.Value, best: ir.Value, state: tuple[ir.Value, ...]
) -> None:
    """Subtracts the largest of ``best`` from a row's scores from now on if they pass the headroom.

    ``state`` is what :func:`row_weigher` takes: tops, sums, results and the number of keys seen. The row's
    sums and results so far are scaled down.
    """
    builder, dtype, tile, lanes = inner.builder, softmax.dtype, softmax.tile, softmax.tile.lanes
    tops, sums, results, seen = state
    place = inner.element(tops, row, dtype)
    before = inner.load_scalar(place, dtype)
    top = inner.horizontal(best, _larger)
    rise = builder.fsub(top, before)
    with inner.when(builder.fcmp_ordered(">", rise, compute_type(dtype)(HEADROOM))):
        builder.store(top, place, align=dtype.itemsize)
        started = builder.icmp_signed("!=", seen, I64(0))
        with inner.when(builder.or_(started, ir.Constant(I1, softmax.kind == "smooth"))):
            factor = exp_below(inner, inner.splat(builder.fneg(rise)))
            at = inner.element(sums, inner.mul(row, lanes), dtype)
            inner.store(builder.fmul(inner.load(at, dtype), factor), at, dtype)
            own = inner.offset(results, inner.mul(row, softmax.row_bytes))
            with inner.loop(0, inner.parameter(WORDS.index("panels"))) as panel:
                part = inner.offset(own, inner.mul(panel, tile.rows * softmax.row_bytes))
                for vector in range(tile.vectors):
                    at = inner.element(part, vector * lanes, dtype)
                    inner.store(builder.fmul(inner.load(at, dtype), factor), at, dtype)


def _finish_scores(
    inner: Emitter, score: Epilogue, line: ir.Value, extras: list[Place], keys: ir.Value
) -> ir.Value:
    """Makes scores of a row of products, minus infinity beyond the keys; returns a vector of the largest."""
    dtype = score.accumulator
    lowest = inner.constant(float("-inf"), dtype)
    best = inner.variable(lowest)

    def finish(key: ir.Value, limit: Mask | None) -> None:
        at = inner.element(line, key, dtype)
        value = finished_sums(inner, score, inner.load(at, dtype), extras, key, limit)
        if limit is not None:
            value = inner.builder.select(limit.bits, value, lowest)
        inner.store(value, at, dtype)
        best.value = _larger(inner, value, best.value)

    full = inner.builder.and_(keys, I64(-inner.lanes))
    rest = inner.sub(keys, full)
    with inner.loop(0, full, inner.lanes) as key:
        finish(key, None)
    with inner.when(inner.less(0, rest)):
        finish(full, inner.mask(rest))
    return best.value


def _exponentials(
    inner: Emitter, softmax: Softmax, line: ir.Value, top: ir.Value, keys: ir.Value
) -> ir.Value:
    """Turns a row of scores into ``exp(score - top)``; returns sums of them, a vector."""
    builder, lanes, dtype = inner.builder, inner.lanes, softmax.dtype
    number, wide = compute_type(dtype), inner.with_lanes(UNROLL * inner.lanes)
    # A row of minus infinity alone has exponentials of 0.
    infinite = builder.fcmp_ordered("==", top, number(float("-inf")))
    base = inner.splat(builder.select(infinite, number(0.0), top))
    totals = [inner.variable(inner.constant(0.0, dtype)) for _ in range(UNROLL)]

    def several(key: ir.Value, count: int) -> None:
        places = [inner.element(line, inner.add(key, vector * lanes), dtype) for vector in range(count)]
        loaded = [inner.load(at, dtype) for at in places]
        powers = [exp_weight(inner, builder.fsub(value, base), rounded=softmax.rounds) for value in loaded]
        for power, total in zip(powers, totals[:count], strict=True):
            total.value = builder.fadd(total.value, power)
        if softmax.rounds:
            filled = [*powers, inner.constant(0.0, dtype)][:UNROLL]
            rounded = round_to_bfloat16(wide, inner.join(*filled))
            wide.store_stored(rounded, inner.element(line, key, DType.BFLOAT16))
            return
        for at, power in zip(places, powers, strict=True):
            inner.store(power, at, dtype)

    vectors = inner.ceil_div(keys, lanes)
    end = inner.mul(vectors, lanes)
    even = inner.mul(inner.divide(vectors, UNROLL), UNROLL * lanes)
    with inner.loop(0, even, UNROLL * lanes) as key:
        several(key, UNROLL)
    with inner.loop(even, end, lanes) as key:
        several(key, 1)
    total = totals[0].value
    for other in totals[1:]:
        total = builder.fadd(total, other.value)
    return total


def factor_of_sums(inner: Emitter, softmax: Softmax, sums: ir.Value) -> ir.Value:
    """What a row's results are multiplied by, in all lanes, from its vector of sums; NaN if they are."""
    builder, number = inner.builder, compute_type(softmax.dtype)
    total = inner.horizontal(sums, _sum)
    if softmax.kind in ("masked", "guarded"):
        empty = builder.fcmp_ordered("==", total, number(0.0))
        total = builder.select(empty, number(1.0), total)
    return inner.splat(builder.fdiv(number(1.0), total))


def row_clearer(emitter: Emitter, softmax: Softmax, v_dtype: DType, out_dtype: DType) -> ir.Function:
    """A function that stores the results of rows of a group whose weights are NaN, which count as 0.

    Arguments: the rows' factors, the parameters, the values, the output's first row. A row's result is the
    sum of the values times 0, which is not 0 where one of them is not finite.
    """
    dtype, tile = softmax.dtype, softmax.tile
    inner = local_function(emitter, "clear_rows", [POINTER, POINTER, POINTER, POINTER], 1)
    factors, _, values, out = inner.function.args
    names = ("keys", "width", "v_row", "v_column", "out_row")
    keys, width, v_row, v_column, out_row = (inner.parameter(WORDS.index(name)) for name in names)
    nothing = inner.constant(0.0, dtype)
    with inner.loop(0, tile.rows) as row:
        factor = inner.load_scalar(inner.element(factors, inner.mul(row, tile.lanes), dtype), dtype)
        lost = inner.builder.fcmp_unordered("uno", factor, factor)
        with inner.when(lost), inner.loop(0, width) as column:
            total = inner.variable(nothing)
            first = inner.offset(values, inner.mul(column, v_column))
            with inner.loop(0, keys) as key:
                loaded = inner.load(inner.offset(first, inner.mul(key, v_row)), v_dtype)
                value = convert.cast(inner, v_dtype, dtype, loaded)
                total.value = inner.fma(value, nothing, total.value)
            at = inner.element(inner.offset(out, inner.mul(row, out_row)), column, out_dtype)
            inner.store(convert.cast(inner, dtype, out_dtype, total.value), at, out_dtype)
    inner.builder.ret_void()
    return inner.function
