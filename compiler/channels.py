"""What is done to the channels of a product: its weights times all factors, and one addition."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.constant_pool import ConstantPool, derived_key
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.records import dataclass
from onnxplan.compiler.view import Storage, View

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Affine:
    """``scale * x + shift`` of a channel's sum ``x``; a constant has scale ``None``."""

    scale: Array | None
    shift: Array


@dataclass(frozen=True, slots=True)
class Channels:
    """What follows a product does to its channels together, as constants.

    ``weights`` are those of the product times all factors, and ``shift``, ``None`` where all are 0, is added.
    """

    weights: View
    shift: View | None


def fold_channels(
    weights: View, dtype: DType, steps: Iterable[Affine], pool: ConstantPool
) -> Channels | None:
    """All ``steps``, one after the other, behind a product by constant ``weights`` with channels last.

    They are put together in float64. The shift is of ``dtype``, one element for each channel; new weights are
    computed when they are read, and belong to ``pool``. ``None`` where something overflows.
    """
    count = weights.shape[-1]
    scale, shift = np.ones(count), np.zeros(count)
    with np.errstate(all="ignore"):
        for step in steps:
            assert step.scale is not None
            scale, shift = step.scale * scale, step.scale * shift + step.shift
        offsets = np.ascontiguousarray(shift.astype(dtype.numpy))
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return None
    factors = _line(np.ascontiguousarray(scale), "scale")
    scaled = weights if (scale == 1).all() else _scaled(weights, factors, pool)
    if scaled is None:
        return None
    return Channels(scaled, _line(offsets, f"{weights.storage.name}:shift") if shift.any() else None)


def _line(values: npt.NDArray[Any], name: str) -> View:
    return View.dense(Storage(DType.from_numpy(values.dtype), values.size, name, values), values.shape)


def _scaled(weights: View, factors: View, pool: ConstantPool) -> View | None:
    """The weights times ``factors`` along their last axis; ``None`` where that overflows."""

    def make() -> npt.NDArray[Any]:
        result = np.empty(weights.shape, weights.dtype.numpy)
        with np.errstate(all="ignore"):
            np.multiply(weights.numpy(), factors.numpy(), out=result, dtype=np.float64, casting="unsafe")
        return result

    storage = pool.defer(
        derived_key("fold_affine", [weights, factors]),
        weights.dtype,
        weights.size,
        make,
        f"{weights.storage.name}:scaled",
    )
    if weights.dtype.itemsize < 4:
        elements = storage.elements()
        assert elements is not None
        if not np.isfinite(elements.astype(np.float32)).all():
            return None
    return View.dense(storage, weights.shape)
