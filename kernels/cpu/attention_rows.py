"""What attention does row by row: exponentials under a running maximum, and the division by their sum."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.emitter_core import Core
from onnxplan.kernels.cpu.llvm_types import I64, POINTER, compute_type
from onnxplan.kernels.cpu.math_exponential import exp_below
from onnxplan.kernels.cpu.registers import local_function
from onnxplan.kernels.cpu.tiling import RegisterTile

UNROLL = 4


@dataclass(frozen=True, slots=True)
class Softmax:
    """Scores, sums and results are of type ``dtype``, results in tiles of ``tile``; ``kind`` as in
    :attr:`onnxplan.compiler.primitives.Attention.softmax`."""

    dtype: DType
    tile: RegisterTile
    kind: str

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of a tile of results."""
        return self.tile.width * self.dtype.itemsize


def _larger(emitter: Core, a: ir.Value, b: ir.Value) -> ir.Value:
    """The larger one; where one is NaN, any: the row's results are NaN whatever its maximum."""
    return emitter.builder.select(emitter.builder.fcmp_ordered(">", a, b), a, b)


class _Scores:
    """Scores in memory, rows ``pitch`` bytes apart with room for whole vectors of ``keys``."""

    def __init__(
        self, inner: Emitter, dtype: DType, scores: ir.Value, pitch: ir.Value, keys: ir.Value
    ) -> None:
        self._inner, self._dtype, self._scores, self._pitch = inner, dtype, scores, pitch
        # Several vectors side by side: one alone would wait for each of its operations.
        self._wide = inner.with_lanes(inner.lanes * UNROLL)
        self._unrolled = inner.builder.and_(keys, I64(-self._wide.lanes))
        self._full = inner.builder.and_(keys, I64(-inner.lanes))
        self._rest = inner.sub(keys, self._full)
        self._mask = inner.mask(self._rest)

    def fold(
        self,
        row: ir.Value,
        initial: float,
        visit: Callable[[Emitter, ir.Value, ir.Value], ir.Value],
        combine: Callable[[Core, ir.Value, ir.Value], ir.Value],
    ) -> ir.Value:
        """All ``visit(emitter, scores, address)`` of a row combined to one vector.

        Beyond the keys scores are minus infinity. What does not fill several vectors comes first: others can
        go on while it waits.
        """
        inner, wide, dtype = self._inner, self._wide, self._dtype
        line = inner.offset(self._scores, inner.mul(row, self._pitch))
        narrow = inner.variable(inner.constant(initial, dtype))
        with inner.when(inner.less(0, self._rest)):
            at = inner.element(line, self._full, dtype)
            # Filled up in registers: a masked store would be waited for by the next load.
            lowest = inner.constant(float("-inf"), dtype)
            value = inner.builder.select(self._mask.bits, inner.load(at, dtype), lowest)
            narrow.value = combine(inner, visit(inner, value, at), narrow.value)
        with inner.loop(self._unrolled, self._full, inner.lanes) as key:
            at = inner.element(line, key, dtype)
            narrow.value = combine(inner, visit(inner, inner.load(at, dtype), at), narrow.value)
        result = wide.variable(wide.constant(initial, dtype))
        with inner.loop(0, self._unrolled, wide.lanes) as key:
            at = wide.element(line, key, dtype)
            result.value = combine(wide, visit(wide, wide.load(at, dtype), at), result.value)
        part = result.value
        while part.type.count > inner.lanes:
            part = combine(inner, *inner.halves(part))
        return combine(inner, part, narrow.value)


def _sum(emitter: Core, a: ir.Value, b: ir.Value) -> ir.Value:
    return emitter.builder.fadd(a, b)


def row_weigher(emitter: Emitter, softmax: Softmax) -> ir.Function:
    """A function that turns scores into exponentials.

    Arguments: the scores of the first row and the bytes to the next; the rows' maxima so far; sums of their
    exponentials, a vector a row; their results; the number of rows and of keys in a row; panels of the
    results; and 0 if there are no results yet. Rows of scores have room for whole vectors.
    """
    dtype, lanes = softmax.dtype, softmax.tile.lanes
    types = [POINTER, I64, POINTER, POINTER, POINTER, I64, I64, I64, I64]
    inner = local_function(emitter, "weigh_rows", types, lanes)
    scores, pitch, tops, sums, results, rows, keys, panels, seen = inner.function.args
    builder, number = inner.builder, compute_type(dtype)
    lines = _Scores(inner, dtype, scores, pitch, keys)
    # Maxima of all rows first: a row's exponentials then follow those of the row before without a pause.
    with inner.loop(0, rows) as row:
        best = lines.fold(row, float("-inf"), lambda emitter, scores, at: scores, _larger)
        place = inner.element(tops, row, dtype)
        before = inner.load_scalar(place, dtype)
        top = _larger(inner, before, inner.horizontal(best, _larger))
        builder.store(top, place, align=dtype.itemsize)
        grown = builder.fcmp_ordered(">", top, before)
        started = builder.icmp_signed("!=", seen, I64(0))
        if softmax.kind != "smooth":
            grown = builder.and_(grown, started)
        with inner.when(grown):
            factor = exp_below(inner, inner.splat(builder.fsub(before, top)))
            at = inner.element(sums, inner.mul(row, lanes), dtype)
            inner.store(builder.fmul(inner.load(at, dtype), factor), at, dtype)
            with inner.when(started):
                own = inner.offset(results, inner.mul(row, softmax.row_bytes))
                _scale_results(inner, softmax, own, panels, factor)
    with inner.loop(0, rows) as row:
        top = inner.load_scalar(inner.element(tops, row, dtype), dtype)
        # A row of minus infinity alone has exponentials of 0.
        infinite = builder.fcmp_ordered("==", top, number(float("-inf")))
        base = builder.select(infinite, number(0.0), top)

        def weigh(emitter: Emitter, scores: ir.Value, at: ir.Value, base: ir.Value = base) -> ir.Value:
            power = exp_below(emitter, builder.fsub(scores, emitter.splat(base)))
            emitter.store(power, at, dtype)
            return power

        at = inner.element(sums, inner.mul(row, lanes), dtype)
        total = lines.fold(row, 0.0, weigh, _sum)
        inner.store(builder.fadd(inner.load(at, dtype), total), at, dtype)
    builder.ret_void()
    return inner.function


def _scale_results(
    inner: Emitter, softmax: Softmax, results: ir.Value, panels: ir.Value, factor: ir.Value
) -> None:
    """Multiplies a row of the results, which is cut into panels, by ``factor``."""
    tile, dtype = softmax.tile, softmax.dtype
    with inner.loop(0, panels) as panel:
        part = inner.offset(results, inner.mul(panel, tile.rows * softmax.row_bytes))
        for vector in range(tile.vectors):
            at = inner.offset(part, vector * tile.lanes * dtype.itemsize)
            inner.store(inner.builder.fmul(inner.load(at, dtype), factor), at, dtype)


def row_finisher(emitter: Emitter, softmax: Softmax, v_dtype: DType, out_dtype: DType) -> ir.Function:
    """A function that divides results by the sums of their weights and stores them.

    Arguments: results, sums, the output's first row and the bytes to the next, rows, columns; the values, the
    bytes from one key's and one column's to the next, and the number of keys.
    """
    dtype, tile, lanes = softmax.dtype, softmax.tile, softmax.tile.lanes
    types = [POINTER, POINTER, POINTER, I64, I64, I64, POINTER, I64, I64, I64]
    inner = local_function(emitter, "finish_rows", types, lanes)
    results, sums, out, out_row, rows, columns, values, v_row, v_column, keys = inner.function.args
    builder = inner.builder
    full = builder.and_(columns, I64(-lanes))
    rest = inner.sub(columns, full)
    mask = inner.mask(rest)
    panels = inner.divide(inner.add(columns, tile.width - 1), tile.width)
    tile_bytes = tile.rows * softmax.row_bytes
    one, zero = compute_type(dtype)(1.0), compute_type(dtype)(0.0)
    with inner.loop(0, rows) as row:
        total = inner.horizontal(inner.load(inner.element(sums, inner.mul(row, lanes), dtype), dtype), _sum)
        lost = builder.fcmp_unordered("uno", total, total)
        if softmax.kind in ("masked", "guarded"):
            total = builder.select(builder.fcmp_ordered("==", total, zero), one, total)
        factor = inner.splat(builder.fdiv(one, total))
        group = inner.offset(results, inner.mul(inner.divide(row, tile.rows), inner.mul(panels, tile_bytes)))
        line = inner.offset(group, inner.mul(inner.modulo(row, tile.rows), softmax.row_bytes))
        target = inner.offset(out, inner.mul(row, out_row))

        def store(value: ir.Value, column: ir.Value, limit: Mask | None, target: ir.Value = target) -> None:
            converted = convert.cast(inner, dtype, out_dtype, value)
            inner.store(converted, inner.element(target, column, out_dtype), out_dtype, limit)

        def scaled(
            column: ir.Value, limit: Mask | None, line: ir.Value = line, factor: ir.Value = factor
        ) -> None:
            panel = inner.offset(line, inner.mul(inner.divide(column, tile.width), tile_bytes))
            at = inner.element(panel, inner.modulo(column, tile.width), dtype)
            store(builder.fmul(inner.load(at, dtype), factor), column, limit)

        def cleared(column: ir.Value, limit: Mask | None) -> None:
            """The sum of the values times 0, which is not 0 where one of them is not finite."""
            nothing = inner.constant(0.0, dtype)
            total = inner.variable(nothing)
            with inner.loop(0, keys) as key:
                at = inner.offset(values, inner.add(inner.mul(key, v_row), inner.mul(column, v_column)))
                loaded = inner.load_strided(at, v_column, v_dtype, limit)
                value = convert.cast(inner, v_dtype, dtype, loaded)
                total.value = inner.fma(value, nothing, total.value)
            store(total.value, column, limit)

        if softmax.kind == "guarded":
            with inner.branch(lost) as (then, otherwise):
                with then:
                    _along(inner, full, rest, mask, cleared)
                with otherwise:
                    _along(inner, full, rest, mask, scaled)
        else:
            _along(inner, full, rest, mask, scaled)
    builder.ret_void()
    return inner.function


def _along(
    inner: Emitter,
    full: ir.Value,
    rest: ir.Value,
    mask: Mask,
    body: Callable[[ir.Value, Mask | None], None],
) -> None:
    """Runs ``body`` for whole vectors of columns up to ``full``, and for the ``rest`` behind them."""
    with inner.loop(0, full, inner.lanes) as column:
        body(column, None)
    with inner.when(inner.less(0, rest)):
        body(full, mask)
