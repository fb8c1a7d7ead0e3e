"""Pairs: two elements of bfloat16 along the depth of a product are one, for AMX's products of tiles.

Constant B is packed so that the two elements of each column are neighbours, rounded where it is float32; so
half as much of it comes from memory, which is why even a lone row is better multiplied so. Rows of A are
rounded when they are copied as tiles (:mod:`onnxplan.kernels.cpu.byte_tiles`); sums are float32. Knows
nothing of code generation.
"""

from __future__ import annotations

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.tiling import sum_dtype
from onnxplan.kernels.matrices import Matrices

PAIR = 2


def takes_pairs(target: Target, matrices: Matrices, accumulator: DType) -> bool:
    """Is this product computed from pairs?

    Those of bfloat16 lose nothing by it, but that tile registers take subnormal numbers for zero.
    """
    dtypes = {matrices.a.dtype, matrices.b.dtype}
    rounds = target.math == "fast" and dtypes == {DType.FLOAT32}
    return (
        target.bfloat16_tiles
        and (rounds or dtypes == {DType.BFLOAT16})
        and sum_dtype(accumulator) is DType.FLOAT32
        and matrices.b.is_constant
        and matrices.depth > 0
        and matrices.depth % PAIR == 0
    )
