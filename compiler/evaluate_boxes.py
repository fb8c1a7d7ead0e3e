"""The NumPy meaning of :class:`~onnxplan.compiler.primitives.SuppressNonMaximum`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.primitives import SuppressNonMaximum

Array = npt.NDArray[Any]


def suppress(primitive: SuppressNonMaximum, inputs: Sequence[Array], most: int) -> tuple[Array, Array]:
    """``picks`` (positions beyond the counts are 0) and ``counts``."""
    boxes, scores, iou_threshold, score_threshold = inputs
    images, classes, _ = scores.shape
    picks = np.zeros((images, classes, most), np.int64)
    counts = np.zeros((images, classes), np.int64)
    for image in range(images):
        corners = _corners(boxes[image], primitive.centered)
        for kind in range(classes):
            own = scores[image, kind]
            above = own > score_threshold if primitive.has_score_threshold else ~np.isnan(own)
            order = np.argsort(-own, kind="stable")
            chosen: list[int] = []
            for position in order[above[order]]:
                if len(chosen) == most:
                    break
                if not any(_overlap(corners[position], corners[other]) > iou_threshold for other in chosen):
                    chosen.append(int(position))
            picks[image, kind, : len(chosen)] = chosen
            counts[image, kind] = len(chosen)
    return picks, counts


def _corners(boxes: Array, centered: bool) -> Array:
    """Boxes as ``(low, low, high, high)``."""
    if centered:
        half = boxes[:, 2:] / np.float32(2)
        return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], 1)
    return np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1)


def _overlap(a: Array, b: Array) -> np.float32:
    """Intersection over union in float32; 0 where they do not meet or have no area."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if not (sides > 0).all():
        return np.float32(0)
    shared = sides[0] * sides[1]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    if areas[0] <= 0 or areas[1] <= 0:
        return np.float32(0)
    return np.float32(shared / (areas[0] + areas[1] - shared))
