"""Checking the shapes that plans are asked for."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

from onnxplan.compiler.errors import InvalidFeedsError
from onnxplan.feeds import TensorInfo, check_dims, suggest

Shapes = Mapping[str, Sequence[int]]
Shape = tuple[int, ...]


def static_shapes(inputs: Sequence[TensorInfo]) -> tuple[Shape, ...] | None:
    """The shapes of all ``inputs``, if the model fixes them."""
    shapes = []
    for info in inputs:
        if info.dims is None:
            return None
        shape = tuple(dim for dim in info.dims if isinstance(dim, int))
        if len(shape) < len(info.dims):
            return None
        shapes.append(shape)
    return tuple(shapes)


def check_shapes(
    shapes: Shapes | None, inputs: Sequence[TensorInfo], optional: Sequence[TensorInfo]
) -> tuple[tuple[str, ...], tuple[Shape, ...]]:
    """Names and shapes of the inputs to plan for; inputs whose shapes are fixed may be left out.

    ``optional`` are inputs with a default. Raises :class:`InvalidFeedsError`.
    """
    if shapes is not None and not isinstance(shapes, Mapping):
        raise InvalidFeedsError(
            f"shapes must be a mapping from input names to shapes, not {type(shapes).__name__}"
        )
    given = dict(shapes or {})
    known = {info.name: info for info in [*inputs, *optional]}
    for name in given:
        if name not in known:
            raise InvalidFeedsError(f"the model has no input {name!r}{suggest(str(name), known)}")
    missing = []
    for info in inputs:
        if info.name not in given:
            fixed = static_shapes([info])
            if fixed is None:
                missing.append(str(info))
            else:
                given[info.name] = fixed[0]
    if missing:
        raise InvalidFeedsError(
            f"these inputs have no fixed shape, so it must be given: {'; '.join(missing)}"
        )
    ordered = {name: _shape(given[name], known[name]) for name in known if name in given}
    check_dims(ordered, known)
    return tuple(ordered), tuple(ordered.values())


def _shape(given: Sequence[int], info: TensorInfo) -> Shape:
    try:
        shape = tuple(operator.index(extent) for extent in given)
    except TypeError:
        raise InvalidFeedsError(
            f"input {info}: a shape is a sequence of integers, such as (1, 3), not {given!r}"
        ) from None
    if any(extent < 0 for extent in shape):
        raise InvalidFeedsError(f"input {info}: the shape {list(shape)} has a negative dimension")
    return shape
