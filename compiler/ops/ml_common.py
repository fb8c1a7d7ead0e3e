"""What the operators of ai.onnx.ml share: matrices of features, labels of classes, transforms of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import expression, scalar_map, wide
from onnxplan.compiler.primitives import ArgReduce, Gather
from onnxplan.compiler.trace import Scalar, apply, cast, reduce, select
from onnxplan.compiler.view import View

DOMAIN = "ai.onnx.ml"

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
"""Post transforms, in the order of the numbers that TreeEnsemble gives them."""

NEARLY_ZERO = 1e-7
"""SOFTMAX_ZERO takes scores of at most this magnitude for zeros."""


def feature_rows(b: Builder, x: View) -> View:
    """``x (N, C)`` of numbers, or a row of its own ``(C,)``, as floats of at least 32 bits ``(N, C)``."""
    if x.dtype.kind not in "fiu":
        raise TypeError(f"features are numbers, not {x.dtype}")
    if x.rank not in (1, 2):
        raise ValueError(f"features of shape {list(x.shape)}, where (N, C) is expected")
    dtype = wide(x.dtype) if x.dtype.is_float else DType.FLOAT32
    return b.cast(x if x.rank == 2 else x.unsqueeze((0,)), dtype)


def pick(b: Builder, table: View, positions: View) -> View:
    """The elements of a vector at ``positions`` (int64, any shape)."""
    return b.emit(Gather(0), [table, positions], [b.new(table.dtype, positions.shape)])[0]


def class_labels(node: Node, integers: str, strings: str) -> npt.NDArray[Any]:
    """The labels that one of two attributes gives: int64 or strings; of no elements if neither is there."""
    if node.attributes.get(strings):
        if node.attributes.get(integers):
            raise ValueError(f"labels are given by both {integers} and {strings}")
        return np.array(node.strings(strings), object)
    return np.array(node.integers(integers, ()), np.int64)


def labels_at(b: Builder, labels: npt.NDArray[Any], positions: View) -> View:
    """The labels at ``positions``. A run that yields strings ends a stage: no kernel writes strings."""
    if labels.dtype == object:
        return b.constant(labels[b.value(positions)], DType.STRING)
    return pick(b, b.constant(labels), positions)


def largest(b: Builder, scores: View) -> View:
    """The position (int64) of the first largest score of each row of ``scores (N, K)``: ``(N,)``."""
    result = b.new(DType.INT64, (scores.shape[0], 1))
    return b.emit(ArgReduce("max", 1), [scores], [result])[0].squeeze((1,))


def above(b: Builder, scores: View, threshold: float) -> View:
    """1 where ``scores`` are above ``threshold``, 0 elsewhere, int64."""
    return scalar_map(b, _above, scores, parameters=(threshold,))


def _above(*operands: Any) -> Scalar:
    score, threshold = operands
    return cast(score > threshold, DType.INT64)


def transform(b: Builder, kind: str, scores: View) -> View:
    """A post transform of ``scores (N, K)``, in their type.

    SOFTMAX_ZERO is the softmax of the scores that are not zero; zeros stay. As in onnxruntime, a row of zeros
    only gives NaN, and PROBIT is the approximation by S. Winitzki ("A handy approximation for the error
    function and its inverse", 2008), here computed in float64.
    """
    if kind not in TRANSFORMS:
        raise ValueError(f"the post transform {kind!r} is none of {', '.join(TRANSFORMS)}")
    if kind == "NONE":
        return scores
    if kind == "LOGISTIC":
        return b.scalar("sigmoid", scores)
    if kind == "PROBIT":
        return scalar_map(b, _probit, scores)
    body = _softmax if kind == "SOFTMAX" else _softmax_zero
    return b.compute(expression(body, (scores.dtype,)), [scores], (1,))[0]


def _softmax(*operands: Any) -> Scalar:
    score: Scalar = operands[0]
    power = apply("exp", score - reduce("max", score))
    return power / reduce("sum", power)


def _softmax_zero(*operands: Any) -> Scalar:
    score: Scalar = operands[0]
    most = reduce("max", score)
    present = apply("abs", score) > NEARLY_ZERO
    power = apply("exp", score - most)
    total = reduce("sum", select(present, power, 0.0))
    return select(present, power, score * apply("exp", -most)) / total


def _probit(*operands: Any) -> Scalar:
    score: Scalar = operands[0]
    x = cast(score, DType.FLOAT64) * 2.0 - 1.0
    log = apply("log", (1.0 - x) * (1.0 + x))
    v = log * 0.5 + 2.0 / (np.pi * 0.147)
    root = apply("sqrt", apply("sqrt", v * v - log / 0.147) - v)
    return cast(select(x < 0.0, -root, root) * 2.0**0.5, score.dtype)


def pair(b: Builder, first: str, second: str, scores: View) -> View:
    """``scores (N, 1)`` as two columns, each a function named in ``PAIRS`` of the score."""
    return b.concat([scalar_map(b, _column, scores, parameters=(name,)) for name in (first, second)], 1)


def _column(*operands: Any) -> Scalar:
    score, name = operands
    result: Scalar = PAIRS[name](score)
    return result


PAIRS: dict[str, Any] = {
    "same": lambda score: score + 0.0,
    "opposite": lambda score: -score,
    "rest": lambda score: 1.0 - score,
}


def two_classes(b: Builder, kind: str, scores: View, *, complement: bool) -> View:
    """Scores ``(N, 2)`` of two classes from that of the second, ``(N, 1)``.

    As onnxruntime has it, that of the first is one less the second (``complement``) or its opposite;
    LOGISTIC transforms opposites, SOFTMAX and SOFTMAX_ZERO change nothing. PROBIT transforms complements
    (onnxruntime leaves one of the columns undefined).
    """
    if kind == "LOGISTIC":
        return transform(b, kind, pair(b, "opposite", "same", scores))
    if kind == "PROBIT":
        return transform(b, kind, pair(b, "rest", "same", scores))
    transform(b, kind, scores)
    return pair(b, "rest" if complement else "opposite", "same", scores)


def vector(values: Sequence[float], dtype: DType) -> npt.NDArray[Any]:
    """Floats of an attribute (float32 in the standard) as an array of ``dtype``."""
    return np.array(values, np.float32).astype(dtype.numpy)
