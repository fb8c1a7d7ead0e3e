"""The iteration space of a MapReduce with reductions. The same for all devices."""

from __future__ import annotations

import math

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import View
from onnxplan.kernels.geometry import Axis, axes_of, collapse, flip_negative, unique_bytes


@dataclass(frozen=True, slots=True)
class Space:
    """A MapReduce over collapsed axes. Operands are inputs that are read, coordinates, outputs."""

    expression: Expression
    views: tuple[View, ...]
    inputs: tuple[int, ...]
    coordinates: tuple[int, ...]
    kept: tuple[Axis, ...]
    reduced: tuple[Axis, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        labels = [view.dtype.label for view in self.views]
        labels[len(self.inputs) : len(self.inputs)] = ["index"] * len(self.coordinates)
        return tuple(labels)

    @property
    def sizes(self) -> list[int]:
        return [1 if label == "index" else DType.from_label(label).itemsize for label in self.labels]

    @property
    def region(self) -> int:
        """Points that one reduction runs over."""
        return math.prod(axis.extent for axis in self.reduced)

    @property
    def results(self) -> int:
        """Points of the kept axes."""
        return math.prod(axis.extent for axis in self.kept)

    @property
    def weight(self) -> int:
        """Bytes that one point's work is worth."""
        moved = sum(view.dtype.itemsize for view in self.views if any(s for s in view.strides))
        return moved + self.expression.cost


def make_space(operation: Operation) -> Space:
    """The operation with its axes dropped, ordered and merged."""
    primitive = operation.primitive
    assert isinstance(primitive, MapReduce)
    expression, shape = primitive.expression, primitive.shape
    used = sorted({i.arguments[0] for i in expression.instructions if i.op == "input"})
    indexed = sorted({i.arguments[0] for i in expression.instructions if i.op == "index"})
    views = [operation.inputs[number] for number in used]
    views += [_spread(view, shape) for view in operation.outputs]
    count = len(used)
    if not indexed:
        views = flip_negative(views, [*range(count, len(views)), *range(count)])
    strides = [list(view.strides) for view in views]
    strides[count:count] = [[int(axis == wanted) for axis in range(len(shape))] for wanted in indexed]
    priority = sorted(range(count), key=lambda number: -unique_bytes(views[number]))
    priority += range(count, len(strides))
    axes = axes_of(shape, strides, primitive.axes)
    kept, reduced = (
        tuple(collapse([axis for axis in axes if axis.reduced is wanted], priority))
        for wanted in (False, True)
    )
    return Space(expression, tuple(views), tuple(used), tuple(indexed), kept, reduced)


def _spread(view: View, shape: tuple[int, ...]) -> View:
    """An output as a view of the iteration shape: stride 0 where it has extent 1 and the shape has not."""
    strides = tuple(
        0 if own != wanted else stride
        for own, wanted, stride in zip(view.shape, shape, view.strides, strict=True)
    )
    return View(view.storage, view.offset, shape, strides)
