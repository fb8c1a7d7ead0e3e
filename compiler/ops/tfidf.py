"""Counts of n-grams.

Tokens become numbers first: integers by a binary search that a run does, strings when it is planned.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.ir import Node
from onnxplan.compiler.ops.common import scalar_map
from onnxplan.compiler.ops.ml_common import class_labels, pick
from onnxplan.compiler.ops.ml_encoders import key_positions
from onnxplan.compiler.primitives import Scatter
from onnxplan.compiler.registry import operator
from onnxplan.compiler.trace import Scalar, apply, index
from onnxplan.compiler.view import View

Array = npt.NDArray[Any]


@operator("TfIdfVectorizer", since=9)
def tfidf_vectorizer(b: Builder, node: Node, x: View) -> View:
    """https://onnx.ai/onnx/operators/onnx__TfIdfVectorizer.html

    ``weights`` belong to n-grams, as the standard and onnxruntime have it (the reference takes them for
    those of coordinates); n-grams of one coordinate add up.
    """
    mode = node.string("mode")
    if mode not in ("TF", "IDF", "TFIDF"):
        raise ValueError(f"mode {mode!r} is not one of TF, IDF and TFIDF")
    if x.rank not in (1, 2):
        raise ValueError(f"an input of shape [C] or [N, C] is expected, not {list(x.shape)}")
    pool = class_labels(node, "pool_int64s", "pool_strings")
    tokens, numbers = np.unique(pool, return_inverse=True)
    found = _token_numbers(b, x if x.rank == 2 else x.unsqueeze((0,)), tokens)
    coordinates = np.array(node.integers("ngram_indexes"), np.int64)
    grams = _grams(node, numbers)
    total = sum(map(len, grams.values()))
    if len(coordinates) < total or coordinates.min(initial=0) < 0:
        raise ValueError(f"ngram_indexes are not a coordinate for each of {total} n-grams")
    size = int(coordinates.max(initial=-1)) + 1
    counts = _counts(b, node, found, grams, len(tokens))
    weights = np.array(node.floats("weights", (1.0,) * len(coordinates)), np.float32)
    if len(weights) != len(coordinates):
        raise ValueError(f"{len(weights)} weights for {len(coordinates)} coordinates")
    if mode != "TF":
        body = _presence if mode == "IDF" else _weighted
        counts = scalar_map(b, body, counts, b.constant(weights[:total]))
    result = _placed(b, counts, coordinates[:total], size)
    return result if x.rank == 2 else result.squeeze((0,))


def _token_numbers(b: Builder, x: View, tokens: Array) -> View:
    """The position (int64) among ``tokens`` of each element, their count where it is none."""
    if (x.dtype is DType.STRING) != (tokens.dtype == object):
        raise TypeError(f"the n-grams are not of {x.dtype}, as the input is")
    if x.dtype is DType.STRING:
        places = {token: place for place, token in enumerate(tokens.tolist())}
        found = [places.get(item, len(places)) for item in b.value(x).reshape(-1).tolist()]
        return b.constant(np.array(found, np.int64).reshape(x.shape))
    if x.dtype not in (DType.INT32, DType.INT64):
        raise TypeError(f"int32, int64 or strings are expected, not {x.dtype}")
    return key_positions(b, b.cast(x, DType.INT64), tokens)


def _grams(node: Node, numbers: Array) -> dict[int, Array]:
    """The n-grams of the pool by their length, ``(count, length)`` numbers of tokens."""
    starts = node.integers("ngram_counts")
    bounds = (*starts, len(numbers))
    if not starts or starts[0] != 0 or list(bounds) != sorted(bounds):
        raise ValueError(f"ngram_counts {list(starts)} are no rising starts within {len(numbers)} tokens")
    grams = {}
    for length, (start, end) in enumerate(itertools.pairwise(bounds), 1):
        if (end - start) % length:
            raise ValueError(f"{end - start} tokens are no {length}-grams")
        grams[length] = numbers[start:end].reshape(-1, length)
        if len(np.unique(grams[length], axis=0)) < len(grams[length]):
            raise ValueError(f"the pool holds one of its {length}-grams twice")
    return grams


def _counts(b: Builder, node: Node, found: View, grams: dict[int, Array], absent: int) -> View:
    """How often each n-gram is in each row of ``found (N, C)``: ``(N, n-grams)`` float32."""
    least, most = node.integer("min_gram_length"), node.integer("max_gram_length")
    skips = node.integer("max_skip_count")
    if not 1 <= least <= most <= len(grams) or skips < 0:
        raise ValueError(
            f"{least}-grams to {most}-grams of a pool of {len(grams)} lengths, skipping up to {skips} tokens"
        )
    rows, columns = found.shape
    total = sum(map(len, grams.values()))
    hits = []
    first = 0
    for length, pool in grams.items():
        # Unigrams skip nothing.
        distances = [
            distance
            for distance in range(1, 2 if length == 1 else skips + 2)
            if distance * (length - 1) < columns
        ]
        if least <= length <= most and len(pool) and distances:
            windows = [
                b.concat(
                    [found.slice(1, place * step, columns - step * (length - 1)) for step in distances], 1
                )
                for place in range(length)
            ]
            numbers = np.append(np.arange(first, first + len(pool)), total)
            hits.append(_matches(b, windows, pool, numbers, absent))
        first += len(pool)
    if not hits or rows == 0:
        return b.constant(np.zeros((rows, total), np.float32))
    # One place more in each row takes the windows that are no n-gram.
    places = scalar_map(b, _place, b.concat(hits, 1), parameters=(total + 1,))
    zeros = b.constant(0.0, DType.FLOAT32).expand((rows * (total + 1), 1))
    ones = b.constant(1.0, DType.FLOAT32).expand((places.size, 1))
    inputs = [zeros, b.reshape(places, (places.size,)), ones]
    counted = b.emit(Scatter("add"), inputs, [b.new(DType.FLOAT32, zeros.shape)])[0]
    return b.reshape(counted, (rows, total + 1)).slice(1, 0, total)


def _matches(b: Builder, windows: list[View], pool: Array, numbers: Array, absent: int) -> View:
    """Of ``numbers`` that of the n-gram in ``pool`` whose tokens the windows hold, the last one for none."""
    state, known, count = windows[0], pool[:, 0], absent
    for place, window in enumerate(windows[1:], 1):
        # A prefix and the token behind it are one number; what holds something absent is never found.
        keys, known = np.unique(known * (absent + 1) + pool[:, place], return_inverse=True)
        state = key_positions(b, scalar_map(b, _joined, state, window, parameters=(absent + 1,)), keys)
        count = len(keys)
    table = np.full(count + 1, numbers[-1])
    table[known] = numbers[:-1]
    return pick(b, b.constant(table), state)


def _joined(*operands: Any) -> Scalar:
    prefix, token, base = operands
    result: Scalar = prefix * base + token
    return result


def _place(*operands: Any) -> Scalar:
    number, width = operands
    result: Scalar = number + index(number, 0) * width
    return result


def _presence(*operands: Any) -> Scalar:
    count, weight = operands
    result: Scalar = apply("min", count, 1.0) * weight
    return result


def _weighted(*operands: Any) -> Scalar:
    count, weight = operands
    result: Scalar = count * weight
    return result


def _placed(b: Builder, counts: View, coordinates: Array, size: int) -> View:
    """``counts (N, n-grams)`` added up at their coordinates, ``(N, size)``."""
    if np.array_equal(coordinates, np.arange(size)):
        return counts
    rows = counts.shape[0]
    zeros = b.constant(0.0, DType.FLOAT32).expand((size, rows))
    inputs = [zeros, b.constant(coordinates), counts.transpose((1, 0))]
    return b.emit(Scatter("add"), inputs, [b.new(DType.FLOAT32, (size, rows))])[0].transpose((1, 0))
