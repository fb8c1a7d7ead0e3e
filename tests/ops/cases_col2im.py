"""Col2Im."""

import itertools
import math

import numpy as np
from cases import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOAT64, Case, case, shape_of, uniform


def col2im(image, block, strides, dilations, pads):
    """The definition, block by block."""
    rank = len(image)
    blocks = [
        (image[a] + pads[a] + pads[rank + a] - dilations[a] * (block[a] - 1) - 1) // strides[a] + 1
        for a in range(rank)
    ]

    def reference(x, *_):
        columns = x.reshape(x.shape[0], x.shape[1] // math.prod(block), *block, *blocks)
        result = np.zeros((*columns.shape[:2], *image), x.dtype)
        for tap in itertools.product(*map(range, block)):
            for place in itertools.product(*map(range, blocks)):
                target = [place[a] * strides[a] + tap[a] * dilations[a] - pads[a] for a in range(rank)]
                if all(0 <= t < extent for t, extent in zip(target, image, strict=True)):
                    result[(..., *target)] += columns[(..., *tap, *place)]
        return result

    return reference, int(np.prod(blocks))


def col2im_case(name, batch, channels, image, block, *, dtype=FLOAT32, tolerance=None, constants=(), **given):
    rank = len(image)
    strides = given.get("strides", (1,) * rank)
    dilations = given.get("dilations", (1,) * rank)
    pads = given.get("pads", (0,) * (2 * rank))
    reference, count = col2im(image, block, strides, dilations, pads)
    inputs = {
        "x": uniform(dtype, batch, channels * int(np.prod(block)), count),
        "image": shape_of(*image),
        "block": shape_of(*block),
    }
    settings = {"attributes": given, "reference": reference, "tolerance": tolerance, "constants": constants}
    return case(name, "Col2Im", inputs, **settings)


def col2im_cases() -> list[Case]:
    known = ("image", "block")
    found = [
        col2im_case("plain", 2, 3, (5, 6), (2, 3), constants=known),
        col2im_case("dynamic", 1, 2, (5, 5), (1, 5)),
        col2im_case("strides", 2, 1, (7, 8), (3, 2), strides=(2, 3), constants=known),
        col2im_case("dilations", 1, 2, (7, 8), (3, 2), dilations=(2, 3), constants=known),
        col2im_case("pads", 1, 2, (5, 4), (3, 3), pads=(1, 0, 2, 1), constants=known),
        col2im_case(
            "all", 2, 2, (6, 7), (2, 3), strides=(2, 1), dilations=(3, 2), pads=(0, 2, 1, 1), constants=known
        ),
        col2im_case("gaps", 1, 1, (9, 9), (1, 2), strides=(4, 4), constants=known),
        col2im_case("volumes", 1, 2, (3, 4, 3), (2, 1, 2), pads=(1, 0, 0, 0, 1, 1), constants=known),
        col2im_case("one axis", 2, 2, (8,), (3,), strides=(2,), constants=known),
        col2im_case("no images", 0, 2, (4, 4), (2, 2), constants=known),
    ]
    for dtype, tolerance in [(FLOAT64, None), (FLOAT16, (2e-3, 2e-3)), (BFLOAT16, (1.6e-2, 1.6e-2))]:
        settings = {"dtype": dtype, "tolerance": tolerance, "constants": known}
        found.append(col2im_case(f"{dtype}", 2, 3, (5, 6), (2, 3), pads=(1, 1, 0, 0), **settings))
    for dtype in (np.dtype(np.int8), np.dtype(np.uint16), np.dtype(np.int64), BOOL):
        settings = {"dtype": dtype, "constants": known}
        found.append(col2im_case(f"{dtype}", 2, 3, (5, 6), (2, 3), pads=(1, 1, 0, 0), **settings))
    return found


CASES = col2im_cases()
