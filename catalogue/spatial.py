"""Specimens of operators over space, of boxes, and of quantised ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from catalogue.specimen import Array, Draw, Specimen, Types, code, of
from onnxplan.compiler.dtypes import DType

_IMAGE = (1, 2, 4, 4)
_INT8, _UINT8 = DType.INT8, DType.UINT8
_BYTES = {"T1": _UINT8, "T2": _UINT8, "T3": _UINT8, "T4": DType.INT32}


def _cropped(x: Array) -> Array:
    """Nearest neighbours of an image enlarged twice in both directions."""
    return np.asarray(x.repeat(2, 2).repeat(2, 3))


def _mode(parameter: str, floating: str) -> Callable[[Types], str]:
    """Interpolation of floats; of integers the standard does not say how it rounds."""
    return lambda types: floating if types[parameter].is_float else "nearest"


def _quantized_product(
    a: Array,
    a_scale: Array,
    a_zero: Array,
    w: Array,
    w_scale: Array,
    w_zero: Array,
    scale: Array,
    zero: Array,
) -> Array:
    left, right = (
        (x.astype(float) - zero) * scale for x, scale, zero in ((a, a_scale, a_zero), (w, w_scale, w_zero))
    )
    quotient = left @ right / scale
    return np.asarray((np.rint(quotient) if zero.dtype.kind in "iu" else quotient) + zero)


def _saturating(types: Types) -> bool:
    # A scale of type int32 or float8e8m0 makes sense for some inputs only.
    return types["T1"] is DType.INT32 or types["T2"] is not DType.INT32


_LINEAR = {"T1": DType.FLOAT32, "T2": _UINT8}

SPECIMENS: dict[str, list[Specimen]] = {
    "Conv": [of(_IMAGE, (3, 2, 3, 3), (3,), pads=[1, 1, 1, 1])],
    "ConvTranspose": [of(_IMAGE, (2, 3, 3, 3), (3,), strides=[2, 2])],
    "DeformConv": [of((1, 1, 3, 3), (1, 1, 2, 2), Draw((1, 8, 2, 2), -1, 1))],
    "AveragePool": [of(_IMAGE, kernel_shape=[2, 2])],
    "MaxPool": [of(_IMAGE, kernel_shape=[2, 2]), of(_IMAGE, kernel_shape=[2, 2], since=8, outputs=2)],
    "LpPool": [
        of(_IMAGE, kernel_shape=[2, 2], p=2.0),
        of(_IMAGE, kernel_shape=[2, 2], since=2),
    ],
    "GlobalAveragePool": [of(_IMAGE)],
    "GlobalMaxPool": [of(_IMAGE)],
    "GlobalLpPool": [of(_IMAGE, p=2.0), of(_IMAGE, since=2)],
    "MaxRoiPool": [of(_IMAGE, [[0, 0, 0, 3, 3]], pooled_shape=[2, 2])],
    "MaxUnpool": [of((1, 1, 2, 2), [[[[0, 3], [8, 15]]]], kernel_shape=[2, 2], strides=[2, 2])],
    "RoiAlign": [
        of(_IMAGE, [[0, 0, 2, 2]], [0], output_height=2, output_width=2, sampling_ratio=2),
        of(_IMAGE, [[0, 0, 2, 2]], [0], since=16, output_height=2, output_width=2, sampling_ratio=2),
    ],
    "GridSample": [
        of(_IMAGE, Draw((1, 2, 2, 2), -2, 2), mode=_mode("T1", "bilinear")),
        of(_IMAGE, Draw((1, 2, 2, 2), -2, 2), since=20, mode=_mode("T1", "linear")),
    ],
    "AffineGrid": [of(Draw((1, 2, 3), -2, 2), [1, 1, 2, 3])],
    "Col2Im": [of((1, 4, 4), [3, 3], [2, 2])],
    "Upsample": [
        of(_IMAGE, height_scale=2.0, width_scale=2.0, reference=_cropped),
        of(_IMAGE, since=7, scales=[1.0, 1.0, 2.0, 2.0]),
        of(_IMAGE, [1, 1, 2, 2], since=9),
    ],
    "Resize": [
        of(_IMAGE, [1, 1, 2, 2]),
        of(_IMAGE, [], [1, 1, 2, 2], since=11, mode="nearest"),
        of(_IMAGE, None, None, [1, 2, 6, 3], since=13, mode=_mode("T1", "linear")),
    ],
    "NonMaxSuppression": [
        of([[[0, 0, 1, 1], [0, 0, 1, 0.9], [2, 2, 3, 3]]], [[[0.5, 0.9, 0.25]]], [3], [0.5], [0.0])
    ],
    "ImageDecoder": [],
    # Quantised operators
    "ConvInteger": [of((1, 2, 4, 4), (3, 2, 2, 2), 1, 2, defaults=_BYTES)],
    "MatMulInteger": [of((2, 3), (3, 2), 1, 2, defaults=_BYTES)],
    "QLinearConv": [
        of(_IMAGE, 0.5, 1, (3, 2, 2, 2), 0.5, 1, 0.5, 2, [1, 2, 3], defaults=_BYTES),
    ],
    "QLinearMatMul": [
        of(
            (2, 3),
            0.5,
            1,
            (3, 2),
            0.5,
            1,
            0.5,
            2,
            defaults=_BYTES,
            linked={"T2": "T1", "T3": "T1"},
            reference=_quantized_product,
        )
    ],
    "DynamicQuantizeLinear": [of((2, 3), outputs=3)],
    "QuantizeLinear": [
        of((2, 3), 0.5, 1, defaults=_LINEAR),
        of((2, 3), 0.5, 0, since=19, defaults=_LINEAR),
        of((2, 3), 1, 0, since=23, defaults={"T2": DType.FLOAT32, "T3": _UINT8}, allows=_saturating),
    ],
    "DequantizeLinear": [
        of((2, 3), 0.5, 1, defaults={"T": _UINT8}),
        of((2, 3), 0.5, 0, since=19, defaults={"T1": _UINT8}),
        of(
            (2, 3),
            1,
            0,
            since=23,
            defaults={"T1": _UINT8, "T2": DType.FLOAT32, "T3": DType.FLOAT32},
            output_dtype=code("T3"),
        ),
    ],
}
