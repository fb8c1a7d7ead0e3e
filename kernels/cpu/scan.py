"""Selects kernels for Scan: cumulative sums and products."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Scan
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.axes import (
    Axis,
    compute_itemsize,
    lane_count,
    merged,
    positions,
    units_per_tile,
    words,
)

FAMILY = "scan"


def select_scan(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a Scan of any float or integer type."""
    primitive = operation.primitive
    assert isinstance(primitive, Scan)
    x, y = operation.inputs[0], operation.outputs[0]
    dtype = x.dtype
    if dtype.kind not in "fiu":
        raise NotImplementedError(f"no CPU kernel for scan of {dtype}")
    if y.size == 0:
        return
    if primitive.reverse:
        x, y = _flipped(x, primitive.axis), _flipped(y, primitive.axis)
    size = dtype.itemsize
    along = Axis(
        x.shape[primitive.axis], (x.strides[primitive.axis] * size, y.strides[primitive.axis] * size)
    )
    axes = kept_axes(primitive.axis, (x, y))
    if abs(along.steps[0]) == size and along.steps[0] == along.steps[1]:
        form = "along" if along.steps[0] > 0 else "reversed"
        inner = axes.pop() if axes else Axis(1, (0, 0))
        lanes = lane_count(target, compute_itemsize(dtype), along.extent)
        block = max(1, 4096 // along.extent)
    else:
        inner = take_widest(axes, size)
        form = "across" if inner.steps == (size, size) else "strided"
        lanes = lane_count(target, compute_itemsize(dtype), inner.extent, 64 if form == "across" else 16)
        block = 4 * lanes
    block = min(block, inner.extent)
    blocks = -(-inner.extent // block)
    units = positions(axes) * blocks
    per_tile = units_per_tile(units, 2 * block * along.extent * size)
    parameters = [units, per_tile, blocks, block, inner.extent, *inner.steps, along.extent, *along.steps]
    parameters += [len(axes), *words(axes)]
    emit.step(
        KernelSpec(FAMILY, (primitive.kind, dtype.label, primitive.exclusive, form, lanes)),
        (x, y),
        (1,),
        tuple(parameters),
        tiles=-(-units // per_tile),
        flops=x.size,
        bytes_moved=2 * x.size * size,
        in_place=((1, 0),),
    )


def _flipped(view: View, axis: int) -> View:
    return view.slice(axis, view.shape[axis] - 1, view.shape[axis], -1)


def kept_axes(axis: int, views: Sequence[View]) -> list[Axis]:
    """The axes but ``axis`` of views of one shape (there), outermost first."""
    sizes = [view.dtype.itemsize for view in views]
    kept = [other for other in range(views[0].rank) if other != axis]
    return merged(
        Axis(
            views[0].shape[other],
            tuple(view.strides[other] * size for view, size in zip(views, sizes, strict=True)),
        )
        for other in kept
    )


def take_widest(axes: list[Axis], size: int) -> Axis:
    """Removes and returns the axis to vectorise over: where elements adjoin, or else the longest."""
    if not axes:
        return Axis(1, (size, size))

    def preference(position: int) -> tuple[int, int]:
        axis = axes[position]
        adjoining = math.prod(step == size for step in axis.steps) if axis.extent >= 4 else 0
        return adjoining, axis.extent

    return axes.pop(max(range(len(axes)), key=preference))
