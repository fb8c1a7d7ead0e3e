"""Code of the Recurrent kernels; see :mod:`onnxplan.kernels.cpu.recurrent`."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import Variant
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu import convert
from onnxplan.kernels.cpu.columns import Lane
from onnxplan.kernels.cpu.emitter import Emitter, Mask
from onnxplan.kernels.cpu.emitter_core import Number
from onnxplan.kernels.cpu.llvm_types import I1, I32, I64, POINTER
from onnxplan.kernels.cpu.objects import ObjectCode
from onnxplan.kernels.cpu.recurrent import (
    FINISH,
    FIRST_PHASE,
    GATES,
    INITIALIZE,
    PARAMETERS,
    SECOND_PHASE,
    STEPPED,
)
from onnxplan.kernels.cpu.recurrent_cells import CELLS, Cell, Row
from onnxplan.kernels.cpu.registers import local_function
from onnxplan.kernels.recurrent_operands import operand_names

# Sums in flight, so that the latency of additions is hidden where a tile has few of its own.
CHAINS = 8


class _Recurrence(Cell):
    """The time loop of a tile: some rows and some of their hidden units."""

    def __init__(self, emitter: Emitter, variant: Variant) -> None:
        kind, label, activations, options, adjoining, shape = variant
        assert isinstance(kind, str)
        assert isinstance(label, str)
        assert isinstance(activations, tuple)
        assert isinstance(options, tuple)
        assert isinstance(shape, tuple)
        block, vectors, _ = shape
        assert isinstance(block, int)
        assert isinstance(vectors, int)
        self.kind, self.block, self.vectors = kind, block, vectors
        self.dtype = DType.from_label(label)
        sums = DType.FLOAT64 if self.dtype is DType.FLOAT64 else DType.FLOAT32
        clipped, input_forget, linear = map(bool, options)
        self.two_phases = kind == "gru" and not linear
        self.word = {name: emitter.parameter(number) for number, name in enumerate(PARAMETERS)}
        self.steps = {
            name: [emitter.parameter(len(PARAMETERS) + 3 * number + axis) for axis in range(3)]
            for number, name in enumerate(STEPPED)
        }
        start = len(PARAMETERS) + 3 * len(STEPPED)
        scalars = [emitter.float_parameter(start + number, sums) for number in range(2 * len(activations))]
        clip = emitter.float_parameter(PARAMETERS.index("clip"), sums) if clipped else None
        names = tuple(str(name) for name in activations)
        super().__init__(emitter, sums, names, scalars, clip, input_forget=input_forget, linear=linear)
        reads, writes = operand_names(kind, linear)
        self.operand = {name: emitter.operand(number) for number, name in enumerate((*reads, *writes))}
        self.lane = {
            name: Lane(self.dtype, None if adjoining else self.steps[name][0]) for name in STEPPED[:-1]
        }
        self.width = vectors * emitter.lanes
        self.pitch = emitter.mul(self.word["panels"], self.width * sums.itemsize)
        self.product = _product(emitter, sums, block, vectors)

    def tile(self, number: ir.Value) -> None:
        """Everything that a plan step does for tile ``number``."""
        emitter, word = self.emitter, self.word
        first_row = emitter.mul(emitter.divide(number, word["panel_blocks"]), self.block)
        rows = emitter.minimum(emitter.sub(word["rows"], first_row), self.block)
        panel = self._panel_of(number)
        panels = emitter.minimum(emitter.sub(word["panels"], panel), word["panels_per_tile"])
        self.first_row, self.rows, self.panel, self.panels = first_row, rows, panel, panels
        self.first_column = emitter.mul(panel, self.width)
        end = emitter.mul(emitter.add(panel, panels), self.width)
        self.last_column = emitter.minimum(word["hidden"], end)
        with emitter.when(self._asked(INITIALIZE)), emitter.loop(0, rows) as row:
            self._transfer(row, "initial_h", self._state(I64(0), row), into_state=True)
            if self.kind == "lstm":
                self._transfer(row, "initial_c", self._own("cell", row), into_state=True)
        with emitter.loop(word["first_step"], word["last_step"]) as step:
            self._advance(step)
        with emitter.when(self._asked(FINISH)), emitter.loop(0, rows) as row:
            self._transfer(row, "y_h", self._state(word["length"], row), into_state=False)
            if self.kind == "lstm":
                self._transfer(row, "y_c", self._own("cell", row), into_state=False)

    def _panel_of(self, number: ir.Value) -> ir.Value:
        """The first panel of tile ``number``.

        Every other step goes backwards, so that it starts with what the last one left in the caches, but in
        groups, so that each thread finds in its own caches what it read before.
        """
        emitter, word = self.emitter, self.word
        position = emitter.modulo(number, word["panel_blocks"])
        place = emitter.modulo(position, word["group"])
        groups = emitter.divide(word["panel_blocks"], word["group"])
        group = self._alternating(word["first_step"], emitter.divide(position, word["group"]), groups)
        position = emitter.add(emitter.mul(group, word["group"]), place)
        return emitter.mul(position, word["panels_per_tile"])

    def _alternating(self, step: ir.Value, position: ir.Value, count: Number) -> ir.Value:
        """``position`` of ``count``, counted from the end in odd steps."""
        emitter = self.emitter
        odd = emitter.builder.trunc(step, I1)
        mirrored = emitter.sub(emitter.sub(count, 1), position)
        return emitter.builder.select(odd, mirrored, position)

    def _asked(self, work: int) -> ir.Value:
        builder = self.emitter.builder
        return builder.icmp_signed("!=", builder.and_(self.word["work"], I64(work)), I64(0))

    def _state(self, step: ir.Value, row: Number) -> ir.Value:
        """The hidden state of a row of the tile before ``step``: two buffers take turns."""
        emitter = self.emitter
        buffer = emitter.mul(emitter.builder.and_(step, I64(1)), self.word["rows"])
        number = emitter.add(emitter.add(buffer, self.first_row), row)
        return emitter.offset(self.operand["state"], emitter.mul(number, self.pitch))

    def _own(self, name: str, row: Number) -> ir.Value:
        """A row of a buffer between steps that has one row for each of the batch."""
        number = self.emitter.add(self.first_row, row)
        return self.emitter.offset(self.operand[name], self.emitter.mul(number, self.pitch))

    def _given(self, name: str, row: Number, step: ir.Value | None = None) -> ir.Value:
        """A row of an operand of the operation."""
        emitter, steps = self.emitter, self.steps[name]
        offset = emitter.mul(emitter.add(self.first_row, row), steps[1])
        if step is not None:
            offset = emitter.add(offset, emitter.mul(step, steps[2]))
        return emitter.offset(self.operand[name], offset)

    def _sums(self, gate: Number, row: Number) -> ir.Value:
        emitter = self.emitter
        number = emitter.add(emitter.mul(gate, self.block), row)
        return emitter.offset(emitter.scratch, emitter.mul(number, self.pitch))

    def _columns(self, body: Callable[[ir.Value, Mask | None], None]) -> None:
        """Runs ``body`` for the tile's hidden units, a vector at a time; the last may be masked."""
        emitter = self.emitter
        if emitter.target.isa == "avx512":
            # Masks cost nothing there, and the body is emitted once.
            with emitter.loop(self.first_column, self.last_column, emitter.lanes) as column:
                body(column, emitter.mask(emitter.sub(self.last_column, column)))
            return
        count = emitter.sub(self.last_column, self.first_column)
        rest = emitter.modulo(count, emitter.lanes)
        whole = emitter.sub(self.last_column, rest)
        with emitter.loop(self.first_column, whole, emitter.lanes) as column:
            body(column, None)
        with emitter.when(emitter.less(0, rest)):
            body(whole, emitter.mask(rest))

    def _transfer(self, row: ir.Value, name: str, state: ir.Value, *, into_state: bool) -> None:
        """Copies a row of an operand into a state or back."""
        given = self._given(name, row)

        def copy(column: ir.Value, mask: Mask | None) -> None:
            if into_state:
                self.save(state, column, self.read(name, given, column, mask))
            else:
                self._write(name, given, column, self.saved(state, column), mask)

        self._columns(copy)

    def _write(self, name: str, row: ir.Value, column: ir.Value, value: ir.Value, mask: Mask | None) -> None:
        emitter, lane = self.emitter, self.lane[name]
        rounded = convert.cast(emitter, self.sums, self.dtype, value)
        lane.store(emitter, rounded, self.place(lane, row, column), mask)

    def place(self, lane: Lane, row: ir.Value, column: ir.Value) -> ir.Value:
        step = lane.dtype.itemsize if lane.step is None else lane.step
        return self.emitter.offset(row, self.emitter.mul(column, step))

    def read(self, name: str, row: ir.Value, column: ir.Value, mask: Mask | None) -> ir.Value:
        """A vector of an operand of the operation, in the type of the sums."""
        lane = self.lane[name]
        value = lane.load(self.emitter, self.place(lane, row, column), mask)
        return convert.cast(self.emitter, self.dtype, self.sums, value)

    def saved(self, row: ir.Value, column: ir.Value) -> ir.Value:
        return self.emitter.load(self.emitter.element(row, column, self.sums), self.sums)

    def save(self, row: ir.Value, column: ir.Value, value: ir.Value) -> None:
        # Rows of states are padded to whole vectors.
        self.emitter.store(value, self.emitter.element(row, column, self.sums), self.sums)

    def _advance(self, step: ir.Value) -> None:
        """One time step of the tile."""
        emitter, word = self.emitter, self.word
        backwards = emitter.builder.icmp_signed("!=", word["reverse"], I64(0))
        mirrored = emitter.sub(emitter.sub(word["length"], 1), step)
        time = emitter.builder.select(backwards, mirrored, step)
        before, after = self._state(step, 0), self._state(emitter.add(step, 1), 0)
        if not self.two_phases:
            with emitter.when(self._asked(FIRST_PHASE)):
                self._multiply(step, before, 0, GATES[self.kind])
                self._rows(time, before, after, CELLS[self.kind], final=True)
            return
        with emitter.when(self._asked(FIRST_PHASE)):
            self._multiply(step, before, 0, 2)
            self._rows(time, before, after, CELLS["gru gates"], final=False)
        with emitter.when(self._asked(SECOND_PHASE)):
            self._multiply(step, self._own("reset", 0), 2, 1)
            self._rows(time, before, after, CELLS["gru candidate"], final=True)

    def _multiply(self, step: ir.Value, source: ir.Value, first: int, count: int) -> None:
        """Sums of the tile's hidden units for ``count`` gates: rows of ``source`` times their weights."""
        emitter, word = self.emitter, self.word
        panel_bytes = emitter.mul(word["hidden"], self.width * self.sums.itemsize)
        with emitter.loop(0, count) as number:
            gate = emitter.add(self._alternating(step, number, count), first)
            panel = emitter.add(emitter.mul(word["panels"], gate), self.panel)
            weights = emitter.offset(self.operand["r"], emitter.mul(panel, panel_bytes))
            target = emitter.element(self._sums(gate, 0), self.first_column, self.sums)
            arguments = [source, self.rows, weights, self.panels, target, self.pitch, word["hidden"]]
            emitter.builder.call(self.product, arguments)

    def _rows(
        self,
        time: ir.Value,
        before: ir.Value,
        after: ir.Value,
        cell: Callable[[Cell, Row, ir.Value, Mask | None], ir.Value | None],
        *,
        final: bool,
    ) -> None:
        """The arithmetic of the gates, row by row; rows whose sequence has ended keep their state."""
        emitter = self.emitter
        with emitter.loop(0, self.rows) as row:
            moved = emitter.mul(row, self.pitch)
            old, new = emitter.offset(before, moved), emitter.offset(after, moved)
            y = self._given("y", row, time)
            position = emitter.mul(emitter.add(self.first_row, row), self.steps["lengths"][0])
            at = emitter.offset(self.operand["lengths"], position)
            length = emitter.builder.sext(emitter.builder.load(at, align=4, typ=I32), I64)
            here = self._row(row, time, old)

            def active(column: ir.Value, mask: Mask | None) -> None:
                value = cell(self, here, column, mask)
                if value is not None:
                    self.save(new, column, value)
                    self._write("y", y, column, value, mask)

            def ended(column: ir.Value, mask: Mask | None) -> None:
                self.save(new, column, self.saved(old, column))
                self._write("y", y, column, emitter.constant(0.0, self.sums), mask)

            with emitter.branch(emitter.less(time, length)) as (running, over):
                with running:
                    self._columns(active)
                with over:
                    if final:
                        self._columns(ended)

    def _row(self, row: ir.Value, time: ir.Value, old: ir.Value) -> Row:
        names = [name for name in ("cell", "update", "reset") if name in self.operand]
        return Row(
            gates=self._given("gates", row, time),
            sums=[self._sums(gate, row) for gate in range(GATES[self.kind])],
            state=old,
            own={name: self._own(name, row) for name in names},
        )


def _product(emitter: Emitter, sums: DType, block: int, vectors: int) -> ir.Function:
    """``(source, rows, weights, panels, target, pitch, depth)``: up to ``block`` rows times some panels.

    Rows of ``source`` and of ``target`` are ``pitch`` bytes apart. Always writes ``block`` rows; those
    beyond ``rows`` repeat the last.
    """
    types = [POINTER, I64, POINTER, I64, POINTER, I64, I64]
    inner = local_function(emitter, "product", types, emitter.lanes)
    source, rows, weights, panels, target, pitch, depth = inner.function.args
    last = inner.sub(rows, 1)
    lines = [inner.offset(source, inner.mul(inner.minimum(row, last), pitch)) for row in range(block)]
    width = vectors * inner.lanes
    unroll = max(1, CHAINS // (block * vectors))
    with inner.loop(0, panels) as panel:
        start = inner.element(weights, inner.mul(panel, inner.mul(depth, width)), sums)
        totals = [
            [[inner.variable(inner.constant(0.0, sums)) for _ in range(vectors)] for _ in range(block)]
            for _ in range(unroll)
        ]

        def accumulate(position: ir.Value, chain: int) -> None:
            line = inner.element(start, inner.mul(position, width), sums)
            columns = [inner.load(inner.element(line, v * inner.lanes, sums), sums) for v in range(vectors)]
            for row in range(block):
                factor = inner.load_broadcast(inner.element(lines[row], position, sums), sums)
                for total, column in zip(totals[chain][row], columns, strict=True):
                    total.value = inner.fma(factor, column, total.value)

        whole = inner.mul(inner.divide(depth, unroll), unroll)
        with inner.loop(0, whole, unroll) as position:
            for chain in range(unroll):
                accumulate(inner.add(position, chain), chain)
        with inner.loop(whole, depth) as position:
            accumulate(position, 0)
        for row in range(block):
            line = inner.element(inner.offset(target, inner.mul(pitch, row)), inner.mul(panel, width), sums)
            for vector in range(vectors):
                value = totals[0][row][vector].value
                for chain in range(1, unroll):
                    value = inner.builder.fadd(value, totals[chain][row][vector].value)
                inner.store(value, inner.element(line, vector * inner.lanes, sums), sums)
    inner.builder.ret_void()
    return inner.function


def build_recurrent(variant: Variant, target: Target) -> ObjectCode:
    """``variant``: kind, element type, activations, options, whether all rows are dense, and the tile.

    Options: clipped, input_forget, linear_before_reset. Tile: rows, vectors of a panel, lanes.
    """
    shape = variant[-1]
    assert isinstance(shape, tuple)
    lanes = shape[-1]
    assert isinstance(lanes, int)
    emitter = Emitter.kernel("recurrent", target, lanes)
    recurrence = _Recurrence(emitter, variant)
    with emitter.loop(emitter.first, emitter.last) as tile:
        recurrence.tile(tile)
    return emitter.finish()


def build_recurrent_pack(variant: Variant, target: Target) -> ObjectCode:
    """``variant``: type of the weights, type of the panels, vectors of a panel and lanes of these."""
    label, sums_label, vectors, lanes = variant
    assert isinstance(label, str)
    assert isinstance(sums_label, str)
    assert isinstance(vectors, int)
    assert isinstance(lanes, int)
    dtype, sums = DType.from_label(label), DType.from_label(sums_label)
    emitter = Emitter.kernel("recurrent_pack", target, lanes)
    panels, hidden, row_step, column_step = (emitter.parameter(number) for number in range(4))
    width = vectors * lanes
    with emitter.loop(emitter.first, emitter.last) as tile:
        gate, panel = emitter.divide(tile, panels), emitter.modulo(tile, panels)
        column = emitter.mul(panel, width)
        first = emitter.add(emitter.mul(gate, hidden), column)
        source = emitter.offset(emitter.operand(0), emitter.mul(first, column_step))
        packed = emitter.element(emitter.operand(1), emitter.mul(tile, emitter.mul(hidden, width)), sums)
        with emitter.loop(0, hidden) as row:
            line = emitter.offset(source, emitter.mul(row, row_step))
            slot = emitter.element(packed, emitter.mul(row, width), sums)
            with emitter.loop(0, width, lanes) as start:
                count = emitter.sub(emitter.sub(hidden, column), start)
                place = emitter.element(slot, start, sums)
                emitter.store(emitter.constant(0.0, sums), place, sums)
                with emitter.when(emitter.less(0, count)):
                    mask = emitter.mask(count)
                    at = emitter.offset(line, emitter.mul(start, column_step))
                    value = emitter.load_strided(at, column_step, dtype, mask)
                    emitter.store(convert.cast(emitter, dtype, sums, value), place, sums, mask)
    return emitter.finish()
