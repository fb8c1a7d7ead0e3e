"""Shapes and memory orders of results: broadcasting, and layouts that follow the operands'."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.verify_primitive import check_operation
from onnxplan.compiler.view import Shape, Storage, View, dense_strides

SIZE_LIMIT = 1 << 58
"""Elements of the largest tensor that can be addressed."""


@dataclass(frozen=True, slots=True)
class Arrangement:
    """A :class:`MapReduce` over operands of known layouts.

    ``strides`` are those of each input in the iteration space, ``outputs`` type, size, shape and strides of
    each result. ``is_checked`` says that the operands fit; those of strings are to be asked for first.
    """

    primitive: MapReduce
    strides: tuple[Shape, ...]
    outputs: tuple[tuple[DType, int, Shape, Shape], ...]
    is_checked: bool


@functools.lru_cache(maxsize=4096)
def arrange(
    expression: Expression,
    layouts: tuple[tuple[DType, Shape, Shape], ...],
    axes: tuple[int, ...],
    shape: Shape,
) -> Arrangement:
    """What :meth:`Builder.compute` does for inputs of these types, shapes and strides.

    Layers of a model ask the same again and again. What is refused raises anew each time.
    """
    # NumPy's integers equal Python's, and must not come back to who asks with these.
    views = [
        View(Storage(dtype, math.prod(own)), 0, tuple(map(int, own)), tuple(map(int, strides)))
        for dtype, own, strides in layouts
    ]
    space = broadcast_shapes([*(view.shape for view in views), *([tuple(map(int, shape))] if shape else [])])
    inputs = [view.expand(space) for view in views]
    reduced = expression.reduced() if axes else (False,) * len(expression.instructions)
    kept = tuple(1 if axis in axes else extent for axis, extent in enumerate(space))
    outputs = []
    for output in expression.outputs:
        extents = kept if reduced[output] else space
        strides = ordered_strides(extents, layout_order(extents, inputs))
        outputs.append((expression.instructions[output].dtype, checked_size(extents), extents, strides))
    primitive = MapReduce(expression, space, axes)
    results = tuple([View(Storage(dtype, size), 0, own, strides) for dtype, size, own, strides in outputs])
    plain = not any(view.dtype is DType.STRING for view in (*inputs, *results))
    if plain:
        check_operation(Operation(primitive, tuple(inputs), results))
    return Arrangement(primitive, tuple([view.strides for view in inputs]), tuple(outputs), plain)


def checked_size(shape: Shape) -> int:
    """Number of elements; raises ``ValueError`` for a shape that cannot be."""
    size = math.prod(shape)
    if size > SIZE_LIMIT or (shape and min(shape) < 0):
        raise ValueError(f"the result would have the shape {list(shape)}")
    return size


def ordered_strides(shape: Shape, order: tuple[int, ...] | None) -> Shape:
    """Strides of a dense storage; ``order`` lists the axes from outermost to innermost in memory."""
    if order is None:
        return dense_strides(shape)
    strides = [0] * len(shape)
    for axis, stride in zip(order, dense_strides(tuple(shape[axis] for axis in order)), strict=True):
        strides[axis] = stride
    return tuple(strides)


def broadcast_shapes(shapes: Sequence[Shape]) -> Shape:
    """NumPy's broadcasting; raises ``ValueError`` that names the shapes."""
    first = shapes[0]
    if all(shape == first for shape in shapes):
        return first
    result = [1] * max(map(len, shapes))
    for shape in shapes:
        for axis, extent in enumerate(shape, len(result) - len(shape)):
            if result[axis] == 1:
                result[axis] = extent
            elif extent != result[axis] and extent != 1:
                raise ValueError(
                    f"cannot broadcast {' and '.join(str(list(shape)) for shape in shapes)} together"
                )
    return tuple(result)


def layout_order(shape: Shape, views: Sequence[View]) -> tuple[int, ...] | None:
    """The axes from outermost to innermost as the largest view that varies along them has them in memory.

    ``None`` for row-major. ``views`` have the rank of ``shape``.
    """
    best: View | None = None
    best_size = 0
    for view in views:
        extents = view.shape
        if 0 in view.strides:
            extents = tuple([n for n, stride in zip(extents, view.strides, strict=True) if stride])
        size = math.prod(extents)
        if size > best_size:
            best, best_size = view, size
    if best is None:
        return None
    strides = best.strides
    extents = best.shape
    positions = [axis for axis in range(len(shape)) if extents[axis] > 1 and strides[axis] != 0]
    ordered = sorted(positions, key=lambda axis: -abs(strides[axis]))
    if ordered == positions:
        return None
    # Axes along which the view does not vary stay where they are; the others are permuted among themselves.
    replacement = iter(ordered)
    moved = set(positions)
    return tuple(next(replacement) if axis in moved else axis for axis in range(len(shape)))
