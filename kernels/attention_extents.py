"""Extents of attention. The same for all devices."""

from __future__ import annotations

import math

from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass


@dataclass(frozen=True, slots=True)
class AttentionExtents:
    """``batch`` attentions; ``depth`` is the width of queries and keys, ``width`` that of values."""

    batch: int
    rows: int
    keys: int
    depth: int
    width: int

    @staticmethod
    def of(operation: Operation) -> AttentionExtents:
        k, output = operation.inputs[1], operation.outputs[0]
        *batch, rows, width = output.shape
        return AttentionExtents(math.prod(batch), rows, k.shape[-1], k.shape[-2], width)

    def flops(self, exponential: int) -> int:
        """Operations, where each score takes ``exponential`` beside its products."""
        return self.batch * self.rows * self.keys * (2 * (self.depth + self.width) + exponential)
