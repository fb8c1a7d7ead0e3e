"""NonZero, Compress and Unique: data decides how many elements are left."""

import numpy as np
from cases import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOAT64, INTEGERS, Case, case, distinct, special, uniform

INT64 = np.dtype(np.int64)


def sparse(dtype, *shape):
    """About half zeros, NaN among the others of floats."""

    def make(random):
        array = uniform(dtype, *shape, low=1, high=9)(random)
        array[random.random(shape) < 0.5] = 0
        if np.dtype(dtype).kind == "f":
            array[random.random(shape) < 0.1] = np.nan
        return array

    return make


def non_zero(x):
    return np.array(np.nonzero(np.atleast_1d(x)), np.int64)


def non_zero_cases() -> list[Case]:
    found = []
    for label, shape in [
        ("vector", (17,)),
        ("matrix", (5, 7)),
        ("four axes", (2, 3, 1, 5)),
        ("one element", (1,)),
        ("nothing", (0,)),
        ("no columns", (3, 0)),
    ]:
        for dtype in (FLOAT32, BOOL):
            inputs = {"x": uniform(BOOL, *shape) if dtype == BOOL else sparse(dtype, *shape)}
            found.append(case(f"{label} {dtype}", "NonZero", inputs, reference=non_zero, dtypes=(INT64,)))
    for label, array in [
        ("all zero", np.zeros((3, 4), np.float32)),
        ("all zero vector", np.zeros(3, np.float32)),
        ("none zero", np.ones((3, 4), np.int32)),
        ("scalar", np.array(3.0, np.float32)),
        ("scalar zero", np.array(0.0, np.float32)),
        ("signed zeros", np.array([0.0, -0.0, np.nan, np.inf], np.float32)),
    ]:
        found.append(case(label, "NonZero", {"x": array}, reference=non_zero, dtypes=(INT64,)))
    for dtype in (*INTEGERS, FLOAT16, BFLOAT16, FLOAT64):
        inputs = {"x": sparse(dtype, 4, 9)}
        found.append(case(f"{dtype}", "NonZero", inputs, reference=non_zero, dtypes=(INT64,)))
    for opset in (9, 13):
        inputs = {"x": sparse(FLOAT32, 4, 9)}
        found.append(case("", "NonZero", inputs, opset=opset, reference=non_zero, dtypes=(INT64,)))
    return found


def compress_cases() -> list[Case]:
    found = []
    for label, shape, axis, condition in [
        ("rows", (4, 3), 0, [1, 0, 1, 1]),
        ("columns", (4, 3), 1, [0, 1, 1]),
        ("negative axis", (2, 3, 4), -2, [1, 0, 1]),
        ("flat", (2, 3), None, [1, 0, 0, 1, 1, 0]),
        ("flat, short", (4, 5), None, [0, 1, 1]),
        ("short", (4, 5), 1, [0, 1, 1]),
        ("none of them", (4, 5), 1, [0, 0, 0, 0, 0]),
        ("all of them", (4, 5), 1, [1, 1, 1, 1, 1]),
        ("empty condition", (4, 5), 0, []),
        ("nothing", (0, 5), 0, []),
        ("empty rows", (3, 0), 0, [1, 0, 1]),
    ]:
        inputs = {"x": uniform(FLOAT32, *shape), "condition": np.array(condition, bool)}
        attributes = {} if axis is None else {"axis": axis}
        for constants in ((), ("condition",), ("x",)):
            found.append(
                case(
                    f"{label}{f' constant {constants[0]}' if constants else ''}",
                    "Compress",
                    inputs,
                    attributes=attributes,
                    constants=constants,
                    reference=lambda x, condition, axis=axis: np.compress(condition, x, axis=axis),
                )
            )
    for dtype in (*INTEGERS, BOOL, BFLOAT16, np.dtype(np.complex64)):
        data = uniform(BOOL, 5, 7) if dtype == BOOL else distinct(dtype, 5, 7)
        inputs = {"x": data, "condition": uniform(BOOL, 7)}
        settings = {"attributes": {"axis": 1}}
        found.append(
            case(f"{dtype}", "Compress", inputs, reference=lambda x, c: np.compress(c, x, axis=1), **settings)
        )
    inputs = {"x": uniform(FLOAT32, 5, 7), "condition": uniform(BOOL, 35)}
    found.append(
        case("", "Compress", inputs, opset=9, reference=lambda x, c: np.compress(c, x.reshape(-1), axis=0))
    )
    return found


def unique(axis, rising):
    def reference(x):
        results = np.unique(x, return_index=True, return_inverse=True, return_counts=True, axis=axis)
        values, firsts, members, counts = results
        if not rising:
            order = np.argsort(firsts)
            ranks = np.argsort(order)
            values = np.take(values, order, axis=axis or 0)
            firsts, members, counts = firsts[order], ranks[members], counts[order]
        return values, firsts, members.reshape(-1), counts

    return reference


def unique_cases() -> list[Case]:
    found = []
    for label, shape, axis in [
        ("vector", (19,), None),
        ("vector axis", (19,), 0),
        ("matrix", (4, 6), None),
        ("rows", (17, 3), 0),
        ("columns", (2, 17), 1),
        ("negative axis", (3, 12, 1), -2),
        ("pairs", (40, 2), 0),
        ("one", (1,), None),
        ("one row", (1, 4), 0),
        ("nothing", (0,), None),
        ("wide rows", (9, 33), 0),
    ]:
        for rising in (1, 0):
            for dtype, high in ((FLOAT32, 2.0), (INT64, 1)):
                # Integers repeat; halves of floats do after rounding.
                draw = uniform(INT64, *shape, low=-high, high=high)
                attributes = {"sorted": rising} | ({} if axis is None else {"axis": axis})
                found.append(
                    case(
                        f"{label} {dtype} {rising}",
                        "Unique",
                        {"x": lambda random, draw=draw, dtype=dtype: draw(random).astype(dtype)},
                        outputs=4,
                        attributes=attributes,
                        reference=unique(axis, rising),
                        dtypes=(dtype, INT64, INT64, INT64),
                    )
                )
    for dtype in (*INTEGERS, FLOAT16, FLOAT64, BOOL):
        inputs = {"x": uniform(dtype, 30, low=-2, high=2)}
        dtypes = (dtype, INT64, INT64, INT64)
        found.append(case(f"{dtype}", "Unique", inputs, outputs=4, reference=unique(None, 1), dtypes=dtypes))
    dtypes = (FLOAT32, INT64, INT64, INT64)
    inputs = {"x": special(FLOAT32, 9)}
    found.append(case("special", "Unique", inputs, outputs=4, reference=unique(None, 1), dtypes=dtypes))
    repeated = np.array([np.nan, 1, np.nan, 0, -0.0, np.inf, 1], np.float32)
    inputs = {"x": repeated}
    found.append(case("repeated NaN", "Unique", inputs, outputs=4, reference=unique(None, 1), dtypes=dtypes))
    inputs = {"x": uniform(FLOAT32, 9)}
    for opset in (11, 28):
        name = "values only"
        found.append(
            case(
                name,
                "Unique",
                inputs,
                opset=opset,
                reference=lambda x: unique(None, 1)(x)[0],
                dtypes=(FLOAT32,),
            )
        )
    return found


CASES = [*non_zero_cases(), *compress_cases(), *unique_cases()]
