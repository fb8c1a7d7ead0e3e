"""DeformConv."""

import itertools

import numpy as np
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Case, case, uniform


def sample(plane, place):
    """Linear interpolation of ``plane`` at fractional coordinates, zero outside."""
    low = np.floor(place).astype(int)
    total = 0.0
    for corner in itertools.product((0, 1), repeat=len(place)):
        at = low + corner
        if all(0 <= a < extent for a, extent in zip(at, plane.shape, strict=True)):
            total += plane[tuple(at)] * np.prod(1 - np.abs(place - at))
    return total


def deform_conv(groups, parts, strides, dilations, pads):
    """The definition, element by element."""

    def reference(x, w, offset, bias, mask):
        batch, channels = x.shape[:2]
        kernel, outputs, rank = w.shape[2:], offset.shape[2:], x.ndim - 2
        offset = offset.reshape(batch, parts, *kernel, rank, *outputs)
        mask = np.ones((batch, parts, *kernel, *outputs)) if mask is None else mask
        mask = mask.reshape(batch, parts, *kernel, *outputs)
        result = np.zeros((batch, w.shape[0], *outputs))
        for n, c in np.ndindex(batch, channels):
            part, group = c * parts // channels, c * groups // channels
            features = slice(group * w.shape[0] // groups, (group + 1) * w.shape[0] // groups)
            for tap in itertools.product(*map(range, kernel)):
                for out in itertools.product(*map(range, outputs)):
                    start = [out[a] * strides[a] - pads[a] + tap[a] * dilations[a] for a in range(rank)]
                    place = np.array(start) + offset[(n, part, *tap, slice(None), *out)]
                    value = sample(x[n, c], place) * mask[(n, part, *tap, *out)]
                    result[(n, features, *out)] += value * w[(features, c % w.shape[1], *tap)]
        return result if bias is None else result + bias.reshape(-1, *(1,) * rank)

    return reference


def deform_case(
    name,
    x,
    w,
    *,
    groups=1,
    parts=1,
    bias=False,
    mask=False,
    dtype=FLOAT32,
    tolerance=(1e-4, 1e-4),
    opset=28,
    **given,
) -> Case:
    rank = len(x) - 2
    strides = given.get("strides", (1,) * rank)
    dilations = given.get("dilations", (1,) * rank)
    pads = given.get("pads", (0,) * (2 * rank))
    outputs = [
        (x[2 + a] + pads[a] + pads[rank + a] - (w[2 + a] - 1) * dilations[a] - 1) // strides[a] + 1
        for a in range(rank)
    ]
    taps = int(np.prod(w[2:]))
    inputs = {
        "x": uniform(dtype, *x),
        "w": uniform(dtype, *w, low=-1, high=1),
        "offset": uniform(dtype, x[0], parts * taps * rank, *outputs, low=-2.5, high=2.5),
        "bias": uniform(dtype, w[0]) if bias else None,
        "mask": uniform(dtype, x[0], parts * taps, *outputs, low=0, high=1) if mask else None,
    }
    attributes = {"group": groups, "offset_group": parts, **given}
    reference = deform_conv(groups, parts, strides, dilations, pads)
    settings = {"attributes": attributes, "reference": reference, "tolerance": tolerance, "opset": opset}
    return case(name, "DeformConv", inputs, **settings)


CASES = [
    deform_case("plain", (2, 3, 5, 6), (4, 3, 2, 3)),
    deform_case("mask and bias", (2, 3, 5, 6), (4, 3, 3, 3), bias=True, mask=True, pads=[1, 1, 1, 1]),
    deform_case("groups", (2, 4, 5, 4), (6, 2, 2, 2), groups=2, bias=True),
    deform_case("groups of offsets", (1, 4, 5, 4), (3, 4, 2, 2), parts=2, mask=True),
    deform_case("both groups", (1, 4, 4, 4), (4, 1, 2, 2), groups=4, parts=2, mask=True),
    deform_case("strides", (1, 2, 8, 7), (3, 2, 3, 2), strides=[2, 3], pads=[1, 0, 2, 1]),
    deform_case("dilations", (1, 2, 8, 7), (3, 2, 3, 2), dilations=[2, 3], pads=[0, 2, 1, 0]),
    deform_case("one axis", (2, 2, 9), (3, 2, 3), bias=True),
    deform_case("volumes", (1, 2, 3, 4, 3), (2, 2, 2, 1, 2), parts=2, mask=True),
    deform_case("pointwise", (1, 3, 1, 1), (2, 3, 1, 1)),
    deform_case("no images", (0, 3, 4, 4), (2, 3, 2, 2), bias=True),
    deform_case("", (1, 1, 4, 4), (1, 1, 2, 2), opset=19),
    deform_case("double", (1, 3, 4, 5), (2, 3, 2, 2), dtype=FLOAT64, tolerance=(1e-10, 1e-10)),
    deform_case("half", (1, 3, 4, 5), (2, 3, 2, 2), dtype=FLOAT16, tolerance=(5e-3, 2e-2)),
    deform_case("bfloat16", (1, 3, 4, 5), (2, 3, 2, 2), dtype=BFLOAT16, tolerance=(4e-2, 2e-1)),
]
