"""Parts: a number of float32 is the sum of three of bfloat16, so that AMX's tiles multiply float32.

The first part is the number rounded, the second what is left, rounded, and the third the rest, which is
exact. Six of the nine products of parts are summed in float32; the other three are no more than 2**-24 of
the product together, so that sums are as exact as those of float32's own arithmetic, and more exact where
there are many: a sum is rounded once for each 32 products of parts.
Rows of A are split when they are copied as tiles, panels of B before the rows of a tile meet them.

Where sums are not finite, which infinite numbers and NaN among the operands make them, they are computed
again by float32's arithmetic: parts of an infinite number are no numbers. Like all products of tiles these
take subnormal numbers for zero; the parts of what is less than 2**-110 lack some of its bits for this reason.
Knows nothing of code generation.

Source: G. Henry, P. Tang and A. Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For
Higher-Precision Computations", ARITH 2019, https://arxiv.org/abs/1904.06376.
"""

from __future__ import annotations

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.matrix_tiles import SIDE, TILE
from onnxplan.kernels.cpu.pairs import PAIR_UNIT
from onnxplan.kernels.cpu.tiling import Extents, ceil_div, sum_dtype

PARTS = 3
BYTES = 2 * PARTS
"""Of an element's parts."""
TERMS = ((0, 2), (0, 1), (1, 1), (1, 0), (2, 0), (0, 0))
"""Which part of A meets which of B: each time one of them is that of the time before."""
SPLIT_DEPTH = 2 * PAIR_UNIT
"""So many rows of a panel of B are split at a time: they stay in the first cache beside those of A."""
SUM_BYTES = 4 * TILE.rows * TILE.width
"""Of a block of sums, which has place for two: those of the depth before, and with the block at hand."""
TILE_CYCLES, SPLIT_CYCLES, SUM_CYCLES = 170, 400, 1200
"""What it takes to add a product of tiles to one of sums, to split a block of A or B for a tile's depth, and
to load, store, check and finish a block of sums."""
VECTOR_CYCLES = 1 / 27
"""A multiply-add of float32's own, at 85 % of two vectors of 16 a cycle."""
WORTH = 1.3
"""How many times as fast products must be in parts. Where neighbours use the tile registers of the same core
they are hardly faster than float32's own."""
MANY_ROWS = 1024
"""So many use what is split of B better than most."""
SPEED = 1.5
"""Multiply-adds in the time of one of float32's own."""


def splits_float32(target: Target, a: DType, b: View, accumulator: DType) -> bool:
    """Are products of elements of type ``a`` by ``b`` computed in parts, if :func:`worth_splitting` holds?"""
    return (
        target.float32_tiles
        and a is b.dtype is DType.FLOAT32
        and sum_dtype(accumulator) is DType.FLOAT32
        and b.is_constant
    )


def may_be_worth_splitting(depth: int, columns: int) -> bool:
    """Is there a number of rows for which a product is clearly faster in parts?"""
    return columns > SIDE and worth_splitting(Extents(MANY_ROWS, depth, columns))


def worth_splitting(extents: Extents) -> bool:
    """Is a product clearly faster in parts?"""
    blocks, panels = ceil_div(extents.rows, TILE.rows), ceil_div(extents.columns, TILE.width)
    steps = ceil_div(extents.depth, PAIR_UNIT)
    tiles = ceil_div(extents.rows, SIDE) * ceil_div(extents.columns, SIDE)
    # Two threads split all rows, if each has half of the columns.
    split = (2 * blocks + panels) * SPLIT_CYCLES
    parts = steps * (tiles * TILE_CYCLES + split) + blocks * panels * SUM_CYCLES
    return parts * WORTH <= extents.rows * extents.columns * extents.depth * VECTOR_CYCLES
