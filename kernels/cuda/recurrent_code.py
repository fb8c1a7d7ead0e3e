"""Code of the Recurrent kernel; see :mod:`onnxplan.kernels.cuda.recurrent`."""

from __future__ import annotations

from typing import Any

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.target import Target
from onnxplan.kernels.cuda.expression_code import literal_of
from onnxplan.kernels.cuda.recurrent import (
    FIRST_PHASE,
    GATES,
    INITIALIZE,
    PARAMETERS,
    SECOND_PHASE,
    STEPPED,
)
from onnxplan.kernels.cuda.recurrent_cells import (
    activation,
    clipped,
    gru_candidate,
    gru_gates,
    gru_linear_cell,
    lstm_cell,
    rnn_cell,
)
from onnxplan.kernels.cuda.source import KernelSource, KernelText
from onnxplan.kernels.recurrent_operands import operand_names
from onnxplan.kernels.scalar_cuda import cast, compute_type, loaded, stored

_BUFFERS = ("state", "cell", "update", "reset")


class _Recurrence:
    """The kernel's text; ``value_t`` is the type of sums and states."""

    def __init__(self, variant: Any) -> None:
        threads, kind, label, weight_label, activations, options, shape = variant
        self.kind, self.activations = kind, activations
        self.dtype, self.weight = DType.from_label(label), DType.from_label(weight_label)
        self.sums = DType.FLOAT64 if self.dtype is DType.FLOAT64 else DType.FLOAT32
        self.clip, self.input_forget, self.linear = options
        self.rows, self.width = shape
        self.threads = threads
        self.two_phases = kind == "gru" and not self.linear
        self.value = compute_type(self.sums)
        self.kernel = KernelText(threads)
        self._declare()

    def _declare(self) -> None:
        kernel = self.kernel
        reads, writes = operand_names(self.kind, self.linear)
        for name in reads:
            dtype = {"lengths": DType.INT32, "r": self.weight}.get(name, self.dtype)
            kernel.operand(name, dtype, alone=True)
        for name in writes:
            # A cell's text has an ``update`` of its own.
            own = "stored_update" if name == "update" else name
            kernel.operand(own, self.sums if name in _BUFFERS else self.dtype, written=True)
        for name in PARAMETERS:
            kernel.parameter(name, "int")
        for name, rank in STEPPED.items():
            if name in (*reads, *writes):
                for axis in range(rank):
                    kernel.parameter(f"{name}_step{axis}")
        kernel.parameter("clip_double", "double")
        for number, name in enumerate(self.activations):
            kernel.parameter(f"alpha{number}", "double")
            kernel.parameter(f"beta{number}", "double")
            result = activation(name, self.sums)
            kernel.function(
                f"ONNXPLAN_INLINE {self.value} activate{number}"
                f"({self.value} x, {self.value} alpha, {self.value} beta) {{ return {result}; }}"
            )

    def build(self) -> KernelSource:
        kernel, width = self.kernel, self.width
        lines = [
            f"typedef {self.value} value_t;",
            "ONNXPLAN_DYNAMIC_SHARED(shared);",
            "value_t* const partial = (value_t*)shared;",
            *self._functions(),
            f"const int lane = threadIdx.x % {width}, slice = threadIdx.x / {width};",
            f"const int first_row = (int)(blockIdx.x / column_blocks) * {self.rows};",
            "const int first_column = (int)(blockIdx.x % column_blocks) * block_columns;",
            "const int last_column = min(first_column + block_columns, hidden);",
            "const long long plane = (long long)rows * hidden;",
            f"if (work & {INITIALIZE}) {{",
            *self._initialize(),
            "}",
            "for (int step = first_step; step < last_step; ++step) {",
            "const int time = reverse ? length - 1 - step : step;",
            "const value_t* const before = state + (step & 1) * plane;",
            "value_t* const after = state + (~step & 1) * plane;",
        ]
        if self.two_phases:
            lines += self._phase(FIRST_PHASE, (0, 1), "before", gru_gates(), final=False)
            lines += self._phase(SECOND_PHASE, (2,), "reset", gru_candidate(self.sums), final=True)
        else:
            cell = {
                "lstm": lambda: lstm_cell(self.sums, input_forget=self.input_forget),
                "gru": lambda: gru_linear_cell(self.sums),
                "rnn": rnn_cell,
            }[self.kind]()
            lines += self._phase(FIRST_PHASE, tuple(range(GATES[self.kind])), "before", cell, final=True)
        kernel.line(*lines, "}")
        return kernel.source("recurrent")

    def _functions(self) -> list[str]:
        """The activations with their constants, with and without the clip before."""
        lines = ["const value_t clip = (value_t)clip_double;"]
        for number in range(len(self.activations)):
            call = f"activate{number}(x, (value_t)alpha{number}, (value_t)beta{number})"
            clip = f"x = {clipped(self.sums)}; " if self.clip else ""
            lines.append(f"const auto activated{number} = [&](value_t x) {{ return {call}; }};")
            lines.append(f"const auto gate{number} = [&](value_t x) {{ {clip}return {call}; }};")
        return lines

    def _read(self, name: str, *places: str) -> str:
        """An element of an operand of the operation, in the type of the sums."""
        return cast(self.dtype, self.sums, loaded(self.dtype, self._element(name, *places)))

    def _written(self, name: str, value: str, *places: str) -> str:
        rounded = stored(self.dtype, cast(self.sums, self.dtype, value))
        return f"{self._element(name, *places)} = {rounded};"

    def _element(self, name: str, *places: str) -> str:
        moved = " + ".join(f"{place} * {name}_step{axis}" for axis, place in enumerate(places))
        return f"{name}[{moved}]"

    def _initialize(self) -> list[str]:
        """Copies the initial states of the block's rows and columns."""
        cell = "cell[place] = " + self._read("initial_c", "row", "column") + ";"
        return [
            "const int columns = last_column - first_column;",
            f"for (int item = threadIdx.x; item < {self.rows} * columns; item += {self.threads}) {{",
            "const int row = first_row + item / columns, column = first_column + item % columns;",
            "if (row >= rows) break;",
            "const long long place = (long long)row * hidden + column;",
            f"state[place] = {self._read('initial_h', 'row', 'column')};",
            *([cell] if self.kind == "lstm" else []),
            "}",
            "__syncthreads();",
        ]

    def _phase(
        self, phase: int, gates: tuple[int, ...], source: str, cell: list[str], *, final: bool
    ) -> list[str]:
        """Products of ``source`` by the weights of ``gates``, then ``cell`` for each hidden unit and row.

        A barrier stands at the end of each round, for the sums of the next and for the next phase.
        """
        return [
            f"if (work & {phase})",
            f"for (int column0 = first_column; column0 < last_column; column0 += {self.width}) {{",
            *self._products(gates, source),
            "__syncthreads();",
            f"for (int item = threadIdx.x; item < {self.rows * self.width}; item += {self.threads}) {{",
            f"const int number = item / {self.width}, row = first_row + number;",
            f"const int column = column0 + item % {self.width};",
            "if (row >= rows || column >= last_column) continue;",
            *self._unit(gates, cell, final=final),
            "}",
            "__syncthreads();",
            "}",
        ]

    def _products(self, gates: tuple[int, ...], source: str) -> list[str]:
        """Each slice of threads sums over its share of the positions of the state."""
        count, rows, slices = len(gates), self.rows, self.threads // self.width
        fma = "fma" if self.sums is DType.FLOAT64 else "fmaf"
        weight = cast(
            self.weight,
            self.sums,
            loaded(self.weight, "weights[(long long)gates_of[gate] * hidden * r_step1]"),
        )
        return [
            f"const int gates_of[{count}] = {{{', '.join(map(str, gates))}}};",
            f"value_t sums[{count}][{rows}];",
            "#pragma unroll",
            f"for (int gate = 0; gate < {count}; ++gate)",
            "#pragma unroll",
            f"for (int row = 0; row < {rows}; ++row) sums[gate][row] = {literal_of(0.0, self.sums)};",
            "if (column0 + lane < last_column) {",
            f"const value_t* lines[{rows}];",
            "#pragma unroll",
            f"for (int row = 0; row < {rows}; ++row)",
            f"lines[row] = {source} + (long long)min(first_row + row, rows - 1) * hidden;",
            "#pragma unroll 4",
            f"for (int position = slice; position < hidden; position += {slices}) {{",
            "const auto* const weights = r + position * r_step0 + (column0 + lane) * r_step1;",
            f"value_t states[{rows}];",
            "#pragma unroll",
            f"for (int row = 0; row < {rows}; ++row) states[row] = lines[row][position];",
            "#pragma unroll",
            f"for (int gate = 0; gate < {count}; ++gate) {{",
            f"const value_t weight = {weight};",
            "#pragma unroll",
            f"for (int row = 0; row < {rows}; ++row)",
            f"sums[gate][row] = {fma}(states[row], weight, sums[gate][row]);",
            "}",
            "}",
            "}",
            "#pragma unroll",
            f"for (int gate = 0; gate < {count}; ++gate)",
            "#pragma unroll",
            f"for (int row = 0; row < {rows}; ++row)",
            f"partial[((slice * {count} + gate) * {rows} + row) * {self.width} + lane] = sums[gate][row];",
        ]

    def _unit(self, gates: tuple[int, ...], cell: list[str], *, final: bool) -> list[str]:
        """The arithmetic of one hidden unit of one row; a sequence that has ended keeps its state."""
        count, slices, all_gates = len(gates), self.threads // self.width, GATES[self.kind]
        lines = [
            "const long long place = (long long)row * hidden + column;",
            "const value_t old = before[place];",
            f"value_t total[{all_gates}], given[{all_gates}];",
        ]
        for position, gate in enumerate(gates):
            given = self._read("gates", "time", "row", f"({gate} * (long long)hidden + column)")
            line = f"((slice_of * {count} + {position}) * {self.rows} + number)"
            own = f"partial[{line} * {self.width} + item % {self.width}]"
            lines += [
                f"total[{gate}] = {literal_of(0.0, self.sums)};",
                f"for (int slice_of = 0; slice_of < {slices}; ++slice_of) total[{gate}] += {own};",
                f"given[{gate}] = {given};",
            ]
        if not final:
            return [*lines, *cell, "stored_update[place] = update;", "reset[place] = scaled;"]
        if self.kind == "gru":
            lines.append(f"const value_t bias = {self._read('recurrent_bias', 'column')};")
        if self.two_phases:
            lines.append("const value_t update = stored_update[place];")
        if self.kind == "lstm":
            peepholes = ", ".join(self._read("peepholes", str(gate), "column") for gate in range(3))
            lines += [
                f"const value_t peephole[3] = {{{peepholes}}};",
                "const value_t old_memory = cell[place];",
                "value_t memory = old_memory;",
            ]
        ended = "time >= lengths[row * lengths_step0]"
        lines += [
            "value_t fresh;",
            *cell,
            f"const bool ended = {ended};",
            "if (ended) fresh = old;",
            "after[place] = fresh;",
            self._written("y", f"(ended ? {literal_of(0.0, self.sums)} : fresh)", "time", "row", "column"),
            f"if (step == length - 1) {self._written('y_h', 'fresh', 'row', 'column')}",
        ]
        if self.kind == "lstm":
            lines += [
                "if (ended) memory = old_memory;",
                "cell[place] = memory;",
                f"if (step == length - 1) {self._written('y_c', 'memory', 'row', 'column')}",
            ]
        return lines


def build_recurrent(variant: Any, target: Target) -> KernelSource:
    """``variant``: threads, kind, element type, type of the weights, activations, options, and the tile.

    Options: clipped, input_forget, linear_before_reset. Tile: rows of a block, hidden units of a round.
    """
    return _Recurrence(variant).build()
