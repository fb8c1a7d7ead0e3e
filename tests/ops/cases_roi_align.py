"""RoiAlign."""

import numpy as np
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Case, case, uniform

IMAGES = np.array([1, 0, 1, 1, 0], np.int64)
# Inside, beyond the borders, of no size, turned round, far outside.
ROIS = [[0.5, 1.2, 4.3, 5.9], [-2, -1.5, 9.7, 3.3], [2, 2, 2, 2], [4.1, 5.2, 1.3, 2.2], [30, 30, 40, 50]]


def roi_align(bins=(1, 1), ratio=0, scale=1.0, mode="avg", half_pixel=True):
    """The definition, sample by sample."""

    def neighbours(place, extent):
        if place < -1 or place > extent:
            return [(0, 0.0), (0, 0.0)]
        place = min(max(place, 0), extent - 1)
        low = int(place)
        return [(low, 1 - (place - low)), (min(low + 1, extent - 1), place - low)]

    def reference(x, rois, images):
        rois = rois.astype(np.float32).astype(np.float64)
        result = np.zeros((len(rois), x.shape[1], *bins))
        for roi, channel, top, left in np.ndindex(result.shape):
            start = rois[roi, :2][::-1] * scale - 0.5 * half_pixel
            length = rois[roi, 2:][::-1] * scale - 0.5 * half_pixel - start
            length = length if half_pixel else np.maximum(length, 1)
            size = length / bins
            counts = [ratio if ratio else max(int(np.ceil(side)), 0) for side in size]
            products = []
            for sample in np.ndindex(*counts):
                sides = [
                    neighbours(start[i] + (place + (sample[i] + 0.5) / counts[i]) * size[i], x.shape[2 + i])
                    for i, place in enumerate((top, left))
                ]
                products += [v * w * x[images[roi], channel, i, j] for i, v in sides[0] for j, w in sides[1]]
            if products:
                average = sum(products) / np.prod(counts)
                result[roi, channel, top, left] = average if mode == "avg" else max(products)
        return result

    return reference


def roi_align_cases() -> list[Case]:
    found = []
    for label, bins, ratio, scale, mode, half_pixel in [
        ("defaults", (1, 1), 0, 1.0, "avg", True),
        ("fixed", (3, 2), 2, 1.0, "avg", True),
        ("fixed max", (3, 2), 2, 1.0, "max", True),
        ("adaptive", (2, 2), 0, 0.75, "avg", True),
        ("adaptive max", (2, 2), 0, 0.75, "max", True),
        ("not shifted", (2, 3), 0, 1.0, "avg", False),
        ("not shifted, fixed", (2, 3), 3, 0.5, "max", False),
    ]:
        inputs = {
            "x": uniform(FLOAT32, 2, 3, 6, 7),
            "rois": np.array(ROIS, np.float32),
            "images": IMAGES,
        }
        attributes = {
            "output_height": bins[0],
            "output_width": bins[1],
            "sampling_ratio": ratio,
            "spatial_scale": scale,
            "mode": mode,
            "coordinate_transformation_mode": "half_pixel" if half_pixel else "output_half_pixel",
        }
        reference = roi_align(bins, ratio, scale, mode, half_pixel)
        settings = {"reference": reference, "tolerance": (1e-4, 1e-5)}
        for constants in ((), ("rois", "images")):
            name = f"{label}{' constant' if constants else ''}"
            found.append(
                case(name, "RoiAlign", inputs, attributes=attributes, constants=constants, **settings)
            )
    attributes = {"output_height": 2, "output_width": 2, "sampling_ratio": 2}
    for dtype in (FLOAT64, FLOAT16, BFLOAT16):
        inputs = {
            "x": uniform(dtype, 2, 3, 6, 7),
            "rois": np.array([[1, 0.5, 4, 3.5], [0, 2, 5, 6]], dtype),
            "images": np.array([1, 0], np.int64),
        }
        tolerance = {FLOAT64: 1e-9, FLOAT16: 3e-3, BFLOAT16: 2e-2}[dtype]
        settings = {"attributes": attributes, "tolerance": (tolerance, tolerance)}
        found.append(case(f"{dtype}", "RoiAlign", inputs, reference=roi_align((2, 2), 2), **settings))
    inputs = {
        "x": uniform(FLOAT32, 2, 3, 6, 7),
        "rois": np.array(ROIS[:2], np.float32),
        "images": np.array([1, 0], np.int64),
    }
    for opset in (10, 16):
        reference = roi_align((2, 2), 2, half_pixel=opset == 16)
        settings = {"attributes": attributes, "tolerance": (1e-4, 1e-5)}
        found.append(case("", "RoiAlign", inputs, opset=opset, reference=reference, **settings))
    inputs = inputs | {"rois": np.empty((0, 4), np.float32), "images": np.empty(0, np.int64)}
    found.append(case("no regions", "RoiAlign", inputs, reference=roi_align()))
    return found


CASES = roi_align_cases()
