"""Selects kernels for Gather: runs of contiguous bytes copied from where indices point."""

from __future__ import annotations

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import Gather, GatherElements
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.axes import TILE_BYTES, Axis, merged, positions, units_per_tile, words
from onnxplan.kernels.gather_strides import gather_strides

FAMILY = "gather"

# Runs of these many bytes are copied as one element.
ELEMENT_WIDTHS = (1, 2, 4, 8, 16)


def select_gather(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step of a Gather or GatherElements of any element type but strings."""
    primitive = operation.primitive
    assert isinstance(primitive, Gather | GatherElements)
    data, indices = operation.inputs
    output = operation.outputs[0]
    if data.dtype is DType.STRING or indices.dtype not in (DType.INT32, DType.INT64):
        raise NotImplementedError(f"no CPU kernel for gather of {data.dtype} by {indices.dtype}")
    if output.size == 0:
        return
    axes = _axes(primitive, data, indices, output)
    run = data.dtype.itemsize
    if axes and axes[-1].steps == (run, 0, run):
        run *= axes.pop().extent
    inner = axes.pop() if axes else Axis(1, (0, 0, 0))
    width = run if run in ELEMENT_WIDTHS else 0
    extent = data.shape[primitive.axis]
    chunk = min(run, TILE_BYTES)
    chunks = -(-run // chunk)
    block = min(inner.extent, max(1, TILE_BYTES // (2 * chunk)))
    blocks = -(-inner.extent // block)
    units = positions(axes) * blocks * chunks
    per_tile = units_per_tile(units, 2 * block * chunk)
    parameters = [units, per_tile, blocks, block, inner.extent, *inner.steps]
    parameters += [data.strides[primitive.axis] * data.dtype.itemsize, extent, run, chunks, chunk]
    parameters += [len(axes), *words(axes)]
    index_size = indices.dtype.itemsize if extent else 0
    # Byte offsets that fit 32 bits, as the instruction that gathers a vector takes them.
    reach = abs(data.strides[primitive.axis]) * data.dtype.itemsize * extent
    near = reach + 16 * abs(inner.steps[0]) < 1 << 31
    vectors = target.isa == "avx512" and width in (4, 8) and near and index_size > 0
    emit.step(
        KernelSpec(FAMILY, (width, index_size, vectors)),
        (data, indices, output),
        (2,),
        tuple(parameters),
        anywhere=(0,),
        tiles=-(-units // per_tile),
        flops=0,
        bytes_moved=2 * output.size * output.dtype.itemsize + indices.size * indices.dtype.itemsize,
    )


def _axes(primitive: Gather | GatherElements, data: View, indices: View, output: View) -> list[Axis]:
    """The output's axes with the steps of data, indices and output."""
    size, index_size = data.dtype.itemsize, indices.dtype.itemsize
    strides = zip(*gather_strides(primitive, data, indices), output.strides, strict=True)
    return merged(
        Axis(extent, (read * size, found * index_size, written * size))
        for extent, (read, found, written) in zip(output.shape, strides, strict=True)
    )
