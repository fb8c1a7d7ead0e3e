"""Arithmetic, comparisons, logic and bits."""

import math

import numpy as np
from cases import (
    BFLOAT16,
    BOOL,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    FLOATS,
    INTEGERS,
    NUMBERS,
    SIGNED,
    UNSIGNED,
    Case,
    case,
    special,
    uniform,
)

erf = np.vectorize(math.erf, otypes=[float])

# Operator: meaning, interval of the inputs.
UNARY = {
    "Sqrt": (np.sqrt, (-1, 9)),
    "Exp": (np.exp, (-5, 5)),
    "Log": (np.log, (-0.5, 9)),
    "Neg": (np.negative, (-4, 4)),
    "Abs": (np.abs, (-4, 4)),
    "Reciprocal": (np.reciprocal, (-4, 4)),
    "Erf": (erf, (-3, 3)),
    "Tanh": (np.tanh, (-4, 4)),
    "Sigmoid": (lambda x: 1 / (1 + np.exp(-x)), (-9, 9)),
    "Floor": (np.floor, (-4, 4)),
    "Ceil": (np.ceil, (-4, 4)),
    "Round": (np.rint, (-4, 4)),
    "Sign": (np.sign, (-4, 4)),
    "Sin": (np.sin, (-9, 9)),
    "Cos": (np.cos, (-9, 9)),
    "Tan": (np.tan, (-1.4, 1.4)),
    "Asin": (np.arcsin, (-1, 1)),
    "Acos": (np.arccos, (-1, 1)),
    "Atan": (np.arctan, (-9, 9)),
    "Sinh": (np.sinh, (-4, 4)),
    "Cosh": (np.cosh, (-4, 4)),
    "Asinh": (np.arcsinh, (-9, 9)),
    "Acosh": (np.arccosh, (1, 9)),
    "Atanh": (np.arctanh, (-1, 1)),
}

SHAPES = [(), (37,), (0, 3), (2, 1, 5)]

BROADCASTS = [
    ((), ()),
    ((3, 5), ()),
    ((3, 5), (5,)),
    ((3, 1), (1, 5)),
    ((2, 3, 1, 5), (3, 4, 1)),
    ((0, 3), (1, 3)),
    ((1,), (2, 0, 1)),
]


def unary_cases() -> list[Case]:
    found = []
    for op_type, (meaning, (low, high)) in UNARY.items():
        for dtype in FLOATS:
            x = special(dtype, 3, 17, low=low, high=high)
            found.append(case(f"{dtype}", op_type, {"x": x}, reference=meaning))
        for shape in SHAPES:
            x = uniform(FLOAT32, *shape, low=low, high=high)
            found.append(case(f"{shape}", op_type, {"x": x}, reference=meaning))
    for op_type, meaning, dtypes in [
        ("Neg", np.negative, SIGNED),
        ("Abs", np.abs, INTEGERS),
        ("Sign", np.sign, INTEGERS),
        ("BitwiseNot", np.invert, INTEGERS),
        ("Not", np.logical_not, (BOOL,)),
    ]:
        found += [case(f"{d}", op_type, {"x": uniform(d, 3, 7)}, reference=meaning) for d in dtypes]
    return found


def binary_cases() -> list[Case]:
    found = []
    for op_type, meaning in [
        ("Add", np.add),
        ("Sub", np.subtract),
        ("Mul", np.multiply),
        ("Div", np.divide),
        ("Pow", np.power),
        ("Min", np.minimum),
        ("Max", np.maximum),
    ]:
        for dtype in FLOATS:
            inputs = {"x": special(dtype, 3, 11), "y": uniform(dtype, 3, 11)}
            found.append(case(f"{dtype}", op_type, inputs, reference=meaning))
        for left, right in BROADCASTS:
            inputs = {"x": uniform(FLOAT32, *left, low=0.5), "y": uniform(FLOAT32, *right)}
            found.append(case(f"{left}{right}", op_type, inputs, reference=meaning))
        if op_type in ("Pow", "Div"):
            continue
        for dtype in INTEGERS:
            inputs = {"x": uniform(dtype, 3, 11, high=100), "y": uniform(dtype, 11, high=100)}
            found.append(case(f"{dtype}", op_type, inputs, reference=meaning))
    for dtype in INTEGERS:
        inputs = {"x": uniform(dtype, 30, low=-100, high=100), "y": uniform(dtype, 30, low=1, high=9)}
        found.append(case(f"{dtype}", "Div", inputs, reference=lambda x, y: np.trunc(x / y)))
    x, y = np.array([7, -7, 7, -7, -128], np.int8), np.array([2, 2, -2, -2, 3], np.int8)
    found.append(case("signs", "Div", {"x": x, "y": y}, reference=lambda x, y: np.trunc(x / y)))
    return found


def power_cases() -> list[Case]:
    found = []
    for base in (FLOAT32, FLOAT64, FLOAT16, BFLOAT16, np.dtype("int32"), np.dtype("int64")):
        for exponent in (FLOAT32, FLOAT64, FLOAT16, np.dtype("int8"), np.dtype("uint32"), np.dtype("int64")):
            inputs = {"x": uniform(base, 3, 5, low=1), "y": uniform(exponent, 5, low=0, high=3)}
            meaning = (lambda x, y: np.trunc(x ** y.astype(float))) if base.kind == "i" else np.power
            found.append(case(f"{base}-{exponent}", "Pow", inputs, reference=meaning))
    for value in (0.5, 1.0, 2.0, 3.0, -1.0):
        inputs = {"x": special(FLOAT32, 20), "y": np.array(value, np.float32)}
        found.append(case(f"by{value}", "Pow", inputs, constants=("y",), reference=_power))
    inputs = {"x": uniform(np.int32, 20), "y": np.array([2], np.int64)}
    found.append(case("square-int32", "Pow", inputs, constants=("y",), reference=np.power))
    return found


def _power(x, y):
    # NumPy takes a scalar exponent of 0.5 for a square root, which differs at minus infinity.
    return np.power(x, np.full(x.shape, y))


def legacy_cases() -> list[Case]:
    """Broadcasting by attributes, before version 7."""
    found = []
    for op_type, dtype, meaning in [
        ("Add", FLOAT32, np.add),
        ("Sub", FLOAT32, np.subtract),
        ("Mul", FLOAT32, np.multiply),
        ("Div", FLOAT32, np.divide),
        ("Pow", FLOAT32, np.power),
        ("Equal", np.dtype("int32"), np.equal),
        ("Less", FLOAT32, np.less),
        ("Greater", FLOAT32, np.greater),
        ("And", BOOL, np.logical_and),
        ("Or", BOOL, np.logical_or),
        ("Xor", BOOL, np.logical_xor),
    ]:
        result = (BOOL,) if op_type in ("Equal", "Less", "Greater") else (dtype,)
        for shape, axis, expanded in [
            ((2, 3, 4, 5), None, (2, 3, 4, 5)),
            ((), None, ()),
            ((1, 1), None, ()),
            ((4, 5), None, (4, 5)),
            ((3, 4), 1, (3, 4, 1)),
            ((2,), 0, (2, 1, 1, 1)),
            ((4,), -2, (4, 1)),
        ]:
            attributes = {"broadcast": 1} | ({} if axis is None else {"axis": axis})
            inputs = {
                "x": uniform(dtype, 2, 3, 4, 5, low=0.5),
                "y": uniform(dtype, *shape, low=0.5),
            }
            reference = _expanding(meaning, expanded)
            settings = {"attributes": attributes, "opset": 6, "reference": reference, "dtypes": result}
            found.append(case(f"{shape}-{axis}", op_type, inputs, **settings))
    inputs = {"x": uniform(FLOAT32, 2, 3), "y": uniform(FLOAT32, 2, 3)}
    found.append(case("same", "Add", inputs, opset=1, reference=np.add))
    return found


def _expanding(meaning, shape):
    return lambda x, y: meaning(x, y.reshape(shape))


def comparison_cases() -> list[Case]:
    found = []
    for op_type, meaning in [
        ("Equal", np.equal),
        ("Less", np.less),
        ("Greater", np.greater),
        ("LessOrEqual", np.less_equal),
        ("GreaterOrEqual", np.greater_equal),
    ]:
        for dtype in (*NUMBERS, *((BOOL,) if op_type == "Equal" else ())):
            draw = uniform(dtype, 3, 11) if dtype.kind in "iub" else special(dtype, 3, 11)
            inputs = {"x": draw, "y": uniform(dtype, 11)}
            found.append(case(f"{dtype}", op_type, inputs, reference=meaning, dtypes=(BOOL,)))
        for left, right in BROADCASTS:
            inputs = {"x": uniform(FLOAT32, *left), "y": uniform(FLOAT32, *right)}
            found.append(case(f"{left}{right}", op_type, inputs, reference=meaning, dtypes=(BOOL,)))
    for op_type, meaning in [("And", np.logical_and), ("Or", np.logical_or), ("Xor", np.logical_xor)]:
        for left, right in BROADCASTS:
            inputs = {"x": uniform(bool, *left), "y": uniform(bool, *right)}
            found.append(case(f"{left}{right}", op_type, inputs, reference=meaning))
    for op_type, meaning in [
        ("BitwiseAnd", np.bitwise_and),
        ("BitwiseOr", np.bitwise_or),
        ("BitwiseXor", np.bitwise_xor),
    ]:
        for dtype in INTEGERS:
            inputs = {"x": uniform(dtype, 3, 11, low=-99, high=99), "y": uniform(dtype, 11, low=-99, high=99)}
            found.append(case(f"{dtype}", op_type, inputs, reference=meaning))
    return found


def choice_cases() -> list[Case]:
    found = []
    for dtype in (*NUMBERS, BOOL):
        inputs = {"c": uniform(bool, 3, 1), "x": uniform(dtype, 4), "y": uniform(dtype, 2, 1, 1)}
        found.append(case(f"{dtype}", "Where", inputs, reference=np.where, dtypes=(dtype,)))
    inputs = {"c": uniform(bool, 0, 1), "x": uniform(FLOAT32, 4), "y": uniform(FLOAT32)}
    found.append(case("empty", "Where", inputs, reference=np.where, dtypes=(FLOAT32,)))
    for dtype in FLOATS:
        x = special(dtype, 3, 7)
        found.append(case(f"{dtype}", "IsNaN", {"x": x}, reference=np.isnan, dtypes=(BOOL,)))
        for negative, positive in [(1, 1), (0, 1), (1, 0), (0, 0)]:
            attributes = {"detect_negative": negative, "detect_positive": positive}
            reference = _is_infinite(negative, positive)
            name = f"{dtype}-{negative}{positive}"
            settings = {"attributes": attributes, "reference": reference, "dtypes": (BOOL,)}
            found.append(case(name, "IsInf", {"x": x}, **settings))
    return found


def _is_infinite(negative, positive):
    return lambda x: (np.isposinf(x) & bool(positive)) | (np.isneginf(x) & bool(negative))


def remainder_cases() -> list[Case]:
    found = []
    for fmod, meaning in [(0, np.mod), (1, np.fmod)]:
        for dtype in NUMBERS:
            low = 1 if dtype.kind == "u" else -9
            inputs = {
                "x": uniform(dtype, 40, low=-100, high=100),
                "y": lambda random, d=dtype, low=low: _nonzero(uniform(d, 40, low=low, high=9)(random)),
            }
            settings = {"attributes": {"fmod": fmod}, "reference": meaning, "tolerance": (1e-2, 1e-5)}
            found.append(case(f"{dtype}-{fmod}", "Mod", inputs, **settings))
    for direction, meaning in [("LEFT", np.left_shift), ("RIGHT", np.right_shift)]:
        for dtype in INTEGERS:
            inputs = {"x": uniform(dtype, 3, 9, low=-100, high=100), "y": uniform(dtype, 9, low=0, high=7)}
            attributes = {"direction": direction}
            found.append(
                case(f"{dtype}-{direction}", "BitShift", inputs, attributes=attributes, reference=meaning)
            )
    for direction, result in [("LEFT", [0, 0, 0, -2]), ("RIGHT", [-1, 0, -1, -1])]:
        inputs = {"x": np.array([-5, 5, -5, -1], np.int16), "y": np.array([16, 99, -1, 1], np.int16)}
        attributes = {"direction": direction}
        reference = _constant(result)
        found.append(
            case(f"range-{direction}", "BitShift", inputs, attributes=attributes, reference=reference)
        )
    return found


def _nonzero(array):
    return np.where(array == 0, np.ones_like(array), array)


def _constant(result):
    return lambda *inputs: np.array(result)


def variadic_cases() -> list[Case]:
    found = []
    meanings = {
        "Sum": lambda *a: sum(a),
        "Mean": lambda *a: sum(a) / len(a),
        "Min": lambda *a: np.stack(np.broadcast_arrays(*a)).min(0),
        "Max": lambda *a: np.stack(np.broadcast_arrays(*a)).max(0),
    }
    for op_type, meaning in meanings.items():
        for dtype in FLOATS:
            inputs = {"x": special(dtype, 3, 7), "y": uniform(dtype, 7), "z": uniform(dtype, 2, 1, 1)}
            found.append(case(f"three-{dtype}", op_type, inputs, reference=meaning))
        found.append(case("one", op_type, {"x": special(FLOAT32, 3)}, reference=meaning))
        many = {f"x{i}": uniform(FLOAT32, 3, 1 + 4 * (i % 2)) for i in range(9)}
        found.append(case("nine", op_type, many, reference=meaning))
    for op_type in ("Min", "Max"):
        for dtype in UNSIGNED + SIGNED:
            inputs = {"x": uniform(dtype, 3, 7), "y": uniform(dtype, 7), "z": uniform(dtype)}
            found.append(case(f"three-{dtype}", op_type, inputs, reference=meanings[op_type]))
    return found


def clip_cases() -> list[Case]:
    found = []
    for dtype in NUMBERS:
        draw = uniform(dtype, 3, 9, low=-9, high=9) if dtype.kind in "iu" else special(dtype, 3, 9)
        low, high = np.array(2 if dtype.kind == "u" else -2, dtype), np.array(3, dtype)
        for name, bounds, meaning in [
            ("both", {"low": low, "high": high}, lambda x, a, b: np.minimum(b, np.maximum(x, a))),
            ("low", {"low": low}, np.maximum),
            ("high", {"low": None, "high": high}, lambda x, _, b: np.minimum(x, b)),
            ("none", {}, lambda x: x),
            ("crossed", {"low": high, "high": low}, lambda x, a, b: np.minimum(b, np.maximum(x, a))),
        ]:
            given = tuple(key for key, item in bounds.items() if item is not None)
            for constants in dict.fromkeys([(), given]):
                label = f"{dtype}-{name}-{'constant' if constants else 'fed'}"
                settings = {"constants": constants, "reference": meaning}
                found.append(case(label, "Clip", {"x": draw} | bounds, **settings))
    x = special(FLOAT32, 3, 9)
    largest = float(np.finfo(np.float32).max)
    for opset, attributes, meaning in [
        (1, {"min": -1.0}, lambda x: np.maximum(x, -1)),
        (1, {"max": 1.0}, lambda x: np.minimum(x, 1)),
        (1, {}, lambda x: x),
        (6, {"min": -1.0, "max": 2.0}, lambda x: np.minimum(np.maximum(x, -1), 2)),
        (6, {}, lambda x: np.minimum(np.maximum(x, -largest), largest)),
    ]:
        name = "attributes-" + "".join(attributes)
        found.append(case(name, "Clip", {"x": x}, attributes=attributes, opset=opset, reference=meaning))
    return found


CASES = [
    *unary_cases(),
    *binary_cases(),
    *power_cases(),
    *legacy_cases(),
    *comparison_cases(),
    *choice_cases(),
    *remainder_cases(),
    *variadic_cases(),
    *clip_cases(),
]
