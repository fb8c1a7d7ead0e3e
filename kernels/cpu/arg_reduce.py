"""Selects kernels for ArgReduce: where the largest or smallest element is."""

from __future__ import annotations

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import ArgReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.axes import Axis, compute_itemsize, lane_count, positions, units_per_tile, words
from onnxplan.kernels.cpu.scan import kept_axes

FAMILY = "arg_reduce"

# Positions are kept in 32 bits next to the elements.
LONGEST = (1 << 31) - 1


def select_arg_reduce(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of an ArgReduce of any type but strings and complex numbers."""
    primitive = operation.primitive
    assert isinstance(primitive, ArgReduce)
    x, y = operation.inputs[0], operation.outputs[0]
    dtype, extent = x.dtype, x.shape[primitive.axis]
    if dtype.kind not in "fiub" or extent > LONGEST:
        raise NotImplementedError(f"no CPU kernel for arg_reduce of {extent} elements of {dtype}")
    if y.size == 0:
        return
    size = dtype.itemsize
    step = x.strides[primitive.axis] * size
    axes = kept_axes(primitive.axis, (x, y))
    adjoining = [number for number, axis in enumerate(axes) if axis.steps[0] == size and axis.extent >= 4]
    if adjoining and step != size:
        form = "across"
        inner = axes.pop(adjoining[0])
        lanes = lane_count(target, compute_itemsize(dtype), inner.extent, 16)
        block = 4 * lanes
    else:
        form = "along" if step == size else "strided"
        inner = axes.pop() if axes else Axis(1, (0, 0))
        lanes = lane_count(target, compute_itemsize(dtype), extent, 16)
        block = max(1, 4096 // max(extent, 1))
    block = min(block, inner.extent)
    blocks = -(-inner.extent // block)
    units = positions(axes) * blocks
    per_tile = units_per_tile(units, block * (extent * size + 8))
    parameters = [units, per_tile, blocks, block, inner.extent, *inner.steps, extent, step]
    parameters += [len(axes), *words(axes)]
    emit.step(
        KernelSpec(FAMILY, (primitive.kind, dtype.label, primitive.last, form, lanes)),
        (x, y),
        (1,),
        tuple(parameters),
        tiles=-(-units // per_tile),
        flops=x.size,
        bytes_moved=x.size * size + y.size * 8,
    )
