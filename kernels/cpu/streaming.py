"""Results beyond the caches: written past them, so that nobody reads their lines before."""

from __future__ import annotations

from collections.abc import Sequence

from onnxplan.compiler.target import Target
from onnxplan.compiler.view import View
from onnxplan.kernels.geometry import unique_bytes

STREAMED_BYTES = 32 << 20
"""A result from this size on leaves the caches before anybody reads it."""
# Of shorter rows too many lines are written in two parts, which takes longer than reading them before.
LEAST_ROW_BYTES = 1024


def streams(target: Target, output: View, kind: str, row_elements: int, lanes: int) -> bool:
    """Should a kernel write ``output`` past the caches, in rows of neighbours and whole vectors of ``lanes``?

    ``kind`` is the output's access class along the rows (:func:`onnxplan.kernels.cpu.walk.access_class`).
    """
    size = output.dtype.itemsize
    return (
        has_streams(target)
        and kind == "c"
        and lanes * size == target.vector_bytes
        and row_elements * size >= LEAST_ROW_BYTES
        and unique_bytes(output) >= STREAMED_BYTES
    )


def has_streams(target: Target) -> bool:
    """Has the instruction set stores that pass the caches, and masks for what lies beside whole vectors?"""
    return target.isa in ("avx512", "avx2")


def streamed_output(
    target: Target, outputs: Sequence[View], kinds: str, row_elements: int, lanes: int
) -> bool:
    """:func:`streams` of the one output of a step; ``kinds`` are those of all operands, outputs last."""
    return len(outputs) == 1 and streams(target, outputs[0], kinds[-1], row_elements, lanes)
