"""Selects the kernel of Resample along rows of neighbours, alone or together with another axis.

The lines that a row of the result is made of become one in scratch memory, which stays in the first cache;
its elements are then picked by permutations of registers, whose tables are made when planning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import ResamplePlane
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import Shape, View
from onnxplan.kernels.cpu.axes import TILE_BYTES, Axis, merged, positions, units_per_tile, words
from onnxplan.kernels.cpu.streaming import beyond_caches, has_streams
from onnxplan.kernels.cpu.tiling import ceil_div, round_up

FAMILY = "resample_rows"

WORDS = (
    "units",
    "per_tile",
    "blocks",
    "block",
    "rows",
    "outputs",
    "width",
    "lines",
    "taps",
    "x_step",
    "y_step",
    "streamed",
    "pitch",
    "axes",
)
"""The parameter words before the other axes.

A unit of work is a block of rows of the result; ``pitch`` are the bytes from one line in scratch to the next.
"""

ROWS = 4
"""Lines are made so many rows ahead; a power of two."""
MOST_UNROLLED = 4
"""Lines or taps that loops are unrolled for."""

WINDOW = 2
"""Vectors of a line that the elements of one vector of results come from."""

Places = npt.NDArray[np.int32]
Tables = tuple[View, View]
"""Positions and weights along an axis."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Along ``axis`` by ``lines``, then along the last one by ``last``; without ``lines`` the latter only."""

    x: View
    y: View
    axis: int
    lines: Tables | None
    last: Tables


def prefers_resample_plane(operation: Operation, target: Target) -> bool:
    """Has the CPU a kernel for both axes?"""
    return has_resample_rows(_plane(operation), target)


def select_resample_plane(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a :class:`ResamplePlane` that is preferred."""
    emit_resample_rows(_plane(operation), emit, target)


def _plane(operation: Operation) -> Rows:
    primitive = operation.primitive
    assert isinstance(primitive, ResamplePlane)
    x, places, weights, *last = operation.inputs
    return Rows(x, operation.outputs[0], primitive.axis, (places, weights), (last[0], last[1]))


def has_resample_rows(rows: Rows, target: Target) -> bool:
    """Are rows of float32 dense, and do neighbouring results come from places close enough to each other?"""
    tables = (*(rows.lines or ()), *rows.last)
    floats = (rows.x, rows.y, *tables[1::2])
    return (
        has_streams(target)
        and all(view.dtype is DType.FLOAT32 for view in floats)
        and all(table.is_constant for table in tables)
        and rows.x.size > 0
        and rows.y.size > 0
        and all(view.strides[-1] == 1 or view.shape[-1] == 1 for view in (rows.x, rows.y))
        and _are_close(rows, target)
    )


def _are_close(rows: Rows, target: Target) -> bool:
    lanes = target.vector_bytes // rows.y.dtype.itemsize
    places = _by_vectors(_inside(rows.last[0].numpy(), rows.x.shape[-1]), lanes)
    ahead = places.max(axis=(1, 2)) - places.min(axis=(1, 2))
    return int(ahead.max()) < WINDOW * lanes


def _inside(places: npt.NDArray[Any], extent: int) -> Places:
    """Positions moved to the nearest that exist."""
    inside: Places = np.clip(places, 0, extent - 1).astype(np.int32)
    return inside


def _by_vectors(table: npt.NDArray[Any], lanes: int) -> npt.NDArray[Any]:
    """A table ``(outputs, taps)`` as ``(vectors, taps, lanes)``; the last outputs are repeated."""
    outputs, taps = table.shape
    padded = np.pad(table, ((0, -outputs % lanes), (0, 0)), mode="edge")
    return padded.reshape(-1, lanes, taps).transpose(0, 2, 1)


def emit_resample_rows(rows: Rows, emit: StepEmitter, target: Target) -> None:
    """The step, if :func:`has_resample_rows`."""
    x, y, axis, size = rows.x, rows.y, rows.axis, rows.y.dtype.itemsize
    lanes = target.vector_bytes // rows.y.dtype.itemsize
    width, outputs = x.shape[-1], y.shape[-1]
    lines, line_weights = _line_tables(rows, emit)
    starts, entries = _picks(rows, emit, lanes)
    taps, row_bytes = rows.last[0].shape[1], outputs * size
    others = merged(
        Axis(x.shape[other], (x.strides[other] * size, y.strides[other] * size))
        for other in range(x.rank - 1)
        if other != axis
    )
    block = min(y.shape[axis], ceil_div(TILE_BYTES, row_bytes))
    blocks = ceil_div(y.shape[axis], block)
    units = positions(others) * blocks
    per_tile = units_per_tile(units, block * (width + outputs) * size)
    adjoin = y.strides[axis] == outputs
    streamed = adjoin and beyond_caches(y)
    pitch = round_up((width + WINDOW * lanes) * size, target.vector_bytes)
    count = lines.shape[1]
    parameters = [units, per_tile, blocks, block, y.shape[axis], outputs, width, count, taps]
    parameters += [x.strides[axis] * size, y.strides[axis] * size, int(streamed), pitch]
    parameters += [len(others), *words(others)]
    emit.step(
        KernelSpec(FAMILY, tuple(number if number <= MOST_UNROLLED else 0 for number in (count, taps))),
        (x, lines, line_weights, starts, entries, y),
        (5,),
        tuple(parameters),
        tiles=ceil_div(units, per_tile),
        flops=2 * (y.size // outputs) * (count * width + taps * outputs),
        bytes_moved=(x.size + y.size) * size,
        scratch=2 * ROWS * pitch,
    )


def _line_tables(rows: Rows, emit: StepEmitter) -> Tables:
    """Positions and weights of the lines ``(rows, lines)``; each line alone where only rows are resampled."""
    extent = rows.x.shape[rows.axis]
    if rows.lines is None:
        shape: Shape = (extent, 1)
        places = emit.constant(
            rows.last[:1], f"{extent} positions", lambda _: np.arange(extent, dtype=np.int32)
        )
        weights = emit.constant(rows.last[:1], f"{extent} ones", lambda _: np.ones(extent, np.float32))
    else:
        shape = rows.lines[0].shape
        places = emit.constant(
            rows.lines[:1], f"inside of {extent}", lambda array: _inside(array, extent).reshape(-1)
        )
        weights = emit.constant(
            rows.lines[1:], "dense", lambda array: np.ascontiguousarray(array).reshape(-1)
        )
    return View.dense(places, shape), View.dense(weights, shape)


def _picks(rows: Rows, emit: StepEmitter, lanes: int) -> Tables:
    """Where the window of each vector starts; and ``(vectors, taps, 2, lanes)`` places in it and weights."""
    extent = rows.x.shape[-1]

    def starts(places: npt.NDArray[Any]) -> Places:
        least: Places = _by_vectors(_inside(places, extent), lanes).min(axis=(1, 2))
        return least

    def entries(places: npt.NDArray[Any], weights: npt.NDArray[Any]) -> Places:
        ahead = _by_vectors(_inside(places, extent), lanes) - starts(places)[:, None, None]
        factors = np.ascontiguousarray(_by_vectors(weights, lanes), np.float32).view(np.int32)
        return np.stack([ahead.astype(np.int32), factors], axis=2).reshape(-1)

    outputs, taps = rows.last[0].shape
    vectors = ceil_div(outputs, lanes)
    layout = f"of vectors of {lanes} in {extent}"
    first = emit.constant(rows.last[:1], f"starts {layout}", starts)
    picks = emit.constant(rows.last, f"picks {layout}", entries)
    return View.dense(first, (vectors,)), View.dense(picks, (vectors, taps, 2, lanes))
