"""Selects the kernel of SuppressNonMaximum: one image and class a tile."""

from __future__ import annotations

from typing import Any

from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.primitives import SuppressNonMaximum
from onnxplan.compiler.program import Operation
from onnxplan.compiler.selection import StepEmitter
from onnxplan.compiler.target import Target
from onnxplan.kernels.cpu.objects import ObjectCode, compile_numba, kernel_symbol

FAMILY = "non_maximum"


def select_non_maximum(operation: Operation, emit: StepEmitter, target: Target) -> None:
    """Emits the step; its scratch holds the candidates of a tile."""
    primitive = operation.primitive
    assert isinstance(primitive, SuppressNonMaximum)
    boxes, scores, _, _ = operation.inputs
    picks, counts = operation.outputs
    images, classes, extent = scores.shape
    tiles = images * classes
    if tiles == 0:
        return
    itemsize = 4
    parameters = [
        extent,
        classes,
        picks.shape[-1],
        int(primitive.centered),
        int(primitive.has_score_threshold),
        *(stride * itemsize for stride in (*boxes.strides, *scores.strides)),
        *(stride * 8 for stride in (*picks.strides, *counts.strides)),
    ]
    # Sorting is a heap of the candidates; each selected box is compared with about half of those before it.
    comparisons = tiles * (extent * max(extent, 2).bit_length() + picks.shape[-1] ** 2 // 2)
    emit.step(
        KernelSpec(FAMILY),
        (*operation.inputs, picks, counts),
        (4, 5),
        tuple(parameters),
        tiles=tiles,
        flops=16 * comparisons,
        bytes_moved=itemsize * (boxes.size + scores.size) + 8 * (picks.size + counts.size),
        scratch=8 * extent,
    )


def build_non_maximum(variant: Any, target: Target) -> ObjectCode:
    from onnxplan.kernels.cpu.non_maximum_code import suppress

    return compile_numba(suppress, target, kernel_symbol(FAMILY, variant))
