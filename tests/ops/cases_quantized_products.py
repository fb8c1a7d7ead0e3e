"""Products and convolutions of quantised operands, and weights of a few bits."""

import numpy as np
from cases import BFLOAT16, FLOAT16, FLOAT32, Case, case, uniform
from cases_quantization import FLOAT8, INT8, INT32, UINT8, dynamic, positive, saturated, whole
from spatial_reference import conv

DOMAIN = "com.microsoft"
PAIRS = [(UINT8, UINT8), (UINT8, INT8), (INT8, INT8), (INT8, UINT8)]


# References


def per_row(parameter):
    """A parameter of the left operand, one for each row where it is a vector."""
    return parameter[:, None] if parameter.ndim == 1 and parameter.size > 1 else parameter


def total(a, w, a_zero=None, w_zero=None):
    """The product with zero points subtracted, int64."""
    left = a.astype(np.int64) - (0 if a_zero is None else per_row(a_zero.astype(np.int64)))
    right = w.astype(np.int64) - (0 if w_zero is None else w_zero.astype(np.int64))
    return left @ right


def factor(a_scale, w_scale, y_scale=1):
    """``a_scale * w_scale / y_scale``, rounded to float32 after each step."""
    product = np.asarray(a_scale, np.float32) * np.asarray(w_scale, np.float32)
    return product / np.asarray(y_scale, np.float32)


def scaled(sums, multiplier):
    return sums.astype(np.float32) * multiplier


def quantized_product(a, a_scale, a_zero, w, w_scale, w_zero, y_scale, y_zero):
    multiplier = factor(per_row(a_scale), w_scale, y_scale)
    return saturated(scaled(total(a, w, a_zero, w_zero), multiplier), y_zero, y_zero.dtype)


def float8_product(limit):
    """Of numbers so small that their products and sums are exact; the factor of the scales is 1."""

    def reference(a, a_scale, a_zero, w, *others):
        return np.clip(a.astype(np.float64) @ w, -limit, limit).astype(np.float32)

    return reference


def product_to_float(a, w, a_scale, w_scale, a_zero=None, w_zero=None, bias=None):
    result = scaled(total(a, w, a_zero, w_zero), factor(per_row(a_scale), w_scale))
    return result if bias is None else result + bias


def general_product(transposed, alpha):
    def reference(a, a_scale, a_zero, w, w_scale, w_zero, c=None, y_scale=None, y_zero=None):
        sums = total(a.T if transposed else a, w.T if transposed else w, a_zero, w_zero)
        multiplier = factor(
            np.float32(alpha) * a_scale.astype(np.float32), w_scale, 1 if y_scale is None else y_scale
        )
        result = scaled(sums if c is None else sums + c, multiplier)
        return result if y_zero is None else saturated(result, y_zero, y_zero.dtype)

    return reference


def integer_convolution(x, w, x_zero=None, w_zero=None, bias=None, **attributes):
    """The convolution with zero points subtracted; sums are small enough to be exact in float64."""
    centred = x.astype(np.float64) - (0 if x_zero is None else np.asarray(x_zero, np.float64))
    weights = w.astype(np.float64)
    if w_zero is not None:
        weights -= w_zero.reshape((-1,) + (1,) * (w.ndim - 1)).astype(np.float64)
    return conv(centred, weights, None if bias is None else bias.astype(np.float64), **attributes)


def weights_of(packed, scales, zeros, bits, depth):
    """The weights ``(N, K)``, in float64."""

    def unpacked(rows):
        parts = [(rows >> offset) & ((1 << bits) - 1) for offset in range(0, 8, bits)]
        return np.stack(parts, -1).reshape(*rows.shape[:-1], -1).astype(np.float64)

    if zeros is None:
        shifts = np.float64(1 << (bits - 1))
    elif zeros.dtype == np.uint8:
        shifts = unpacked(zeros)[:, : scales.shape[1], None]
    else:
        shifts = zeros[:, :, None]
    blocks = (unpacked(packed) - shifts) * scales[:, :, None]
    return blocks.reshape(len(packed), -1)[:, :depth]


# Cases


def integer_cases() -> list[Case]:
    found = []
    for left, right in PAIRS:
        for a, w in [
            ((3, 4), (4, 5)),
            ((4,), (4, 5)),
            ((3, 4), (4,)),
            ((4,), (4,)),
            ((2, 3, 4), (4, 5)),
            ((2, 3, 4), (2, 4, 5)),
            ((0, 4), (4, 5)),
            ((3, 0), (0, 5)),
            ((17, 133), (133, 65)),
        ]:
            settings = {"reference": total, "dtypes": (INT32,), "opset": 10}
            inputs = {"a": whole(left, *a), "w": whole(right, *w)}
            found.append(case(f"{left}{a}{right}{w}", "MatMulInteger", inputs, **settings))
            inputs = inputs | {"a_zero": whole(left), "w_zero": whole(right)}
            name = f"{left}{a}{right}{w}-zeros"
            found.append(case(name, "MatMulInteger", inputs, **settings))
            found.append(
                case(
                    name + "-constant",
                    "MatMulInteger",
                    inputs,
                    constants=("w", "a_zero", "w_zero"),
                    **settings,
                )
            )
    for a, a_zero, w, w_zero in [
        ((3, 4), (3,), (4, 5), (5,)),
        ((3, 4), (1,), (4, 5), (1,)),
        ((2, 3, 4), (2, 3, 1), (2, 4, 5), (2, 1, 5)),
    ]:
        inputs = {
            "a": whole(UINT8, *a),
            "w": whole(INT8, *w),
            "a_zero": whole(UINT8, *a_zero),
            "w_zero": whole(INT8, *w_zero),
        }
        settings = {"reference": total, "dtypes": (INT32,), "opset": 10}
        found.append(case(f"{a_zero}{w_zero}", "MatMulInteger", inputs, **settings))
    return found


def quantized_matrix_cases() -> list[Case]:
    found = []
    for left, right in PAIRS:
        for scale, opset in [(FLOAT32, 10), (FLOAT32, 21), (FLOAT16, 21), (BFLOAT16, 21)]:
            inputs = {
                "a": whole(left, 7, 33),
                "a_scale": np.array(0.03).astype(scale),
                "a_zero": whole(left),
                "w": whole(right, 33, 5),
                "w_scale": np.array(0.02).astype(scale),
                "w_zero": whole(right),
                "y_scale": np.array(0.9).astype(scale),
                "y_zero": whole(left),
            }
            settings = {"reference": quantized_product, "dtypes": (left,), "opset": opset}
            found.append(case(f"{left} {right} {scale}", "QLinearMatMul", inputs, **settings))
    for a, rows, columns in [((7, 33), (7,), (5,)), ((2, 7, 33), (2, 7, 1), (1, 5)), ((33,), (1,), (5,))]:
        inputs = {
            "a": whole(UINT8, *a),
            "a_scale": positive(FLOAT32, *rows),
            "a_zero": whole(UINT8, *rows),
            "w": whole(INT8, 33, 5),
            "w_scale": positive(FLOAT32, *columns),
            "w_zero": whole(INT8, *columns),
            "y_scale": np.float32(9),
            "y_zero": whole(INT8),
        }
        settings = {"reference": quantized_product, "dtypes": (INT8,)}
        found.append(case(f"rows {rows} columns {columns}", "QLinearMatMul", inputs, **settings))
    for right in FLOAT8:
        for left in (*FLOAT8, INT8):
            inputs = {
                "a": uniform(left, 7, 33),
                "a_scale": np.float32(0.5),
                "a_zero": np.zeros((), left),
                "w": uniform(right, 33, 5),
                "w_scale": np.float32(0.25),
                "w_zero": np.zeros((), right),
                "y_scale": np.float32(0.125),
                "y_zero": np.zeros((), right),
            }
            settings = {"reference": float8_product(FLOAT8[right]), "dtypes": (right,)}
            found.append(case(f"{left} {right}", "QLinearMatMul", inputs, **settings))
    # Half of the results are ties.
    inputs = {
        "a": whole(UINT8, 9, 5),
        "a_scale": np.float32(0.5),
        "a_zero": np.uint8(128),
        "w": whole(INT8, 5, 9),
        "w_scale": np.float32(0.25),
        "w_zero": np.int8(0),
        "y_scale": np.float32(64),
        "y_zero": np.uint8(101),
    }
    found.append(case("ties", "QLinearMatMul", inputs, reference=quantized_product, dtypes=(UINT8,)))
    return found


def convolution_cases() -> list[Case]:
    found = []
    for number, (x, w, attributes) in enumerate(
        [
            ((2, 3, 7, 9), (5, 3, 3, 3), {"pads": [1, 0, 2, 1]}),
            ((1, 4, 8, 8), (4, 1, 3, 3), {"group": 4, "strides": [2, 1], "pads": [1, 1, 1, 1]}),
            ((1, 6, 5, 5), (4, 3, 2, 2), {"group": 2, "dilations": [2, 1]}),
            ((2, 16, 6, 6), (33, 16, 1, 1), {}),
            ((2, 3, 11), (4, 3, 4), {"pads": [2, 1]}),
        ]
    ):

        def integer(*inputs, attributes=attributes):
            return integer_convolution(*inputs, **attributes)

        def quantized(
            x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias=None, attributes=attributes
        ):
            sums = integer_convolution(x, w, x_zero, w_zero, bias, **attributes)
            scales = w_scale.reshape((-1,) + (1,) * (x.ndim - 2)) if w_scale.size > 1 else w_scale
            return saturated(scaled(sums, factor(x_scale, scales, y_scale)), y_zero, y_zero.dtype)

        for left, right in PAIRS:
            settings = {"attributes": attributes, "opset": 10}
            inputs = {"x": whole(left, *x), "w": whole(right, *w)}
            name = f"{number} {left} {right}"
            integers = {"reference": integer, "dtypes": (INT32,), **settings}
            found.append(case(name, "ConvInteger", inputs, **integers))
            inputs = inputs | {"x_zero": whole(left), "w_zero": whole(right, *w[: number % 2])}
            found.append(case(name + "-zeros", "ConvInteger", inputs, **integers))
            features = w[:1] if number % 2 else ()
            inputs = {
                "x": whole(left, *x),
                "x_scale": np.float32(0.03),
                "x_zero": whole(left),
                "w": whole(right, *w),
                "w_scale": positive(FLOAT32, *features),
                "w_zero": whole(right, *features),
                "y_scale": np.float32(3),
                "y_zero": whole(left),
            }
            settings = settings | {"reference": quantized, "dtypes": (left,)}
            found.append(case(name, "QLinearConv", inputs, **settings))
            inputs = inputs | {"bias": uniform(INT32, w[0], low=-9999, high=9999)}
            settings = settings | {"constants": tuple(inputs)[1:]}
            found.append(case(name + "-bias", "QLinearConv", inputs, **settings))
    return found


def extreme_cases() -> list[Case]:
    """Operands and zero points at the ends of their ranges, weights whose differences need nine bits."""
    found = []
    for left, right in PAIRS:
        ends = {dtype: (np.iinfo(dtype).min, np.iinfo(dtype).max) for dtype in (left, right)}
        for a_zero, w_zero in [(0, 0), (0, 1), (1, 0), (1, 1)]:
            zeros = {
                "a_zero": np.array(ends[left][a_zero], left),
                "w_zero": np.array(ends[right][w_zero], right),
            }
            inputs = {"a": extremes(left, 5, 301), "w": extremes(right, 301, 7), **zeros}
            settings = {"reference": total, "dtypes": (INT32,), "constants": ("w", "w_zero")}
            name = f"extremes {left} {right} {a_zero} {w_zero}"
            found.append(case(name, "MatMulInteger", inputs, **settings))
            for x, w, attributes, constants in [
                ((2, 5, 7, 6), (4, 5, 3, 3), {"pads": [1, 0, 2, 1], "strides": [1, 2]}, ()),
                ((1, 6, 5, 5), (6, 1, 3, 3), {"group": 6, "pads": [2, 1, 1, 2]}, ("w", "w_zero")),
                (
                    (1, 32, 5, 5),
                    (8, 16, 3, 3),
                    {"group": 2, "pads": [1, 1, 1, 1], "dilations": [2, 1]},
                    ("w", "x_zero", "w_zero"),
                ),
            ]:

                def convolution(*inputs, attributes=attributes):
                    return integer_convolution(*inputs, **attributes)

                inputs = {
                    "x": extremes(left, *x),
                    "w": extremes(right, *w),
                    "x_zero": zeros["a_zero"],
                    "w_zero": zeros["w_zero"],
                }
                settings = {"reference": convolution, "dtypes": (INT32,), "attributes": attributes}
                label = f"{name} {len(constants)}"
                found.append(case(label, "ConvInteger", inputs, constants=constants, **settings))
    return found


def extremes(dtype, *shape):
    """The least and the largest number of a type, in a pattern."""
    limits = np.iinfo(dtype)
    size = int(np.prod(shape))
    pattern = np.random.default_rng(size).integers(0, 2, size)
    return np.where(pattern, limits.max, limits.min).astype(dtype).reshape(shape)


def product_to_float_cases() -> list[Case]:
    found = []
    for left, right in PAIRS:
        for columns in ((), (5,)):
            inputs = {
                "a": whole(left, 2, 7, 33),
                "w": whole(right, 33, 5),
                "a_scale": np.float32(0.03),
                "w_scale": positive(FLOAT32, *columns),
                "a_zero": whole(left),
                "w_zero": whole(right, *columns),
                "bias": uniform(FLOAT32, 5),
            }
            for names in (7, 6, 4):
                chosen = dict(list(inputs.items())[:names])
                settings = {"domain": DOMAIN, "reference": product_to_float, "dtypes": (FLOAT32,)}
                settings["tolerance"] = (1e-5, 1e-4)
                name = f"{left} {right}{columns}{names}"
                found.append(case(name, "MatMulIntegerToFloat", chosen, **settings))
    for right in (UINT8, INT8):
        inputs = {
            "a": uniform(FLOAT32, 2, 7, 33, low=-2, high=5),
            "w": whole(right, 33, 5),
            "w_scale": positive(FLOAT32, 5),
            "w_zero": whole(right, 5),
            "bias": uniform(FLOAT32, 5),
        }

        def reference(a, w, w_scale, w_zero=None, bias=None):
            rows, scale, zero = dynamic(a)
            return product_to_float(rows, w, scale, w_scale, zero, w_zero, bias)

        for names in (5, 4, 3):
            chosen = dict(list(inputs.items())[:names])
            settings = {"domain": DOMAIN, "reference": reference, "tolerance": (1e-5, 1e-4)}
            found.append(case(f"{right}{names}", "DynamicQuantizeMatMul", chosen, **settings))
    for left, right in PAIRS:
        for transposed in (0, 1):
            for bias in (None, (5,), (7, 5)):
                inputs = {
                    "a": whole(left, *((33, 7) if transposed else (7, 33))),
                    "a_scale": np.float32(0.03),
                    "a_zero": whole(left),
                    "w": whole(right, *((5, 33) if transposed else (33, 5))),
                    "w_scale": positive(FLOAT32, 5),
                    "w_zero": whole(right, 5),
                    "c": None if bias is None else uniform(INT32, *bias, low=-9999, high=9999),
                }
                attributes = {"transA": transposed, "transB": transposed, "alpha": 0.7}
                settings = {"domain": DOMAIN, "attributes": attributes}
                settings["reference"] = general_product(transposed, 0.7)
                name = f"{left} {right} {transposed} {bias}"
                found.append(case(name, "QGemm", inputs, dtypes=(FLOAT32,), **settings))
                inputs = inputs | {"y_scale": np.float32(2.5), "y_zero": whole(left)}
                found.append(case(name + "-quantized", "QGemm", inputs, dtypes=(left,), **settings))
    return found


def few_bits_cases() -> list[Case]:
    found = []
    for bits in (2, 4, 8):
        for depth, features, block in [(64, 5, 16), (70, 6, 32), (33, 3, 16)]:
            blocks = -(-depth // block)

            def reference(a, packed, scales, zeros=None, groups=None, bias=None, bits=bits, depth=depth):
                product = a @ weights_of(packed, scales, zeros, bits, depth).T
                return product if bias is None else product + bias

            for kind in ("none", "packed", "real"):
                for dtype in (FLOAT32, FLOAT16):
                    inputs = {
                        "a": uniform(dtype, 2, 3, depth, low=-1, high=1),
                        "packed": whole(UINT8, features, blocks, block * bits // 8),
                        "scales": uniform(dtype, features, blocks, low=0, high=0.1 / 2**bits),
                        "zeros": {
                            "none": None,
                            "packed": whole(UINT8, features, -(-blocks * bits // 8)),
                            "real": uniform(dtype, features, blocks, low=0, high=3),
                        }[kind],
                        "groups": None,
                        "bias": uniform(dtype, features),
                    }
                    if kind == "packed":
                        del inputs["groups"], inputs["bias"]
                    attributes = {"K": depth, "N": features, "bits": bits, "block_size": block}
                    settings = {"domain": DOMAIN, "attributes": attributes, "reference": reference}
                    settings["tolerance"] = (2e-3, 4e-3) if dtype == FLOAT16 else (1e-5, 1e-5)
                    constants = tuple(
                        name for name in ("packed", "scales", "zeros") if inputs[name] is not None
                    )
                    name = f"{bits} bits {depth} {kind} {dtype}"
                    found.append(case(name, "MatMulNBits", inputs, constants=constants, **settings))
    inputs = {
        "a": uniform(FLOAT32, 64),
        "packed": whole(UINT8, 5, 4, 8),
        "scales": positive(FLOAT32, 5, 4),
    }

    def vector_reference(a, packed, scales):
        return a @ weights_of(packed, scales, None, 4, 64).T

    attributes = {"K": 64, "N": 5, "bits": 4, "block_size": 16}
    settings = {"domain": DOMAIN, "attributes": attributes, "tolerance": (1e-5, 1e-4)}
    found.append(case("vector", "MatMulNBits", inputs, reference=vector_reference, **settings))
    return found


CASES = [
    *integer_cases(),
    *quantized_matrix_cases(),
    *convolution_cases(),
    *extreme_cases(),
    *product_to_float_cases(),
    *few_bits_cases(),
]
