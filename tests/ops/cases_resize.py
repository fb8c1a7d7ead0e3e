"""Resize and Upsample."""

import numpy as np
from cases import BFLOAT16, BOOL, FLOAT16, FLOAT32, FLOAT64, INTEGERS, Case, case, distinct, uniform

TRANSFORMATIONS = [
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
]
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
EMPTY = np.zeros(0, np.float32)
# No position that it yields is halfway between two, where the last bit would decide.
REGION = np.array([0, 0, 0.23, -0.1, 1, 1, 0.87, 0.69], np.float32)


def scaled(*scales: float) -> np.ndarray:
    return np.array(scales, np.float32)


def resize(name, x, attributes, *, scales=None, sizes=None, roi=None, **settings) -> Case:
    inputs = {
        "x": x,
        "roi": EMPTY if roi is None else roi,
        "scales": EMPTY if scales is None else scaled(*scales),
        "sizes": None if sizes is None else np.array(sizes, np.int64),
    }
    settings.setdefault("opset", 19)
    # Each axis rounds once, and cubic weights cancel.
    settings.setdefault("tolerance", (1e-5, 1e-5))
    constants = tuple(key for key in ("roi", "scales", "sizes") if inputs[key] is not None)
    return case(name, "Resize", inputs, attributes=attributes, constants=constants, **settings)


def chosen(positions):
    """The meaning of a nearest resize to the listed positions of the last two axes."""
    rows, columns = positions
    return lambda x, *others: x[:, :, rows][:, :, :, columns]


def sampled(matrices):
    """The meaning of a resize of the last two axes by matrices ``(output, input)``."""
    rows, columns = (np.array(matrix, np.float64) for matrix in matrices)
    return lambda x, *others: rows @ x @ columns.T


def transformation_cases() -> list[Case]:
    found = []
    x = uniform(FLOAT32, 1, 2, 6, 5)
    for transformation in TRANSFORMATIONS:
        roi = REGION if transformation == "tf_crop_and_resize" else None
        common = {"coordinate_transformation_mode": transformation, "extrapolation_value": 7.5}
        for sizes in ((1, 2, 9, 13), (1, 2, 4, 3), (1, 2, 6, 10)):
            for mode in NEAREST:
                attributes = {**common, "mode": "nearest", "nearest_mode": mode}
                label = f"{transformation} {mode} {sizes[2:]}"
                found.append(resize(label, x, attributes, sizes=sizes, roi=roi))
            for mode in ("linear", "cubic"):
                label = f"{transformation} {mode} {sizes[2:]}"
                found.append(resize(label, x, {**common, "mode": mode}, sizes=sizes, roi=roi))
        if transformation != "tf_crop_and_resize":
            for mode in ("nearest", "linear", "cubic"):
                label = f"{transformation} {mode} scales"
                attributes = {**common, "mode": mode}
                found.append(resize(label, x, attributes, scales=(1, 1, 0.6, 2.7)))
    return found


def filter_cases() -> list[Case]:
    found = []
    x = uniform(FLOAT32, 1, 2, 7, 9)
    for mode in ("linear", "cubic"):
        for outside in (0, 1):
            for antialias in (0, 1):
                attributes = {"mode": mode, "antialias": antialias, "exclude_outside": outside}
                label = f"{mode} antialias {antialias} outside {outside}"
                found.append(resize(label, x, attributes, sizes=(1, 2, 3, 4)))
                found.append(resize(f"{label} up", x, attributes, scales=(1, 1, 2.3, 1.4)))
                found.append(resize(f"{label} mixed", x, attributes, scales=(1, 1, 0.3, 2)))
    attributes = {"mode": "cubic", "cubic_coeff_a": -0.5}
    found.append(resize("cubic coefficient", x, attributes, sizes=(1, 2, 10, 12)))
    return found


def shape_cases() -> list[Case]:
    found = []
    x = uniform(FLOAT32, 2, 3, 4, 6)
    for policy in ("stretch", "not_larger", "not_smaller"):
        for mode in ("nearest", "linear"):
            attributes = {"mode": mode, "keep_aspect_ratio_policy": policy, "axes": [2, 3]}
            found.append(resize(f"{policy} {mode}", x, attributes, sizes=(7, 8)))
    # ONNX's reference evaluator does not know negative axes.
    found.append(
        resize(
            "negative axes",
            x,
            {"mode": "nearest", "axes": [-1, 2]},
            sizes=(3, 8),
            reference=chosen(([0, 0, 1, 1, 2, 2, 3, 3], [0, 2, 4])),
        )
    )
    attributes = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "axes": [3, 2]}
    region = np.array([0.1, 0, 0.8, 1], np.float32)
    found.append(resize("roi of axes", x, attributes, sizes=(7, 5), roi=region))
    found.append(resize("all axes", uniform(FLOAT32, 2, 3, 4), {"mode": "linear"}, sizes=(3, 5, 2)))
    found.append(resize("one axis", uniform(FLOAT32, 5), {"mode": "cubic"}, sizes=(12,)))
    found.append(resize("same", x, {"mode": "linear"}, sizes=(2, 3, 4, 6)))
    found.append(resize("from one", uniform(FLOAT32, 1, 3, 1, 1), {"mode": "linear"}, sizes=(1, 3, 5, 4)))
    found.append(resize("twice", x, {"mode": "nearest"}, scales=(1, 1, 2, 2)))
    attributes = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    found.append(resize("half", x, attributes, scales=(1, 1, 0.5, 0.5)))
    found.append(resize("thrice and half", x, attributes, scales=(1, 1, 3, 0.5)))
    empty = lambda x, *others: np.zeros((0, 3, 8, 12))  # noqa: E731
    for mode in ("nearest", "linear"):
        found.append(
            resize(
                f"empty {mode}",
                uniform(FLOAT32, 0, 3, 4, 6),
                {"mode": mode},
                scales=(1, 1, 2, 2),
                reference=empty,
            )
        )
    attributes = {"mode": "cubic", "coordinate_transformation_mode": "pytorch_half_pixel"}
    first = sampled(([[1, 0, 0, 0]], np.eye(6)))
    found.append(resize("pytorch to one", x, attributes, sizes=(2, 3, 1, 6), reference=first))
    return found


def type_cases() -> list[Case]:
    found = []
    for dtype in (*INTEGERS, BOOL, FLOAT64, FLOAT16, BFLOAT16):
        x = distinct(dtype, 1, 2, 4, 6) if dtype != BOOL else uniform(dtype, 1, 2, 4, 6)
        attributes = {"mode": "nearest", "nearest_mode": "round_prefer_ceil"}
        found.append(
            resize(
                f"nearest {dtype}",
                x,
                {**attributes, "coordinate_transformation_mode": "align_corners"},
                sizes=(1, 2, 6, 3),
                reference=chosen(([0, 1, 1, 2, 2, 3], [0, 3, 5])),
            )
        )
    # From 5 to 7 and 3 all weights are odd fractions: no result is halfway between two integers.
    for dtype in (np.dtype(np.int8), np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.int64)):
        x = uniform(dtype, 1, 1, 5, 5, low=-100, high=100)
        found.append(resize(f"linear {dtype}", x, {"mode": "linear"}, sizes=(1, 1, 7, 3)))
        # Overshoots the range of 8 bits.
        x = uniform(dtype, 1, 1, 5, 5, low=-128, high=127)
        found.append(resize(f"cubic {dtype}", x, {"mode": "cubic"}, sizes=(1, 1, 7, 3)))
    for dtype, tolerance in ((FLOAT64, (1e-6, 1e-6)), (FLOAT16, (1e-3, 1e-3)), (BFLOAT16, (8e-3, 8e-3))):
        x = uniform(dtype, 1, 2, 4, 5)
        matrices = ([[0.75, 0.25, 0, 0], [0, 0, 0.25, 0.75]], np.eye(5))
        attributes = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}
        region = np.array([0, 0, 1 / 12, 0, 1, 1, 11 / 12, 1], np.float64).astype(np.float32)
        found.append(
            resize(
                f"linear {dtype}",
                x,
                attributes,
                sizes=(1, 2, 2, 5),
                roi=region,
                reference=sampled(matrices),
                tolerance=tolerance,
            )
        )
    return found


def older_cases() -> list[Case]:
    found = []
    x = uniform(FLOAT32, 1, 2, 2, 3)
    twice = chosen(([0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 2, 2, 2]))
    half = np.array([[1, 0], [0.5, 0.5], [0, 1], [0, 1]])
    third = np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1], [0, 0, 1]])
    linear = sampled((half, third))
    found.append(
        case(
            "nearest",
            "Upsample",
            {"x": x},
            attributes={"height_scale": 2.0, "width_scale": 3.0},
            opset=1,
            reference=twice,
        )
    )
    attributes = {"height_scale": 2.0, "width_scale": 2.0, "mode": "bilinear"}
    found.append(case("linear", "Upsample", {"x": x}, attributes=attributes, opset=1, reference=linear))
    attributes = {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}
    found.append(case("linear", "Upsample", {"x": x}, attributes=attributes, opset=7, reference=linear))
    inputs = {"x": x, "scales": scaled(1, 1, 2, 3)}
    found.append(case("nearest", "Upsample", inputs, opset=9, constants=("scales",), reference=twice))
    found.append(case("run-time scales", "Upsample", inputs, opset=9, reference=twice))
    found.append(case("nearest", "Resize", inputs, opset=10, constants=("scales",), reference=twice))
    inputs = {"x": x, "scales": scaled(1, 1, 2, 2)}
    attributes = {"mode": "linear"}
    found.append(
        case(
            "linear",
            "Resize",
            inputs,
            opset=10,
            attributes=attributes,
            constants=("scales",),
            reference=linear,
        )
    )
    # Downwards, versions before 11 round up: positions 0 and 1 / 0.6 = 1.67.
    inputs = {"x": uniform(FLOAT32, 1, 1, 2, 4), "scales": scaled(1, 1, 0.6, 0.6)}
    found.append(
        case(
            "nearest down", "Resize", inputs, opset=10, constants=("scales",), reference=chosen(([0], [0, 2]))
        )
    )
    attributes = {
        "mode": "nearest",
        "coordinate_transformation_mode": "tf_half_pixel_for_nn",
        "nearest_mode": "floor",
    }
    found.append(
        resize(
            "tf_half_pixel_for_nn",
            uniform(FLOAT32, 1, 1, 4, 6),
            attributes,
            sizes=(1, 1, 3, 2),
            opset=11,
            reference=chosen(([0, 2, 3], [1, 4])),
        )
    )
    return found


def run_time_case() -> Case:
    """Sizes that only the run knows."""
    inputs = {
        "x": uniform(FLOAT32, 1, 1, 3, 4),
        "roi": EMPTY,
        "scales": EMPTY,
        "sizes": np.array([1, 1, 6, 2], np.int64),
    }
    return case("run-time sizes", "Resize", inputs, attributes={"mode": "linear"}, opset=19)


CASES = [
    *transformation_cases(),
    *filter_cases(),
    *shape_cases(),
    *type_cases(),
    *older_cases(),
    run_time_case(),
]
