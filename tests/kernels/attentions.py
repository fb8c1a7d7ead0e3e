"""Random attentions: operands, scores with what is read beside them, and rows that softmax finds hard."""

import numpy as np
from harness import dense
from products import broadcast, fill, place

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.trace import apply, select, trace

F32, F64, I64 = DType.FLOAT32, DType.FLOAT64, DType.INT64
KINDS = ("plain", "masked", "guarded", "smooth")
LOWEST = float(np.finfo(np.float32).min)


def score(make, *dtypes, accumulator=F32):
    """The expression of scores of type ``accumulator``, and of extras of ``dtypes``, no narrower floats."""
    wide = accumulator is F64
    return trace(make, (accumulator, *(F64 if wide and dtype.is_float else dtype for dtype in dtypes)))


def added(accumulator=F32):
    return score(lambda s, mask: s * 0.25 + mask, F32, accumulator=accumulator)


def chosen(accumulator=F32):
    return score(lambda s, mask: select(mask, s, float("-inf")), DType.BOOL, accumulator=accumulator)


def causal(accumulator=F32):
    def make(s, row, key, bias):
        return select(key <= row, apply("tanh", s / 8.0) * 8.0 + bias, float("-inf"))

    return score(make, I64, I64, F32, accumulator=accumulator)


SCORES = (None, added, chosen, causal)


def extras_of(rng, make, space):
    """What the scores that ``make`` makes, one of :data:`SCORES`, read for each query and key."""
    if make is added:
        return (broadcast(rng, space, F32),)
    if make is chosen:
        return (broadcast(rng, space, DType.BOOL),)
    if make is causal:
        rows, keys = dense(I64, (space[-2], 1)), dense(I64, (space[-1],))
        return (rows.expand(space), keys.expand(space), broadcast(rng, space, F32))
    return ()


def values_of(rng, views):
    """Elements: most masks hold, integers count up."""
    values = {}
    for view in views:
        size = view.storage.size
        if view.dtype is DType.BOOL:
            values[view.storage] = rng.random(size) < 0.7
        elif view.dtype is I64:
            values[view.storage] = np.arange(size)
        else:
            values |= fill(rng, [view])
    return values


def operands(rng, batch, rows, keys, depth, width, dtype=F32, layout="any"):
    q = place(rng, (*batch, rows, depth), dtype, layout)
    k = place(rng, (*batch, depth, keys), dtype, layout)
    v = place(rng, (*batch, keys, width), dtype, layout)
    return q, k, v


def hard_scores(rows, keys):
    """Rows: all masked, masked but for one block, NaN, infinite, uniformly low, growing; then zeros."""
    scores = np.zeros((rows, keys), np.float32)
    scores[0] = -np.inf
    scores[1, :550] = -np.inf
    scores[2, 30:] = -np.inf
    scores[3, 599] = np.nan
    scores[4, 0] = np.nan
    scores[5, 300] = np.inf
    scores[6] = LOWEST
    scores[7, 100:] = LOWEST
    scores[9] = np.linspace(-500, 500, keys)
    scores[10] = np.linspace(500, -500, keys)
    scores[11] = np.linspace(-3, 19, keys)
    return scores
