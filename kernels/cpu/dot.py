"""Selects the kernel for products of few rows with columns whose elements along the depth are neighbours.

Each sum is a dot product along the depth, so both operands are read once, in place: attention scores of one
new token against cached keys, or a matrix times a vector.
"""

from __future__ import annotations

from onnxplan.compiler.primitives import MatMul
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.few_rows import MOST_ROWS, emit_few_rows
from onnxplan.kernels.matrices import Matrices

FAMILY = "dot"

# Columns that a register kernel computes at once, and those whose sums are finished together.
COLUMNS = 8
GROUP = 64


def prefers_dot(matrices: Matrices) -> bool:
    """Is this kernel the right one?"""
    a, b = matrices.a, matrices.b
    return (
        not b.is_constant
        and matrices.rows <= MOST_ROWS
        and matrices.depth > 1
        and a.strides[-1] == 1
        and b.strides[-2] == 1
        and b.strides[-1] != 1
    )


def emit_dot(emit: StepEmitter, target: Target, matrices: Matrices, primitive: MatMul) -> None:
    """The step that computes ``matrices``, row by row."""
    emit_few_rows(
        emit, target, matrices, primitive, FAMILY, 1, lambda sums: GROUP, lambda sums: GROUP * sums.itemsize
    )
