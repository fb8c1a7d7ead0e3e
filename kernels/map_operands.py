"""What a map without reductions computes, of what, and where its operands stand."""

from __future__ import annotations

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression, identity
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import View
from onnxplan.kernels.geometry import carrier, flip_negative


@dataclass(frozen=True, slots=True)
class MapOperands:
    """``views`` are the inputs that are read, the first ``count``, then the outputs; ``dtypes`` their types.

    ``shape`` is the iteration space and ``strides`` has a row in it for each view, in elements. ``used`` and
    ``indexed`` are the expression's numbers of these inputs, and the axes whose coordinates it asks for. Of
    copies (``copies``) elements are unsigned integers, and the last axis counts the parts of one that needs
    several.
    """

    expression: Expression
    shape: tuple[int, ...]
    views: tuple[View, ...]
    count: int
    dtypes: tuple[DType, ...]
    strides: tuple[tuple[int, ...], ...]
    used: tuple[int, ...]
    indexed: tuple[int, ...]
    copies: bool

    @staticmethod
    def of(operation: Operation) -> MapOperands:
        """Those of a MapReduce without reductions, some of whose axes may run the other way here."""
        primitive = operation.primitive
        assert isinstance(primitive, MapReduce)
        expression, shape = primitive.expression, primitive.shape
        used = sorted({i.arguments[0] for i in expression.instructions if i.op == "input"})
        indexed = sorted({i.arguments[0] for i in expression.instructions if i.op == "index"})
        views = [operation.inputs[number] for number in used] + list(operation.outputs)
        # Coordinates are operands too: they must not be reversed, so nothing is.
        if not indexed:
            views = flip_negative(views, range(len(used), len(views)))
        dtypes = [view.dtype for view in views]
        strides = [tuple(view.strides) for view in views]
        copies = primitive.name == "copy"
        if copies:
            element, parts = carrier(views[0].dtype)
            expression, dtypes = identity(element), [element] * 2
            shape = (*shape, parts)
            strides = [(*(stride * parts for stride in row), 1) for row in strides]
        return MapOperands(
            expression, shape, tuple(views), len(used), tuple(dtypes), tuple(strides), tuple(used),
            tuple(indexed), copies,
        )  # fmt: skip

    @property
    def inputs(self) -> tuple[View, ...]:
        return self.views[: self.count]

    @property
    def outputs(self) -> tuple[View, ...]:
        return self.views[self.count :]

    @property
    def coordinates(self) -> list[list[int]]:
        """Strides of the coordinates that the expression asks for."""
        return [[int(axis == wanted) for axis in range(len(self.shape))] for wanted in self.indexed]
