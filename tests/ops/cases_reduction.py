"""Reductions, positions of extremes, running sums and products."""

import numpy as np
from cases import (
    FLOAT16,
    FLOAT32,
    FLOATS,
    SIGNED,
    UNSIGNED,
    Case,
    case,
    distinct,
    shape_of,
    special,
    uniform,
)

INT64 = np.dtype(np.int64)
WHOLE = (*SIGNED[2:], *UNSIGNED[2:])


def l1(x, axis, keepdims):
    return np.abs(x).sum(axis, keepdims=keepdims, dtype=x.dtype)


def l2(x, axis, keepdims):
    return np.sqrt((x.astype(float) ** 2).sum(axis, keepdims=keepdims))


def square_sum(x, axis, keepdims):
    return (x * x).sum(axis, keepdims=keepdims, dtype=x.dtype)


def log_sum(x, axis, keepdims):
    return np.log(x.sum(axis, keepdims=keepdims, dtype=float))


def log_sum_exp(x, axis, keepdims):
    return np.logaddexp.reduce(x.astype(float), axis, keepdims=keepdims)


def mean(x, axis, keepdims):
    return x.sum(axis, keepdims=keepdims, dtype=float) / max(x.size // max(x.sum(axis).size, 1), 0)


REDUCTIONS = {
    "ReduceSum": lambda x, axis, keepdims: x.sum(axis, keepdims=keepdims, dtype=x.dtype),
    "ReduceProd": lambda x, axis, keepdims: x.prod(axis, keepdims=keepdims, dtype=x.dtype),
    "ReduceMax": lambda x, axis, keepdims: x.max(axis, keepdims=keepdims),
    "ReduceMin": lambda x, axis, keepdims: x.min(axis, keepdims=keepdims),
    "ReduceMean": mean,
    "ReduceL1": l1,
    "ReduceL2": l2,
    "ReduceSumSquare": square_sum,
    "ReduceLogSum": log_sum,
    "ReduceLogSumExp": log_sum_exp,
}

# The first versions that take the axes as an input.
AXES_INPUT = {"ReduceSum": 13}


def reduction_cases() -> list[Case]:
    found = []
    for op_type, meaning in REDUCTIONS.items():
        low = 0.5 if op_type == "ReduceLogSum" else -2.0
        for shape, axes in [
            ((3, 4, 5), (1,)),
            ((3, 4, 5), (0, 2)),
            ((3, 4, 5), (-1,)),
            ((3, 4, 5), (-1, 0, 1)),
            ((7,), (0,)),
            ((3, 1, 5), (1,)),
        ]:
            for keepdims in (0, 1):
                x = {"x": uniform(FLOAT32, *shape, low=low, high=3)}
                reference = _over(meaning, axes, keepdims)
                settings = {"reference": reference, "attributes": {"keepdims": keepdims}}
                inputs = x | {"axes": shape_of(*axes)}
                name = f"{shape}{axes}{keepdims}"
                found.append(case(name, op_type, inputs, constants=("axes",), **settings))
                settings["attributes"] = {"keepdims": keepdims, "axes": list(axes)}
                settings["opset"] = 12 if keepdims else 11
                found.append(case(name, op_type, x, **settings))
        x = {"x": uniform(FLOAT32, 3, 4, low=low, high=3)}
        found.append(case("all", op_type, x, reference=_over(meaning, None, True)))
        empty = x | {"axes": shape_of()}
        found.append(case("all-empty-axes", op_type, empty, reference=_over(meaning, None, True)))
        found.append(
            case("axes-fed", op_type, x | {"axes": shape_of(-1)}, reference=_over(meaning, (1,), True))
        )
        found.append(
            case("scalar", op_type, {"x": uniform(FLOAT32, low=low)}, reference=_over(meaning, (), True))
        )
        attributes = {"noop_with_empty_axes": 1}
        found.append(case("nothing", op_type, x, attributes=attributes, reference=_over(meaning, (), True)))
        found += type_cases(op_type, meaning, low)
    return found


def type_cases(op_type, meaning, low) -> list[Case]:
    found = []
    for dtype in FLOATS:
        inputs = {"x": uniform(dtype, 3, 40, low=low, high=2), "axes": shape_of(1)}
        tolerance = (2e-2, 1e-2) if dtype.itemsize == 2 else None
        settings = {"constants": ("axes",), "tolerance": tolerance}
        found.append(case(f"{dtype}", op_type, inputs, reference=_over(meaning, (1,), True), **settings))
    if op_type in ("ReduceMax", "ReduceMin", "ReduceSum"):
        inputs = {"x": special(FLOAT32, 4, 5), "axes": shape_of(0)}
        found.append(case("special", op_type, inputs, reference=_over(meaning, (0,), True)))
    whole = (
        (*WHOLE, *(np.dtype(name) for name in ("int8", "uint8"))) if op_type[6:] in ("Max", "Min") else WHOLE
    )
    for dtype in whole:
        inputs = {"x": uniform(dtype, 3, 6, low=1 if "Log" in op_type else -4), "axes": shape_of(1)}
        if "Log" not in op_type:
            reference = _truncated(_over(meaning, (1,), True))
            found.append(case(f"{dtype}", op_type, inputs, constants=("axes",), reference=reference))
    return found


def _over(meaning, axes, keepdims):
    return lambda x, *_: meaning(x, axes, bool(keepdims))


def _truncated(reference):
    return lambda *inputs: np.trunc(reference(*inputs))


def edge_cases() -> list[Case]:
    found = []
    infinity, nan = np.inf, np.nan
    for op_type, value in [
        ("ReduceSum", 0),
        ("ReduceProd", 1),
        ("ReduceMax", -infinity),
        ("ReduceMin", infinity),
        ("ReduceMean", nan),
        ("ReduceL1", 0),
        ("ReduceL2", 0),
        ("ReduceSumSquare", 0),
        ("ReduceLogSum", -infinity),
        ("ReduceLogSumExp", -infinity),
    ]:
        inputs = {"x": np.zeros((2, 0, 3), np.float32), "axes": shape_of(1)}
        reference = lambda *_, v=value: np.full((2, 1, 3), v)  # noqa: E731
        found.append(case("empty", op_type, inputs, constants=("axes",), reference=reference))
        inputs = {"x": np.zeros((0, 3), np.float32), "axes": shape_of(1)}
        reference = lambda *_: np.zeros((0, 1))  # noqa: E731
        found.append(case("nothing-left", op_type, inputs, constants=("axes",), reference=reference))
    for op_type, value in [("ReduceMax", -128), ("ReduceMin", 127), ("ReduceSum", 0), ("ReduceProd", 1)]:
        dtype = np.int8 if op_type in ("ReduceMax", "ReduceMin") else np.int32
        reference = lambda *_, v=value: np.full((2, 1), v)  # noqa: E731
        inputs = {"x": np.zeros((2, 0), dtype), "axes": shape_of(1)}
        found.append(case("empty-integers", op_type, inputs, constants=("axes",), reference=reference))
    for op_type, meaning in [("ReduceMax", np.any), ("ReduceMin", np.all)]:
        inputs = {"x": uniform(bool, 3, 4), "axes": shape_of(1)}
        reference = lambda x, _, m=meaning: m(x, 1, keepdims=True)  # noqa: E731
        found.append(case("bool", op_type, inputs, reference=reference))
        inputs = {"x": np.zeros((2, 0), bool), "axes": shape_of(1)}
        found.append(case("bool-empty", op_type, inputs, reference=reference))
    rows = [[-infinity, -infinity], [infinity, 1], [1000, 1001], [-1000, -1001], [nan, 1], [-infinity, 2]]
    inputs = {"x": np.array(rows, np.float32), "axes": shape_of(1)}
    found.append(case("infinite", "ReduceLogSumExp", inputs, reference=_over(log_sum_exp, (1,), True)))
    inputs = {"x": np.full((2, 3000), 100, np.float16), "axes": shape_of(1)}
    reference = lambda x, _: x.mean(1, keepdims=True)  # noqa: E731
    found.append(case("sum-beyond-float16", "ReduceMean", inputs, reference=reference, dtypes=(FLOAT16,)))
    inputs = {"x": np.full((2, 4), 2**30, np.int32), "axes": shape_of(1)}
    found.append(
        case("sum-beyond-int32", "ReduceMean", inputs, reference=lambda x, _: np.full((2, 1), 2**30))
    )
    return found


def position_cases() -> list[Case]:
    found = []
    for op_type, choose in [("ArgMax", np.argmax), ("ArgMin", np.argmin)]:
        for shape, axis in [
            ((3, 4, 5), 0),
            ((3, 4, 5), 1),
            ((3, 4, 5), -1),
            ((7,), 0),
            ((3, 1), 1),
            ((0, 3), 1),
        ]:
            for keepdims in (0, 1):
                for last in (0, 1):
                    attributes = {"axis": axis, "keepdims": keepdims, "select_last_index": last}
                    reference = _position(choose, axis, keepdims, last)
                    settings = {"attributes": attributes, "reference": reference, "dtypes": (INT64,)}
                    # Few different values, so that extremes repeat.
                    inputs = {"x": uniform(np.int32, *shape, low=0, high=2)}
                    found.append(case(f"{shape}{axis}{keepdims}{last}", op_type, inputs, **settings))
        for dtype in (*FLOATS, *SIGNED, *UNSIGNED):
            settings = {"reference": _position(choose, 0, 1, 0), "dtypes": (INT64,)}
            found.append(case(f"{dtype}", op_type, {"x": uniform(dtype, 9, 4)}, **settings))
        settings = {"reference": _position(choose, 0, 1, 0), "dtypes": (INT64,)}
        found.append(case("special", op_type, {"x": special(FLOAT32, 4, 4)}, **settings))
    return found


def _position(choose, axis, keepdims, last):
    def find(x):
        if not last:
            return choose(x, axis, keepdims=bool(keepdims))
        return x.shape[axis] - 1 - choose(np.flip(x, axis), axis, keepdims=bool(keepdims))

    return find


def running_cases() -> list[Case]:
    found = []
    for op_type, accumulate, neutral in [("CumSum", np.cumsum, 0), ("CumProd", np.cumprod, 1)]:
        for shape, axis in [
            ((3, 4, 5), 0),
            ((3, 4, 5), 1),
            ((3, 4, 5), -1),
            ((6,), 0),
            ((0, 3), 0),
            ((2, 0), 0),
        ]:
            for exclusive in (0, 1):
                for reverse in (0, 1):
                    attributes = {"exclusive": exclusive, "reverse": reverse}
                    inputs = {"x": uniform(FLOAT32, *shape), "axis": np.array(axis, np.int32)}
                    reference = _running(accumulate, neutral, axis, exclusive, reverse)
                    settings = {"attributes": attributes, "constants": ("axis",), "reference": reference}
                    found.append(case(f"{shape}{axis}{exclusive}{reverse}", op_type, inputs, **settings))
        for dtype in (*FLOATS, *WHOLE):
            inputs = {"x": uniform(dtype, 5, 3, high=2), "axis": np.array(0)}
            tolerance = (3e-2, 3e-2) if dtype.itemsize == 2 else None
            reference = _running(accumulate, neutral, 0, 0, 0)
            found.append(case(f"{dtype}", op_type, inputs, reference=reference, tolerance=tolerance))
        inputs = {"x": distinct(INT64, 3, 4), "axis": np.array(-1)}
        found.append(case("fed-axis", op_type, inputs, reference=_running(accumulate, neutral, -1, 0, 0)))
    return found


def _running(accumulate, neutral, axis, exclusive, reverse):
    def run(x, _):
        ordered = np.flip(x, axis) if reverse else x
        result = accumulate(ordered, axis, dtype=x.dtype)
        if exclusive and x.size:
            first = np.full_like(result.take([0], axis), neutral)
            result = np.concatenate([first, result.take(range(x.shape[axis] - 1), axis)], axis)
        return np.flip(result, axis) if reverse else result

    return run


CASES = [*reduction_cases(), *edge_cases(), *position_cases(), *running_cases()]
