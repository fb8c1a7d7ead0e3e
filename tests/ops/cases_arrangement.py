"""Reversed sequences, centred crops, affine grids, gates."""

import numpy as np
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Case, case, distinct, shape_of, uniform


def reverse_case(shape, batch, time, lengths) -> Case:
    def reference(x, counts):
        result = np.moveaxis(x.copy(), [batch, time], [0, 1])
        for row, count in zip(result, counts, strict=True):
            row[:count] = row[:count][::-1].copy()
        return np.moveaxis(result, [0, 1], [batch, time])

    attributes = {"batch_axis": batch, "time_axis": time}
    inputs = {"x": distinct(FLOAT32, *shape), "n": np.array(lengths, np.int64)}
    return case(f"{shape}{batch}", "ReverseSequence", inputs, attributes=attributes, reference=reference)


def crop_case(shape, extents, axes=None) -> Case:
    attributes = {} if axes is None else {"axes": axes}

    def reference(x, wanted):
        for axis, extent in zip(axes or range(x.ndim), wanted, strict=True):
            missing = extent - x.shape[axis]
            if missing > 0:
                widths = [(0, 0)] * x.ndim
                widths[axis] = (missing // 2, missing - missing // 2)
                x = np.pad(x, widths)
            else:
                start = -missing // 2
                x = x.take(range(start, start + extent), axis)
        return x

    inputs = {"x": uniform(FLOAT32, *shape), "shape": shape_of(*extents)}
    name = f"{shape}{extents}{axes}"
    return case(name, "CenterCropPad", inputs, attributes=attributes, reference=reference)


def grid_case(size, aligned, dtype=FLOAT32) -> Case:
    spatial = size[2:]

    def reference(theta, _):
        result = np.zeros((size[0], *spatial, len(spatial)))
        for place in np.ndindex(*spatial):
            point = [
                2 * p / max(n - 1, 1) - (n > 1) if aligned else (2 * p + 1) / n - 1
                for p, n in zip(place, spatial, strict=True)
            ]
            result[(slice(None), *place)] = theta @ np.array([*point[::-1], 1.0])
        return result

    inputs = {"theta": uniform(dtype, size[0], len(spatial), len(spatial) + 1), "size": shape_of(*size)}
    settings = {"attributes": {"align_corners": aligned}, "reference": reference}
    tolerance = {2: (2e-3, 2e-3), 4: (2e-5, 2e-5)}.get(dtype.itemsize)
    return case(f"{size}{aligned}{dtype}", "AffineGrid", inputs, tolerance=tolerance, **settings)


def gate_case(dtype, alpha) -> Case:
    def reference(gate, value):
        return gate / (1 + np.exp(-alpha * gate)) * value

    inputs = {"a": uniform(dtype, 3, 7), "b": uniform(dtype, 3, 7)}
    return case(f"{dtype}{alpha}", "SwiGLU", inputs, attributes={"alpha": alpha}, reference=reference)


CASES = [
    reverse_case((4, 3), 1, 0, [4, 2, 0]),
    reverse_case((3, 5, 2), 0, 1, [5, 1, 3]),
    reverse_case((4, 3, 2, 2), 1, 0, [1, 2, 3]),
    reverse_case((0, 2), 1, 0, [0, 0]),
    crop_case((7, 4), (4, 7)),
    crop_case((6, 5, 3), (9, 2), [-2, 0]),
    crop_case((3, 4), (0, 4)),
    crop_case((0, 4), (3, 5)),
    *(
        grid_case(size, aligned)
        for size in [(2, 3, 4, 5), (2, 1, 2, 3, 4), (1, 1, 1, 6)]
        for aligned in (0, 1)
    ),
    grid_case((2, 3, 4, 5), 0, FLOAT64),
    grid_case((2, 3, 4, 5), 1, FLOAT16),
    *(gate_case(dtype, alpha) for dtype in (FLOAT32, FLOAT64, FLOAT16, BFLOAT16) for alpha in (1.0, 1.5)),
]
