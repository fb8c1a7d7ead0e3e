"""Do two views of one storage share elements? Exact for parts of a common layout, cautious for the rest."""

from __future__ import annotations

import itertools

from onnxplan.compiler.view import View


def extent_of(view: View) -> tuple[int, int]:
    """The lowest and the highest element position that a view (not empty) reaches."""
    low = high = view.offset
    for extent, stride in zip(view.shape, view.strides, strict=True):
        reach = (extent - 1) * stride
        if reach < 0:
            low += reach
        else:
            high += reach
    return low, high


def may_overlap(a: View, b: View) -> bool:
    """False only if the views certainly share no element.

    Decides parts of a concatenation, a split or a padding exactly: views whose strides nest (each a multiple
    of the next smaller) are boxes in the coordinates that those strides span; disjoint boxes share nothing.
    """
    if a.storage is not b.storage or 0 in a.shape or 0 in b.shape:
        return False
    a_low, a_high = extent_of(a)
    b_low, b_high = extent_of(b)
    if a_high < b_low or b_high < a_low:
        return False
    strides = sorted(
        {
            abs(stride)
            for view in (a, b)
            for extent, stride in zip(view.shape, view.strides, strict=True)
            if extent > 1 and stride
        },
        reverse=True,
    )
    if any(outer % inner for outer, inner in itertools.pairwise(strides)):
        return True
    box_a, box_b = _box(a, a_low, strides), _box(b, b_low, strides)
    if box_a is None or box_b is None:
        return True
    return all(
        low < other_high and other_low < high
        for (low, high), (other_low, other_high) in zip(box_a, box_b, strict=True)
    )


def _box(view: View, low: int, strides: list[int]) -> list[tuple[int, int]] | None:
    """The view's range (end excluded) along each of the nested ``strides`` and along single elements."""
    reach = dict.fromkeys(strides, 1)
    for extent, stride in zip(view.shape, view.strides, strict=True):
        if extent > 1 and stride:
            reach[abs(stride)] += extent - 1
    box = []
    rest, limit = low, None
    for stride in strides:
        start, rest = divmod(rest, stride)
        end = start + reach[stride]
        if limit is not None and end > limit // stride:
            return None
        box.append((start, end))
        limit = stride
    box.append((rest, rest + 1))
    return box
