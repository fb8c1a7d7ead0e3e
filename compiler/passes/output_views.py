"""Which strided views a primitive writes and reads as fast as dense ones."""

from __future__ import annotations

from onnxplan.compiler.primitives import (
    Attention,
    BlockMatMul,
    Conv,
    Gather,
    MapReduce,
    MatMul,
    Pool,
    Primitive,
    Resample,
    ResamplePlane,
)
from onnxplan.compiler.view import View

ROWS = (MatMul, BlockMatMul, Attention, Conv, Pool, Gather, Resample, ResamplePlane)
"""Primitives that write (and read, where said below) any views whose last axis has stride 1."""


def may_write(primitive: Primitive, view: View) -> bool:
    """May an output of ``primitive`` be ``view``?

    :class:`MapReduce` writes any view; those of :data:`ROWS` such whose last axis has stride 1 (or extent 1);
    the others only dense ones.
    """
    if isinstance(primitive, MapReduce):
        return True
    if isinstance(primitive, ROWS):
        return has_rows(view)
    return view.is_dense


def may_read(primitive: Primitive, number: int, view: View) -> bool:
    """May input ``number`` of ``primitive`` be ``view`` without loss of speed?

    Operands of :class:`MatMul` need stride 1 along one of the last two axes; of :class:`BlockMatMul`,
    :class:`Conv` and :class:`Pool` along the last; extras of epilogues and inputs of maps may be any views.
    """
    if isinstance(primitive, MapReduce):
        return True
    if isinstance(primitive, MatMul):
        return number >= 2 or has_rows(view) or _has_columns(view)
    if isinstance(primitive, BlockMatMul):
        return number >= 4 or (number == 0 and has_rows(view))
    if isinstance(primitive, Conv):
        return number >= 2 or (number == 0 and has_rows(view))
    if isinstance(primitive, Pool | Gather | Resample | ResamplePlane):
        return number == 0 and has_rows(view)
    return False


def has_rows(view: View) -> bool:
    """Are elements along the last axis neighbours?"""
    return view.rank == 0 or view.shape[-1] <= 1 or view.strides[-1] == 1


def _has_columns(view: View) -> bool:
    return view.rank >= 2 and (view.shape[-2] <= 1 or view.strides[-2] == 1)
