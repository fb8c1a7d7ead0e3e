"""Code of attention: for each block of keys scores, their exponentials, and the product with the values.

A tile is some queries of one attention. A group of queries, as many as a register tile has rows, passes
through all three phases while its scores are in the first cache. The result so far and the sum of the
exponentials are scaled down when a row's maximum has grown by more than
:data:`~onnxplan.kernels.cpu.attention_rows.HEADROOM`. Groups are always full: the last one of a tile begins
early enough, and computes some rows once more.
"""

from __future__ import annotations

from contextlib import nullcontext

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.attention import WORDS
from onnxplan.kernels.cpu.attention_pairs import copy_rounded, pair_packer, pair_scorer, pair_valuer
from onnxplan.kernels.cpu.attention_rows import Softmax, row_clearer, row_weigher
from onnxplan.kernels.cpu.attention_tiles import scorer, valuer
from onnxplan.kernels.cpu.emitter import Emitter
from onnxplan.kernels.cpu.epilogue import Epilogue
from onnxplan.kernels.cpu.epilogue_code import Place
from onnxplan.kernels.cpu.llvm_types import I32, I64
from onnxplan.kernels.cpu.matrix_tiles_code import configured_tiles
from onnxplan.kernels.cpu.objects import ObjectCode, compile_module, kernel_symbol
from onnxplan.kernels.cpu.pack_code import Panel, axis_offsets, panel_packer
from onnxplan.kernels.cpu.tiling import RegisterTile


@dataclass(frozen=True, slots=True)
class _Code:
    """The choices compiled into a kernel (see :func:`~onnxplan.kernels.cpu.attention.select_attention`)."""

    target: Target
    form: str
    q_dtype: DType
    q_layout: str
    k_layout: str
    k_dtype: DType
    v_dtype: DType
    v_kind: str
    whole: bool
    out_dtype: DType
    softmax: str
    score_tile: RegisterTile
    value_tile: RegisterTile
    score: Epilogue

    @property
    def sums(self) -> DType:
        return self.score.accumulator

    @property
    def paired(self) -> bool:
        """Do tile registers multiply pairs of bfloat16?"""
        return self.form == "tiles"


def build_attention(variant: Variant, target: Target) -> ObjectCode:
    """The kernel of a step of :func:`onnxplan.kernels.cpu.attention.select_attention`."""
    (
        form,
        q_label,
        q_layout,
        k_layout,
        k_label,
        v_label,
        v_kind,
        whole,
        out_label,
        softmax,
        *tiles,
        epilogue,
    ) = variant
    assert isinstance(epilogue, tuple)
    score_tile, value_tile = (
        RegisterTile(*(int(str(size)) for size in tile)) for tile in tiles if isinstance(tile, tuple)
    )
    q_dtype, k_dtype, v_dtype, out_dtype = (
        DType.from_label(str(label)) for label in (q_label, k_label, v_label, out_label)
    )
    code = _Code(
        target,
        str(form),
        q_dtype,
        str(q_layout),
        str(k_layout),
        k_dtype,
        v_dtype,
        str(v_kind),
        bool(whole),
        out_dtype,
        str(softmax),
        score_tile,
        value_tile,
        Epilogue.from_variant(epilogue),
    )
    emitter = Emitter.kernel(kernel_symbol("attention", variant), target, score_tile.lanes)
    kernel = _Kernel(emitter, code)
    with configured_tiles(emitter) if code.paired else nullcontext():
        kernel.emit()
    emitter.builder.ret_void()
    return compile_module(emitter.module, emitter.function.name, target, light=True)


class _Kernel:
    """A kernel under construction."""

    def __init__(self, emitter: Emitter, code: _Code) -> None:
        self._emitter, self._code = emitter, code
        self._word = {name: emitter.parameter(number) for number, name in enumerate(WORDS)}
        softmax = Softmax(code.sums, code.value_tile, code.softmax, code.paired)
        self._weigh = row_weigher(emitter, softmax, code.score)
        if code.paired:
            self._score = pair_scorer(emitter)
            self._value = pair_valuer(emitter, softmax, code.out_dtype, whole=code.whole)
        else:
            self._score = scorer(emitter, code.score_tile, code.k_dtype, code.sums)
            self._value = valuer(emitter, softmax, code.v_dtype, code.out_dtype, whole=code.whole)
        self._clear = None
        if code.softmax == "guarded":
            self._clear = row_clearer(emitter, softmax, code.v_dtype, code.out_dtype)
        self._pack_k = None
        if code.k_layout != "packed":
            kind = code.k_layout.removeprefix("scratch_")
            self._pack_k = self._packer(code.k_dtype, code.score_tile, kind)
        self._pack_v = self._packer(code.v_dtype, code.value_tile, code.v_kind)
        extras = len(code.score.dtypes) - 1
        self._extra_steps = [
            (emitter.parameter(len(WORDS) + 2 * number), emitter.parameter(len(WORDS) + 2 * number + 1))
            for number in range(extras)
        ]
        self._axes = emitter.offset(emitter.function.args[1], 8 * (len(WORDS) + 2 * extras))

    def _packer(self, dtype: DType, tile: RegisterTile, kind: str) -> ir.Function:
        if self._code.paired:
            return pair_packer(self._emitter, dtype, kind)
        return panel_packer(self._emitter, dtype.itemsize, tile.lanes, tile.vectors, kind)

    def _scratch(self, name: str) -> ir.Value:
        return self._emitter.offset(self._emitter.scratch, self._word[name])

    def emit(self) -> None:
        emitter, word = self._emitter, self._word
        least = self._code.value_tile.rows
        with emitter.loop(emitter.first, emitter.last) as number:
            first_row = emitter.mul(emitter.modulo(number, word["row_tiles"]), word["tile_rows"])
            first_row = emitter.minimum(first_row, emitter.sub(word["rows"], least))
            rows = emitter.minimum(word["tile_rows"], emitter.sub(word["rows"], first_row))
            batch = emitter.divide(number, word["row_tiles"])
            moved = axis_offsets(emitter, self._axes, word["axes"], batch, 4 + len(self._extra_steps))
            bases = [emitter.offset(emitter.operand(i), offset) for i, offset in enumerate(moved)]
            q, k, v, out = bases[:4]
            extras = [
                Place(base, *steps).row(emitter, first_row)
                for base, steps in zip(bases[4:], self._extra_steps, strict=True)
            ]
            q = emitter.offset(q, emitter.mul(first_row, word["q_row"]))
            if self._code.q_layout != "in_place":
                self._copy_queries(q, rows)
                q = self._scratch("queries")
            out = emitter.offset(out, emitter.mul(first_row, word["out_row"]))
            groups = emitter.ceil_div(rows, least)
            self._start_rows(groups)
            with emitter.loop(0, word["keys"], word["key_block"]) as key:
                self._emit_block((q, k, v, out), extras, rows, groups, key)

    def _copy_queries(self, source: ir.Value, rows: ir.Value) -> None:
        """Copies queries, converted to the type of the sums, or to bfloat16 for tile registers."""
        emitter, code, word = self._emitter, self._code, self._word
        if code.paired:
            step = None if code.q_layout == "rows" else word["q_depth"]
            with emitter.loop(0, rows) as row:
                at = emitter.offset(source, emitter.mul(row, word["q_row"]))
                to = emitter.offset(self._scratch("queries"), emitter.mul(row, word["query_pitch"]))
                copy_rounded(emitter, at, step, code.q_dtype, word["depth"], to)
            return
        dtype, sums, lanes = code.q_dtype, code.sums, emitter.lanes
        full = emitter.builder.and_(word["depth"], I64(-lanes))
        rest = emitter.sub(word["depth"], full)
        mask = emitter.mask(rest)
        with emitter.loop(0, rows) as row:
            at = emitter.offset(source, emitter.mul(row, word["q_row"]))
            to = emitter.offset(self._scratch("queries"), emitter.mul(row, word["query_pitch"]))

            def copy(k: ir.Value, *, partly: bool, at: ir.Value = at, to: ir.Value = to) -> None:
                limit = mask if partly else None
                if code.q_layout == "rows":
                    value = emitter.load(emitter.element(at, k, dtype), dtype, limit)
                else:
                    place = emitter.offset(at, emitter.mul(k, word["q_depth"]))
                    value = emitter.load_strided(place, word["q_depth"], dtype, limit)
                emitter.store(convert.cast(emitter, dtype, sums, value), emitter.element(to, k, sums), sums)

            with emitter.loop(0, full, lanes) as k:
                copy(k, partly=False)
            with emitter.when(emitter.less(0, rest)):
                copy(full, partly=True)

    def _start_rows(self, groups: ir.Value) -> None:
        """No key seen yet; or with ``smooth`` one of score 0, whose exponential is 1."""
        emitter, sums = self._emitter, self._code.sums
        smooth = self._code.softmax == "smooth"
        top = emitter.constant(0.0 if smooth else float("-inf"), sums)
        nothing = total = emitter.constant(0.0, sums)
        if smooth:
            total = emitter.builder.insert_element(total, total.type.element(1.0), I32(0))
        with emitter.loop(0, emitter.mul(groups, self._code.value_tile.rows)) as row:
            emitter.store_first(top, emitter.element(self._scratch("tops"), row, sums), sums)
            place = emitter.element(self._scratch("sums"), emitter.mul(row, emitter.lanes), sums)
            emitter.store(total, place, sums)
        nbytes = emitter.mul(groups, self._word["result_step"])
        with emitter.loop(0, nbytes, emitter.lanes * sums.itemsize) as start:
            emitter.store(nothing, emitter.offset(self._scratch("results"), start), sums)

    def _emit_block(
        self,
        bases: tuple[ir.Value, ...],
        extras: list[Place],
        rows: ir.Value,
        groups: ir.Value,
        key: ir.Value,
    ) -> None:
        """All queries and the block of keys from ``key`` on; ``bases`` are of q, k, v, output."""
        emitter, code, word = self._emitter, self._code, self._word
        q, k, v, out = bases
        least, parameters = code.value_tile.rows, emitter.function.args[1]
        count = emitter.minimum(word["key_block"], emitter.sub(word["keys"], key))
        last = emitter.builder.icmp_signed("==", emitter.add(key, count), word["keys"])
        keys = self._key_panels(k, key, count)
        values = self._value_panels(v, key, count)
        extras = [extra.column(emitter, key) for extra in extras]
        scores = self._scratch("scores")
        with emitter.loop(0, groups) as group:
            # The last group may begin within the one before it.
            slot = emitter.mul(group, least)
            row = emitter.minimum(slot, emitter.sub(rows, least))
            queries = emitter.offset(q, emitter.mul(row, word["query_pitch"]))
            emitter.builder.call(self._score, [queries, parameters, keys, scores, count])
            tops = emitter.element(self._scratch("tops"), slot, code.sums)
            sums = emitter.element(self._scratch("sums"), emitter.mul(slot, emitter.lanes), code.sums)
            results = emitter.offset(self._scratch("results"), emitter.mul(group, word["result_step"]))
            pointers = [extra.row(emitter, row).pointer for extra in extras]
            emitter.builder.call(
                self._weigh, [scores, parameters, tops, sums, results, count, key, *pointers]
            )
            own = emitter.offset(out, emitter.mul(row, word["out_row"]))
            emitter.builder.call(self._value, [scores, parameters, values, results, sums, own, count, last])
            if self._clear is not None:
                with emitter.when(last):
                    emitter.builder.call(self._clear, [sums, parameters, v, own])

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

    def _value_panels(self, v: ir.Value, key: ir.Value, count: ir.Value) -> ir.Value:
        """The first panel of the block of values, packed now."""
        emitter, word, width = self._emitter, self._word, self._code.value_tile.width
        source = emitter.offset(v, emitter.mul(key, word["v_row"]))
        packed = self._scratch("v_panels")
        steps = word["v_panel"], word["v_row"], word["v_column"]
        self._pack(self._pack_v, width, packed, source, count, word["width"], steps)
        return packed

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
            arguments = panel.values
            if self._code.paired:
                arguments = [arguments[0], emitter.function.args[1], *arguments[1:], self._scratch("stage")]
            emitter.builder.call(packer, arguments)
