"""Pairs: two elements of bfloat16 along the depth of a product are one, for AMX's products of tiles.

Constant B is packed so that the two elements of each column are neighbours, rounded where it is float32. Half
as much of it comes from memory, which is why even a lone row is better multiplied so where B is large. Rows
of A are rounded when they are copied as tiles (:mod:`onnxplan.kernels.cpu.matrix_tiles`); sums are float32.
Knows nothing of code generation.
"""

from __future__ import annotations

from collections.abc import Set

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu.matrix_tiles import SIDE
from onnxplan.kernels.cpu.tiling import Extents, sum_dtype

PAIR = 2
PAIR_UNIT = PAIR * SIDE
"""Elements of bfloat16 along the depth of a tile."""
LEAST_WORK = 1 << 14
"""Fewer multiply-adds take less time than the use of tile registers costs."""


def takes_pairs(target: Target, a: DType, b: View, accumulator: DType) -> bool:
    """Are products of elements of type ``a`` by ``b`` computed from pairs, if :func:`fills_pairs` holds?

    Those of bfloat16 lose nothing by it, but that tile registers take subnormal numbers for zero.
    """
    return become_pairs(target, {a, b.dtype}) and sum_dtype(accumulator) is DType.FLOAT32 and b.is_constant


def become_pairs(target: Target, factors: Set[DType]) -> bool:
    """Do tile registers multiply factors of these types as bfloat16: as they are, or rounded?"""
    rounds = target.math == "fast" and factors == {DType.FLOAT32}
    return target.bfloat16_tiles and (rounds or factors == {DType.BFLOAT16})


def fills_pairs(extents: Extents) -> bool:
    """Has a product whole pairs, and enough of them?"""
    return extents.depth % PAIR == 0 and extents.rows * extents.depth * extents.columns >= LEAST_WORK
