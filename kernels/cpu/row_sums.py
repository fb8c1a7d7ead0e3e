"""Selects the kernel for products of few rows with a fed matrix whose columns are neighbours.

Each row of B is scaled and added to sums that stay in the first cache, so that B is read once, in the order
in which it stands in memory: probabilities of one new token by cached values, or a vector times a matrix.
"""

from __future__ import annotations

from onnxplan.compiler.primitives import MatMul
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.few_rows import MOST_ROWS, emit_few_rows
from onnxplan.kernels.matrices import Matrices

FAMILY = "row_sums"

# Bytes of a row's sums that are open at a time: whole pages of B's rows are read one after another.
GROUP_BYTES = 4096
# A narrower matrix has no more than one panel, which is read in order by the micro-kernels as well.
LEAST_COLUMN_BYTES = 512


def prefers_row_sums(matrices: Matrices) -> bool:
    """Is this kernel the right one?"""
    b = matrices.b
    return (
        not b.is_constant
        and matrices.rows <= MOST_ROWS
        and matrices.depth > 1
        and b.strides[-1] == 1
        and matrices.columns * b.dtype.itemsize >= LEAST_COLUMN_BYTES
        # Bytes are better multiplied as quads.
        and (b.dtype.is_float or b.dtype.itemsize >= 4)
    )


def emit_row_sums(emit: StepEmitter, target: Target, matrices: Matrices, primitive: MatMul) -> None:
    """The step that computes ``matrices``."""
    # Three rows are computed as four.
    rows = 1 << (matrices.rows - 1).bit_length()
    # Half a group is enough to read in order.
    emit_few_rows(
        emit,
        target,
        matrices,
        primitive,
        FAMILY,
        rows,
        lambda sums: GROUP_BYTES // sums.itemsize // 2,
        lambda sums: rows * GROUP_BYTES,
    )
