"""MaxRoiPool."""

import numpy as np
from cases import FLOAT16, FLOAT32, FLOAT64, Case, case, uniform

# Image and corners: inside, beyond the borders, one element, turned round, outside.
ROIS = [
    [1, 0.4, 1.2, 4.3, 5.6],
    [0, -2, -1.6, 9.7, 3.3],
    [1, 2, 2, 2, 2],
    [0, 4.2, 5.2, 1.3, 2.2],
    [1, 30, 30, 40, 50],
]


def max_roi_pool(bins, scale):
    def reference(x, rois):
        result = np.zeros((len(rois), x.shape[1], *bins))
        for roi, row, column in np.ndindex(len(rois), *bins):
            corners = rois[roi, 1:] * scale
            corners = np.where(corners < 0, np.ceil(corners - 0.5), np.floor(corners + 0.5))
            slices = []
            for axis, place in enumerate((row, column)):
                start, stop = corners[1 - axis], corners[3 - axis]
                size = np.float32(max(stop - start + 1, 1)) / np.float32(bins[axis])
                first = start + np.floor(np.float32(place) * size)
                last = start + np.ceil(np.float32(place + 1) * size)
                slices.append(slice(*np.clip([first, last], 0, x.shape[2 + axis]).astype(int)))
            window = x[int(rois[roi, 0])][(slice(None), *slices)]
            if window.size:
                result[roi, :, row, column] = window.max(axis=(1, 2))
        return result

    return reference


def max_roi_pool_cases() -> list[Case]:
    found = []
    for bins, scale in [((1, 1), 1.0), ((2, 3), 1.0), ((4, 4), 0.5), ((7, 7), 1.0)]:
        for dtype in (FLOAT32, FLOAT64, FLOAT16):
            for constants in ((), ("rois",)):
                name = f"{bins} {dtype}{' constant' if constants else ''}"
                found.append(
                    case(
                        name,
                        "MaxRoiPool",
                        {"x": uniform(dtype, 2, 3, 6, 7), "rois": np.array(ROIS, dtype)},
                        attributes={"pooled_shape": bins, "spatial_scale": scale},
                        constants=constants,
                        reference=max_roi_pool(bins, scale),
                    )
                )
    inputs = {"x": uniform(FLOAT32, 2, 3, 6, 7), "rois": np.array(ROIS, np.float32)}
    attributes = {"pooled_shape": (2, 2)}
    reference = max_roi_pool((2, 2), 1.0)
    found.append(case("", "MaxRoiPool", inputs, opset=1, attributes=attributes, reference=reference))
    inputs = inputs | {"rois": np.empty((0, 5), np.float32)}
    name = "no regions"
    found.append(case(name, "MaxRoiPool", inputs, attributes=attributes, reference=reference))
    return found


CASES = max_roi_pool_cases()
