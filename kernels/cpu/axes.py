"""Iteration spaces of kernels that walk strided operands: axes merged, cut into tiles."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.target import Target

# About what a core moves in five microseconds: less is not worth handing to another thread.
TILE_BYTES = 1 << 16
# Enough for any number of threads to end at nearly the same time.
MOST_TILES = 256


@dataclass(frozen=True, slots=True)
class Axis:
    """``extent`` positions; ``steps`` are the bytes from one to the next, one for each operand."""

    extent: int
    steps: tuple[int, ...]


def merged(axes: Iterable[Axis]) -> list[Axis]:
    """The same positions in the same row-major order with as few axes as strides allow; none of extent 1."""
    result: list[Axis] = []
    for axis in axes:
        if axis.extent == 1:
            continue
        if result and all(
            outer == inner * axis.extent for outer, inner in zip(result[-1].steps, axis.steps, strict=True)
        ):
            result[-1] = Axis(result[-1].extent * axis.extent, axis.steps)
        else:
            result.append(axis)
    return result


def positions(axes: Sequence[Axis]) -> int:
    """Number of positions of the axes together."""
    return math.prod(axis.extent for axis in axes)


def words(axes: Sequence[Axis]) -> list[int]:
    """The records that :func:`onnxplan.kernels.cpu.pack_code.axis_offsets` reads."""
    return [word for axis in axes for word in (axis.extent, *axis.steps)]


def units_per_tile(units: int, unit_bytes: int) -> int:
    """How many of ``units`` equal pieces of work, each moving ``unit_bytes``, make a tile."""
    return max(1, -(-TILE_BYTES // max(unit_bytes, 1)), -(-units // MOST_TILES))


def compute_itemsize(dtype: DType) -> int:
    """Bytes of an element in the type that kernels compute it in."""
    return max(dtype.itemsize, 4) if dtype.is_float else dtype.itemsize


def lane_count(target: Target, itemsize: int, extent: int, most: int = 64) -> int:
    """Lanes of a full vector of elements of ``itemsize`` bytes, fewer where ``extent`` does not fill one."""
    lanes = min(target.vector_bytes // itemsize, most)
    while lanes > 1 and lanes >= 2 * extent:
        lanes //= 2
    return lanes
