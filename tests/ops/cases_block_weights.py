"""GatherBlockQuantized, and the rarer inputs of MatMulNBits."""

import ml_dtypes
import numpy as np
from cases import FLOAT16, FLOAT32, Case, case, uniform
from onnxruntime_case import MICROSOFT, onnxruntime_case

UINT8 = np.dtype(np.uint8)
INDICES = np.array([[0, -1, 3], [9, 2, -8]])


def gathering(name, data, scales, zeros=None, indices=INDICES, dtype=FLOAT32, **attributes) -> Case:
    """``scales`` is their shape; out of 5 rows the last row of :data:`INDICES` holds two too many."""
    inputs = {"d": data, "i": indices, "s": uniform(dtype, *scales, low=-1, high=1), "z": zeros}
    return onnxruntime_case(
        name,
        "GatherBlockQuantized",
        inputs,
        attributes=attributes,
        constants=tuple(key for key in ("d", "s", "z") if inputs[key] is not None),
        opset=23,
        tolerance=(0.0, 0.0),
    )


def packed_cases() -> list[Case]:
    found = []
    for bits in (2, 4, 8):
        each = 8 // bits
        data = uniform(UINT8, 5, 40 // each, low=0, high=255)
        zeros = uniform(UINT8, 5, -(-3 // each), low=0, high=255)
        attributes = {"bits": bits, "block_size": 16, "quantize_axis": 1}
        found.append(gathering(f"{bits} bits", data, (5, 3), **attributes))
        found.append(gathering(f"{bits} bits zeros", data, (5, 3), zeros, **attributes))
    indices = np.array([4, 2], np.int32)
    found.append(gathering("float16", data, (5, 3), zeros, indices, FLOAT16, **attributes))
    return found


def small_integer_cases() -> list[Case]:
    found = []
    for dtype, low in ((ml_dtypes.int4, -8), (ml_dtypes.uint4, 0)):
        for axis, blocked in ((0, 2), (1, 0), (2, 2), (1, -1), (2, 1)):
            shape = [3, 5, 32]
            data = _whole(dtype, low, shape)
            shape[blocked] = -(-shape[blocked] // 16)
            zeros = _whole(dtype, low, shape) if axis != 1 else None
            attributes = {"gather_axis": axis, "quantize_axis": blocked, "block_size": 16}
            found.append(gathering(f"{dtype.__name__} {axis} {blocked}", data, shape, zeros, **attributes))
    return found


def _whole(dtype, low, shape):
    extents = tuple(shape)
    return lambda random: random.integers(low, low + 15, extents, endpoint=True).astype(dtype)


def float8_cases() -> list[Case]:
    data = uniform(np.dtype(ml_dtypes.float8_e4m3fn), 5, 32)
    return [
        gathering("float8", data, (5, 2), block_size=16),
        gathering("float8 rows", data, (5, 1), block_size=0),
        gathering("float8 shared", data, (1, 2), block_size=16),
    ]


def product_cases() -> list[Case]:
    """Weights whose rows name their blocks, and weights that are left out."""
    found = []
    for depth in (64, 60):
        inputs = {
            "a": uniform(FLOAT32, 3, depth, low=-1, high=1),
            "w": uniform(UINT8, 5, 4, 8, low=0, high=255),
            "s": uniform(FLOAT32, 5, 4, low=0, high=0.1),
            "z": None,
            "g": uniform(np.int32, 64, low=0, high=3),
        }
        attributes = {"K": depth, "N": 5, "bits": 4, "block_size": 16}
        found.append(
            onnxruntime_case(
                f"groups {depth}",
                "MatMulNBits",
                inputs,
                attributes=attributes,
                constants=("w", "s", "g"),
                tolerance=(1e-5, 2e-5),
            )
        )

    def reference(a, packed, scales, zeros, groups):
        values = np.stack([packed & 15, packed >> 4], -1).reshape(len(packed), -1).astype(np.float64)
        return a @ ((values - zeros[:, groups]) * scales[:, groups]).T

    # onnxruntime takes no notice of zero points there.
    inputs = {**inputs, "a": uniform(FLOAT32, 3, 64), "z": uniform(FLOAT32, 5, 4, low=0, high=15)}
    attributes = {"K": 64, "N": 5, "bits": 4, "block_size": 16}
    settings = {"domain": MICROSOFT, "attributes": attributes, "constants": ("w", "s", "z", "g")}
    settings |= {"reference": reference, "tolerance": (1e-5, 2e-5)}
    found.append(case("groups and zero points", "MatMulNBits", inputs, **settings))
    for bias in (None, uniform(FLOAT32, 5)):
        inputs = {
            "a": uniform(FLOAT32, 2, 3, 64),
            "w": np.zeros((0, 4, 8), np.uint8),
            "s": np.zeros((0, 4), np.float32),
            "z": None,
            "g": None,
            "b": bias,
        }
        attributes = {"K": 64, "N": 5, "bits": 4, "block_size": 16}
        name = "left out" if bias is None else "left out but for the bias"
        found.append(onnxruntime_case(name, "MatMulNBits", inputs, attributes=attributes))
    return found


CASES = [*packed_cases(), *small_integer_cases(), *float8_cases(), *product_cases()]
