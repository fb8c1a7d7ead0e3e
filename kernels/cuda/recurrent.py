"""Selects kernels for Recurrent: the time loop of LSTM, GRU and simple RNN layers.

A block computes some hidden units of some rows: groups of threads share the positions of the state that
products sum over, and their sums are added in a fixed order. Where the weights are small, a block serves all
hidden units of its rows and one plan step runs the whole sequence; where they are large, each time step is a
plan step (or two), whose blocks share the hidden units.
"""

from __future__ import annotations

import numpy as np

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import identity
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import MapReduce, Recurrent
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cuda.map import select_map
from onnxplan.kernels.cuda.source import check_words
from onnxplan.kernels.float_words import float_word
from onnxplan.kernels.geometry import ceil_div
from onnxplan.kernels.recurrent_operands import operand_names

FAMILY = "recurrent"
GATES = {"lstm": 4, "gru": 3, "rnn": 1}

# What a plan step does, as bits of its parameter ``work``.
INITIALIZE, FIRST_PHASE, SECOND_PHASE = 1, 2, 4

# A block reads fewer bytes of weights than this in the time that one more kernel call takes.
SHARED_BYTES = 1 << 18
LONGEST_SHARED_SEQUENCE = 512
MOST_ROWS = 8
# Bytes of shared memory that any device gives a block.
PARTIAL_BYTES = 48 << 10

PARAMETERS = (
    "column_blocks", "block_columns", "rows", "hidden", "length", "first_step", "last_step", "reverse",
    "work",
)  # fmt: skip
"""The kernel's first parameters; then strides of :data:`STEPPED`, the clip, alpha and beta of activations."""

STEPPED = {
    "gates": 3, "r": 2, "initial_h": 2, "lengths": 1, "initial_c": 2, "peepholes": 2, "recurrent_bias": 1,
    "y": 3, "y_h": 2, "y_c": 2,
}  # fmt: skip
"""Ranks of the operation's operands, in the order of their strides among the parameters."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """A block of ``threads`` serves ``rows`` rows, ``width`` hidden units at a time, ``columns`` in all."""

    threads: int
    rows: int
    width: int
    columns: int


def select_recurrent(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of a Recurrent of any float type; sums and states are float64 or float32."""
    primitive = operation.primitive
    assert isinstance(primitive, Recurrent)
    gates, _, initial_h = operation.inputs[:3]
    dtype, kind = gates.dtype, primitive.kind
    steps, rows, _ = gates.shape
    hidden = initial_h.shape[1]
    if not dtype.is_float:
        raise NotImplementedError(f"no CUDA kernel for recurrent {kind} of {dtype}")
    if rows == 0 or hidden == 0:
        return
    if steps == 0:
        _copy_states(operation, emit, target)
        return
    sums = DType.FLOAT64 if dtype is DType.FLOAT64 else DType.FLOAT32
    operands = _operands(operation, emit, target, sums)
    reads, writes = operand_names(kind, primitive.linear_before_reset)
    views = tuple(operands[name] for name in (*reads, *writes))
    weight_bytes = operands["r"].size * operands["r"].dtype.itemsize
    shared = weight_bytes >= SHARED_BYTES and steps <= LONGEST_SHARED_SEQUENCE
    choose = _shared_geometry if shared else _whole_geometry
    geometry = choose(rows, hidden, GATES[kind] * sums.itemsize, target.threads)
    spec = KernelSpec(
        FAMILY,
        (
            geometry.threads,
            kind,
            dtype.label,
            operands["r"].dtype.label,
            tuple(name for name, _, _ in primitive.activations),
            (primitive.clip is not None, primitive.input_forget, primitive.linear_before_reset),
            (geometry.rows, geometry.width),
        ),
    )
    tail = _tail_parameters(operands, primitive)
    column_blocks = ceil_div(hidden, geometry.columns)
    gate_count = GATES[kind]
    flops = rows * (2 * gate_count * hidden * hidden + 60 * hidden)
    io_bytes = rows * hidden * (gate_count + 1) * dtype.itemsize

    def step(work: int, first: int, last: int, phases: int) -> None:
        head = (
            column_blocks,
            geometry.columns,
            rows,
            hidden,
            steps,
            first,
            last,
            int(primitive.reverse),
            work,
        )
        check_words(len(views), len(head) + len(tail))
        emit.step(
            spec,
            views,
            tuple(range(len(reads), len(views))),
            (*head, *tail),
            tiles=ceil_div(rows, geometry.rows) * column_blocks,
            flops=flops * (last - first) // phases,
            bytes_moved=(weight_bytes + (last - first) * io_bytes) // phases,
            scratch=geometry.threads * gate_count * geometry.rows * sums.itemsize,
        )

    if not shared:
        step(INITIALIZE | FIRST_PHASE | SECOND_PHASE, 0, steps, 1)
        return
    phases = (FIRST_PHASE, SECOND_PHASE) if "reset" in operands else (FIRST_PHASE | SECOND_PHASE,)
    step(INITIALIZE, 0, 0, 1)
    for number in range(steps):
        for phase in phases:
            step(phase, number, number + 1, len(phases))


def _whole_geometry(rows: int, hidden: int, row_bytes: int, multiprocessors: int) -> Geometry:
    """Blocks that serve all hidden units of their rows."""
    threads = 512 if hidden > 32 else 256
    block = 1
    while (
        block < MOST_ROWS and ceil_div(rows, block) > multiprocessors and _fits(threads, 2 * block, row_bytes)
    ):
        block *= 2
    width = 8
    while width < min(hidden, 128):
        width *= 2
    return Geometry(threads, block, width, ceil_div(hidden, width) * width)


def _shared_geometry(rows: int, hidden: int, row_bytes: int, multiprocessors: int) -> Geometry:
    """Blocks that serve few hidden units, so that there are enough of them."""
    threads, block, width = 256, 1, 8
    while block < MOST_ROWS and block < rows and _fits(threads, 2 * block, row_bytes):
        block *= 2
    while block > 1 and ceil_div(rows, block) * ceil_div(hidden, width) < multiprocessors:
        block //= 2
    while width < 32 and ceil_div(rows, block) * ceil_div(hidden, 2 * width) >= multiprocessors:
        width *= 2
    return Geometry(threads, block, width, width)


def _fits(threads: int, block: int, row_bytes: int) -> bool:
    return threads * block * row_bytes <= PARTIAL_BYTES


def _copy_states(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Without time steps the final states are the initial ones."""
    pairs = [(operation.inputs[2], operation.outputs[1])]
    if len(operation.outputs) > 2:
        pairs.append((operation.inputs[4], operation.outputs[2]))
    for source, result in pairs:
        copy = MapReduce(identity(source.dtype), source.shape)
        select_map(Operation(copy, (source,), (result,), operation.nodes), emit, target)


def _operands(operation: Operation, emit: StepEmitter, target: Target, sums: DType) -> dict[str, View]:
    """The kernel's operands by name: the operation's, and states between steps."""
    primitive = operation.primitive
    assert isinstance(primitive, Recurrent)
    gates, r, initial_h, lengths, *extra = operation.inputs
    operands = {
        "gates": gates,
        "r": _rows_adjoining(r, operation, emit, target, sums),
        "initial_h": initial_h,
        "lengths": lengths,
    }
    operands |= dict(zip(("y", "y_h", "y_c"), operation.outputs, strict=False))
    rows, hidden = initial_h.shape

    def temporary(name: str, copies: int = 1) -> View:
        return View.dense(emit.temporary(sums, copies * rows * hidden, name), (copies * rows, hidden))

    operands["state"] = temporary("state", 2)
    if primitive.kind == "lstm":
        operands |= {"initial_c": extra[0], "peepholes": extra[1], "cell": temporary("cell")}
    if primitive.kind == "gru":
        operands["recurrent_bias"] = extra[0]
        if not primitive.linear_before_reset:
            operands |= {"update": temporary("update"), "reset": temporary("reset")}
    return operands


def _rows_adjoining(r: View, operation: Operation, emit: StepEmitter, target: Target, sums: DType) -> View:
    """The recurrent weights with elements of a row side by side: neighbouring threads read neighbours."""
    if r.is_constant:
        storage = emit.constant(
            (r,),
            f"recurrent rows {sums}",
            lambda array: np.ascontiguousarray(array.astype(sums.numpy)).reshape(-1),
        )
        return View.dense(storage, r.shape)
    if r.strides[1] == 1:
        return r
    result = View.dense(emit.temporary(r.dtype, r.size, "recurrent"), r.shape)
    copy = MapReduce(identity(r.dtype), r.shape)
    select_map(Operation(copy, (r,), (result,), operation.nodes), emit, target)
    return result


def _tail_parameters(operands: dict[str, View], primitive: Recurrent) -> list[int]:
    parameters: list[int] = []
    for name in STEPPED:
        if name in operands:
            parameters += operands[name].strides
    parameters.append(float_word(primitive.clip if primitive.clip is not None else 0.0))
    for _, alpha, beta in primitive.activations:
        parameters += [float_word(alpha), float_word(beta)]
    return parameters
