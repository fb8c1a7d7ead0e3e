"""Seeded random operators: the numbers of a Philox4x32-10 written in NumPy."""

import struct

import numpy as np
from cases import BFLOAT16, BOOL, EXACT, FLOAT16, FLOAT32, FLOAT64, Case, case, tensor_code, uniform
from philox_reference import philox


def words(seed, size, stream=0):
    """Four arrays of words for the places below ``size``."""
    (key,) = struct.unpack("<Q", struct.pack("<d", seed))
    place = np.arange(size, dtype=np.uint64)
    counter = [place, np.zeros_like(place), np.full_like(place, stream), np.zeros_like(place)]
    return philox(counter, [key & 0xFFFFFFFF, key >> 32])


def fractions(first, second, double):
    if double:
        return ((first >> 5).astype(np.float64) * 2**26 + (second >> 6)) / 2**53
    return (first >> 8).astype(np.float64) / 2**24


def uniform_numbers(seed, shape, double):
    drawn = words(seed, int(np.prod(shape)))
    return fractions(drawn[0], drawn[1], double).reshape(shape)


def normal_numbers(seed, shape, double):
    drawn = words(seed, int(np.prod(shape)))
    radius = 1 - fractions(drawn[0], drawn[1], True) if double else (drawn[0].astype(np.float32) + 1) / 2**32
    angle = fractions(drawn[2], drawn[3], double)
    result = np.sqrt(-2 * np.log(radius.astype(np.float64))) * np.cos(2 * np.pi * angle)
    return result.reshape(shape)


def random_cases() -> list[Case]:
    found = []
    shape = (3, 5, 7)
    tolerances = {FLOAT32: (1e-4, 1e-5), FLOAT64: (1e-9, 1e-9), FLOAT16: (2e-3, 1e-3), BFLOAT16: (1e-2, 1e-2)}
    for dtype, tolerance in tolerances.items():
        double = dtype == FLOAT64
        for op_type, attributes, reference in [
            (
                "RandomUniform",
                {"low": -1.5, "high": 2.0},
                lambda d=double: uniform_numbers(7, shape, d) * 3.5 - 1.5,
            ),
            (
                "RandomNormal",
                {"mean": 0.5, "scale": 3.0},
                lambda d=double: normal_numbers(7, shape, d) * 3 + 0.5,
            ),
        ]:
            code = tensor_code(dtype)
            settings = {"reference": lambda *_, r=reference: r(), "dtypes": (dtype,), "tolerance": tolerance}
            given = {**attributes, "seed": 7.0, "dtype": code}
            made = {"attributes": {**given, "shape": list(shape)}, **settings}
            found.append(case(f"{dtype}", op_type, {}, **made))
            like = {"x": uniform(np.int32, *shape)}
            found.append(case(f"{dtype}", f"{op_type}Like", like, attributes=given, **settings))
    for dtype in (FLOAT32, FLOAT64, FLOAT16):
        for target in (None, BOOL, np.dtype(np.int8), FLOAT64):
            attributes = {"seed": -2.5} if target is None else {"seed": -2.5, "dtype": tensor_code(target)}

            def successes(x, double=dtype == FLOAT64):
                return uniform_numbers(-2.5, x.shape, double) < x

            inputs = {"x": uniform(dtype, 4, 9, low=0.0, high=1.0)}
            settings = {"reference": successes, "dtypes": (target or dtype,), "attributes": attributes}
            found.append(case(f"{dtype} {target}", "Bernoulli", inputs, **settings))
    for dtype, target in [(FLOAT32, np.dtype(np.int32)), (FLOAT64, np.dtype(np.int64)), (FLOAT16, None)]:
        attributes = {"seed": 1.0, "sample_size": 11}
        if target is not None:
            attributes["dtype"] = tensor_code(target)

        def classes(x):
            sums = np.cumsum(np.exp(x - x.max(axis=1, keepdims=True)), axis=1)
            points = uniform_numbers(1.0, (len(x), 11), True) * sums[:, -1:]
            return (sums[:, None] <= points[..., None]).sum(axis=2)

        inputs = {"x": uniform(dtype, 4, 6)}
        settings = {"reference": classes, "dtypes": (target or np.dtype(np.int32),), "attributes": attributes}
        found.append(case(f"{dtype}", "Multinomial", inputs, **settings))
    for op_type, inputs in [("RandomUniformLike", {"x": np.empty((0, 3), np.float32)}), ("Bernoulli", None)]:
        inputs = inputs or {"x": np.empty((2, 0), np.float32)}
        found.append(case("nothing", op_type, inputs, reference=lambda x: x, tolerance=EXACT))
    return [*found, *dropout_cases()]


def dropout_cases() -> list[Case]:
    found = []
    for dtype, tolerance in [(FLOAT32, None), (FLOAT64, None), (FLOAT16, None), (BFLOAT16, (2e-2, 1e-3))]:
        for constants in ((), ("ratio", "training")):

            def dropped(x, ratio, training):
                kept = np.random.RandomState(5).uniform(size=x.shape) >= ratio
                return np.where(kept, x / (1 - ratio), 0), kept

            inputs = {
                "x": uniform(dtype, 3, 4, 5),
                "ratio": np.array(0.25, np.float32),
                "training": np.array(True),
            }
            settings = {
                "attributes": {"seed": 5},
                "outputs": 2,
                "reference": dropped,
                "dtypes": (dtype, BOOL),
                "tolerance": tolerance,
                "constants": constants,
            }
            found.append(case(f"training {dtype} {len(constants)}", "Dropout", inputs, **settings))
    return found


CASES = random_cases()
