"""How gathers walk their operands. The same for all devices."""

from __future__ import annotations

from onnxplan.compiler.primitives import Gather, GatherElements
from onnxplan.compiler.view import View


def gather_strides(
    primitive: Gather | GatherElements, data: View, indices: View
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides of data, but for the gathered axis, and of indices along the output's axes, in elements."""
    axis = primitive.axis
    before, after = data.strides[:axis], data.strides[axis + 1 :]
    if isinstance(primitive, GatherElements):
        return (*before, 0, *after), indices.strides
    own = (0,) * indices.rank
    return (*before, *own, *after), (*((0,) * len(before)), *indices.strides, *((0,) * len(after)))
