"""QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, and products of quantised operands."""

import ml_dtypes
import numpy as np
from cases import BFLOAT16, FLOAT16, FLOAT32, OPSET, Case, case, tensor_code, uniform

INT8, UINT8, INT32 = np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.int32)
RANGES = {
    UINT8: (0, 255),
    INT8: (-128, 127),
    np.dtype(np.uint16): (0, 65535),
    np.dtype(np.int16): (-32768, 32767),
    np.dtype(ml_dtypes.uint4): (0, 15),
    np.dtype(ml_dtypes.int4): (-8, 7),
    np.dtype(ml_dtypes.uint2): (0, 3),
    np.dtype(ml_dtypes.int2): (-2, 1),
}
FLOAT8 = {
    np.dtype(ml_dtypes.float8_e4m3fn): 448.0,
    np.dtype(ml_dtypes.float8_e4m3fnuz): 240.0,
    np.dtype(ml_dtypes.float8_e5m2): 57344.0,
    np.dtype(ml_dtypes.float8_e5m2fnuz): 57344.0,
}
FLOAT4 = np.dtype(ml_dtypes.float4_e2m1fn)
POWER = np.dtype(ml_dtypes.float8_e8m0fnu)


# References: what the standard says, step by step


def saturated(quotient, zero, dtype):
    """Round half to even, add the zero point, clamp; NaN is the smallest integer."""
    lowest, highest = RANGES[np.dtype(dtype)]
    shifted = np.rint(quotient.astype(np.float64)) + np.asarray(zero, np.float64)
    return np.clip(np.where(np.isnan(shifted), lowest, shifted), lowest, highest).astype(dtype)


def quantized(x, scale, zero, dtype, computed=np.float32):
    return saturated(np.divide(x.astype(computed), np.asarray(scale).astype(computed)), zero, dtype)


def dequantized(x, scale, zero=0):
    difference = np.asarray(x, np.int64) - np.asarray(zero, np.int64)
    return difference.astype(np.float32) * np.asarray(scale, np.float32)


def spread(parameter, x, axis=None, block=0):
    """A scale or zero point with one element for each element of ``x``."""
    if parameter is None:
        return np.zeros((), np.int64)
    if parameter.size == 1:
        return parameter.reshape(())
    if block:
        return np.repeat(parameter, block, axis).take(range(x.shape[axis]), axis)
    return parameter.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


def quantization(dtype, axis=None, block=0, computed=np.float32):
    def reference(x, scale, zero=None):
        zeros = np.asarray(spread(zero, x, axis, block)).astype(np.float64)
        return quantized(x, spread(scale, x, axis, block), zeros, dtype, computed)

    return reference


def dequantization(axis=None, block=0):
    def reference(x, scale, zero=None):
        scales, zeros = spread(scale, x, axis, block), spread(zero, x, axis, block)
        if x.dtype == np.float64:
            return x.astype(np.float32) * scales.astype(np.float32)
        return dequantized(x.astype(np.int64), scales, np.asarray(zeros).astype(np.int64))

    return reference


# Inputs


def halves(dtype, *shape, scale=1.0):
    """Multiples of half a quantum, of which every second is a tie, with extremes among them."""

    def make(random):
        array = random.integers(-300, 600, shape) * (scale / 2)
        flat = array.reshape(-1)
        extremes = [np.inf, -np.inf, np.nan, 1e30, -1e30, 0.0, -0.0][: flat.size]
        flat[: len(extremes)] = extremes
        with np.errstate(over="ignore"):
            return array.astype(dtype)

    return make


def whole(dtype, *shape):
    """All numbers of an integer type."""
    lowest, highest = RANGES[np.dtype(dtype)]

    def make(random):
        return random.integers(lowest, highest, shape, endpoint=True).astype(dtype)

    return make


def positive(dtype, *shape):
    return uniform(dtype, *shape, low=0.01, high=0.2)


# Cases


def quantize_cases() -> list[Case]:
    found = []
    for dtype in RANGES:
        settings = {"reference": quantization(dtype), "dtypes": (dtype,)}
        inputs = {"x": halves(FLOAT32, 5, 41, scale=0.25), "scale": np.float32(0.25), "zero": whole(dtype)}
        found.append(case(f"{dtype}", "QuantizeLinear", inputs, **settings))
        inputs = {
            "x": uniform(FLOAT32, 5, 41, low=-9, high=9),
            "scale": np.float32(0.037),
            "zero": whole(dtype),
        }
        found.append(
            case(f"{dtype}-uneven", "QuantizeLinear", inputs, constants=("scale", "zero"), **settings)
        )
        settings["attributes"] = {"output_dtype": tensor_code(dtype)}
        inputs = {"x": halves(FLOAT32, 5, 41, scale=0.25), "scale": np.float32(0.25)}
        found.append(case(f"{dtype}-attribute", "QuantizeLinear", inputs, **settings))
    for axis in (0, 1, 2, -1):
        extent = (3, 4, 5)[axis]
        inputs = {
            "x": uniform(FLOAT32, 3, 4, 5, low=-30, high=30),
            "scale": positive(FLOAT32, extent),
            "zero": whole(INT8, extent),
        }
        for opset in (13, OPSET):
            settings = {"reference": quantization(INT8, axis), "dtypes": (INT8,), "opset": opset}
            found.append(
                case(f"axis {axis}", "QuantizeLinear", inputs, attributes={"axis": axis}, **settings)
            )
    for shape, axis, block in [
        ((4, 6), 0, 2),
        ((4, 6), 1, 3),
        ((4, 7), 1, 3),
        ((5, 4), 0, 2),
        ((2, 3, 8), -1, 4),
    ]:
        blocks = list(shape)
        blocks[axis] = -(-blocks[axis] // block)
        inputs = {
            "x": uniform(FLOAT32, *shape),
            "scale": positive(FLOAT32, *blocks),
            "zero": whole(UINT8, *blocks),
        }
        attributes = {"axis": axis, "block_size": block}
        settings = {
            "reference": quantization(UINT8, axis, block),
            "dtypes": (UINT8,),
            "attributes": attributes,
        }
        found.append(case(f"blocks {shape}{axis}", "QuantizeLinear", inputs, **settings))
        inputs = {"x": whole(UINT8, *shape), "scale": inputs["scale"], "zero": inputs["zero"]}
        settings = {"reference": dequantization(axis, block), "dtypes": (FLOAT32,), "attributes": attributes}
        found.append(case(f"blocks {shape}{axis}", "DequantizeLinear", inputs, **settings))
    for number, shape in enumerate([(), (1,), (0,), (3, 0), (7,)]):
        scale = positive(FLOAT32, 7) if shape == (7,) else np.full((1,) * (number % 2), 0.1, np.float32)
        inputs = {"x": uniform(FLOAT32, *shape), "scale": scale}
        axis = 0 if shape == (7,) else None
        found.append(
            case(f"{shape}", "QuantizeLinear", inputs, reference=quantization(UINT8, axis), dtypes=(UINT8,))
        )
    return found


def precision_cases() -> list[Case]:
    """Types of the input, the scale and the division."""
    found = []
    for x, scale, precision, computed in [
        (FLOAT16, FLOAT16, None, FLOAT16),
        (BFLOAT16, BFLOAT16, None, BFLOAT16),
        (FLOAT16, FLOAT32, None, FLOAT32),
        (FLOAT32, FLOAT16, None, FLOAT16),
        (FLOAT32, FLOAT32, FLOAT16, FLOAT16),
        (FLOAT16, FLOAT16, FLOAT32, FLOAT32),
        (INT32, FLOAT32, None, FLOAT32),
        (INT32, INT32, None, np.dtype(np.float64)),
        (FLOAT32, POWER, None, FLOAT32),
        (FLOAT16, POWER, FLOAT32, FLOAT32),
    ]:
        factor = np.array(7 if scale == INT32 else 0.25 if scale == POWER else 0.0371).astype(scale)
        inputs = {
            "x": uniform(x, 6, 50, low=-500, high=500) if x == INT32 else uniform(x, 6, 50),
            "scale": factor,
            "zero": np.int8(3),
        }
        attributes = {} if precision is None else {"precision": tensor_code(precision)}
        settings = {"reference": quantization(INT8, computed=computed), "dtypes": (INT8,)}
        name = f"{x} by {scale} in {precision}"
        found.append(case(name, "QuantizeLinear", inputs, attributes=attributes, **settings))
    for opset in (10, 13, 19, 21, 23, 24, 25):
        inputs = {"x": halves(FLOAT32, 99), "scale": np.float32(1), "zero": np.uint8(128)}
        settings = {"reference": quantization(UINT8), "dtypes": (UINT8,), "opset": opset}
        found.append(case("old", "QuantizeLinear", inputs, **settings))
        inputs = {"x": whole(UINT8, 99), "scale": np.float32(0.3), "zero": np.uint8(128)}
        settings = {"reference": dequantization(), "dtypes": (FLOAT32,), "opset": opset}
        found.append(case("old", "DequantizeLinear", inputs, **settings))
    return found


def small_float_cases() -> list[Case]:
    found = []
    for dtype, limit in FLOAT8.items():
        for saturate in (1, 0):

            def reference(x, scale, zero, dtype=dtype, limit=limit, saturate=saturate):
                quotient = x.astype(np.float32) / scale.astype(np.float32)
                return (np.clip(quotient, -limit, limit) if saturate else quotient).astype(dtype)

            inputs = {
                "x": uniform(FLOAT32, 5, 41, low=-90000, high=90000),
                "scale": np.float32(0.5),
                "zero": np.zeros((), dtype),
            }
            settings = {"attributes": {"saturate": saturate}, "reference": reference, "dtypes": (dtype,)}
            found.append(case(f"{dtype} {saturate}", "QuantizeLinear", inputs, **settings))
    for dtype in (*FLOAT8, FLOAT4):
        inputs = {"x": uniform(dtype, 5, 41), "scale": np.float32(0.3)}
        settings = {"reference": dequantization(), "dtypes": (FLOAT32,)}
        found.append(case(f"{dtype}", "DequantizeLinear", inputs, **settings))

    def reference(x, scale):
        return np.clip(x.astype(np.float32) / scale.astype(np.float32), -6, 6).astype(FLOAT4)

    inputs = {"x": uniform(FLOAT32, 5, 41), "scale": np.float32(0.4)}
    attributes = {"output_dtype": tensor_code(FLOAT4)}
    settings = {"attributes": attributes, "reference": reference, "dtypes": (FLOAT4,)}
    found.append(case(f"{FLOAT4}", "QuantizeLinear", inputs, **settings))
    return found


def dequantize_cases() -> list[Case]:
    found = []
    for dtype in RANGES:
        for scale in (FLOAT32, FLOAT16, BFLOAT16):
            inputs = {"x": whole(dtype, 5, 41), "scale": np.array(0.037).astype(scale), "zero": whole(dtype)}
            settings = {"reference": dequantization(), "dtypes": (scale,)}
            found.append(case(f"{dtype} {scale}", "DequantizeLinear", inputs, **settings))
    for axis in (0, 1, -1):
        extent = (3, 4, 5)[axis]
        inputs = {"x": whole(INT8, 3, 4, 5), "scale": positive(FLOAT32, extent), "zero": whole(INT8, extent)}
        settings = {"reference": dequantization(axis), "dtypes": (FLOAT32,), "attributes": {"axis": axis}}
        found.append(case(f"axis {axis}", "DequantizeLinear", inputs, **settings))
    inputs = {"x": uniform(INT32, 5, 7, low=-(2**31), high=2**31 - 1), "scale": np.float32(1e-3)}
    settings = {"reference": dequantization(), "dtypes": (FLOAT32,)}
    found.append(case("int32", "DequantizeLinear", inputs, **settings))
    inputs = {"x": whole(INT8, 5, 7), "scale": np.array(0.25).astype(POWER)}
    settings = {"reference": dequantization(), "dtypes": (FLOAT16,)}
    settings["attributes"] = {"output_dtype": tensor_code(FLOAT16)}
    found.append(case("power of two", "DequantizeLinear", inputs, **settings))
    return found


def dynamic_cases() -> list[Case]:
    found = []
    for name, low, high in [("both", -3, 5), ("positive", 2, 5), ("negative", -9, -1), ("zeros", 0, 0)]:
        for shape in ((7, 65), (130,), ()):
            inputs = {"x": uniform(FLOAT32, *shape, low=low, high=high)}
            settings = {"outputs": 3, "reference": dynamic, "dtypes": (UINT8, FLOAT32, UINT8), "opset": 11}
            found.append(case(f"{name}{shape}", "DynamicQuantizeLinear", inputs, **settings))
    inputs = {"x": uniform(FLOAT32, 0, 3)}
    settings = {"outputs": 3, "dtypes": (UINT8, FLOAT32, UINT8)}
    settings["reference"] = lambda x: (np.zeros((0, 3)), np.ones(()), np.zeros(()))
    found.append(case("empty", "DynamicQuantizeLinear", inputs, **settings))
    return found


def dynamic(x):
    x = x.astype(np.float32)
    highest, lowest = max(x.max(), np.float32(0)), min(x.min(), np.float32(0))
    scale = np.float32(1) if highest == lowest else (highest - lowest) / np.float32(255)
    zero = saturated(np.float32(0) - lowest / scale, 0, UINT8)
    return quantized(x, scale, zero, UINT8), scale, zero


CASES = [*quantize_cases(), *precision_cases(), *small_float_cases(), *dequantize_cases(), *dynamic_cases()]
