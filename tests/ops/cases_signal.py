"""Windows, Mel filters and Fourier transforms."""

import functools
import math

import numpy as np
from cases import FLOAT16, FLOAT32, FLOAT64, Case, case, shape_of, uniform

CLOSE = {FLOAT32: (2e-5, 2e-5), FLOAT64: (1e-11, 1e-11), FLOAT16: (3e-3, 1e-2)}


def window(terms, periodic, size):
    period = int(size) if periodic else int(size) - 1
    if size == 1:
        return np.ones(1)
    return np.array(
        [
            sum(c * math.cos(2 * math.pi * k * n / period) for k, c in enumerate(terms))
            for n in range(int(size))
        ]
    )


def window_cases() -> list[Case]:
    found = []
    for op_type, terms in [
        ("HannWindow", (0.5, -0.5)),
        ("HammingWindow", (25 / 46, -21 / 46)),
        ("BlackmanWindow", (0.42, -0.5, 0.08)),
    ]:
        for size in (0, 1, 2, 9, 10):
            for periodic in (0, 1):
                settings = {"reference": functools.partial(window, terms, periodic), "dtypes": (FLOAT32,)}
                settings["attributes"] = {"periodic": periodic}
                found.append(case(f"{size}{periodic}", op_type, {"n": np.int64(size)[...]}, **settings))
        attributes = {"output_datatype": 11}
        settings = {"reference": functools.partial(window, terms, 1), "dtypes": (FLOAT64,)}
        found.append(case("double", op_type, {"n": np.int32(6)[...]}, attributes=attributes, **settings))
    return found


def mel(bins, length, rate, lower, upper):
    low, high = (2595 * np.log10(1 + edge / 700) for edge in (lower, upper))
    step = (high - low) / (bins + 2)
    places = [
        int((length + 1) * 700 * (10 ** ((low + n * step) / 2595) - 1) // rate) for n in range(bins + 2)
    ]
    result = np.zeros((length // 2 + 1, bins))
    for column in range(bins):
        left, center, right = places[column : column + 3]
        for row in range(left, center + 1):
            result[row, column] = 1 if center == left else (row - left) / (center - left)
        for row in range(center, right):
            result[row, column] = (right - row) / (right - center)
    return result


def mel_case(name, bins, length, rate, lower, upper, dtype=FLOAT32, code=1) -> Case:
    inputs = {"b": np.int64(bins), "n": np.int64(length), "r": np.int64(rate)}
    inputs |= {"l": np.float32(lower), "u": np.float32(upper)}
    settings = {"reference": mel, "dtypes": (dtype,), "attributes": {"output_datatype": code}}
    return case(name, "MelWeightMatrix", {k: np.asarray(v) for k, v in inputs.items()}, **settings)


def transform(attributes, default_axis, x, length=None, axis=None):
    axis = attributes.get("axis", default_axis) if axis is None else int(axis)
    axis = axis % x.ndim
    values = x[..., 0] + 1j * x[..., 1] if x.shape[-1] == 2 else x[..., 0]
    length = None if length is None else int(length)
    if attributes.get("onesided") and attributes.get("inverse"):
        return np.fft.irfft(values, length, axis)[..., None]
    function = np.fft.ifft if attributes.get("inverse") else np.fft.fft
    result = function(values, length, axis)
    if attributes.get("onesided"):
        result = result.take(range(result.shape[axis] // 2 + 1), axis)
    return np.stack([result.real, result.imag], -1)


def transform_cases() -> list[Case]:
    found = []
    for parts in (1, 2):
        for inverse, onesided in [(0, 0), (1, 0), (0, 1), (1, 1)]:
            if (inverse, onesided, parts) == (1, 1, 1):
                continue
            attributes = {"inverse": inverse, "onesided": onesided}
            for length in (None, 7, 8, 12, 3, 1):
                for axis in (None, 0, 1, -2):
                    x = uniform(FLOAT32, 5, 8, 2, parts)
                    inputs = {
                        "x": x,
                        "n": None if length is None else np.int64(length)[...],
                        "axis": None if axis is None else np.int64(axis)[...],
                    }
                    if axis is None:
                        inputs["x"] = uniform(FLOAT32, 5, 8, parts)
                        inputs.pop("axis")
                    if length is None and axis is None:
                        inputs.pop("n")
                    settings = {"attributes": attributes, "tolerance": CLOSE[FLOAT32]}
                    reference = functools.partial(transform, attributes, -2)
                    name = f"{parts}{inverse}{onesided}{length}{axis}"
                    found.append(case(name, "DFT", inputs, reference=reference, **settings))
            old = {**attributes, "axis": 2}
            reference = functools.partial(transform, old, 1)
            settings = {"attributes": old, "tolerance": CLOSE[FLOAT32], "opset": 17}
            inputs = {"x": uniform(FLOAT32, 2, 3, 6, parts), "n": shape_of(6)[0]}
            found.append(case(f"{parts}{inverse}{onesided}", "DFT", inputs, reference=reference, **settings))
    for parts, inverse, onesided, points in ((2, 0, 0, 300), (1, 0, 1, 256), (2, 1, 1, 300), (2, 1, 0, 64)):
        attributes = {"inverse": inverse, "onesided": onesided}
        inputs = {"x": uniform(FLOAT32, 2, 151, parts), "n": np.int64(points)[...]}
        settings = {"attributes": attributes, "tolerance": CLOSE[FLOAT32], "dtypes": (FLOAT32,)}
        reference = functools.partial(transform, attributes, -2)
        name = f"{parts}{inverse}{onesided} of {points}"
        found.append(case(name, "DFT", inputs, reference=reference, constants=("n",), **settings))
    for dtype in (FLOAT64, FLOAT16):
        inputs = {"x": uniform(dtype, 2, 30, 1)}
        reference = functools.partial(transform, {}, -2)
        found.append(case(f"{dtype}", "DFT", inputs, reference=reference, tolerance=CLOSE[dtype]))
    return found


def short_time(onesided, x, step, window=None, length=None):
    size = int(length) if length is not None else x.shape[1] if window is None else window.size
    factors = np.ones(size) if window is None else window
    values = x[..., 0] + 1j * x[..., 1] if x.shape[-1] == 2 else x[..., 0]
    count = (x.shape[1] - size) // int(step) + 1
    frames = np.stack([values[:, n * int(step) : n * int(step) + size] * factors for n in range(count)], 1)
    result = np.fft.fft(frames)[..., : size // 2 + 1 if onesided else size]
    return np.stack([result.real, result.imag], -1)


def short_time_cases() -> list[Case]:
    found = []
    for batch in (1, 3):
        for parts, onesided in [(1, 0), (1, 1), (2, 0)]:
            for step, size, window_size in [(3, 8, None), (4, None, 10), (5, 7, 7), (4, None, None)]:
                inputs = {
                    "x": uniform(FLOAT32, batch, 33, parts),
                    "step": np.int64(step)[...],
                    "w": None if window_size is None else uniform(FLOAT32, window_size),
                    "n": None if size is None else np.int64(size)[...],
                }
                settings = {
                    "attributes": {"onesided": onesided},
                    "reference": functools.partial(short_time, onesided),
                    "tolerance": CLOSE[FLOAT32],
                }
                name = f"{batch}{parts}{onesided}{step} {size} {window_size}"
                found.append(case(name, "STFT", inputs, **settings))
                if window_size:
                    found.append(case(f"{name} constant", "STFT", inputs, constants=("w",), **settings))
    return found


CASES = [
    *window_cases(),
    mel_case("", 8, 16, 8192, 0.0, 4000.0),
    mel_case("many", 40, 400, 16000, 20.0, 7600.0, FLOAT64, 11),
    mel_case("narrow", 12, 16, 8000, 10.0, 1000.0),
    *transform_cases(),
    *short_time_cases(),
]
