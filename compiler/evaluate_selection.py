"""The NumPy meaning of the primitives that move elements to where other elements say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import GatherReduce, Scatter, Sort
from onnxplan.compiler.scalar import WIDE, WIDE_INTEGERS, convert

Array = npt.NDArray[Any]

_COMBINE = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}


def evaluate_scatter(primitive: Scatter, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """The output of :class:`Scatter`; floats are combined in float64 and rounded once."""
    data, positions, updates = inputs
    inside = (positions >= 0) & (positions < data.shape[0])
    positions, updates = positions[inside], updates[inside]
    if primitive.kind == "none":
        result = data.copy()
        # Of several assignments to one place NumPy keeps the last.
        result[positions] = updates
        return (result,)
    dtype = DType.from_numpy(data.dtype)
    wide = DType.FLOAT64 if dtype.is_float else WIDE_INTEGERS.get(dtype, dtype)
    result = data.astype(wide.numpy, copy=True)
    _COMBINE[primitive.kind].at(result, positions, updates.astype(wide.numpy, copy=False))
    return (convert(result, dtype),)


def evaluate_sort(primitive: Sort, inputs: Sequence[Array], kept: int) -> tuple[Array, ...]:
    """The outputs of :class:`Sort`, of extent ``kept`` along its axis."""
    (data,) = inputs
    axis = primitive.axis
    wide = WIDE.get(DType.from_numpy(data.dtype))
    keys = data if wide is None else data.astype(wide.numpy)
    if primitive.largest:
        # Backwards twice: of equal elements the first stays first.
        backwards = np.argsort(np.flip(keys, axis), axis=axis, kind="stable")
        order = np.flip(data.shape[axis] - 1 - backwards, axis)
    else:
        order = np.argsort(keys, axis=axis, kind="stable")
    order = order[(slice(None),) * axis + (slice(0, kept),)].astype(np.int64)
    return np.take_along_axis(data, order, axis), order


def evaluate_gather_reduce(primitive: GatherReduce, inputs: Sequence[Array]) -> tuple[Array, ...]:
    """The output of :class:`GatherReduce`, computed in float64 and rounded once."""
    table, positions, weights = inputs
    rows, columns = table.shape
    wide, factors = table.astype(np.float64), weights.astype(np.float64)
    lowest = 0.0 if primitive.kind == "sum" else -np.inf
    total = np.full((positions.shape[0], columns), lowest)
    inside = (positions >= 0) & (positions < rows)
    combine = np.add if primitive.kind == "sum" else np.maximum
    for tap in range(positions.shape[1] if rows else 0):
        chosen = inside[:, tap]
        part = wide[positions[chosen, tap]] * factors[chosen, tap, None]
        total[chosen] = combine(total[chosen], part)
    total[~inside.any(axis=1)] = 0
    return (convert(total, DType.from_numpy(table.dtype)),)
