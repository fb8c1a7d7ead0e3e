"""The arithmetic of the gates of LSTM, GRU and simple RNN cells, as vector code.

Source: https://onnx.ai/onnx/operators/onnx__LSTM.html, onnx__GRU.html, onnx__RNN.html.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from llvmlite import ir

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.kernels.cpu.activations import Activations
from onnxplan.kernels.cpu.emitter import Emitter, Mask


@dataclass(frozen=True, slots=True)
class Row:
    """Addresses for one row at one time step.

    ``gates`` are the input projections, ``sums`` the recurrent products gate by gate, ``state`` the hidden
    state before the step; ``own`` are buffers that live from step to step.
    """

    gates: ir.Value
    sums: list[ir.Value]
    state: ir.Value
    own: dict[str, ir.Value]


class Cell:
    """What the cells are built from. Vectors are of type ``sums``; columns count hidden units."""

    word: dict[str, ir.Value]
    steps: dict[str, list[ir.Value]]
    operand: dict[str, ir.Value]

    def __init__(
        self,
        emitter: Emitter,
        sums: DType,
        activations: tuple[str, ...],
        scalars: list[ir.Value],
        clip: ir.Value | None,
        *,
        input_forget: bool,
        linear: bool,
    ) -> None:
        """``scalars`` are alpha and beta of each activation in turn, in all lanes."""
        self.emitter, self.sums = emitter, sums
        self.input_forget, self.linear = input_forget, linear
        self._make = Activations(emitter, sums)
        self._activations, self._scalars, self._clip = activations, scalars, clip

    @abstractmethod
    def read(self, name: str, row: ir.Value, column: ir.Value, mask: Mask | None) -> ir.Value:
        """A vector of an operand of the operation."""

    @abstractmethod
    def saved(self, row: ir.Value, column: ir.Value) -> ir.Value:
        """A vector of a buffer."""

    @abstractmethod
    def save(self, row: ir.Value, column: ir.Value, value: ir.Value) -> None:
        """Writes a vector of a buffer."""

    def input(self, row: Row, gate: int, column: ir.Value, mask: Mask | None) -> ir.Value:
        """The input projection of a gate."""
        emitter = self.emitter
        place = emitter.add(emitter.mul(self.word["hidden"], gate), column)
        return self.read("gates", row.gates, place, mask)

    def total(self, row: Row, gate: int, column: ir.Value, mask: Mask | None) -> ir.Value:
        """The input projection of a gate and its recurrent product."""
        product = self.saved(row.sums[gate], column)
        return self.emitter.builder.fadd(self.input(row, gate, column, mask), product)

    def activate(self, which: int, x: ir.Value) -> ir.Value:
        """The activation numbered ``which``, of a value clipped before."""
        if self._clip is not None:
            x = self._make.call(
                "min", self._make.call("max", x, self.emitter.builder.fneg(self._clip)), self._clip
            )
        return self.unclipped(which, x)

    def unclipped(self, which: int, x: ir.Value) -> ir.Value:
        alpha, beta = self._scalars[2 * which : 2 * which + 2]
        return self._make.apply(self._activations[which], x, alpha, beta)

    def peephole(self, gate: int, column: ir.Value, mask: Mask | None) -> ir.Value:
        emitter = self.emitter
        row = emitter.offset(self.operand["peepholes"], emitter.mul(self.steps["peepholes"][1], gate))
        return self.read("peepholes", row, column, mask)

    def one_minus(self, x: ir.Value) -> ir.Value:
        return self.emitter.builder.fsub(self.emitter.constant(1.0, self.sums), x)


def _lstm(cell: Cell, row: Row, column: ir.Value, mask: Mask | None) -> ir.Value:
    emitter, builder = cell.emitter, cell.emitter.builder
    c = cell.saved(row.own["cell"], column)

    def gate(number: int, peephole: int, state: ir.Value) -> ir.Value:
        total = cell.total(row, number, column, mask)
        return cell.activate(0, emitter.fma(cell.peephole(peephole, column, mask), state, total))

    i = gate(0, 0, c)
    f = cell.one_minus(i) if cell.input_forget else gate(2, 2, c)
    candidate = cell.activate(1, cell.total(row, 3, column, mask))
    c = emitter.fma(f, c, builder.fmul(i, candidate))
    cell.save(row.own["cell"], column, c)
    return builder.fmul(gate(1, 1, c), cell.unclipped(2, c))


def _gru_gates(cell: Cell, row: Row, column: ir.Value, mask: Mask | None) -> None:
    """The update gate, and the state times the reset gate, into buffers."""
    update = cell.activate(0, cell.total(row, 0, column, mask))
    reset = cell.activate(0, cell.total(row, 1, column, mask))
    cell.save(row.own["update"], column, update)
    cell.save(row.own["reset"], column, cell.emitter.builder.fmul(reset, cell.saved(row.state, column)))


def _gru_candidate(cell: Cell, row: Row, column: ir.Value, mask: Mask | None) -> ir.Value:
    bias = cell.read("recurrent_bias", cell.operand["recurrent_bias"], column, mask)
    total = cell.emitter.builder.fadd(cell.total(row, 2, column, mask), bias)
    update = cell.saved(row.own["update"], column)
    return _blend(cell, update, cell.activate(1, total), cell.saved(row.state, column))


def _gru_linear(cell: Cell, row: Row, column: ir.Value, mask: Mask | None) -> ir.Value:
    update = cell.activate(0, cell.total(row, 0, column, mask))
    reset = cell.activate(0, cell.total(row, 1, column, mask))
    bias = cell.read("recurrent_bias", cell.operand["recurrent_bias"], column, mask)
    recurrent = cell.emitter.builder.fadd(cell.saved(row.sums[2], column), bias)
    total = cell.emitter.fma(reset, recurrent, cell.input(row, 2, column, mask))
    return _blend(cell, update, cell.activate(1, total), cell.saved(row.state, column))


def _blend(cell: Cell, update: ir.Value, candidate: ir.Value, state: ir.Value) -> ir.Value:
    kept = cell.emitter.builder.fmul(update, state)
    return cell.emitter.fma(cell.one_minus(update), candidate, kept)


def _rnn(cell: Cell, row: Row, column: ir.Value, mask: Mask | None) -> ir.Value:
    return cell.activate(0, cell.total(row, 0, column, mask))


CELLS: dict[str, Callable[[Cell, Row, ir.Value, Mask | None], ir.Value | None]] = {
    "lstm": _lstm,
    "gru": _gru_linear,
    "gru gates": _gru_gates,
    "gru candidate": _gru_candidate,
    "rnn": _rnn,
}
