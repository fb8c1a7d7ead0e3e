"""Code of attention: for each block of keys scores, their exponentials, and the product with the values.

A tile is some queries of one attention. A group of queries, as many as a register tile of the result has
rows, passes through all three phases while its scores are in the first cache. The result so far and the sum
of the exponentials are scaled down whenever a row's maximum grows.
"""

from __future__ import annotations

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import identity
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.attention import WORDS
from onnxplan.kernels.cpu.attention_rows import Softmax, row_finisher, row_weigher
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import Place
from onnxplan.kernels.cpu.llvm_types import I1, I32, I64
from onnxplan.kernels.cpu.microkernel import MicroKernel, MicroKernels, Source
from onnxplan.kernels.cpu.objects import ObjectCode, compile_module, kernel_symbol
from onnxplan.kernels.cpu.pack_code import Panel, axis_offsets, panel_packer
from onnxplan.kernels.cpu.tiling import RegisterTile


@dataclass(frozen=True, slots=True)
class _Code:
    """The choices compiled into a kernel (see :func:`~onnxplan.kernels.cpu.attention.select_attention`)."""

    target: Target
    q_dtype: DType
    q_kind: str
    k_layout: str
    k_dtype: DType
    v_dtype: DType
    v_kind: str
    out_dtype: DType
    softmax: str
    score_tile: RegisterTile
    value_tile: RegisterTile
    score: Epilogue

    @property
    def sums(self) -> DType:
        return self.score.accumulator


def build_attention(variant: Variant, target: Target) -> ObjectCode:
    """The kernel of a step of :func:`onnxplan.kernels.cpu.attention.select_attention`."""
    q_label, q_kind, k_layout, k_label, v_label, v_kind, out_label, softmax, *tiles, epilogue = variant
    assert isinstance(epilogue, tuple)
    score_tile, value_tile = (
        RegisterTile(*(int(str(size)) for size in tile)) for tile in tiles if isinstance(tile, tuple)
    )
    q_dtype, k_dtype, v_dtype, out_dtype = (
        DType.from_label(str(label)) for label in (q_label, k_label, v_label, out_label)
    )
    code = _Code(
        target,
        q_dtype,
        str(q_kind),
        str(k_layout),
        k_dtype,
        v_dtype,
        str(v_kind),
        out_dtype,
        str(softmax),
        score_tile,
        value_tile,
        Epilogue.from_variant(epilogue),
    )
    emitter = Emitter.kernel(kernel_symbol("attention", variant), target, score_tile.lanes)
    _Kernel(emitter, code).emit()
    return compile_module(emitter.module, emitter.function.name, target, light=True)


class _Kernel:
    """A kernel under construction."""

    def __init__(self, emitter: Emitter, code: _Code) -> None:
        self._emitter, self._code = emitter, code
        self._word = {name: emitter.parameter(number) for number, name in enumerate(WORDS)}
        plain = Epilogue(identity(code.sums), code.sums, (code.sums,), ("unit",))
        self._scoring = MicroKernels(
            emitter, MicroKernel(code.target, code.k_dtype, code.score_tile, False, False, code.score)
        )
        self._valuing = MicroKernels(
            emitter, MicroKernel(code.target, code.v_dtype, code.value_tile, False, False, plain), fuses=False
        )
        softmax = Softmax(code.sums, code.value_tile, code.softmax)
        self._weigh = row_weigher(emitter, softmax)
        self._finish = row_finisher(emitter, softmax, code.v_dtype, code.out_dtype)
        self._pack_k = None
        tile = code.score_tile
        if code.k_layout != "packed":
            kind = code.k_layout.removeprefix("scratch_")
            self._pack_k = panel_packer(emitter, code.k_dtype.itemsize, tile.lanes, tile.vectors, kind)
        tile = code.value_tile
        self._pack_v = panel_packer(emitter, code.v_dtype.itemsize, tile.lanes, tile.vectors, code.v_kind)
        extras = len(code.score.dtypes) - 1
        self._extra_steps = [
            (emitter.parameter(len(WORDS) + 2 * number), emitter.parameter(len(WORDS) + 2 * number + 1))
            for number in range(extras)
        ]
        self._axes = emitter.offset(emitter.function.args[1], 8 * (len(WORDS) + 2 * extras))

    def _scratch(self, name: str) -> ir.Value:
        return self._emitter.offset(self._emitter.scratch, self._word[name])

    def emit(self) -> None:
        emitter, word = self._emitter, self._word
        self._fill_table("query_table", "queries", "query_pitch", word["tile_rows"])
        self._fill_table("score_table", "scores", "score_pitch", I64(self._code.value_tile.rows))
        with emitter.loop(emitter.first, emitter.last) as number:
            first_row = emitter.mul(emitter.modulo(number, word["row_tiles"]), word["tile_rows"])
            rows = emitter.minimum(word["tile_rows"], emitter.sub(word["rows"], first_row))
            batch = emitter.divide(number, word["row_tiles"])
            moved = axis_offsets(emitter, self._axes, word["axes"], batch, 4 + len(self._extra_steps))
            bases = [emitter.offset(emitter.operand(i), offset) for i, offset in enumerate(moved)]
            q, k, v, out = bases[:4]
            extras = [
                Place(base, *steps).row(emitter, first_row)
                for base, steps in zip(bases[4:], self._extra_steps, strict=True)
            ]
            self._copy_queries(emitter.offset(q, emitter.mul(first_row, word["q_row"])), rows)
            self._start_rows(rows)
            with emitter.loop(0, word["keys"], word["key_block"]) as key:
                self._emit_block(k, v, extras, rows, key)
            out = emitter.offset(out, emitter.mul(first_row, word["out_row"]))
            arguments = [self._scratch("results"), self._scratch("sums"), out, word["out_row"], rows]
            emitter.builder.call(
                self._finish, [*arguments, word["width"], v, word["v_row"], word["v_column"], word["keys"]]
            )
        emitter.builder.ret_void()

    def _fill_table(self, table: str, rows: str, pitch: str, count: ir.Value) -> None:
        emitter = self._emitter
        with emitter.loop(0, count) as entry:
            address = emitter.offset(self._scratch(rows), emitter.mul(entry, self._word[pitch]))
            emitter.builder.store(
                address, emitter.offset(self._scratch(table), emitter.mul(entry, 8)), align=8
            )

    def _copy_queries(self, source: ir.Value, rows: ir.Value) -> None:
        """Copies queries, converted to the type of the sums."""
        emitter, code, word = self._emitter, self._code, self._word
        dtype, sums, lanes = code.q_dtype, code.sums, emitter.lanes
        full = emitter.builder.and_(word["depth"], I64(-lanes))
        rest = emitter.sub(word["depth"], full)
        mask = emitter.mask(rest)
        with emitter.loop(0, rows) as row:
            at = emitter.offset(source, emitter.mul(row, word["q_row"]))
            to = emitter.offset(self._scratch("queries"), emitter.mul(row, word["query_pitch"]))

            def copy(k: ir.Value, *, partly: bool, at: ir.Value = at, to: ir.Value = to) -> None:
                limit = mask if partly else None
                if code.q_kind == "rows":
                    value = emitter.load(emitter.element(at, k, dtype), dtype, limit)
                else:
                    place = emitter.offset(at, emitter.mul(k, word["q_depth"]))
                    value = emitter.load_strided(place, word["q_depth"], dtype, limit)
                emitter.store(convert.cast(emitter, dtype, sums, value), emitter.element(to, k, sums), sums)

            with emitter.loop(0, full, lanes) as k:
                copy(k, partly=False)
            with emitter.when(emitter.less(0, rest)):
                copy(full, partly=True)

    def _start_rows(self, rows: ir.Value) -> None:
        """No key seen yet; or with ``smooth`` one of score 0, whose exponential is 1."""
        emitter, sums = self._emitter, self._code.sums
        smooth = self._code.softmax == "smooth"
        top = emitter.constant(0.0 if smooth else float("-inf"), sums)
        total = emitter.constant(0.0, sums)
        if smooth:
            total = emitter.builder.insert_element(total, total.type.element(1.0), I32(0))
        with emitter.loop(0, rows) as row:
            emitter.store_first(top, emitter.element(self._scratch("tops"), row, sums), sums)
            place = emitter.element(self._scratch("sums"), emitter.mul(row, emitter.lanes), sums)
            emitter.store(total, place, sums)

    def _emit_block(
        self, k: ir.Value, v: ir.Value, extras: list[Place], rows: ir.Value, key: ir.Value
    ) -> None:
        """All queries and the block of keys from ``key`` on."""
        emitter, code, word = self._emitter, self._code, self._word
        tile = code.value_tile
        count = emitter.minimum(word["key_block"], emitter.sub(word["keys"], key))
        keys = self._key_panels(k, key, count)
        self._pack_values(emitter.offset(v, emitter.mul(key, word["v_row"])), count)
        extras = [extra.column(emitter, key) for extra in extras]
        group_bytes = emitter.mul(self._result_panels(), tile.rows * tile.width * code.sums.itemsize)
        with emitter.loop(0, rows, tile.rows) as row:
            group = emitter.minimum(tile.rows, emitter.sub(rows, row))
            places = [extra.row(emitter, row) for extra in extras]
            self._emit_scores(keys, places, row, group, count)
            results = emitter.offset(
                self._scratch("results"), emitter.mul(emitter.divide(row, tile.rows), group_bytes)
            )
            state = [
                emitter.element(self._scratch("tops"), row, code.sums),
                emitter.element(self._scratch("sums"), emitter.mul(row, emitter.lanes), code.sums),
                results,
            ]
            scores = [self._scratch("scores"), word["score_pitch"]]
            emitter.builder.call(self._weigh, [*scores, *state, group, count, self._result_panels(), key])
            self._emit_values(results, group, count, key)

    def _result_panels(self) -> ir.Value:
        emitter, width = self._emitter, self._code.value_tile.width
        return emitter.divide(emitter.add(self._word["width"], width - 1), width)

    def _key_panels(self, k: ir.Value, key: ir.Value, count: ir.Value) -> ir.Value:
        """The first panel of the block of keys, packed now if they are not yet."""
        emitter, word, width = self._emitter, self._word, self._code.score_tile.width
        if self._pack_k is None:
            return emitter.offset(k, emitter.mul(emitter.divide(key, width), word["k_panel"]))
        source = emitter.offset(k, emitter.mul(key, word["k_column"]))
        packed = self._scratch("k_panels")
        steps = word["k_panel"], word["k_depth"], word["k_column"]
        self._pack(self._pack_k, width, packed, source, word["depth"], count, steps)
        return packed

    def _pack_values(self, source: ir.Value, count: ir.Value) -> None:
        """Packs a block of values, whose rows may be so far apart that they share lines of the cache."""
        word, width = self._word, self._code.value_tile.width
        steps = word["v_panel"], word["v_row"], word["v_column"]
        self._pack(self._pack_v, width, self._scratch("v_panels"), source, count, word["width"], steps)

    def _pack(
        self,
        packer: ir.Function,
        width: int,
        packed: ir.Value,
        source: ir.Value,
        depth: ir.Value,
        columns: ir.Value,
        steps: tuple[ir.Value, ir.Value, ir.Value],
    ) -> None:
        """Packs ``depth x columns`` elements; steps in bytes are a panel's, and the source's."""
        emitter = self._emitter
        panel_step, depth_step, column_step = steps
        with emitter.loop(0, columns, width) as column:
            panel = Panel(
                target=emitter.offset(packed, emitter.mul(emitter.divide(column, width), panel_step)),
                source=emitter.offset(source, emitter.mul(column, column_step)),
                depth=depth,
                columns=emitter.minimum(emitter.sub(columns, column), width),
                depth_step=depth_step,
                column_step=column_step,
            )
            emitter.builder.call(packer, panel.values)

    def _emit_scores(
        self, panels: ir.Value, extras: list[Place], row: ir.Value, group: ir.Value, count: ir.Value
    ) -> None:
        """The scores of a group of queries, from ``row`` of the tile on, and a block of keys."""
        emitter, code, word = self._emitter, self._code, self._word
        tile, size = code.score_tile, code.sums.itemsize
        scores = Place(self._scratch("scores"), word["score_pitch"], I64(size))
        with emitter.loop(0, count, tile.width) as column:
            panel = emitter.offset(panels, emitter.mul(emitter.divide(column, tile.width), word["k_panel"]))
            at = [place.column(emitter, column) for place in (scores, *extras)]
            with emitter.loop(0, group, tile.rows) as own:
                source = Source(
                    table=emitter.offset(self._scratch("query_table"), emitter.mul(emitter.add(row, own), 8)),
                    tap_step=I64(0),
                    taps=I64(1),
                    a_offset=I64(0),
                    a_step=I64(size),
                    b=panel,
                    b_step=I64(tile.width * code.k_dtype.itemsize),
                    length=word["depth"],
                    tile=emitter.scratch,
                    accumulate=I64(0),
                    columns=emitter.minimum(emitter.sub(count, column), tile.width),
                )
                rows = emitter.minimum(tile.rows, emitter.sub(group, own))
                places = [place.row(emitter, own) for place in at]
                self._scoring.call(emitter, source, rows, places, I1(1))

    def _emit_values(self, results: ir.Value, group: ir.Value, count: ir.Value, key: ir.Value) -> None:
        """Adds the product of a group's weights with the block of values to its results."""
        emitter, code, word = self._emitter, self._code, self._word
        tile, size = code.value_tile, code.sums.itemsize
        with emitter.loop(0, word["width"], tile.width) as column:
            panel = emitter.divide(column, tile.width)
            source = Source(
                table=self._scratch("score_table"),
                tap_step=I64(0),
                taps=I64(1),
                a_offset=I64(0),
                a_step=I64(size),
                b=emitter.offset(self._scratch("v_panels"), emitter.mul(panel, word["v_panel"])),
                b_step=I64(tile.width * code.v_dtype.itemsize),
                length=count,
                tile=emitter.offset(results, emitter.mul(panel, tile.rows * tile.width * size)),
                accumulate=key,
                columns=emitter.minimum(emitter.sub(word["width"], column), tile.width),
            )
            self._valuing.sum(emitter, source, group)
