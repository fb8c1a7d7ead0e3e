"""Non-maximum suppression, against a direct implementation."""

from __future__ import annotations

import numpy as np
from cases import Case, case

INT64 = np.dtype(np.int64)


def overlap(a: np.ndarray, b: np.ndarray, centered: int) -> np.float32:
    if centered:
        a, b = (np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2]) for box in (a, b))
    low = np.maximum(np.minimum(a[:2], a[2:]), np.minimum(b[:2], b[2:]))
    high = np.minimum(np.maximum(a[:2], a[2:]), np.maximum(b[:2], b[2:]))
    shared = np.prod(np.maximum(high - low, 0))
    return shared / (np.prod(np.abs(a[2:] - a[:2])) + np.prod(np.abs(b[2:] - b[:2])) - shared)


def reference(boxes, scores, most=None, iou=None, threshold=None, *, centered=0) -> np.ndarray:
    most = 0 if most is None else int(most[0])
    iou = 0.0 if iou is None else float(iou[0])
    found = []
    for image, kind in np.ndindex(*scores.shape[:2]):
        order = sorted(range(scores.shape[2]), key=lambda p: (-scores[image, kind, p], p))
        chosen: list[int] = []
        for position in order:
            if threshold is not None and not scores[image, kind, position] > threshold[0]:
                continue
            if len(chosen) < most and all(
                overlap(boxes[image, position], boxes[image, other], centered) <= iou for other in chosen
            ):
                chosen.append(position)
        found += [(image, kind, position) for position in chosen]
    return np.array(found, np.int64).reshape(len(found), 3)


def suppression(
    name: str, images: int, classes: int, extent: int, most: int, *, iou=0.5, threshold=0.2, centered: int = 0
) -> Case:
    def boxes(random: np.random.Generator) -> np.ndarray:
        # Coordinates of few values make boxes that meet, in any order of corners; sizes are not zero.
        low = random.integers(0, 12, (images, extent, 2))
        size = random.integers(1, 6, (images, extent, 2))
        parts = (low, size) if centered else (low + size, low)
        return np.concatenate(parts, 2).astype(np.float32) / 4

    def scores(random: np.random.Generator) -> np.ndarray:
        return (random.integers(0, 16, (images, classes, extent)) / 16).astype(np.float32)

    inputs = {"boxes": boxes, "scores": scores, "most": np.array([most], np.int64)}
    inputs["iou"] = None if iou is None else np.array([iou], np.float32)
    if threshold is not None:
        inputs["threshold"] = np.array([threshold], np.float32)
    return case(
        name,
        "NonMaxSuppression",
        inputs,
        attributes={"center_point_box": centered},
        constants=("most",),
        reference=lambda *values: reference(*values, centered=centered),
        dtypes=(INT64,),
    )


CASES = [
    suppression("two images", 2, 3, 40, 7),
    suppression("one box", 1, 1, 1, 3),
    suppression("many", 1, 2, 300, 300, iou=0.3),
    suppression("centered", 2, 2, 25, 25, centered=1),
    suppression("no threshold", 1, 2, 20, 20, threshold=None),
    suppression("no overlap allowed", 1, 1, 30, 30, iou=None),
    suppression("none above", 1, 2, 20, 5, threshold=2.0),
    suppression("none wanted", 1, 2, 20, 0),
    suppression("no boxes", 2, 2, 0, 5),
    suppression("no classes", 2, 0, 4, 5),
]
