"""Selects kernels for Recurrent: the time loop of LSTM, GRU and simple RNN layers.

The recurrent weights are packed in panels ``[gate][panel][H][width]``, so that a step of a row block is a few
small matrix products whose sums stay in the nearest cache, followed by the gates' arithmetic. One plan step
runs the whole sequence for a block of rows; where few rows meet large weights, each time step is a plan step
whose tiles share the hidden units.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Recurrent
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import CACHE_SPEEDS, Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.pack import pack_array
from onnxplan.kernels.float_words import float_word
from onnxplan.kernels.recurrent_operands import operand_names

FAMILY = "recurrent"
PACK_FAMILY = "recurrent_pack"

GATES = {"lstm": 4, "gru": 3, "rnn": 1}

# What a plan step does, as bits of its parameter ``work``.
INITIALIZE, FIRST_PHASE, SECOND_PHASE, FINISH = 1, 2, 4, 8

# Weights of fewer bytes than this are read faster by one thread than shared.
SHARED_BYTES = 1 << 18
LONGEST_SHARED_SEQUENCE = 512
ROW_BLOCKS = (1, 2, 4, 6)


# The kernel's parameters after these: for each operand of ``STEPPED``, bytes between its last axis's elements
# and between its rows, and for three-dimensional ones between its steps; alpha and beta of each activation.
PARAMETERS = (
    "row_blocks", "panel_blocks", "panels_per_tile", "panels", "rows", "hidden", "length",
    "first_step", "last_step", "reverse", "work", "clip", "group",
)  # fmt: skip
STEPPED = ("gates", "initial_h", "initial_c", "peepholes", "recurrent_bias", "y", "y_h", "y_c", "lengths")


@dataclass(frozen=True, slots=True)
class Geometry:
    """``block`` rows a tile; panels of ``vectors`` vectors of ``lanes`` lanes; ``panels`` of them a gate."""

    kind: str
    rows: int
    hidden: int
    block: int
    lanes: int
    vectors: int
    panels: int
    sums: DType

    @property
    def width(self) -> int:
        return self.lanes * self.vectors

    @property
    def pitch(self) -> int:
        """Elements from one row of states or one gate of sums to the next."""
        return self.panels * self.width


def _geometry(kind: str, rows: int, hidden: int, sums: DType, target: Target) -> Geometry:
    lanes = target.vector_bytes // sums.itemsize
    most = 4 if target.vector_registers >= 32 else 2
    # Padded vectors cost as much as others; wider panels use each element of the state more often.
    vectors = min(
        (count for count in (4, 2, 1) if count <= most),
        key=lambda count: -(-hidden // (count * lanes)) * (2 * count + 1),
    )
    block = min(ROW_BLOCKS, key=lambda count: -(-rows // count) * (count + 2))
    return Geometry(kind, rows, hidden, block, lanes, vectors, -(-hidden // (vectors * lanes)), sums)


def select_recurrent(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the steps of a Recurrent of any float type; sums and states are float64 or float32."""
    primitive = operation.primitive
    assert isinstance(primitive, Recurrent)
    gates = operation.inputs[0]
    dtype = gates.dtype
    steps, rows, _ = gates.shape
    hidden = operation.inputs[2].shape[1]
    if not dtype.is_float:
        raise NotImplementedError(f"no CPU kernel for recurrent {primitive.kind} of {dtype}")
    if rows == 0 or hidden == 0:
        return
    sums = DType.FLOAT64 if dtype is DType.FLOAT64 else DType.FLOAT32
    geometry = _geometry(primitive.kind, rows, hidden, sums, target)
    operands = _operands(operation, emit, geometry, primitive)
    reads, writes = operand_names(primitive.kind, primitive.linear_before_reset)
    views = tuple(operands[name] for name in (*reads, *writes))
    adjoining = all(operands[name].strides[-1] == 1 for name in STEPPED[:-1] if name in operands)
    activations = tuple(name for name, _, _ in primitive.activations)
    spec = KernelSpec(
        FAMILY,
        (
            primitive.kind,
            dtype.label,
            activations,
            (primitive.clip is not None, primitive.input_forget, primitive.linear_before_reset),
            adjoining,
            (geometry.block, geometry.vectors, geometry.lanes),
        ),
    )
    tail = _tail_parameters(operands, primitive)
    weight_bytes = operands["r"].size * sums.itemsize
    row_blocks = -(-rows // geometry.block)
    clip = float_word(primitive.clip if primitive.clip is not None else 0.0)
    gate_count = GATES[primitive.kind]
    flops = rows * (2 * gate_count * hidden * hidden + 60 * hidden)
    io_bytes = rows * hidden * (gate_count + 1) * dtype.itemsize
    # Each row block reads the weights from the second cache in each step.
    cache_seconds = row_blocks * weight_bytes / (CACHE_SPEEDS[1] * target.bandwidth)
    step_seconds = max(flops / target.flops, cache_seconds)

    def step(work: int, first: int, last: int, panel_blocks: int, phases: int) -> None:
        per_tile = -(-geometry.panels // panel_blocks)
        panel_blocks = -(-geometry.panels // per_tile)
        head = (row_blocks, panel_blocks, per_tile, geometry.panels, rows, hidden, steps, first, last)
        # Of so many tiles in a row each thread takes one, most likely the same one of the group every time.
        group = target.threads if panel_blocks % target.threads == 0 else 1
        options = (int(primitive.reverse), work, clip, group)
        emit.step(
            spec,
            views,
            tuple(range(len(reads), len(views))),
            (*head, *options, *tail),
            tiles=row_blocks * panel_blocks,
            flops=flops * (last - first) // phases,
            bytes_moved=(weight_bytes + (last - first) * io_bytes) // phases,
            scratch=geometry.block * gate_count * geometry.pitch * sums.itemsize,
            seconds=step_seconds * (last - first) / phases
            + rows * hidden * dtype.itemsize / target.bandwidth,
        )

    shared = row_blocks < 4 and weight_bytes >= SHARED_BYTES and 0 < steps <= LONGEST_SHARED_SEQUENCE
    if not shared:
        step(INITIALIZE | FIRST_PHASE | SECOND_PHASE | FINISH, 0, steps, 1, 1)
        return
    phases = (FIRST_PHASE, SECOND_PHASE) if "reset" in operands else (FIRST_PHASE | SECOND_PHASE,)
    step(INITIALIZE, 0, 0, 1, 1)
    for number in range(steps):
        for phase in phases:
            step(phase, number, number + 1, geometry.panels, len(phases))
    step(FINISH, steps, steps, 1, 1)


def _operands(
    operation: Operation, emit: StepEmitter, geometry: Geometry, primitive: Recurrent
) -> dict[str, View]:
    """The kernel's operands by name: the operation's, packed weights, and states between steps."""
    gates, r, initial_h, lengths, *extra = operation.inputs
    operands = {"gates": gates, "r": _packed(emit, r, geometry), "initial_h": initial_h, "lengths": lengths}
    operands |= dict(zip(("y", "y_h", "y_c"), operation.outputs, strict=False))
    shape = (geometry.rows, geometry.pitch)

    def temporary(name: str, copies: int = 1) -> View:
        full = (copies * shape[0], shape[1])
        return View.dense(emit.temporary(geometry.sums, full[0] * full[1], name), full)

    operands["state"] = temporary("state", 2)
    if primitive.kind == "lstm":
        operands |= {"initial_c": extra[0], "peepholes": extra[1], "cell": temporary("cell")}
    if primitive.kind == "gru":
        operands["recurrent_bias"] = extra[0]
        if not primitive.linear_before_reset:
            operands |= {"update": temporary("update"), "reset": temporary("reset")}
    return operands


def _packed(emit: StepEmitter, r: View, geometry: Geometry) -> View:
    """The recurrent weights in panels, of the type to sum in."""
    gates, hidden, panels, width = GATES[geometry.kind], geometry.hidden, geometry.panels, geometry.width
    size = gates * panels * hidden * width
    if r.is_constant:
        layout = f"recurrent {geometry.sums} gates{gates} width{width}"
        packed = emit.constant((r,), layout, lambda array: pack_weights(array, gates, width, geometry.sums))
        return View.dense(packed, (size,))
    result = View.dense(emit.temporary(geometry.sums, size, "packed"), (size,))
    itemsize = r.dtype.itemsize
    emit.step(
        KernelSpec(PACK_FAMILY, (r.dtype.label, geometry.sums.label, geometry.vectors, geometry.lanes)),
        (r, result),
        (1,),
        (panels, hidden, r.strides[0] * itemsize, r.strides[1] * itemsize),
        tiles=gates * panels,
        flops=0,
        bytes_moved=r.size * itemsize + size * geometry.sums.itemsize,
    )
    return result


def pack_weights(r: npt.NDArray[Any], gates: int, width: int, sums: DType) -> npt.NDArray[Any]:
    """``r (H, gates * H)`` as a flat array of ``(gate, panel, H, width)``, panels filled up with zeros."""
    hidden = r.shape[0]
    matrices = r.reshape(hidden, gates, hidden).transpose(1, 0, 2)
    return pack_array(matrices.astype(sums.numpy, copy=False), width)


def _tail_parameters(operands: dict[str, View], primitive: Recurrent) -> list[int]:
    parameters: list[int] = []
    for name in STEPPED:
        strides = [0, 0, 0]
        if name in operands:
            view = operands[name]
            strides[: view.rank] = [stride * view.dtype.itemsize for stride in reversed(view.strides)]
        parameters += strides
    for _, alpha, beta in primitive.activations:
        parameters += [float_word(alpha), float_word(beta)]
    return parameters
