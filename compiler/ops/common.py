"""What lowering rules share: axes, values known at plan time, element types, cached expressions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.arrangement import broadcast_shapes
from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import Expression
from onnxplan.compiler.ir import Node
from onnxplan.compiler.primitives import Gather
from onnxplan.compiler.scalar import WIDE_FLOATS
from onnxplan.compiler.trace import Scalar, cast, index, select, trace
from onnxplan.compiler.view import View

TracedBody = Callable[..., "Scalar | Sequence[Scalar]"]

_NAMES = {
    "FLOAT": DType.FLOAT32,
    "DOUBLE": DType.FLOAT64,
    **{dtype.name: dtype for dtype in DType if dtype not in (DType.FLOAT32, DType.FLOAT64)},
}


def normal_axis(axis: int, rank: int) -> int:
    """``axis`` counted from the front; raises ``ValueError`` where it is out of range."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is out of range for rank {rank}")
    return axis + rank if axis < 0 else axis


def normal_axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """``axes`` counted from the front, in their order; raises ``ValueError`` out of range or if repeated."""
    result = tuple(normal_axis(int(axis), rank) for axis in axes)
    if len(set(result)) != len(result):
        raise ValueError(f"axes {list(axes)} repeat an axis")
    return result


def integers(b: Builder, view: View) -> tuple[int, ...]:
    """The elements of an integer tensor at plan time."""
    return tuple(int(item) for item in b.value(view).reshape(-1).tolist())


def integer(b: Builder, view: View) -> int:
    """The element of a tensor of one integer at plan time."""
    values = integers(b, view)
    if len(values) != 1:
        raise ValueError(f"one element is expected, not a tensor of shape {list(view.shape)}")
    return values[0]


def values(b: Builder, views: Sequence[View | None]) -> list[npt.NDArray[Any] | None]:
    """The elements of several tensors of a common type at plan time, as few questions as possible.

    Each question ends a stage, so tensors that only a run can compute are asked for as one.
    """
    unknown = [view for view in views if view is not None and not view.is_constant]
    if len(unknown) < 2 or len({view.dtype for view in unknown}) > 1:
        return [None if view is None else b.value(view) for view in views]
    answer = b.value(b.concat([b.reshape(view, (view.size,)) for view in unknown], 0))
    parts = iter(np.split(answer, np.cumsum([view.size for view in unknown])[:-1]))
    return [
        None if view is None else view.numpy() if view.is_constant else next(parts).reshape(view.shape)
        for view in views
    ]


def attribute_or_input(b: Builder, node: Node, name: str, view: View | None) -> tuple[int, ...] | None:
    """Integers that old versions take as attribute ``name``, new ones as an input; ``None`` if missing."""
    if view is not None:
        return integers(b, view)
    return node.integers(name) if name in node.attributes else None


def element_type(value: object) -> DType:
    """The element type that an attribute names: a ``TensorProto.DataType`` code, or its name before opset 6.

    Raises ``TypeError`` for types that there is no support for.
    """
    if isinstance(value, int):
        try:
            return DType.from_code(value)
        except KeyError:
            raise TypeError(f"element type {value} is not supported") from None
    name = value.decode() if isinstance(value, bytes) else str(value)
    if name.upper() not in _NAMES:
        raise TypeError(f"element type {name!r} is not supported")
    return _NAMES[name.upper()]


def single(b: Builder, view: View) -> View:
    """A tensor of one element as a scalar."""
    if view.size != 1:
        raise ValueError(f"one element is expected, not a tensor of shape {list(view.shape)}")
    return b.reshape(view, ())


def wide(dtype: DType) -> DType:
    """The type to compute floats of type ``dtype`` in: at least float32."""
    return WIDE_FLOATS.get(dtype, dtype)


@functools.lru_cache(maxsize=4096)
def expression(body: TracedBody, dtypes: tuple[DType, ...], *parameters: Any) -> Expression:
    """``body(*values, *parameters)`` traced for values of the types ``dtypes``.

    Traced once: ``body`` must be a function of a module, not a lambda made for the call.
    """
    return trace(lambda *inputs: body(*inputs, *parameters), dtypes)


@functools.lru_cache(maxsize=4096)
def float_expression(body: TracedBody, dtypes: tuple[DType, ...], *parameters: Any) -> Expression:
    """As :func:`expression`, but in float32 where the values are smaller floats, rounded once at the end."""

    def widened(*inputs: Scalar) -> Sequence[Scalar]:
        result = body(*(cast(value, wide(value.dtype)) for value in inputs), *parameters)
        outputs = [result] if isinstance(result, Scalar) else result
        return [cast(output, dtypes[0]) for output in outputs]

    return trace(widened, dtypes)


def float_map(b: Builder, body: TracedBody, *views: View, parameters: tuple[Any, ...] = ()) -> View:
    """An elementwise function of floats; small ones are computed in float32 and rounded once."""
    if not views[0].dtype.is_float:
        raise TypeError(f"floats are expected, not {views[0].dtype}")
    return b.map(float_expression(body, tuple(view.dtype for view in views), *parameters), *views)


def scalar_map(b: Builder, body: TracedBody, *views: View, parameters: tuple[Any, ...] = ()) -> View:
    """An elementwise function in the type of its operands."""
    return b.map(expression(body, tuple(view.dtype for view in views), *parameters), *views)


def choose(b: Builder, condition: View, x: View, y: View) -> View:
    """The elements of ``x`` where ``condition`` is true, of ``y`` elsewhere, broadcast; of any type.

    No arithmetic takes complex numbers: they are picked from both operands one after the other.
    """
    if x.dtype.kind != "c":
        return b.scalar("select", condition, x, y)
    if y.dtype is not x.dtype:
        raise TypeError(f"select of {x.dtype} and {y.dtype}: the types differ")
    shape = broadcast_shapes([condition.shape, x.shape, y.shape])
    size = math.prod(shape)
    if size == 0:
        return b.constant(np.empty(shape, x.dtype.numpy))
    table = b.concat([b.reshape(view.expand(shape), (size,)) for view in (x, y)], 0)
    chosen = b.reshape(condition.expand(shape), (size,))
    places = scalar_map(b, _place_of_choice, chosen, parameters=(size,))
    return b.reshape(b.emit(Gather(0), [table, places], [b.new(x.dtype, (size,))])[0], shape)


def _place_of_choice(condition: Scalar, size: int) -> Scalar:
    place = index(condition, 0)
    return select(condition, place, place + size)


def per_channel(view: View, rank: int) -> View:
    """A vector over the channels ``(C,)`` as ``(C, 1, ...)``, to broadcast to ``(N, C, ...)`` of ``rank``."""
    return view.unsqueeze(tuple(range(1, max(rank - 1, 1))))
