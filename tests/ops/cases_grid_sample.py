"""GridSample."""

import itertools

import numpy as np
from cases import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOAT64, Case, case, distinct, uniform


def reflect(x, low, high):
    if high == low:
        return low
    while not low <= x <= high:
        x = 2 * low - x if x < low else 2 * high - x
    return x


def weights_of(mode, fraction):
    """Offsets from the floor of a coordinate, and weights."""
    if mode == "nearest":
        return [(0, 1.0)]
    if mode == "linear":
        return [(0, 1 - fraction), (1, fraction)]
    a = -0.75

    def kernel(t):
        t = abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a

    return [(offset, kernel(fraction - offset)) for offset in (-1, 0, 1, 2)]


def grid_sample(mode, padding, align):
    """The definition, place by place."""

    def axis_taps(value, extent):
        x = (value + 1) * (extent - 1) / 2 if align else ((value + 1) * extent - 1) / 2
        low, high = (0, extent - 1) if align else (-0.5, extent - 0.5)
        x = np.rint(x) if mode == "nearest" else x
        if padding == "border" and not low <= x <= high:
            x = np.clip(x, 0, extent - 1)
        elif padding == "reflection":
            x = reflect(x, low, high)
        base = int(np.floor(x))
        for offset, weight in weights_of(mode, x - base):
            place = base + offset
            if padding == "border":
                place = min(max(place, 0), extent - 1)
            elif padding == "reflection":
                place = min(max(int(reflect(place, low, high)), 0), extent - 1)
            if 0 <= place < extent:
                yield place, weight

    def reference(x, grid):
        result = np.zeros((*x.shape[:2], *grid.shape[1:-1]), np.float64)
        for place in np.ndindex(grid.shape[:-1]):
            taps = [
                list(axis_taps(value, extent))
                for value, extent in zip(grid[place][::-1], x.shape[2:], strict=True)
            ]
            for chosen in itertools.product(*taps):
                weight = np.prod([item[1] for item in chosen])
                source = x[(place[0], slice(None), *(item[0] for item in chosen))]
                result[(place[0], slice(None), *place[1:])] += weight * source
        return result

    return reference


def grid_sample_cases() -> list[Case]:
    found = []
    for mode, padding, align in itertools.product(
        ("nearest", "linear", "cubic"), ("zeros", "border", "reflection"), (0, 1)
    ):
        attributes = {"mode": mode, "padding_mode": padding, "align_corners": align}
        settings = {"attributes": attributes, "tolerance": (1e-4, 1e-4)}
        for label, x, grid in [
            ("images", (2, 3, 5, 4), (2, 3, 7, 2)),
            ("one axis", (1, 2, 6), (1, 9, 1)),
            ("volumes", (2, 2, 3, 4, 2), (2, 2, 1, 3, 3)),
            ("size one", (1, 3, 1, 1), (1, 2, 2, 2)),
            ("many images", (17, 2, 3, 2), (17, 2, 1, 2)),
        ]:
            inputs = {"x": uniform(FLOAT32, *x), "grid": uniform(FLOAT32, *grid, low=-1.7, high=1.7)}
            name = f"{label} {mode} {padding} {align}"
            reference = grid_sample(mode, padding, align)
            found.append(case(name, "GridSample", inputs, reference=reference, **settings))
    for dtype in (FLOAT64, FLOAT16, BFLOAT16):
        inputs = {"x": uniform(dtype, 1, 2, 5, 6), "grid": uniform(FLOAT32, 1, 4, 3, 2, low=-1.2, high=1.2)}
        reference = grid_sample("linear", "zeros", 0)
        tolerance = {FLOAT64: 1e-5, FLOAT16: 4e-3, BFLOAT16: 3e-2}[dtype]
        settings = {"tolerance": (tolerance, tolerance)}
        found.append(case(f"{dtype}", "GridSample", inputs, reference=reference, **settings))
    for dtype in (BOOL, np.dtype(np.uint8), np.dtype(np.int64)):
        data = uniform(BOOL, 1, 2, 5, 6) if dtype == BOOL else distinct(dtype, 1, 2, 5, 6)
        inputs = {"x": data, "grid": uniform(FLOAT32, 1, 4, 3, 2, low=-1.2, high=1.2)}
        reference = grid_sample("nearest", "zeros", 0)
        attributes = {"mode": "nearest"}
        found.append(case(f"{dtype}", "GridSample", inputs, reference=reference, attributes=attributes))
    for shape, grid in [((0, 2, 3, 3), (0, 2, 2, 2)), ((1, 2, 3, 3), (1, 0, 2, 2))]:
        inputs = {"x": uniform(FLOAT32, *shape), "grid": uniform(FLOAT32, *grid)}
        reference = grid_sample("linear", "zeros", 0)
        found.append(case(f"nothing {shape[0]}", "GridSample", inputs, reference=reference))
    for old, new in [("bilinear", "linear"), ("bicubic", "cubic")]:
        inputs = {"x": uniform(FLOAT32, 1, 2, 5, 4), "grid": uniform(FLOAT32, 1, 3, 2, 2, low=-1, high=1)}
        settings = {"opset": 16, "attributes": {"mode": old}, "tolerance": (1e-4, 1e-4)}
        found.append(case(old, "GridSample", inputs, reference=grid_sample(new, "zeros", 0), **settings))
    return found


CASES = grid_sample_cases()
