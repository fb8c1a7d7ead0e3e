"""Convolution and pooling."""

import functools

import numpy as np
import spatial_reference as reference
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, FLOATS, Case, case, special, uniform

# Name: extents of x (N, C, *spatial) and of w, attributes.
CONVOLUTIONS = {
    "1d": ((2, 3, 11), (5, 3, 4), {}),
    "2d": ((2, 3, 7, 9), (5, 3, 3, 2), {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
    "3d": ((1, 2, 5, 4, 6), (3, 2, 2, 3, 2), {"strides": [1, 2, 3], "dilations": [2, 1, 2]}),
    "4d": ((1, 2, 3, 3, 2, 3), (2, 2, 2, 1, 2, 2), {}),
    "4d groups": (
        (2, 4, 4, 3, 2, 3), (6, 2, 2, 2, 2, 1),
        {"group": 2, "strides": [2, 1, 1, 2], "dilations": [2, 1, 1, 1], "pads": [1, 0, 0, 1, 2, 1, 1, 0]},
    ),
    "5d": ((1, 2, 2, 3, 2, 2, 3), (3, 2, 2, 2, 1, 2, 2), {"pads": [1, 0, 0, 0, 1, 0, 0, 1, 0, 0]}),
    "4d empty batch": ((0, 2, 3, 3, 2, 3), (2, 2, 2, 1, 2, 2), {}),
    "pointwise": ((2, 6, 5, 4), (7, 6, 1, 1), {}),
    "pointwise stride": ((1, 3, 5, 6), (4, 3, 1, 1), {"strides": [2, 3]}),
    "depthwise": ((1, 6, 8, 7), (6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "depthwise multiplied": ((1, 3, 6, 5), (6, 1, 3, 3), {"group": 3, "strides": [2, 2]}),
    "groups": ((2, 6, 6, 5), (4, 3, 2, 3), {"group": 2, "dilations": [2, 1], "pads": [0, 1, 0, 1]}),
    "same upper": ((1, 2, 8, 7), (3, 2, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [3, 2]}),
    "same lower": ((1, 2, 8, 7), (3, 2, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [3, 2]}),
    "same dilated": ((1, 2, 9), (3, 2, 3), {"auto_pad": "SAME_UPPER", "dilations": [3]}),
    "valid": ((1, 2, 6, 6), (3, 2, 3, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
    "pads wider than kernel": ((1, 2, 3, 2), (3, 2, 2, 2), {"pads": [3, 0, 2, 4]}),
    "kernel shape": ((1, 1, 5, 5), (1, 1, 3, 3), {"kernel_shape": [3, 3]}),
    "one position": ((2, 3, 4, 4), (5, 3, 4, 4), {}),
    "empty batch": ((0, 3, 5, 5), (4, 3, 3, 3), {}),
}  # fmt: skip

TRANSPOSED = {
    "1d": ((2, 3, 6), (3, 4, 3), {"strides": [2]}),
    "2d": ((2, 3, 4, 5), (3, 2, 3, 4), {"strides": [2, 3], "pads": [1, 0, 1, 2]}),
    "3d": ((1, 2, 3, 2, 3), (2, 3, 2, 3, 2), {"strides": [2, 1, 3]}),
    "stride 1": ((1, 3, 4, 4), (3, 2, 3, 3), {"pads": [1, 1, 1, 1]}),
    "kernel is stride": ((1, 3, 4, 3), (3, 2, 2, 2), {"strides": [2, 2]}),
    "kernel below stride": ((1, 2, 3, 4), (2, 3, 2, 1), {"strides": [4, 3]}),
    "dilations": ((1, 2, 4, 5), (2, 3, 3, 2), {"dilations": [2, 3], "strides": [3, 2], "pads": [1, 1, 0, 2]}),
    "dilations share a factor": ((1, 2, 4, 3), (2, 3, 3, 3), {"dilations": [2, 4], "strides": [4, 2]}),
    "output padding": ((1, 2, 3, 3), (2, 3, 3, 3), {"strides": [3, 2], "output_padding": [2, 1]}),
    "output shape": ((1, 2, 3, 3), (2, 2, 3, 3), {"strides": [3, 2], "output_shape": [8, 6]}),
    "output shape upper": (
        (1, 2, 3, 3), (2, 2, 3, 3), {"strides": [3, 2], "output_shape": [8, 6], "auto_pad": "SAME_UPPER"},
    ),
    "output shape beyond": ((1, 2, 3, 3), (2, 2, 3, 3), {"strides": [3, 2], "output_shape": [10, 8]}),
    "same upper": ((1, 2, 4, 3), (2, 3, 3, 4), {"auto_pad": "SAME_UPPER", "strides": [2, 3]}),
    "same lower": ((1, 2, 4, 3), (2, 3, 3, 4), {"auto_pad": "SAME_LOWER", "strides": [2, 3]}),
    "groups": ((2, 4, 3, 4), (4, 3, 3, 2), {"group": 2, "strides": [2, 2]}),
    "depthwise": ((1, 5, 4, 4), (5, 1, 3, 3), {"group": 5, "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "pads above kernel": ((1, 2, 5), (2, 2, 2), {"strides": [2], "pads": [2, 3]}),
    "4d": (
        (2, 2, 2, 1, 3, 2), (2, 3, 2, 2, 1, 2), {"strides": [2, 1, 1, 2], "pads": [1, 0, 0, 0, 0, 0, 0, 1]},
    ),
    "4d groups": ((1, 4, 2, 2, 1, 2), (4, 2, 2, 1, 2, 2), {"strides": [1, 2, 1, 1], "group": 2}),
}  # fmt: skip

POOLS = {
    "1d": ((2, 3, 10), {"kernel_shape": [3], "strides": [2]}),
    "2d": ((2, 3, 7, 8), {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 2, 1]}),
    "3d": ((1, 2, 4, 5, 4), {"kernel_shape": [2, 3, 2], "strides": [1, 2, 2], "pads": [1, 1, 0, 0, 1, 1]}),
    "ceil": ((1, 2, 8, 7), {"kernel_shape": [3, 3], "strides": [2, 3], "ceil_mode": 1}),
    "ceil pads": (
        (1, 2, 6, 5), {"kernel_shape": [3, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    ),
    "dilations": ((1, 3, 8, 9), {"kernel_shape": [3, 2], "dilations": [2, 3], "pads": [1, 1, 0, 1]}),
    "same upper": ((1, 3, 7, 6), {"kernel_shape": [3, 4], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    "same lower": ((1, 3, 7, 6), {"kernel_shape": [3, 4], "strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    "valid": ((1, 3, 7, 6), {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "VALID"}),
    "whole": ((2, 3, 4, 5), {"kernel_shape": [4, 5]}),
    "empty batch": ((0, 3, 4, 5), {"kernel_shape": [2, 2]}),
    "4d": (
        (2, 2, 3, 4, 2, 3),
        {"kernel_shape": [2, 3, 2, 2], "strides": [1, 2, 1, 2], "pads": [1, 1, 0, 0, 0, 2, 1, 1]},
    ),
    "5d": (
        (1, 2, 2, 3, 2, 2, 3), {"kernel_shape": [2, 2, 1, 2, 2], "ceil_mode": 1, "strides": [1, 2, 1, 1, 2]},
    ),
}  # fmt: skip


def operands(dtype, x, w, bias):
    return {
        "x": uniform(dtype, *x),
        "w": uniform(dtype, *w, low=-1, high=1),
        "b": uniform(dtype, bias) if bias else None,
    }


def settings_of(attributes, *without):
    return {key: value for key, value in attributes.items() if key not in ("kernel_shape", *without)}


def convolution_cases() -> list[Case]:
    found = []
    for name, (x, w, attributes) in CONVOLUTIONS.items():
        meaning = functools.partial(reference.conv, **settings_of(attributes))
        for bias in (0, w[0]):
            label = f"{name} bias" if bias else name
            inputs = operands(FLOAT32, x, w, bias)
            found.append(case(label, "Conv", inputs, attributes=attributes, reference=meaning))
    x, w, attributes = CONVOLUTIONS["2d"]
    meaning = functools.partial(reference.conv, **settings_of(attributes))
    for dtype, tolerance in ((FLOAT64, None), (FLOAT16, (4e-3, 4e-3)), (BFLOAT16, (2e-2, 4e-2))):
        inputs = operands(dtype, x, w, w[0])
        found.append(
            case(f"{dtype}", "Conv", inputs, attributes=attributes, reference=meaning, tolerance=tolerance)
        )
    meaning_of_same = functools.partial(reference.conv, pads=[1, 1, 1, 1])
    for dtype, tolerance in ((FLOAT16, (4e-3, 1e-2)), (BFLOAT16, (2e-2, 8e-2))):
        name, inputs = f"many channels {dtype}", operands(dtype, (2, 16, 6, 7), (24, 16, 3, 3), 24)
        same = {"pads": [1, 1, 1, 1]}
        found.append(
            case(name, "Conv", inputs, attributes=same, reference=meaning_of_same, tolerance=tolerance)
        )
    inputs = operands(FLOAT32, x, w, w[0])
    found.append(
        case("weights", "Conv", inputs, attributes=attributes, reference=meaning, constants=("w", "b"))
    )
    for opset in (1, 11):
        found.append(case("", "Conv", inputs, attributes=attributes, reference=meaning, opset=opset))
    return found


def transposed_cases() -> list[Case]:
    found = []
    for name, (x, w, attributes) in TRANSPOSED.items():
        meaning = functools.partial(reference.conv_transpose, **settings_of(attributes))
        for bias in (0, w[1] * attributes.get("group", 1)):
            found.append(
                case(
                    f"{name} bias" if bias else name,
                    "ConvTranspose",
                    operands(FLOAT32, x, w, bias),
                    attributes=attributes,
                    reference=meaning,
                    constants=("w", "b") if bias else (),
                    folds=False,
                )
            )
    x, w, attributes = TRANSPOSED["2d"]
    meaning = functools.partial(reference.conv_transpose, **settings_of(attributes))
    for dtype, tolerance in ((FLOAT64, None), (FLOAT16, (4e-3, 4e-3)), (BFLOAT16, (2e-2, 4e-2))):
        found.append(
            case(
                f"{dtype}",
                "ConvTranspose",
                operands(dtype, x, w, w[1]),
                attributes=attributes,
                reference=meaning,
                tolerance=tolerance,
                folds=False,
            )
        )
    return found


def max_pool_cases() -> list[Case]:
    found = []
    for name, (x, attributes) in POOLS.items():
        settings = settings_of(attributes)
        for column_major in (0, 1):
            meaning = functools.partial(
                reference.max_pool, kernel=attributes["kernel_shape"], column_major=column_major, **settings
            )
            found.append(
                case(
                    f"{name} indices {column_major}",
                    "MaxPool",
                    {"x": uniform(FLOAT32, *x)},
                    outputs=2,
                    attributes={**attributes, "storage_order": column_major},
                    reference=meaning,
                    dtypes=(FLOAT32, np.dtype(np.int64)),
                )
            )
    x, attributes = POOLS["2d"]
    meaning = functools.partial(
        reference.max_pool, kernel=attributes["kernel_shape"], **settings_of(attributes)
    )
    for dtype in (*FLOATS, np.dtype(np.int8), np.dtype(np.uint8)):
        found.append(
            case(
                f"{dtype}",
                "MaxPool",
                {"x": special(dtype, *x) if dtype.kind not in "iu" else uniform(dtype, *x, low=-99, high=99)},
                attributes=attributes,
                reference=lambda x, meaning=meaning: meaning(x)[0],
            )
        )
    x, attributes = POOLS["4d"]
    meaning = functools.partial(
        reference.max_pool, kernel=attributes["kernel_shape"], **settings_of(attributes)
    )
    for dtype in (FLOAT16, np.dtype(np.int8)):
        found.append(
            case(
                f"4d {dtype}",
                "MaxPool",
                # Several maxima in a window, and infinities beside the padding.
                {"x": uniform(dtype, *x, low=-1, high=1) if dtype.kind == "i" else special(dtype, *x)},
                outputs=2,
                attributes=attributes,
                reference=meaning,
                dtypes=(dtype, np.dtype(np.int64)),
            )
        )
    return found


def other_pool_cases() -> list[Case]:
    found = []
    for name, (x, attributes) in POOLS.items():
        settings = settings_of(attributes)
        kernel = attributes["kernel_shape"]
        for counted in (0, 1):
            meaning = functools.partial(
                reference.average_pool, kernel=kernel, count_include_pad=counted, **settings
            )
            found.append(
                case(
                    f"{name} counting {counted}",
                    "AveragePool",
                    {"x": uniform(FLOAT32, *x)},
                    attributes={**attributes, "count_include_pad": counted},
                    reference=meaning,
                )
            )
        for p in (1, 2, 3):
            found.append(
                case(
                    f"{name} {p}",
                    "LpPool",
                    {"x": uniform(FLOAT32, *x)},
                    attributes={**attributes, "p": p},
                    reference=functools.partial(reference.lp_pool, kernel=kernel, p=p, **settings),
                )
            )
    x, attributes = POOLS["2d"]
    for op_type, meaning in (("AveragePool", reference.average_pool), ("LpPool", reference.lp_pool)):
        bound = functools.partial(meaning, kernel=attributes["kernel_shape"], **settings_of(attributes))
        for dtype in (FLOAT64, FLOAT16, BFLOAT16):
            found.append(
                case(f"{dtype}", op_type, {"x": uniform(dtype, *x)}, attributes=attributes, reference=bound)
            )
    bound = functools.partial(reference.lp_pool, kernel=[3, 2], p=1.5)
    attributes = {"kernel_shape": [3, 2], "p": 1.5}
    found.append(
        case(
            "float p", "LpPool", {"x": uniform(FLOAT32, *x)}, attributes=attributes, reference=bound, opset=1
        )
    )
    return found


def global_cases() -> list[Case]:
    def spatial(function):
        return lambda x: function(x, axis=tuple(range(2, x.ndim)), keepdims=True)

    found = []
    for shape in ((2, 3, 5, 4), (1, 2, 7), (2, 1, 3, 2, 4), (0, 3, 2, 2), (2, 3)):
        x = {"x": uniform(FLOAT32, *shape)}
        for op_type, function in (("GlobalAveragePool", np.mean), ("GlobalMaxPool", np.max)):
            found.append(case(f"{shape}", op_type, x, reference=spatial(function)))
        for p in (1, 2, 3):
            norm = spatial(
                lambda x, axis, keepdims, p=p: (np.abs(x) ** p).sum(axis, keepdims=True) ** (1 / p)
            )
            found.append(case(f"{shape} {p}", "GlobalLpPool", x, attributes={"p": p}, reference=norm))
    for dtype in (FLOAT64, FLOAT16, BFLOAT16):
        x = {"x": uniform(dtype, 2, 3, 5, 4)}
        found.append(case(f"{dtype}", "GlobalAveragePool", x, reference=spatial(np.mean)))
        found.append(case(f"{dtype}", "GlobalMaxPool", x, reference=spatial(np.max)))
    return found


CASES = [
    *convolution_cases(),
    *transposed_cases(),
    *max_pool_cases(),
    *other_pool_cases(),
    *global_cases(),
]
