"""Operators of ai.onnx.ml that prepare features: scaling, missing values, concatenation."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression, scalar_map, wide
from onnxplan.compiler.ops.ml_common import DOMAIN, feature_rows, vector
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, reduce, select
from onnxplan.compiler.view import View


@operator("Normalizer", domain=DOMAIN)
def normalizer(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_Normalizer.html

    As in onnxruntime, MAX divides by the largest element, not by the largest magnitude; L1 by the sum of
    magnitudes; L2 keeps signs. Rows whose divisor is zero stay.
    """
    kind = node.string("norm", "MAX")
    if kind not in ("MAX", "L1", "L2"):
        raise ValueError(f"the norm {kind!r} is none of MAX, L1, L2")
    rows = feature_rows(b, x)
    if rows.size == 0:
        return b.constant(np.empty(x.shape, np.float32))
    result = b.compute(expression(_normal, (rows.dtype,), kind), [rows], (1,))[0]
    return b.reshape(result, x.shape)


def _normal(*operands: Any) -> Scalar:
    x, kind = operands
    if kind == "MAX":
        norm = reduce("max", x)
    elif kind == "L1":
        norm = reduce("sum", apply("abs", x))
    else:
        norm = apply("sqrt", reduce("sum", x * x))
    divisor = select(apply("equal", norm, 0.0), 1.0, norm)
    return cast(x / divisor, DType.FLOAT32)


@operator("Scaler", domain=DOMAIN)
def scaler(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_Scaler.html

    One offset and one scale for all features or for each; float32, computed in float64 for float64.
    """
    if x.rank == 0:
        raise ValueError("a scalar has no features")
    dtype = wide(x.dtype) if x.dtype.is_float else DType.FLOAT32
    offset = _for_features(b, node, "offset", x.shape[-1], dtype)
    scale = _for_features(b, node, "scale", x.shape[-1], dtype)
    return scalar_map(b, _scaled, b.cast(x, dtype), offset, scale)


def _scaled(x: Scalar, offset: Scalar, scale: Scalar) -> Scalar:
    return cast((x - offset) * scale, DType.FLOAT32)


def _for_features(b: Builder, node: Node, name: str, count: int, dtype: DType) -> View:
    values = node.floats(name, ())
    if len(values) not in (1, count):
        raise ValueError(f"{name} has {len(values)} elements for {count} features")
    return b.constant(vector(values, dtype))


@operator("Imputer", domain=DOMAIN)
def imputer(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_Imputer.html"""
    if x.rank == 0:
        raise ValueError("a scalar has no features")
    if x.dtype.is_float:
        kind, replaced = "float", node.float("replaced_value_float", 0.0)
        values = vector(node.floats("imputed_value_floats", ()), x.dtype)
    elif x.dtype.is_integer:
        kind, replaced = "int64", node.integer("replaced_value_int64", 0)
        values = np.array(node.integers("imputed_value_int64s", ()), np.int64)
        limits = np.iinfo(x.dtype.numpy)
        if values.size and not limits.min <= values.min() <= values.max() <= limits.max:
            raise ValueError(f"an imputed value does not fit {x.dtype}")
        if not limits.min <= replaced <= limits.max:
            return x
    else:
        raise TypeError(f"features are numbers, not {x.dtype}")
    if len(values) not in (1, x.shape[-1]):
        raise ValueError(f"imputed_value_{kind}s has {len(values)} elements for {x.shape[-1]} features")
    # NaN is written as None: a cached expression is found by comparing its parameters.
    parameter = None if replaced != replaced else replaced
    return scalar_map(b, _imputed, x, b.constant(values, x.dtype), parameters=(parameter,))


def _imputed(*operands: Any) -> Scalar:
    x, value, replaced = operands
    missing = apply("isnan", x) if replaced is None else apply("equal", x, replaced)
    return select(missing, value, x)


@operator("FeatureVectorizer", domain=DOMAIN)
def feature_vectorizer(b: Builder, node: Node, *inputs: View) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_FeatureVectorizer.html

    Each input, ``(N, ...)`` or a row of its own, flattened to rows, is cut to its ``inputdimensions`` or
    filled up by zeros, as onnxruntime does.
    """
    widths = node.integers("inputdimensions", ())
    if len(widths) != len(inputs) or min(widths, default=-1) < 0:
        raise ValueError(f"inputdimensions {list(widths)} for {len(inputs)} inputs")
    parts: list[View] = []
    for x, width in zip(inputs, widths, strict=True):
        if x.dtype.kind not in "fiu":
            raise TypeError(f"features are numbers, not {x.dtype}")
        count = x.shape[0] if x.rank > 1 else 1
        if parts and count != parts[0].shape[0]:
            raise ValueError(f"inputs of {parts[0].shape[0]} and of {count} rows")
        rows = b.cast(b.reshape(x, (count, x.size // count if count else width)), DType.FLOAT32)
        parts.append(rows.slice(1, 0, min(width, rows.shape[1])))
        if width > rows.shape[1]:
            parts.append(b.constant(np.zeros((count, width - rows.shape[1]), np.float32)))
    return b.concat(parts, 1)
