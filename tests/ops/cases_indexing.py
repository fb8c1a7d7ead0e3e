"""Operators that pick elements by position."""

import numpy as np
from cases import BFLOAT16, BOOL, FLOAT16, FLOAT32, INTEGERS, Case, case, distinct, uniform

INT32, INT64 = np.dtype(np.int32), np.dtype(np.int64)


def take(axis):
    return lambda data, indices: np.take(data, indices.astype(np.int64), axis=axis, mode="wrap")


def gather_cases() -> list[Case]:
    found = []
    for label, shape, axis, indices in [
        ("rows", (5, 3), 0, [[0, 4, 2], [1, 1, 3]]),
        ("columns", (5, 3), 1, [2, 0]),
        ("negative axis", (2, 4, 3), -2, [3, 0, 1]),
        ("negative indices", (5, 3), 0, [-1, -5, 2]),
        ("scalar", (5, 3), 0, 2),
        ("negative scalar", (5, 3), 1, -1),
        ("range", (6, 2), 0, [1, 2, 3]),
        ("backwards", (6, 2), 0, [5, 3, 1]),
        ("repeated", (6, 2), 0, [4, 4, 4]),
        ("grid", (3, 8), 1, [[0, 2], [4, 6]]),
        ("one", (6, 2), 0, [3]),
        ("vector", (7,), 0, [[6], [0]]),
        ("scalar of vector", (7,), 0, 6),
        ("none", (4, 3), 1, np.zeros((0,))),
        ("none of two axes", (4, 3), 0, np.zeros((2, 0))),
        ("none of nothing", (0, 3), 0, np.zeros((0,))),
        ("empty rows", (4, 0), 0, [1, 3]),
    ]:
        for dtype in (INT32, INT64):
            inputs = {"data": uniform(FLOAT32, *shape), "indices": np.array(indices, dtype)}
            for constants in ((), ("indices",)):
                found.append(
                    case(
                        f"{label} {dtype}{' constant' if constants else ''}",
                        "Gather",
                        inputs,
                        attributes={"axis": axis},
                        constants=constants,
                        reference=take(axis),
                    )
                )
    for dtype in (*INTEGERS, BOOL, FLOAT16, BFLOAT16):
        data = uniform(BOOL, 5, 7) if dtype == BOOL else distinct(dtype, 5, 7)
        inputs = {"data": data, "indices": np.array([4, 0, 3], INT64)}
        found.append(case(f"{dtype}", "Gather", inputs, reference=take(0)))
    for opset in (1, 11):
        inputs = {"data": uniform(FLOAT32, 5, 7), "indices": np.array([4, 0, 3], INT64)}
        found.append(case("", "Gather", inputs, opset=opset, reference=take(0)))
    return found


CASES = gather_cases()
