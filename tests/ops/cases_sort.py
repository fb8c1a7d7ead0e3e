"""TopK."""

import math

import numpy as np
from cases import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    INTEGERS,
    Case,
    case,
    distinct,
    shape_of,
    special,
    uniform,
)


def top_k(axis, largest=True):
    def reference(x, k):
        keys = np.moveaxis(x, axis, -1)
        rows = keys.reshape(math.prod(keys.shape[:-1]), keys.shape[-1])
        count = int(k[0])
        order = np.empty((len(rows), count), np.int64)
        for number, row in enumerate(rows):
            # NaN counts as the largest; sorting is stable.
            sign = -1 if largest else 1
            keys_of_row = [(sign, 0.0) if np.isnan(item) else (0, sign * float(item)) for item in row]
            found = sorted(range(len(row)), key=keys_of_row.__getitem__)
            order[number] = found[:count]
        order = np.moveaxis(order.reshape(*keys.shape[:-1], count), -1, axis)
        return np.take_along_axis(x, order, axis), order

    return reference


def top_k_cases() -> list[Case]:
    found = []
    for label, shape, axis, k in [
        ("last axis", (3, 7), -1, 3),
        ("first axis", (7, 3), 0, 2),
        ("middle axis", (2, 9, 3), 1, 4),
        ("all", (3, 40), 1, 40),
        ("few of many", (2, 300), 1, 5),
        ("one", (4, 6), 1, 1),
        ("none", (4, 6), 1, 0),
        ("vector", (11,), 0, 11),
        ("size one", (1, 1), 1, 1),
        ("no rows", (0, 5), 1, 2),
        ("no columns", (3, 0), 1, 0),
    ]:
        for largest in (1, 0):
            for draw in (special, distinct) if np.prod(shape) else (uniform,):
                inputs = {"x": draw(FLOAT32, *shape), "k": shape_of(k)}
                for constants in ((), ("k",)):
                    name = f"{label} {largest} {draw.__name__}{' constant' if constants else ''}"
                    found.append(
                        case(
                            name,
                            "TopK",
                            inputs,
                            outputs=2,
                            attributes={"axis": axis, "largest": largest},
                            constants=constants,
                            reference=top_k(axis, largest),
                            dtypes=(FLOAT32, np.dtype(np.int64)),
                        )
                    )
    for dtype in (*INTEGERS, FLOAT16, BFLOAT16, FLOAT64):
        for largest in (1, 0):
            found.append(
                case(
                    f"{dtype} {largest}",
                    "TopK",
                    {"x": uniform(dtype, 5, 9, low=-3, high=3), "k": shape_of(4)},
                    outputs=2,
                    attributes={"largest": largest, "sorted": largest},
                    reference=top_k(-1, largest),
                    dtypes=(dtype, np.dtype(np.int64)),
                )
            )
    for opset in (10, 11, 24):
        inputs = {"x": uniform(FLOAT32, 5, 9), "k": shape_of(4)}
        dtypes = (FLOAT32, np.dtype(np.int64))
        found.append(case("", "TopK", inputs, outputs=2, opset=opset, reference=top_k(-1), dtypes=dtypes))
    found.append(
        case(
            "",
            "TopK",
            {"x": uniform(FLOAT32, 5, 9)},
            outputs=2,
            opset=1,
            attributes={"k": 4},
            reference=lambda x: top_k(-1)(x, [4]),
            dtypes=(FLOAT32, np.dtype(np.int64)),
        )
    )
    return found


CASES = top_k_cases()
