"""Cast, CastLike, Identity, Dropout."""

import ml_dtypes
import numpy as np
from cases import BOOL, FLOAT32, NUMBERS, Case, case, is_float, special, tensor_code, uniform
from onnx import helper

FLOAT8 = tuple(
    np.dtype(getattr(ml_dtypes, name))
    for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz")
)
SMALL = tuple(np.dtype(getattr(ml_dtypes, name)) for name in ("int4", "uint4", "int2", "uint2"))
FLOAT4 = np.dtype(ml_dtypes.float4_e2m1fn)
POWERS = np.dtype(ml_dtypes.float8_e8m0fnu)
ALL = (*NUMBERS, BOOL, *FLOAT8, *SMALL, FLOAT4)

# Numbers at and beyond the ends of the small floats, halves between neighbours, and subnormals.
EDGES = [0.0, -0.0, 448.0, 464.0, 465.0, -500.0, 240.0, 248.0, 57344.0, 61440.0, 6e4, -1e5, 1e9,
         1.0625, 1.1875, 2**-9, 2**-10, 3 * 2**-11, 2**-16, 2**-17, 1e-30,
         np.nan, np.inf, -np.inf]  # fmt: skip


def cast_cases() -> list[Case]:
    found = []
    for source in ALL:
        for target in ALL:
            if source == target:
                continue
            # Integers that every type of four bits and more holds; the smaller ones wrap.
            x = uniform(source, 3, 5, low=0, high=1 if source in SMALL[2:] else 6)
            settings = {"attributes": {"to": tensor_code(target)}, "dtypes": (target,)}
            found.append(
                case(f"{source}-{target}", "Cast", {"x": x}, reference=_converting(target), **settings)
            )
    for source in (*NUMBERS[:4], np.dtype("int16"), np.dtype("int32")):
        for target in NUMBERS[4:]:
            if source != target:
                x = uniform(source, 40, low=-100, high=100)
                attributes = {"to": tensor_code(target)}
                reference = _converting(target)
                name = f"wide-{source}-{target}"
                settings = {"attributes": attributes, "reference": reference, "dtypes": (target,)}
                if not (is_float(source) and target.kind == "u"):
                    found.append(case(name, "Cast", {"x": x}, **settings))
    return found


def _converting(target):
    def convert(x):
        if target == BOOL:
            return x != 0
        if target.kind in "iu" or target in SMALL:
            whole = np.trunc(x.astype(np.float64)).astype(np.int64)
            return _wrapped(whole, target) if target in SMALL else whole.astype(target)
        return x.astype(np.float32).astype(target) if x.dtype != np.float64 else x

    return convert


def _wrapped(whole, target):
    information = ml_dtypes.iinfo(target)
    extent = int(information.max) - int(information.min) + 1
    return (whole - int(information.min)) % extent + int(information.min)


def saturation_cases() -> list[Case]:
    found = []
    for source in (FLOAT32, np.dtype(np.float16)):
        with np.errstate(over="ignore"):
            x = np.array(EDGES, np.float32).astype(source)
        for target in FLOAT8:
            for saturate in (0, 1):
                name = f"saturate{saturate}-{source}-{target}"
                attributes = {"to": tensor_code(target), "saturate": saturate}
                reference = _saturating(target) if saturate else _plain(target)
                settings = {"attributes": attributes, "reference": reference, "dtypes": (target,)}
                found.append(case(name, "Cast", {"x": x}, **settings))
                inputs = {"x": x, "like": np.zeros(2, target)}
                settings["attributes"] = {"saturate": saturate}
                found.append(case(name, "CastLike", inputs, **settings))
    return found


def _plain(target):
    return lambda x, *like: x.astype(np.float32).astype(target)


def _saturating(target):
    largest = float(ml_dtypes.finfo(target).max)
    return lambda x, *like: np.clip(x.astype(np.float32), -largest, largest).astype(target)


def power_cases() -> list[Case]:
    """float8e8m0 holds powers of two and NaN."""
    x = np.array([1.0, 1.1, 1.4, 1.5, 1.6, 2.0, 3.0, 0.75, 0.7, 1e30, 1e-30, np.nan], np.float32)
    found = []
    for mode, factors in [
        ("up", [1, 2, 2, 2, 2, 2, 4, 1, 1, 2.0**100, 2.0**-99, np.nan]),
        ("down", [1, 1, 1, 1, 1, 2, 2, 0.5, 0.5, 2.0**99, 2.0**-100, np.nan]),
        ("nearest", [1, 1, 1, 2, 2, 2, 4, 1, 0.5, 2.0**100, 2.0**-100, np.nan]),
    ]:
        for saturate in (0, 1):
            attributes = {"to": tensor_code(POWERS), "round_mode": mode, "saturate": saturate}
            reference = _numbers(factors)
            settings = {"attributes": attributes, "reference": reference, "dtypes": (POWERS,)}
            found.append(case(f"power-{mode}{saturate}", "Cast", {"x": x}, **settings))
    largest = 2.0**127
    limit = np.array([largest, 1.4 * largest, 1.6 * largest], np.float32)
    for mode, saturate, powers in [
        ("up", 1, [largest, largest, largest]),
        ("up", 0, [largest, np.nan, np.nan]),
        ("down", 1, [largest, largest, largest]),
        ("down", 0, [largest, largest, largest]),
        ("nearest", 1, [largest, largest, largest]),
        ("nearest", 0, [largest, largest, np.nan]),
    ]:
        attributes = {"to": tensor_code(POWERS), "round_mode": mode, "saturate": saturate}
        settings = {"attributes": attributes, "reference": _numbers(powers), "dtypes": (POWERS,)}
        found.append(case(f"largest-power-{mode}{saturate}", "Cast", {"x": limit}, **settings))
    infinity = np.array([np.inf, -np.inf], np.float32)
    for mode in ("up", "down", "nearest"):
        for saturate, power in ((0, np.nan), (1, largest)):
            attributes = {"to": tensor_code(POWERS), "round_mode": mode, "saturate": saturate}
            settings = {"attributes": attributes, "reference": _numbers([power, power]), "dtypes": (POWERS,)}
            found.append(case(f"infinite-power-{mode}{saturate}", "Cast", {"x": infinity}, **settings))
    # The standard's table of special values: below the smallest power is that power, or NaN.
    small = np.array([0.0, 2.0**-127, 2.0**-130], np.float32)
    for mode, saturate, powers in [
        ("up", 1, [2.0**-127, 2.0**-127, 2.0**-127]),
        ("down", 1, [2.0**-127, 2.0**-127, 2.0**-127]),
        ("nearest", 0, [np.nan, 2.0**-127, np.nan]),
    ]:
        attributes = {"to": tensor_code(POWERS), "round_mode": mode, "saturate": saturate}
        settings = {"attributes": attributes, "reference": _numbers(powers), "dtypes": (POWERS,)}
        found.append(case(f"small-power-{mode}{saturate}", "Cast", {"x": small}, **settings))
    return found


def _numbers(values):
    return lambda x: np.array(values, np.float64)


def other_cases() -> list[Case]:
    found = []
    x = special(FLOAT32, 3, 5)
    found.append(
        case("same", "Cast", {"x": x}, attributes={"to": tensor_code(FLOAT32)}, reference=lambda x: x)
    )
    found.append(
        case("name", "Cast", {"x": uniform(FLOAT32, 3)}, attributes={"to": "INT32"}, opset=1,
             reference=np.trunc, dtypes=(np.dtype("int32"),))
    )  # fmt: skip
    for target in (np.dtype("int16"), BOOL, np.dtype("float64")):
        inputs = {"x": uniform(FLOAT32, 2, 0, 3), "like": np.zeros((), target)}
        settings = {"reference": lambda x, like: x, "dtypes": (target,)}
        found.append(case(f"empty-{target}", "CastLike", inputs, **settings))
    for dtype in ALL:
        x = uniform(dtype, 2, 3, low=0, high=1)
        found.append(case(f"{dtype}", "Identity", {"x": x}, reference=lambda x: x))
    strings = np.array(["a", "", "längst"], object)
    found.append(case("string", "Identity", {"x": strings}))
    numbers = np.array([1 + 2j, -3j], np.complex64)
    found.append(case("complex", "Identity", {"x": numbers}, reference=lambda x: x))
    for opset, mask in ((1, FLOAT32), (6, FLOAT32), (7, FLOAT32), (10, BOOL)):
        settings = {"opset": opset, "reference": lambda x: (x, np.ones(x.shape)), "dtypes": (FLOAT32, mask)}
        found.append(case("mask", "Dropout", {"x": special(FLOAT32, 2, 3)}, outputs=2, **settings))
    for name, more in [
        ("plain", {}),
        ("ratio", {"ratio": np.array(0.3, np.float32)}),
        ("inference", {"ratio": None, "training": np.array(False)}),
        ("nothing-dropped", {"ratio": np.array(0.0, np.float32), "training": np.array(True)}),
    ]:
        settings = {"reference": lambda x, *rest: (x, np.ones(x.shape)), "dtypes": (FLOAT32, BOOL)}
        found.append(case(name, "Dropout", {"x": special(FLOAT32, 2, 3), **more}, outputs=2, **settings))
    nodes = (
        helper.make_node("Cast", ["x"], ["h"], to=tensor_code(np.dtype("int8"))),
        helper.make_node("Cast", ["h"], ["y"], to=tensor_code(FLOAT32)),
    )
    x = np.array([1.9, -1.9, 127.0, -128.0], np.float32)
    found.append(Case("Cast-there-and-back", nodes, {"x": x}, ("y",), reference=np.trunc))
    return found


CASES = [*cast_cases(), *saturation_cases(), *power_cases(), *other_cases()]
