"""Reductions, sorting, and norms: as operators and as exporters decompose them."""

from __future__ import annotations

import numpy as np

from tests.fuzz.drawers import draws
from tests.fuzz.maker import GraphMaker, Item

KINDS = "Sum Mean Max Min Sum Mean Prod L1 L2 LogSumExp SumSquare LogSum".split()


def reduced(m: GraphMaker, kind: str, x: Item, axes: list[int] | None, **attributes: int) -> list[Item]:
    """A reduction, whose axes are an attribute or an input, as the opset has it."""
    operands: list[Item | None] = [x]
    given: dict[str, object] = dict(attributes)
    if axes is not None:
        if m.opset >= (13 if kind == "Sum" else 18):
            operands.append(m.indices(*axes))
        else:
            given["axes"] = axes
    return m.add(f"Reduce{kind}", operands, terms=8.0 + x.size, **given)


@draws(10)
def reduction(m: GraphMaker) -> None:
    kind = m.choose(KINDS)
    x = m.floats() if kind not in ("Sum", "Max", "Min", "Prod") or m.integer(0, 3) else m.numbers()
    axes: list[int] | None = [axis for axis in range(x.rank) if m.flag()]
    axes = [axis - x.rank if m.flag() else axis for axis in axes or []] or None
    attributes = {"keepdims": m.integer(0, 1)}
    if axes is None and m.flag() and m.opset >= (13 if kind == "Sum" else 18):
        attributes["noop_with_empty_axes"] = m.integer(0, 1)
    reduced(m, kind, x, axes, **attributes)


@draws(2)
def extreme_place(m: GraphMaker) -> None:
    x = m.pick(lambda item: item.rank >= 1 and not item.error and item.dtype != "bool" and item.is_finite)
    if x is not None and x.size:
        m.add(
            m.choose(["ArgMax", "ArgMin"]),
            [x],
            axis=m.axis(x),
            keepdims=m.integer(0, 1),
            select_last_index=m.integer(0, 1),
        )


@draws(2)
def top(m: GraphMaker) -> None:
    x = m.pick(
        lambda item: item.rank >= 1 and not item.error and item.dtype in ("float32", "int64", "float64")
    )
    if x is None or not x.is_finite:
        return
    axis = m.integer(0, x.rank - 1)
    count = m.indices(m.integer(0, x.shape[axis]))
    m.add("TopK", [x, count], 2, axis=axis, largest=m.integer(0, 1))


@draws(2)
def cumulative(m: GraphMaker) -> None:
    x = m.numbers(1)
    if x.dtype in ("float32", "float64", "int32", "int64"):
        axis = m.put(np.array(m.axis(x), np.int64))
        m.add("CumSum", [x, axis], exclusive=m.integer(0, 1), reverse=m.integer(0, 1), terms=8.0 + x.size)


@draws()
def unique(m: GraphMaker) -> None:
    x = m.pick(
        lambda item: (
            item.rank == 1 and not item.error and item.is_finite and item.dtype in ("float32", "int64")
        )
    )
    if x is not None:
        m.add("Unique", [x], m.integer(1, 4), sorted=1)


@draws(4)
def softmax(m: GraphMaker) -> None:
    x = m.floats(1)
    m.add(m.choose(["Softmax", "Softmax", "LogSoftmax"]), [x], axis=m.axis(x), terms=16.0 + max(x.shape))


@draws()
def hardmax(m: GraphMaker) -> None:
    x = m.floats(1, exact=True)
    if x.is_finite:
        m.add("Hardmax", [x], axis=m.axis(x))


@draws(3)
def softmax_by_hand(m: GraphMaker) -> None:
    x = m.floats(1)
    axis = m.axis(x)
    peak = reduced(m, "Max", x, [axis], keepdims=1)
    shifted = peak and m.add("Sub", [x, peak[0]])
    powers = shifted and m.add("Exp", shifted)
    total = powers and reduced(m, "Sum", powers[0], [axis], keepdims=1)
    if total:
        m.add("Div", [powers[0], total[0]])


@draws(4)
def norm_by_hand(m: GraphMaker) -> None:
    """Layer norm or RMS norm from single operators; scale and shift or not."""
    x = m.floats(1)
    axes = sorted({m.integer(0, x.rank - 1), x.rank - 1})
    root_mean_square = m.flag()
    centered = x
    if not root_mean_square:
        mean = reduced(m, "Mean", x, axes, keepdims=1)
        found = mean and m.add("Sub", [x, mean[0]])
        if not found:
            return
        centered = found[0]
    if m.flag():
        squares = m.add("Mul", [centered, centered])
    else:
        squares = m.add("Pow", [centered, m.constant(np.array(2, x.array.dtype))])
    variance = squares and reduced(m, "Mean", squares[0], axes, keepdims=1)
    shifted = variance and m.add("Add", [variance[0], m.constant(np.array(0.125, x.array.dtype))])
    root = shifted and m.add("Sqrt", shifted)
    if not root:
        return
    if m.flag():
        result = m.add("Div", [centered, root[0]])
    else:
        inverse = m.add("Reciprocal", root)
        result = inverse and m.add("Mul", [centered, inverse[0]])
    if result and m.flag():
        result = m.add("Mul", [result[0], m.leaf(x.dtype, x.shape[axes[0] :])])
        if result and m.flag():
            m.add("Add", [result[0], m.leaf(x.dtype, x.shape[-1:])])


@draws(3)
def layer_norm(m: GraphMaker) -> None:
    x = m.floats(1)
    axis = m.axis(x)
    scale = m.leaf(x.dtype, x.shape[axis:])
    shift = m.leaf(x.dtype, scale.shape) if m.flag() else None
    if m.flag() and m.opset >= 17:
        count = m.choose([1, 1, 3]) if x.dtype == "float32" else 1
        m.add("LayerNormalization", [x, scale, shift], count, axis=axis, epsilon=0.125, terms=16.0 + x.size)
    elif m.opset >= 23:
        m.add("RMSNormalization", [x, scale], axis=axis, epsilon=0.125, terms=16.0 + x.size)


@draws(3)
def channel_norm(m: GraphMaker) -> None:
    x = m.floats(3, 5)
    channels = x.shape[1]
    kind = m.integer(0, 4)

    def vector(low: int = -16) -> Item:
        return m.leaf(x.dtype, [channels], low=low)

    terms = 16.0 + x.size
    if kind == 0:
        m.add("InstanceNormalization", [x, vector(), vector()], epsilon=0.125, terms=terms)
    elif kind == 1 and m.opset >= 15:
        operands = [x, vector(), vector(), vector(), vector(1)]
        m.add("BatchNormalization", operands, epsilon=0.125, terms=16)
    elif kind == 2 and m.opset >= 21 and channels and x.dtype != "float64":
        # It computes its statistics in float32 (stash_type).
        groups = m.choose([n for n in range(1, channels + 1) if channels % n == 0])
        m.add("GroupNormalization", [x, vector(), vector()], num_groups=groups, epsilon=0.125, terms=terms)
    elif kind == 3 and x.rank == 4:
        m.add("LRN", [x], size=m.choose([1, 3, 2]), bias=1.0, alpha=0.5, terms=terms)
    elif kind == 4:
        m.add("LpNormalization", [x], axis=m.axis(x), p=m.integer(1, 2), terms=terms)
