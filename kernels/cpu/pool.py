"""Selects kernels for Pool: windows over one to three spatial axes, vectors over channels or along rows."""

from __future__ import annotations

import math

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Pool
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.axes import compute_itemsize, lane_count, units_per_tile
from onnxplan.kernels.cpu.pool_rows import emit_pool_rows, is_by_rows
from onnxplan.kernels.pool_places import place_strides

FAMILY = "pool"

MOST_AXES = 3


def select_pool(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a Pool: ``max`` of floats and integers, ``average`` of floats."""
    primitive = operation.primitive
    assert isinstance(primitive, Pool)
    x, y = operation.inputs[0], operation.outputs[0]
    spatial = x.rank - 2
    if spatial > MOST_AXES or x.dtype.kind not in ("fiu" if primitive.kind == "max" else "f"):
        raise NotImplementedError(f"no CPU kernel for {primitive.kind} pool of {spatial} axes of {x.dtype}")
    if y.size == 0:
        return
    if is_by_rows(primitive, x, operation.outputs):
        emit_pool_rows(primitive, x, y, emit, target)
        return
    views = (x, *operation.outputs)
    channels = x.shape[-1]
    adjoining = channels == 1 or all(view.strides[-1] == 1 for view in views)
    most = 16 if len(views) == 3 or not adjoining else 64
    lanes = lane_count(target, compute_itemsize(x.dtype), channels, most)
    padding, dilations = 3 - spatial, primitive.dilations
    row = y.shape[-2]
    taps = math.prod(primitive.kernel)
    unit_bytes = channels * (min(taps, 4) + 1) * x.dtype.itemsize
    block = min(row, max(1, (1 << 15) // unit_bytes))
    rows = y.shape[0] * math.prod(y.shape[1:-2])
    units = rows * -(-row // block)
    per_tile = units_per_tile(units, unit_bytes * block)
    parameters = [units, per_tile, -(-row // block), block, channels, math.prod(x.shape[1:-1])]
    parameters += [_step(view, -1) for view in _three(views)] + [_step(view, 0) for view in _three(views)]
    places = place_strides(primitive, x)
    ends = primitive.count_padding or (0,) * spatial
    for _ in range(padding):
        parameters += [1, 1, 1, 1, 0, 1, 1, 0, 0, 0, 0]
    for axis in range(spatial):
        parameters += [
            y.shape[1 + axis],
            x.shape[1 + axis],
            primitive.kernel[axis],
            primitive.strides[axis],
            primitive.pads[axis],
            dilations[axis],
            x.shape[1 + axis] + ends[axis],
            *[_step(view, 1 + axis) for view in _three(views)],
            places[axis],
        ]
    counted = primitive.count_padding is not None
    dilated = any(dilation != 1 for dilation in dilations)
    kind = "argmax" if len(views) == 3 else "counted" if counted else primitive.kind
    emit.step(
        KernelSpec(FAMILY, (kind, x.dtype.label, dilated, adjoining, lanes)),
        views,
        tuple(range(1, len(views))),
        tuple(parameters),
        tiles=-(-units // per_tile),
        flops=y.size * taps,
        bytes_moved=sum(view.size * view.dtype.itemsize for view in views),
    )


def _three(views: tuple[View, ...]) -> tuple[View, View, View]:
    """Input, output and positions, the output again where there are none."""
    return views[0], views[1], views[-1]


def _step(view: View, axis: int) -> int:
    return view.strides[axis] * view.dtype.itemsize
