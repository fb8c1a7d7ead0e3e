"""Where pooling says that it found a maximum."""

from __future__ import annotations

from onnxplan.compiler.primitives import Pool
from onnxplan.compiler.view import View


def place_strides(primitive: Pool, x: View) -> list[int]:
    """How far positions along each spatial axis are apart in a flattened channel."""
    spatial = x.shape[1:-1]
    order = list(range(len(spatial)))
    if not primitive.column_major:
        order.reverse()
    strides, step = [0] * len(spatial), 1
    for axis in order:
        strides[axis] = step
        step *= spatial[axis]
    return strides
