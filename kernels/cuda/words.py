"""Moving elements as words of up to 16 bytes, whatever their type."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.geometry import Axis, carrier, collapse

WORD_TYPES = {
    1: "unsigned char",
    2: "unsigned short",
    4: "unsigned int",
    8: "unsigned long long",
    16: "uint4",
}
"""The C type of words of so many bytes."""

WIDEST_WORD = 16


def word_axes(
    shape: Sequence[int],
    strides: Sequence[Sequence[int]],
    moved: Sequence[int],
    dtype: DType,
    distances: Sequence[int],
) -> tuple[list[Axis], int, list[int]]:
    """An iteration space in which elements of ``dtype`` are moved as the widest words that fit.

    ``strides[operand][axis]`` are in elements; ``moved`` are the operands that hold these elements, the first
    of which tells the order of axes. ``distances`` are other numbers of elements that must become whole words
    (offsets of views, strides that are applied elsewhere). Gives the axes, in words for the operands that are
    moved, the bytes of a word, and the distances in words. Storages begin at multiples of
    :data:`WIDEST_WORD` bytes.
    """
    element, parts = carrier(dtype)
    rows = [
        [*(stride * parts for stride in row), 1] if number in moved else [*row, 0]
        for number, row in enumerate(strides)
    ]
    axes = [Axis(extent, tuple(row[number] for row in rows)) for number, extent in enumerate((*shape, parts))]
    others = [number for number in range(len(strides)) if number not in moved]
    axes = collapse(axes, [*moved, *others])
    apart = [distance * parts for distance in distances]
    if not axes or any(axes[-1].strides[n] != int(n in moved) for n in range(len(strides))):
        return axes, element.itemsize, apart
    lengths = [axes[-1].extent, *apart]
    lengths += [axis.strides[number] for axis in axes[:-1] for number in moved]
    times = math.gcd(*lengths, WIDEST_WORD // element.itemsize)
    axes = [
        Axis(
            axis.extent,
            tuple(s // times if number in moved else s for number, s in enumerate(axis.strides)),
        )
        for axis in axes[:-1]
    ] + [Axis(axes[-1].extent // times, axes[-1].strides)]
    return axes, element.itemsize * times, [distance // times for distance in apart]
