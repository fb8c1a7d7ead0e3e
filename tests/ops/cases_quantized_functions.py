"""ONNX Runtime's operators on quantised tensors: sums, activations, softmax, concatenation, pooling."""

import numpy as np
from cases import FLOAT32, Case, case
from cases_quantization import INT8, UINT8, dequantized, positive, quantized, saturated, whole
from spatial_reference import average_pool

DOMAIN = "com.microsoft"


def zero_of(zero):
    return 0 if zero is None else zero


def requantized(real, scale, zero, dtype):
    return quantized(real, scale, zero_of(zero), dtype)


def binary(body):
    def reference(a, a_scale, a_zero, b, b_scale, b_zero, scale, zero=None):
        real = body(a, a_scale, zero_of(a_zero), b, b_scale, zero_of(b_zero))
        return requantized(real, scale, zero, a.dtype)

    return reference


def add(a, a_scale, a_zero, b, b_scale, b_zero):
    return dequantized(a, a_scale, a_zero) + dequantized(b, b_scale, b_zero)


def multiply(a, a_scale, a_zero, b, b_scale, b_zero):
    factor = np.float32(a_scale) * np.float32(b_scale)
    return dequantized(a, 1, a_zero) * dequantized(b, 1, b_zero) * factor


def unary(body):
    def reference(x, x_scale, x_zero, y_scale, y_zero=None):
        return requantized(body(dequantized(x, x_scale, zero_of(x_zero))), y_scale, y_zero, x.dtype)

    return reference


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def leaky_relu(x):
    return np.where(x < 0, x * np.float32(0.3), x)


def softmax(axes):
    def body(x):
        weights = np.exp(x.astype(np.float64) - x.max(axes, keepdims=True))
        return weights / weights.sum(axes, keepdims=True)

    return body


def channels_first(body):
    """``body`` of ``(N, C, *spatial)`` for ``(N, *spatial, C)``."""
    return lambda x: np.moveaxis(body(np.moveaxis(x, -1, 1)), 1, -1)


def operands(dtype, *shape, scale=0.25):
    return {"x": whole(dtype, *shape), "x_scale": np.float32(scale), "x_zero": whole(dtype)}


def result(dtype, scale):
    return {"y_scale": np.float32(scale), "y_zero": whole(dtype)}


def binary_cases() -> list[Case]:
    found = []
    for op_type, body in (("QLinearAdd", add), ("QLinearMul", multiply)):
        for dtype in (UINT8, INT8):
            for left, right in [((3, 50, 4), (50, 4)), ((3, 1), (4,)), ((), (5,)), ((0, 3), (3,))]:
                inputs = {
                    "a": whole(dtype, *left),
                    "a_scale": positive(FLOAT32),
                    "a_zero": whole(dtype),
                    "b": whole(dtype, *right),
                    "b_scale": positive(FLOAT32),
                    "b_zero": whole(dtype),
                    **result(dtype, 0.2),
                }
                settings = {"domain": DOMAIN, "reference": binary(body), "dtypes": (dtype,)}
                found.append(case(f"{dtype}{left}{right}", op_type, inputs, **settings))
                settings["constants"] = tuple(name for name in inputs if "_" in name)
                found.append(case(f"{dtype}{left}{right}-constant", op_type, inputs, **settings))
            inputs = {**inputs, "a": whole(dtype, 9, 9), "b": whole(dtype, 9), "a_zero": None, "b_zero": None}
            del inputs["y_zero"], settings["constants"]
            found.append(case(f"{dtype}-no zeros", op_type, inputs, **settings))
    return found


def unary_cases() -> list[Case]:
    found = []
    for dtype in (UINT8, INT8):
        settings = {"domain": DOMAIN, "dtypes": (dtype,)}
        for zeros in (True, False):
            inputs = {**operands(dtype, 7, 41, scale=0.04), **result(dtype, 0.01)}
            if not zeros:
                inputs = {**inputs, "x_zero": None}
                del inputs["y_zero"]
            name = f"{dtype}{zeros}"
            found.append(case(name, "QLinearSigmoid", inputs, reference=unary(sigmoid), **settings))
            relu = {"attributes": {"alpha": 0.3}, "reference": unary(leaky_relu), **settings}
            found.append(case(name, "QLinearLeakyRelu", inputs, **relu))
        for opset, axis, axes in [
            (13, None, (2,)),
            (13, 1, (1,)),
            (11, None, (1, 2)),
            (12, 2, (2,)),
            (12, 0, (0, 1, 2)),
        ]:
            inputs = {**operands(dtype, 3, 5, 17, scale=0.04), **result(dtype, 1 / 256)}
            attributes = {"opset": opset} if axis is None else {"opset": opset, "axis": axis}
            settings |= {"attributes": attributes, "reference": unary(softmax(axes))}
            found.append(case(f"{dtype} {opset} {axis}", "QLinearSoftmax", inputs, **settings))
    return found


def concatenation_cases() -> list[Case]:
    def reference(axis):
        def joined(y_scale, y_zero, *inputs):
            parts = zip(inputs[::3], inputs[1::3], inputs[2::3], strict=True)
            reals = [dequantized(x, scale, zero) for x, scale, zero in parts]
            return requantized(np.concatenate(reals, axis), y_scale, y_zero, y_zero.dtype)

        return joined

    found = []
    for dtype in (UINT8, INT8):
        for axis in (0, 1, -1):
            inputs = {"y_scale": np.float32(0.05), "y_zero": np.array(7, dtype)}
            for number, (extent, scale, zero) in enumerate(
                [(3, 0.03, 2), (1, 0.05, 7), (4, 0.2, 7), (0, 0.1, 1)]
            ):
                shape = [2, 3, 4]
                shape[axis] = extent
                inputs[f"x{number}"] = whole(dtype, *shape)
                inputs[f"scale{number}"] = np.float32(scale)
                inputs[f"zero{number}"] = np.array(zero, dtype)
            for constants in ((), tuple(name for name in inputs if name[0] != "x")):
                settings = {"domain": DOMAIN, "reference": reference(axis), "dtypes": (dtype,)}
                settings |= {"attributes": {"axis": axis}, "constants": constants}
                found.append(case(f"{dtype} {axis} {len(constants)}", "QLinearConcat", inputs, **settings))
    return found


def pooling_cases() -> list[Case]:
    found = []
    for dtype in (UINT8, INT8):
        for number, (shape, attributes) in enumerate(
            [
                ((2, 5, 9, 8), {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "strides": [2, 1]}),
                ((2, 5, 9, 8), {"kernel_shape": [2, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1}),
                ((1, 3, 11), {"kernel_shape": [4], "strides": [3], "ceil_mode": 1}),
                ((1, 3, 6, 5), {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER"}),
            ]
        ):

            def average(x, attributes=attributes):
                settings = {**attributes}
                return average_pool(x.astype(np.float64), settings.pop("kernel_shape"), **settings)

            for last in (0, 1):
                extents = (shape[0], *shape[2:], shape[1]) if last else shape
                inputs = {**operands(dtype, *extents), **result(dtype, 0.21)}
                settings = {"domain": DOMAIN, "dtypes": (dtype,)}
                settings["attributes"] = {**attributes, "channels_last": last}
                settings["reference"] = unary(channels_first(average) if last else average)
                found.append(case(f"{dtype} {number} {last}", "QLinearAveragePool", inputs, **settings))
        for last in (0, 1):
            for shape in ((2, 9, 8, 5), (2, 5, 7)):
                axes = tuple(range(1, len(shape) - 1)) if last else tuple(range(2, len(shape)))

                def reference(x, x_scale, x_zero, y_scale, y_zero, axes=axes):
                    sums = (x.astype(np.int64) - x_zero).sum(axes, keepdims=True)
                    count = np.float32(np.prod([x.shape[axis] for axis in axes]))
                    real = sums.astype(np.float32) / count * x_scale.astype(np.float32)
                    return saturated(real / y_scale.astype(np.float32), y_zero, x.dtype)

                inputs = {**operands(dtype, *shape), **result(dtype, 0.021)}
                settings = {"domain": DOMAIN, "dtypes": (dtype,), "reference": reference}
                settings["attributes"] = {"channels_last": last}
                found.append(case(f"{dtype}{shape}{last}", "QLinearGlobalAveragePool", inputs, **settings))
    return found


CASES = [*binary_cases(), *unary_cases(), *concatenation_cases(), *pooling_cases()]
