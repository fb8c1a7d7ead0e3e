"""Where two results of one computation differ: element by element, by tolerances that follow the type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass

Array = npt.NDArray[Any]
Result = Any
"""What a value holds: an array, a list of results (a sequence), or ``None`` (an empty optional)."""

TOLERANCES = {
    DType.FLOAT64: (1e-7, 1e-9),
    DType.FLOAT32: (1e-3, 1e-5),
    DType.FLOAT16: (1e-2, 1e-3),
    DType.BFLOAT16: (5e-2, 1e-2),
    DType.COMPLEX64: (1e-3, 1e-5),
    DType.COMPLEX128: (1e-7, 1e-9),
}
"""Relative and absolute tolerance by element type; of all others, results must be equal.

These absolute ones are for results around 1: they grow with the largest element, as rounding errors do.
"""


@dataclass(frozen=True, slots=True)
class Extreme:
    """The element that differs most: its index, both values, and by how much they differ."""

    index: tuple[int, ...]
    found: Any
    right: Any
    distance: float


@dataclass(frozen=True, slots=True)
class Difference:
    """How one result differs from another.

    ``place`` are positions within sequences. ``count`` of ``size`` elements differ beyond the tolerances;
    ``absolute`` and ``relative`` are the extremes among them. Where types, shapes or lengths differ,
    ``mismatch`` says so and the extremes are ``None``. Distances to NaN and infinities are infinite.
    """

    place: tuple[int, ...] = ()
    mismatch: str = ""
    count: int = 0
    size: int = 0
    absolute: Extreme | None = None
    relative: Extreme | None = None


def find_difference(
    found: Result,
    right: Result,
    rtol: float | None = None,
    atol: float | None = None,
    place: tuple[int, ...] = (),
) -> Difference | None:
    """The first difference of ``found`` from ``right``, or ``None`` where they agree.

    ``|found - right| <= atol + rtol * |right|`` must hold for each element; the tolerances default to
    :data:`TOLERANCES` for the type of ``right``, the absolute one times the largest magnitude where that is
    above 1. NaN equals NaN, infinities those of the same sign, strings
    those of equal text. Sequences agree if all of their elements do.
    """
    if isinstance(found, Sequence) and isinstance(right, Sequence) and len(found) == len(right):
        pairs = enumerate(zip(found, right, strict=True))
        differences = (find_difference(a, b, rtol, atol, (*place, n)) for n, (a, b) in pairs)
        return next((difference for difference in differences if difference is not None), None)
    if found is None and right is None:
        return None
    if not isinstance(found, np.ndarray) or not isinstance(right, np.ndarray):
        return Difference(place, f"{describe_result(found)}, expected {describe_result(right)}")
    if _label(found) != _label(right) or found.shape != right.shape:
        return Difference(
            place, f"{describe_result(found)}, expected {describe_result(right)}", size=right.size
        )
    return _compare_elements(found, right, rtol, atol, place)


def _compare_elements(
    found: Array, right: Array, rtol: float | None, atol: float | None, place: tuple[int, ...]
) -> Difference | None:
    dtype = DType.from_numpy(right.dtype)
    if dtype in (DType.STRING, DType.BOOL):
        wrong = np.asarray(found != right)
        distances = wrong.astype(np.float64)
        ratios = distances
    else:
        relative, absolute = TOLERANCES.get(dtype, (0.0, 0.0))
        distances, magnitudes = _distances(found, right, dtype)
        relative = relative if rtol is None else rtol
        absolute = absolute * max(1.0, magnitudes.max(initial=0.0)) if atol is None else atol
        with np.errstate(all="ignore"):
            wrong = ~(distances <= absolute + relative * magnitudes)
            ratios = np.where(distances == 0, 0, distances / magnitudes)
    if not wrong.any():
        return None
    return Difference(
        place,
        count=int(wrong.sum()),
        size=right.size,
        absolute=_extreme(found, right, np.where(wrong, distances, -1)),
        relative=_extreme(found, right, np.where(wrong, ratios, -1)),
    )


def _distances(found: Array, right: Array, dtype: DType) -> tuple[Array, Array]:
    """``|found - right|`` and ``|right|``; 0 and 1 where both are NaN or the same infinity."""
    if dtype.is_integer:
        if dtype.itemsize < 8:
            found, right = found.astype(np.int64), right.astype(np.int64)
        # 64-bit integers have more digits than float64; the larger less the smaller never overflows uint64.
        larger, smaller = np.maximum(found, right), np.minimum(found, right)
        difference = larger.astype(np.uint64) - smaller.astype(np.uint64)
        return difference.astype(np.float64), np.abs(right.astype(np.float64))
    wide = np.complex128 if dtype.kind == "c" else np.float64
    one, other = found.astype(wide), right.astype(wide)
    with np.errstate(all="ignore"):
        same = (one == other) | (np.isnan(one) & np.isnan(other))
        distances = np.abs(one - other)
        finite = np.isfinite(one) & np.isfinite(other)
        distances = np.where(same, 0.0, np.where(finite, distances, np.inf))
        return distances, np.where(np.isfinite(other), np.abs(other), 1.0)


def _extreme(found: Array, right: Array, distances: Array) -> Extreme:
    index = tuple(int(place) for place in np.unravel_index(int(np.argmax(distances)), right.shape))
    return Extreme(index, found[index], right[index], float(distances[index]))


def _label(array: Array) -> str:
    try:
        return DType.from_numpy(array.dtype).label
    except TypeError:
        return str(array.dtype)


def describe_result(result: Result) -> str:
    """``float32[2, 3]``, ``a sequence of 3``, ``nothing``"""
    if isinstance(result, np.ndarray):
        return f"{_label(result)}{list(result.shape)}"
    if isinstance(result, Sequence):
        return f"a sequence of {len(result)}"
    return "nothing" if result is None else type(result).__name__


def count_special(array: Array) -> tuple[int, int]:
    """How many elements are NaN, and how many infinite."""
    dtype = DType.from_numpy(array.dtype)
    if not dtype.is_float and dtype.kind != "c":
        return 0, 0
    wide = array.astype(np.complex128 if dtype.kind == "c" else np.float64)
    return int(np.isnan(wide).sum()), int(np.isinf(wide).sum())
