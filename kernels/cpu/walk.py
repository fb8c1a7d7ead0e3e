"""Sizes of tiles, and the parameters of a walk over rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxplan.kernels.geometry import Axis, axis_parameters, ceil_div

TILE_BYTES = 1 << 15


def access_class(stride: int) -> str:
    """How an operand moves along the innermost axis: ``c``ontiguous, ``b``roadcast or ``s``trided."""
    return {1: "c", 0: "b"}.get(stride, "s")


def rows_per_tile(rows: int, row_bytes: int) -> int:
    """How many rows of ``row_bytes`` make a tile."""
    return max(1, min(rows, TILE_BYTES // max(row_bytes, 1)))


def walk_parameters(
    outer: Sequence[Axis], sizes: Sequence[int], chunks: int, row_bytes: int
) -> tuple[list[int], int]:
    """Parameters of a walk over ``outer`` axes (:mod:`onnxplan.kernels.cpu.walk_code`), and its tiles.

    ``sizes`` are the operands' element sizes in bytes (1 for coordinates), ``row_bytes`` the work of a row.
    """
    rows = math.prod(axis.extent for axis in outer) * chunks
    per_tile = rows_per_tile(rows, row_bytes)
    return [rows, per_tile, chunks, *axis_parameters(outer, sizes)], ceil_div(rows, per_tile)


def inner_parameters(inner: Axis, sizes: Sequence[int], kinds: str) -> list[int]:
    """The strides in bytes of the operands that are strided along the innermost axis."""
    return [
        stride * size for stride, size, kind in zip(inner.strides, sizes, kinds, strict=True) if kind == "s"
    ]
