"""Which input elements an element of a resized axis is made of, and with which weights.

Source: https://onnx.ai/onnx/operators/onnx__Resize.html and, where its text leaves something open, the
standard's own test cases.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.trace import Scalar, apply, cast

Floats = npt.NDArray[Any]
"""float32 or float64"""
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ResizedAxis:
    """One axis to resize from ``extent`` to ``output`` elements.

    ``width`` is the length asked for: ``scale * extent``, which ``output`` rounds. ``start`` and ``end`` are
    the region of interest of ``tf_crop_and_resize``, in units of the axis' length.
    """

    extent: int
    output: int
    scale: float
    width: float
    start: float = 0.0
    end: float = 1.0

    @property
    def is_unchanged(self) -> bool:
        return self.scale == 1 and self.output == self.extent and self.start == 0 and self.end == 1


def coordinates(axis: ResizedAxis, mode: str, dtype: type[np.floating[Any]]) -> Floats:
    """The position in the input of each element of the output, computed in ``dtype``.

    ``mode`` is a ``coordinate_transformation_mode``. ``nearest`` depends on the last bit of the result; as
    everybody computes it in float32, so must we.
    """
    x: Floats = np.arange(axis.output, dtype=dtype)
    half, scale, last = dtype(0.5), dtype(axis.scale), dtype(axis.extent - 1)
    if mode == "asymmetric":
        x = x / scale
    elif mode == "tf_half_pixel_for_nn":
        x = (x + half) / scale
    elif mode == "half_pixel":
        x = (x + half) / scale - half
    elif mode == "pytorch_half_pixel":
        x = (x + half) / scale - half if axis.output > 1 else x
    elif mode == "half_pixel_symmetric":
        offset = dtype(axis.extent / 2) * (1 - dtype(axis.output) / dtype(axis.width))
        x = offset + (x + half) / scale - half
    elif mode == "align_corners":
        x = x * last / dtype(axis.width - 1) if axis.width > 1 else x
    elif mode == "tf_crop_and_resize":
        start, end = dtype(axis.start), dtype(axis.end)
        step = (end - start) * last
        x = (
            start * last + x * step / dtype(axis.output - 1)
            if axis.output > 1
            else x + start * last + half * step
        )
    else:
        raise ValueError(f"coordinate_transformation_mode {mode!r} does not exist")
    return x


def nearest_positions(axis: ResizedAxis, source: Floats, mode: str) -> Integers:
    """The input positions nearest to ``source``. ``mode`` is a ``nearest_mode``.

    ``simple`` is what versions before 11 mean: up where the axis shrinks, else down.
    """
    x = source.astype(np.float64)
    if mode == "round_prefer_floor":
        rounded = np.ceil(x - 0.5)
    elif mode == "round_prefer_ceil":
        rounded = np.floor(x + 0.5)
    elif mode == "ceil" or (mode == "simple" and axis.scale < 1):
        rounded = np.ceil(x)
    elif mode in ("floor", "simple"):
        rounded = np.floor(x)
    else:
        raise ValueError(f"nearest_mode {mode!r} does not exist")
    return np.clip(rounded, 0, axis.extent - 1).astype(np.int64)


def weighted_positions(
    axis: ResizedAxis,
    source: Floats,
    kernel: str,
    *,
    antialias: bool,
    exclude_outside: bool,
    cubic_coefficient: float,
) -> tuple[Integers, Floats]:
    """Positions and weights ``(output, taps)`` of ``linear`` or ``cubic`` interpolation at ``source``.

    With ``antialias`` the kernel is stretched by ``1 / scale`` where the axis shrinks, and its weights are
    normalised. Positions outside repeat the edge, or have no weight if ``exclude_outside``.
    """
    radius = {"linear": 1, "cubic": 2}[kernel]
    shrink = min(axis.scale, 1.0) if antialias else 1.0
    reach = int(np.ceil(radius / shrink))
    base = np.floor(source)
    offsets = np.arange(1 - reach, reach + 1)
    positions = base[:, None].astype(np.int64) + offsets
    distances = np.abs(offsets - (source - base)[:, None]) * shrink
    weights = _cubic(distances, cubic_coefficient) if kernel == "cubic" else np.clip(1 - distances, 0, None)
    if exclude_outside:
        weights = np.where((positions < 0) | (positions >= axis.extent), 0, weights)
    if antialias or exclude_outside:
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / np.where(total == 0, 1, total)
    used = np.flatnonzero(weights.any(axis=0))
    taps = slice(used[0], used[-1] + 1) if used.size else slice(0, 1)
    return np.clip(positions, 0, axis.extent - 1)[:, taps], weights[:, taps]


def _cubic(distance: Floats, a: float) -> Floats:
    """Keys' kernel, "Cubic convolution interpolation for digital image processing", 1981, equation (4)."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def interpolation_type(dtype: DType) -> DType:
    """The float type that elements of ``dtype`` are weighted in."""
    exact = dtype is DType.FLOAT64 or (dtype.is_integer and dtype.itemsize >= 4)
    return DType.FLOAT64 if exact else DType.FLOAT32


def to_integer(value: Scalar, dtype: DType) -> Scalar:
    """``value`` rounded to the nearest integer of type ``dtype``."""
    bits = int(dtype.label.lstrip("uint"))
    low, limit = (0.0, 2.0**bits) if dtype.kind == "u" else (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1))
    # Of 64-bit integers the largest is no float64: the next below the limit is.
    high = min(limit - 1, float(np.nextafter(limit, 0)))
    rounded = apply("round", value)
    inside = apply("min", apply("max", rounded, low), high)
    return cast(inside, dtype)
