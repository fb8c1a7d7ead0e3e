"""Selects kernels for Resample: weighted sums of elements along one axis."""

from __future__ import annotations

import numpy as np

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Resample
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.axes import Axis, lane_count, positions, units_per_tile, words
from onnxplan.kernels.cpu.resample_rows import Rows, emit_resample_rows, has_resample_rows
from onnxplan.kernels.cpu.scan import kept_axes

FAMILY = "resample"


def select_resample(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a Resample of any float or integer type."""
    primitive = operation.primitive
    assert isinstance(primitive, Resample)
    x, places, weights = operation.inputs
    y = operation.outputs[0]
    if x.dtype.kind not in "fiu":
        raise NotImplementedError(f"no CPU kernel for resample of {x.dtype}")
    if y.size == 0:
        return
    axis = primitive.axis
    rows = _along_rows(axis, x, y, places, weights)
    if has_resample_rows(rows, target):
        emit_resample_rows(rows, emit, target)
        return
    sums = DType.FLOAT64 if DType.FLOAT64 in (x.dtype, weights.dtype) else DType.FLOAT32
    size = x.dtype.itemsize
    axes = kept_axes(axis, (x, y))
    adjoining = [n for n, kept in enumerate(axes) if kept.steps == (size, size) and kept.extent >= 4]
    outputs, taps = places.shape
    if adjoining:
        form = "across"
        inner = axes.pop(adjoining[0])
        lanes = lane_count(target, sums.itemsize, inner.extent)
        block = min(inner.extent, 16 * lanes)
        units = positions(axes) * outputs * -(-inner.extent // block)
        unit_bytes = block * (taps + 1) * size
    else:
        places, weights = _columns(emit, places), _columns(emit, weights)
        adjoin = y.strides[axis] == 1 and places.strides[0] == 1 and weights.strides[0] == 1
        form = "along" if adjoin else "strided"
        inner = axes.pop() if axes else Axis(1, (0, 0))
        lanes = lane_count(target, sums.itemsize, outputs, 16)
        block = min(inner.extent, max(1, 2048 // (outputs * taps)))
        units = positions(axes) * -(-inner.extent // block)
        unit_bytes = 2 * block * outputs * (taps + 1) * size
    per_tile = units_per_tile(units, unit_bytes)
    parameters = [units, per_tile, -(-inner.extent // block), block, inner.extent, *inner.steps]
    parameters += [x.shape[axis], x.strides[axis] * size, outputs, y.strides[axis] * size, taps]
    for view in (places, weights):
        parameters += [stride * view.dtype.itemsize for stride in view.strides]
    parameters += [len(axes), *words(axes)]
    emit.step(
        KernelSpec(FAMILY, (x.dtype.label, weights.dtype.label, form, lanes)),
        (x, places, weights, y),
        (3,),
        tuple(parameters),
        tiles=-(-units // per_tile),
        flops=2 * y.size * taps,
        bytes_moved=(x.size + y.size) * size,
    )


def _along_rows(axis: int, x: View, y: View, places: View, weights: View) -> Rows:
    """The operation as one along the last axis; lines are those of the axis before it."""
    if axis != x.rank - 1:
        order = (*(other for other in range(x.rank) if other != axis), axis)
        x, y = x.transpose(order), y.transpose(order)
    if x.rank == 1:
        x, y = x.unsqueeze((0,)), y.unsqueeze((0,))
    return Rows(x, y, x.rank - 2, None, (places, weights))


def _columns(emit: StepEmitter, table: View) -> View:
    """A constant ``(outputs, taps)`` laid out so that one tap's entries for all outputs adjoin."""
    if not table.is_constant or table.strides[0] == 1:
        return table
    outputs, taps = table.shape
    storage = emit.constant((table,), "columns", lambda array: np.ascontiguousarray(array.T).reshape(-1))
    return View(storage, 0, (outputs, taps), (1, outputs))
