"""Support vector machines."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression, scalar_map
from onnxplan.compiler.ops.ml_common import (
    DOMAIN,
    class_labels,
    feature_rows,
    labels_at,
    largest,
    transform,
    two_classes,
    vector,
)
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, cast, reduce, select
from onnxplan.compiler.view import View

KERNELS = ("LINEAR", "POLY", "RBF", "SIGMOID")


@operator("SVMRegressor", domain=DOMAIN)
def svm_regressor(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_SVMRegressor.html

    float32 ``(N, 1)``, computed in float64 for float64. With ``one_class`` 1 above 0, otherwise -1. Without
    support vectors the coefficients weigh the features. The post transform is applied to the one score.
    """
    rows = feature_rows(b, x)
    coefficients = vector(node.floats("coefficients"), rows.dtype)
    count = node.integer("n_supports", 0)
    terms = _similarities(b, node, rows, count) if count else rows
    if coefficients.size != terms.shape[1]:
        raise ValueError(f"there are {coefficients.size} coefficients for {terms.shape[1]} terms")
    rho = vector(node.floats("rho"), rows.dtype)
    if rho.size != 1:
        raise ValueError(f"rho has {rho.size} elements, not one")
    product = b.matmul(terms, b.constant(coefficients.reshape(-1, 1)))
    scores = b.scalar("add", product, b.constant(rho))
    if node.integer("one_class", 0):
        return b.cast(scalar_map(b, _side, scores), DType.FLOAT32)
    return b.cast(transform(b, node.string("post_transform", "NONE"), scores), DType.FLOAT32)


def _side(*operands: Any) -> Scalar:
    score: Scalar = operands[0]
    return select(score > 0.0, cast(score > 0.0, score.dtype), -1.0)


@operator("SVMClassifier", domain=DOMAIN)
def svm_classifier(b: Builder, node: Node, x: View) -> tuple[View, View]:
    """https://onnx.ai/onnx/operators/onnx_aionnxml_SVMClassifier.html

    The class that wins most of the comparisons of two (the first of equal ones), with the scores of all
    comparisons; without support vectors the largest of one score a class. Of two classes the first wins
    where the one score is above 0; as in onnxruntime, the scores are then the opposite and the score, or
    LOGISTIC of these. Not supported: probabilities (``prob_a``), other transforms for two classes, and two
    classes without support vectors.
    """
    labels = class_labels(node, "classlabels_ints", "classlabels_strings")
    count = len(labels)
    sizes = node.integers("vectors_per_class", ())
    post = node.string("post_transform", "NONE")
    if count < 2 or (count == 2 and not sum(sizes)):
        raise TypeError(
            f"{count} classes are not supported {'' if sum(sizes) else 'without support vectors'}"
        )
    if count == 2 and post not in ("NONE", "LOGISTIC"):
        raise TypeError(f"the post transform {post!r} is not supported for two classes")
    if node.floats("prob_a", ()):
        raise TypeError("probabilities of classes (prob_a, prob_b) are not supported")
    rows = feature_rows(b, x)
    coefficients = vector(node.floats("coefficients"), rows.dtype)
    rho = vector(node.floats("rho"), rows.dtype)
    if sum(sizes):
        scores = _comparisons(b, node, rows, coefficients, rho, sizes, count)
        winners = _most_wins(b, scores, count)
    else:
        if coefficients.size != count * rows.shape[1] or rho.size < 1:
            raise ValueError(f"{coefficients.size} coefficients for {count} classes")
        weights = np.ascontiguousarray(coefficients.reshape(count, -1).T)
        scores = b.scalar("add", b.matmul(rows, b.constant(weights)), b.constant(rho[:1]))
        winners = largest(b, scores)
    result = two_classes(b, post, scores, complement=False) if count == 2 else transform(b, post, scores)
    final = b.cast(result, DType.FLOAT32)
    return labels_at(b, labels, winners), final


def _comparisons(
    b: Builder,
    node: Node,
    rows: View,
    coefficients: npt.NDArray[Any],
    rho: npt.NDArray[Any],
    sizes: tuple[int, ...],
    count: int,
) -> View:
    """The scores of each class against each later one: ``(N, pairs)``."""
    total = sum(sizes)
    pairs = list(itertools.combinations(range(count), 2))
    if len(sizes) != count or coefficients.size != (count - 1) * total or rho.size != len(pairs):
        raise ValueError(
            f"vectors_per_class {list(sizes)}, {coefficients.size} coefficients and {rho.size} elements of "
            f"rho do not fit {count} classes"
        )
    table = coefficients.reshape(count - 1, total)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    weights = np.zeros((total, len(pairs)), coefficients.dtype)
    for column, (one, other) in enumerate(pairs):
        own, others = slice(*starts[one : one + 2]), slice(*starts[other : other + 2])
        weights[own, column] = table[other - 1, own]
        weights[others, column] = table[one, others]
    product = b.matmul(_similarities(b, node, rows, total), b.constant(weights))
    return b.scalar("add", product, b.constant(rho))


def _most_wins(b: Builder, scores: View, count: int) -> View:
    """The class that wins most comparisons; a score of 0 is a win of the later class."""
    pairs = np.array(list(itertools.combinations(range(count), 2)))
    one, other = (np.eye(count, dtype=np.float32)[column] for column in pairs.T)
    wins = b.matmul(scalar_map(b, _wins, scores), b.constant(one - other))
    return largest(b, b.scalar("add", wins, b.constant(other.sum(axis=0))))


def _wins(*operands: Any) -> Scalar:
    return cast(operands[0] > 0.0, DType.FLOAT32)


def _similarities(b: Builder, node: Node, rows: View, count: int) -> View:
    """The kernel function of each row of ``rows (N, C)`` and each support vector: ``(N, count)``."""
    kind = node.string("kernel_type", "LINEAR")
    if kind not in KERNELS:
        raise ValueError(f"the kernel {kind!r} is none of {', '.join(KERNELS)}")
    vectors = vector(node.floats("support_vectors"), rows.dtype)
    if vectors.size != count * rows.shape[1]:
        raise ValueError(
            f"{count} support vectors of {rows.shape[1]} features have not {vectors.size} elements"
        )
    vectors = vectors.reshape(count, rows.shape[1])
    parameters = node.floats("kernel_params", ()) or (0.0, 0.0, 0.0)
    if len(parameters) != 3:
        raise ValueError(f"kernel_params has {len(parameters)} elements, not 3")
    if kind == "RBF":
        body = expression(_radial, (rows.dtype, rows.dtype), parameters[0])
        operands = [rows.unsqueeze((1,)), b.constant(vectors).unsqueeze((0,))]
        return b.compute(body, operands, (2,))[0].squeeze((2,))
    product = b.matmul(rows, b.constant(np.ascontiguousarray(vectors.T)))
    if kind == "LINEAR":
        return product
    return scalar_map(b, _curved, product, parameters=(kind, *parameters))


def _radial(*operands: Any) -> Scalar:
    x, support, gamma = operands
    difference = x - support
    return apply("exp", reduce("sum", difference * difference) * -gamma)


def _curved(*operands: Any) -> Scalar:
    product, kind, gamma, offset, degree = operands
    inner = product * gamma + offset
    return apply("pow", inner, degree) if kind == "POLY" else apply("tanh", inner)
