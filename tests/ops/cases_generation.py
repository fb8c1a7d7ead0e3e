"""Constants, shapes, ranges, diagonals."""

import math

import numpy as np
from cases import (
    BFLOAT16,
    BOOL,
    EXACT,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    NUMBERS,
    Case,
    case,
    distinct,
    make_tensor,
    shape_of,
    tensor_code,
    uniform,
)
from onnx import helper

INT64 = np.dtype(np.int64)


def constant_cases() -> list[Case]:
    found = []
    for name, attributes, value in [
        ("float", {"value_float": 2.5}, np.array(2.5, np.float32)),
        ("floats", {"value_floats": [1.5, -2.0]}, np.array([1.5, -2], np.float32)),
        ("int", {"value_int": -7}, np.array(-7)),
        ("ints", {"value_ints": [3, 4]}, np.array([3, 4])),
        ("large", {"value": make_tensor("value", np.arange(30000.0))}, np.arange(30000.0)),
        *(
            (
                f"{dtype}",
                {"value": make_tensor("value", np.array([[0, 1]], dtype))},
                np.array([[0, 1]], dtype),
            )
            for dtype in (*NUMBERS, BOOL, np.dtype("complex64"))
        ),
    ]:
        nodes = (
            helper.make_node("Constant", [], ["y"], **attributes),
            helper.make_node("Identity", ["x"], ["z"]),
        )
        reference = lambda x, v=value: (v, x)  # noqa: E731
        settings = {"reference": reference, "dtypes": (value.dtype, FLOAT32), "tolerance": EXACT}
        found.append(Case(f"Constant-{name}", nodes, {"x": distinct(FLOAT32, 2)}, ("y", "z"), **settings))
    for shape in [(2, 3), (), (0, 2), (1,)]:
        for value in [None, *(np.array([1], dtype) for dtype in (*NUMBERS, BOOL))]:
            attributes = {} if value is None else {"value": make_tensor("value", value)}
            dtype = FLOAT32 if value is None else value.dtype
            reference = lambda s, v=value, d=dtype: np.full(tuple(s), 0 if v is None else 1, d)  # noqa: E731
            settings = {"attributes": attributes, "reference": reference, "dtypes": (dtype,)}
            name = f"{shape}{'default' if value is None else dtype}"
            if shape == (2, 3) or value is None:
                found.append(case(name, "ConstantOfShape", {"shape": shape_of(*shape)}, **settings))
    return found


def extent_cases() -> list[Case]:
    found = []
    for shape in [(2, 3, 4), (), (0, 3)]:
        x = {"x": distinct(FLOAT32, *shape)}
        settings = {"dtypes": (INT64,)}
        found.append(case(f"{shape}", "Size", x, reference=lambda x: np.array(x.size), **settings))
        for start, end in [(None, None), (1, None), (-1, None), (0, -1), (-9, 9), (2, 1), (None, 2)]:
            attributes = {key: item for key, item in (("start", start), ("end", end)) if item is not None}
            reference = lambda x, s=start, e=end: np.array(x.shape[s:e])  # noqa: E731
            name = f"{shape}{start}{end}"
            found.append(case(name, "Shape", x, attributes=attributes, reference=reference, **settings))
    return found


def range_cases() -> list[Case]:
    found = []
    for dtype, start, limit, delta in [
        (FLOAT32, 1, 5, 2),
        (FLOAT32, 0.5, 3.1, 0.4),
        (FLOAT32, 3, -2, -0.75),
        (FLOAT32, 3, 1, 1),
        (FLOAT64, 0, 1, 0.1),
        (FLOAT16, 0, 9, 1.5),
        (BFLOAT16, 0, 9, 1.5),
        (np.dtype(np.int16), 10, -7, -4),
        (np.dtype(np.int32), 10, 10, 3),
        (INT64, 10, 21, 3),
        (INT64, 2**60, 2**60 + 7, 3),
    ]:
        inputs = {
            name: np.array(value, dtype)
            for name, value in (("start", start), ("limit", limit), ("delta", delta))
        }
        reference = _integers if dtype.kind == "i" else _progression
        name = f"{dtype}-{start}-{limit}-{delta}"
        found.append(case(name, "Range", inputs, reference=reference))
        settings = {"reference": reference, "constants": ("start", "delta")}
        found.append(case(f"{name}-limit", "Range", inputs, **settings))
    return found


def _progression(start, limit, delta):
    return start + np.arange(max(math.ceil((limit - start) / delta), 0)) * delta


def _integers(start, limit, delta):
    return np.array(range(int(start), int(limit), int(delta)), start.dtype)


def diagonal_cases() -> list[Case]:
    found = []
    for shape, k in [((3, 4), 0), ((3, 4), 1), ((4, 2), -2), ((3, 3), 9), ((0, 3), 0)]:
        for dtype in (None, FLOAT32, np.dtype(np.int8), BOOL, FLOAT64):
            if dtype not in (None, FLOAT32) and shape != (3, 4):
                continue
            attributes = {"k": k} | ({} if dtype is None else {"dtype": tensor_code(dtype)})
            reference = lambda x, k=k: np.eye(*x.shape, k=k)  # noqa: E731
            settings = {"attributes": attributes, "reference": reference, "dtypes": (dtype or INT64,)}
            found.append(case(f"{shape}{k}{dtype}", "EyeLike", {"x": distinct(INT64, *shape)}, **settings))
    for shape in [(4, 5), (2, 3, 3), (5, 1), (0, 3)]:
        for upper in (0, 1):
            for k in (None, 0, 1, -2, 9):
                inputs = {"x": uniform(FLOAT32, *shape), "k": None if k is None else np.array(k)}
                reference = _triangle(upper, k or 0)
                for constants in dict.fromkeys([(), () if k is None else ("k",)]):
                    name = f"{shape}{upper}{k}{''.join(constants)}"
                    settings = {
                        "attributes": {"upper": upper},
                        "constants": constants,
                        "reference": reference,
                    }
                    found.append(case(name, "Trilu", inputs, tolerance=EXACT, **settings))
    for dtype in (*NUMBERS, BOOL):
        x = uniform(dtype, 4, 4)
        found.append(case(f"{dtype}", "Trilu", {"x": x}, reference=_triangle(1, 0), tolerance=EXACT))
    return found


def _triangle(upper, k):
    return lambda x, *_: (np.triu if upper else np.tril)(x, k)


def one_hot_cases() -> list[Case]:
    found = []
    for shape in [(2, 3), (), (0,)]:
        for axis in range(-len(shape) - 1, len(shape) + 1):
            inputs = {
                "indices": uniform(np.int64, *shape, low=-6, high=6),
                "depth": np.array(5),
                "values": np.array([-1, 2], np.float32),
            }
            settings = {"attributes": {"axis": axis}, "reference": _one_hot(axis), "dtypes": (FLOAT32,)}
            found.append(case(f"{shape}{axis}", "OneHot", inputs, **settings))
    for dtype in (np.dtype(np.int32), np.dtype(np.uint8), FLOAT32, FLOAT16):
        for result in (FLOAT32, np.dtype(np.int8), BOOL, BFLOAT16):
            inputs = {
                "indices": uniform(dtype, 4, low=0, high=3),
                "depth": np.array([4], np.float32),
                "values": np.array([0, 1], result),
            }
            settings = {"reference": _one_hot(-1), "dtypes": (result,), "constants": ("depth", "values")}
            found.append(case(f"{dtype}-{result}", "OneHot", inputs, **settings))
    return found


def _one_hot(axis):
    def place(indices, depth, values):
        extent = int(depth.item())
        whole = np.expand_dims(np.trunc(indices).astype(np.int64), axis)
        wrapped = np.where(whole < 0, whole + extent, whole)
        positions = np.arange(extent).reshape(
            [-1 if n == axis % whole.ndim else 1 for n in range(whole.ndim)]
        )
        return np.where(positions == wrapped, values[1], values[0])

    return place


CASES = [*constant_cases(), *extent_cases(), *range_cases(), *diagonal_cases(), *one_hot_cases()]
