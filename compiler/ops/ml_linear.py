"""Linear models."""

from __future__ import annotations

import numpy as np

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.ml_common import (
    DOMAIN,
    above,
    class_labels,
    feature_rows,
    labels_at,
    largest,
    transform,
    two_classes,
    vector,
)
from onnxplan.compiler.registry import operator
from onnxplan.compiler.view import View


@operator("LinearRegressor", domain=DOMAIN)
def linear_regressor(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_LinearRegressor.html

    float32 ``(N, targets)``, computed in float64 for float64. The post transform is also applied to a
    single target.
    """
    rows = feature_rows(b, x)
    scores = _scores(b, node, rows, node.integer("targets", 1))
    return b.cast(transform(b, node.string("post_transform", "NONE"), scores), DType.FLOAT32)


@operator("LinearClassifier", domain=DOMAIN)
def linear_classifier(b: Builder, node: Node, x: View) -> tuple[View, View]:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_LinearClassifier.html

    As in onnxruntime, the label follows from the scores before the transform; one score of two classes is
    that of the second, which wins above 0, and the first one's is one less it.
    """
    labels = class_labels(node, "classlabels_ints", "classlabels_strings")
    rows = feature_rows(b, x)
    coefficients = len(node.floats("coefficients"))
    count = coefficients // rows.shape[1] if rows.shape[1] else len(labels)
    if len(labels) != (2 if count == 1 else count):
        raise ValueError(f"there are {len(labels)} labels for {count} scores")
    scores = _scores(b, node, rows, count)
    post = node.string("post_transform", "NONE")
    if count == 1:
        winners = b.reshape(above(b, scores, 0.0), (rows.shape[0],))
        result = two_classes(b, post, scores, complement=True)
    else:
        winners = largest(b, scores)
        result = transform(b, post, scores)
    final = b.cast(result, DType.FLOAT32)
    return labels_at(b, labels, winners), final


def _scores(b: Builder, node: Node, rows: View, count: int) -> View:
    """``rows (N, C)`` by the coefficients ``(count, C)``, and the intercepts."""
    features = rows.shape[1]
    coefficients = vector(node.floats("coefficients", ()), rows.dtype)
    if coefficients.size != count * features:
        raise ValueError(f"{coefficients.size} coefficients for {count} scores of {features} features")
    scores = b.matmul(rows, b.constant(np.ascontiguousarray(coefficients.reshape(count, features).T)))
    intercepts = node.floats("intercepts", ())
    if not intercepts:
        return scores
    if len(intercepts) != count:
        raise ValueError(f"there are {len(intercepts)} intercepts for {count} scores")
    return b.scalar("add", scores, b.constant(vector(intercepts, rows.dtype)))
