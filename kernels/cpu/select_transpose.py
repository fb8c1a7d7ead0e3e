"""The step of a copy whose fastest axis in the source is not the fastest in the result."""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.staged_copy import select_staged
from onnxplan.kernels.cpu.streaming import JOINED_BYTES, streams
from onnxplan.kernels.cpu.walk import TILE_BYTES, walk_parameters
from onnxplan.kernels.geometry import Axis, ceil_div, pad_axes, unique_bytes

# A region is copied block by block within one tile, so that whole cache lines of both sides are used.
REGION = 64
# Rows and columns of a block that is transposed in registers.
LARGEST_BLOCK = 16
# Up to as many interleaved planes are permuted in registers, vector by vector.
MOST_PLANES = 8


def select_copy(
    axes: Sequence[Axis], views: Sequence[View], dtype: DType, emit: StepEmitter, target: Target
) -> bool:
    """Emits the step of a copy along ``axes`` (strides of source and result) for which there is a kernel."""
    if not axes or axes[-1].strides[1] != 1:
        return False
    if axes[-1].strides[0] == 1:
        return select_staged(axes, views, dtype, emit, target)
    return _select_transpose(axes, views, dtype, emit, target)


def _select_transpose(
    axes: Sequence[Axis], views: Sequence[View], dtype: DType, emit: StepEmitter, target: Target
) -> bool:
    """Emits a transposition if ``axes`` ask for one."""
    result_axis = axes[-1]
    source_axis = next((axis for axis in axes[:-1] if axis.strides[0] == 1), None)
    if source_axis is None:
        return False
    outer = pad_axes([axis for axis in axes[:-1] if axis is not source_axis], 2)
    if _interleave(source_axis, result_axis, outer, views, dtype, emit, target):
        return True
    if select_staged(axes, views, dtype, emit, target):
        return True
    if result_axis.strides[0] == 0:
        return False
    if min(source_axis.extent, result_axis.extent) < 4:
        return False
    regions = ceil_div(source_axis.extent, REGION) * ceil_div(result_axis.extent, REGION)
    width = min(source_axis.extent, REGION) * min(result_axis.extent, REGION) * dtype.itemsize * 2
    parameters, tiles = walk_parameters(outer, [dtype.itemsize] * 2, regions, width)
    parameters += [source_axis.extent, result_axis.extent]
    parameters += [result_axis.strides[0] * dtype.itemsize, source_axis.strides[1] * dtype.itemsize]
    # Only rows that all begin at the same place of a line can be cut into whole lines alike.
    steps = [source_axis.strides[1], *(axis.strides[1] for axis in outer)]
    alike = all(step * dtype.itemsize % target.vector_bytes == 0 for step in steps)
    lanes = target.vector_bytes // dtype.itemsize
    streamed = alike and streams(target, views[1], "c", result_axis.extent, lanes)
    kernel = KernelSpec("transpose", (dtype.label, len(outer), streamed))
    scratch = REGION * staged_row_bytes(dtype, target) if streamed else 0
    _emit_copy(emit, kernel, views, parameters, tiles, scratch)
    return True


def staged_row_bytes(dtype: DType, target: Target) -> int:
    """Bytes of a row of a region in the scratch: the last one of a matrix has up to a line more."""
    return REGION * dtype.itemsize + target.vector_bytes


def _interleave(
    source_axis: Axis,
    result_axis: Axis,
    outer: Sequence[Axis],
    views: Sequence[View],
    dtype: DType,
    emit: StepEmitter,
    target: Target,
) -> bool:
    """Emits the step if a few planes become neighbouring elements, or neighbouring elements a few planes.

    One plane may stand for all, whose elements are then repeated.
    """
    if result_axis.extent <= MOST_PLANES and source_axis.strides[1] == result_axis.extent:
        direction, planes, extent = "join", result_axis.extent, source_axis.extent
        plane_step = result_axis.strides[0]
    elif source_axis.extent <= MOST_PLANES and result_axis.strides[0] == source_axis.extent:
        direction, planes, extent = "split", source_axis.extent, result_axis.extent
        plane_step = source_axis.strides[1]
    else:
        return False
    size = dtype.itemsize
    length = min(extent, ceil_div(TILE_BYTES // (2 * planes * size), 64) * 64)
    parameters, tiles = walk_parameters(
        outer, [size] * 2, ceil_div(extent, length), 2 * length * planes * size
    )
    parameters += [extent, length, plane_step * size]
    lanes = min(LARGEST_BLOCK, target.vector_bytes // size)
    joined = direction == "join" and size >= JOINED_BYTES
    streamed = joined and streams(target, views[1], "c", extent * planes, lanes, joins=True)
    kernel = KernelSpec("interleave", (direction, dtype.label, planes, len(outer), streamed))
    _emit_copy(emit, kernel, views, parameters, tiles)
    return True


def _emit_copy(
    emit: StepEmitter,
    kernel: KernelSpec,
    views: Sequence[View],
    parameters: Sequence[int],
    tiles: int,
    scratch: int = 0,
) -> None:
    """Emits a step that copies ``views[0]`` to ``views[1]``."""
    emit.step(
        kernel,
        tuple(views),
        (1,),
        tuple(parameters),
        tiles=tiles,
        flops=0,
        bytes_moved=sum(map(unique_bytes, views)),
        scratch=scratch,
    )
