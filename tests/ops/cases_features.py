"""ArrayFeatureExtractor and Binarizer."""

import numpy as np
from cases import EXACT, FLOAT16, FLOAT32, FLOAT64, NUMBERS, Case, case, distinct, special, uniform

DOMAIN = {"domain": "ai.onnx.ml"}


def extracted(x, indices):
    return np.take(np.atleast_2d(x), indices.reshape(-1), axis=-1)


def feature_cases() -> list[Case]:
    found = []
    indices = np.array([[2, 0, -1, 2]], np.int64)
    for dtype in (FLOAT32, FLOAT64, FLOAT16, np.dtype(np.int64), np.dtype(np.uint8)):
        inputs = {"x": distinct(dtype, 3, 4, 5), "indices": indices}
        found.append(case(f"{dtype}", "ArrayFeatureExtractor", inputs, reference=extracted, **DOMAIN))
    for name, shape, places, constants in [
        ("vector", (5,), indices, ()),
        ("one index", (2, 5), np.array([4], np.int64), ("indices",)),
        ("grid of indices", (2, 5), np.array([[1, 2], [3, 4]], np.int64), ("indices",)),
        ("no rows", (0, 5), indices, ()),
        ("no indices", (2, 5), np.empty((1, 0), np.int64), ()),
    ]:
        inputs = {"x": distinct(FLOAT32, *shape), "indices": places}
        settings = {"constants": constants, "reference": extracted, **DOMAIN}
        found.append(case(name, "ArrayFeatureExtractor", inputs, **settings))
    text = np.array([["a", "b", "c"], ["d", "e", "f"]], object)
    inputs = {"x": text, "indices": np.array([2, 0], np.int64)}
    settings = {"constants": ("x", "indices"), "reference": extracted, **DOMAIN}
    found.append(case("strings", "ArrayFeatureExtractor", inputs, **settings))
    for dtype in NUMBERS:
        threshold = 1.25 if dtype.kind in "fV" else 1.0

        def above(x, threshold=threshold):
            return x > threshold

        inputs = {"x": (uniform if dtype.kind in "iu" else special)(dtype, 3, 7)}
        settings = {"attributes": {"threshold": threshold}, "tolerance": EXACT, **DOMAIN}
        found.append(case(f"{dtype}", "Binarizer", inputs, reference=above, **settings))
    for shape in ((), (0, 3)):
        inputs = {"x": special(FLOAT32, *shape)}
        found.append(case(f"{shape}", "Binarizer", inputs, reference=lambda x: x > 0, **DOMAIN))
    return found


CASES = feature_cases()
