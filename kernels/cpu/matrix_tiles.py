"""Tiles: products of 16 x 64 by 64 x 16 bytes are one instruction of processors that have AMX.

A tile is 16 rows of 16 groups of the depth. Rows of A are copied as tiles that follow one another, filled up
with zeros; B is packed in quads of bytes or pairs of bfloat16 (:mod:`onnxplan.kernels.cpu.quads` and
:mod:`onnxplan.kernels.cpu.pairs`), with place for whole tiles. Knows nothing of code generation.

Source: Intel, "Intel 64 and IA-32 Architectures Software Developer's Manual", volume 1, chapter 18.
"""

from __future__ import annotations

from dataclasses import replace

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.tiling import RegisterTile

SIDE = 16
"""Rows and columns of a tile of sums; also the groups of its depth."""
TILE_ROW_BYTES = 64
GROUP_BYTES = 4
"""Neighbours along the depth that a lane of a product takes: four bytes, or two of bfloat16."""
TILE = RegisterTile(2 * SIDE, 2, SIDE)
"""Four tiles of sums: a tile of A or B that is loaded meets two of the other."""
BLOCK_BYTES = TILE.rows * TILE_ROW_BYTES
"""Bytes of a block of ``TILE.rows`` rows for a tile's depth."""
LEAST_ROWS = 8
"""Products of bytes of fewer rows take longer than those of vectors: most of a tile's rows are empty."""
SPEED = 8.0
"""Products of groups in the time of one of float32."""


def takes_tiles(target: Target, rows: int) -> bool:
    """Are products of quads computed by tiles?"""
    return target.byte_tiles and rows >= LEAST_ROWS


def needs_tiles(kernel: KernelSpec) -> bool:
    """Does a kernel use tile registers, for which the system must be asked?"""
    return kernel.family in ("matmul", "conv", "attention") and kernel.variant[0] == "tiles"


def depth_unit(target: Target) -> int:
    """B is packed with place for a multiple of so many groups, for any number of rows."""
    return SIDE if target.byte_tiles else 1


def tile_target(target: Target) -> Target:
    """``target`` with the speed of tiles, for estimates."""
    return replace(target, flops=SPEED * target.flops)
