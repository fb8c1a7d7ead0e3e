"""Non-maximum suppression as plain Python that numba compiles; see :mod:`onnxplan.kernels.cpu.non_maximum`.

Candidates stand in a binary heap by score, so that only as many are sorted as are looked at.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from onnxplan.kernels.cpu.memory import load_float32, load_int64, store_int64

# numba's own annotation of its decorator does not survive being applied.
njit: Any = numba.njit

HALF = np.float32(0.5)
"""Of this type, so that arithmetic stays in float32."""


@njit(inline="always")
def _before(scores: int, step: int, a: int, b: int) -> bool:
    """Does position ``a`` come before ``b``: a higher score, or an equal one earlier?"""
    score_a, score_b = load_float32(scores + a * step), load_float32(scores + b * step)
    return score_a > score_b or (score_a == score_b and a < b)


@njit
def _sift(heap: int, count: int, place: int, scores: int, step: int) -> None:
    """Moves the candidate at ``place`` down to where both below it come after it."""
    moved = load_int64(heap + 8 * place)
    while True:
        below = 2 * place + 1
        if below >= count:
            break
        candidate = load_int64(heap + 8 * below)
        if below + 1 < count:
            other = load_int64(heap + 8 * below + 8)
            if _before(scores, step, other, candidate):
                below, candidate = below + 1, other
        if not _before(scores, step, candidate, moved):
            break
        store_int64(heap + 8 * place, candidate)
        place = below
    store_int64(heap + 8 * place, moved)


@njit(inline="always")
def _corners(box: int, step: int, centered: int) -> tuple[float, float, float, float]:
    """A box as ``(low, low, high, high)``."""
    a, b = load_float32(box), load_float32(box + step)
    c, d = load_float32(box + 2 * step), load_float32(box + 3 * step)
    if centered:
        half_c, half_d = c * HALF, d * HALF
        return a - half_c, b - half_d, a + half_c, b + half_d
    return min(a, c), min(b, d), max(a, c), max(b, d)


@njit
def _overlaps(a: int, b: int, step: int, centered: int, threshold: float) -> bool:
    """Is the intersection over union of two boxes above ``threshold``?"""
    a0, a1, a2, a3 = _corners(a, step, centered)
    b0, b1, b2, b3 = _corners(b, step, centered)
    height, width = min(a2, b2) - max(a0, b0), min(a3, b3) - max(a1, b1)
    shared = height * width
    area_a, area_b = (a2 - a0) * (a3 - a1), (b2 - b0) * (b3 - b1)
    if not (height > 0 and width > 0) or area_a <= 0 or area_b <= 0:
        return threshold < 0
    above: bool = shared / (area_a + area_b - shared) > threshold
    return above


def suppress(operands: int, parameters: int, first: int, last: int, scratch: int) -> None:
    """The kernel. Parameters: boxes, classes, most picks, two flags, then the operands' strides in bytes."""
    extent, classes = load_int64(parameters), load_int64(parameters + 8)
    most, centered = load_int64(parameters + 16), load_int64(parameters + 24)
    limited = load_int64(parameters + 32)
    box_image, box_step = load_int64(parameters + 40), load_int64(parameters + 48)
    box_inner = load_int64(parameters + 56)
    score_image, score_class = load_int64(parameters + 64), load_int64(parameters + 72)
    score_step = load_int64(parameters + 80)
    pick_image, pick_class = load_int64(parameters + 88), load_int64(parameters + 96)
    pick_step = load_int64(parameters + 104)
    count_image, count_class = load_int64(parameters + 112), load_int64(parameters + 120)
    iou_threshold = load_float32(load_int64(operands + 16))
    score_threshold = load_float32(load_int64(operands + 24))
    for tile in range(first, last):
        image, kind = tile // classes, tile % classes
        boxes = load_int64(operands) + image * box_image
        scores = load_int64(operands + 8) + image * score_image + kind * score_class
        picks = load_int64(operands + 32) + image * pick_image + kind * pick_class
        count = 0
        for position in range(extent):
            score = load_float32(scores + position * score_step)
            if score > score_threshold if limited else score == score:
                store_int64(scratch + 8 * count, position)
                count += 1
        for place in range(count // 2 - 1, -1, -1):
            _sift(scratch, count, place, scores, score_step)
        chosen = 0
        while count > 0 and chosen < most:
            position = load_int64(scratch)
            count -= 1
            store_int64(scratch, load_int64(scratch + 8 * count))
            _sift(scratch, count, 0, scores, score_step)
            kept = True
            box = boxes + position * box_step
            for number in range(chosen):
                other = boxes + load_int64(picks + number * pick_step) * box_step
                if _overlaps(box, other, box_inner, centered, iou_threshold):
                    kept = False
                    break
            if kept:
                store_int64(picks + chosen * pick_step, position)
                chosen += 1
        for number in range(chosen, most):
            store_int64(picks + number * pick_step, 0)
        counts = load_int64(operands + 40) + image * count_image + kind * count_class
        store_int64(counts, chosen)
