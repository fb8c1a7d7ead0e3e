"""Det."""

import numpy as np
from cases import BFLOAT16, EXACT, FLOAT16, FLOAT32, FLOAT64, Case, case, uniform

TOLERANCES = {
    FLOAT64: (1e-9, 1e-9),
    FLOAT32: (2e-3, 2e-3),
    FLOAT16: (2e-3, 2e-3),
    BFLOAT16: (1.6e-2, 1e-2),
}


def small_integers(*shape):
    return lambda random: random.integers(-9, 9, shape).astype(np.float32)


def with_zero_pivots(random):
    """Matrices whose first elements are zero, singular ones, and a permutation."""
    x = random.integers(-3, 4, (4, 5, 5)).astype(np.float32)
    x[0, 0, 0] = x[0, 1, 1] = 0
    x[1, :, 2] = x[1, :, 0]
    x[2] = np.eye(5)[[3, 1, 4, 0, 2]]
    x[3, :, 0] = 0
    return x


def determinant_cases() -> list[Case]:
    found = []
    for dtype in (FLOAT32, FLOAT64, FLOAT16, BFLOAT16):
        for extent in (1, 2, 3, 4, 5, 8):
            inputs = {"x": uniform(dtype, 2, 3, extent, extent, low=-2, high=2)}
            settings = {"reference": np.linalg.det, "tolerance": TOLERANCES[dtype]}
            found.append(case(f"{dtype} {extent}", "Det", inputs, **settings))
    for name, x, reference in [
        ("exact 2", small_integers(7, 2, 2), lambda x: np.rint(np.linalg.det(x))),
        ("exact 3", small_integers(7, 3, 3), lambda x: np.rint(np.linalg.det(x))),
        ("no rows", np.empty((3, 0, 0), np.float32), lambda x: np.ones(3)),
    ]:
        found.append(case(name, "Det", {"x": x}, reference=reference, tolerance=EXACT))
    tolerance = TOLERANCES[FLOAT32]
    for name, x, opset in [
        ("one matrix", uniform(FLOAT32, 6, 6), 11),
        ("large", uniform(FLOAT64, 19, 19, low=-1, high=1), 22),
        ("no matrices", uniform(FLOAT32, 0, 4, 4), 22),
        ("zero pivots", with_zero_pivots, 22),
    ]:
        settings = {"reference": np.linalg.det, "tolerance": tolerance, "opset": opset}
        found.append(case(name, "Det", {"x": x}, **settings))
    return found


CASES = determinant_cases()
