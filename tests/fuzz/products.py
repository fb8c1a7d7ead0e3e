"""Products, convolutions, pooling, attention, quantisation and recurrent layers."""

from __future__ import annotations

import math

import numpy as np

from tests.fuzz.drawers import draws
from tests.fuzz.maker import GraphMaker, Item

WINOGRAD = 10
"""The rounding errors of convolutions in Winograd's form, in those of sums of products."""


def terms_of(one: Item, other: Item, count: int) -> float:
    """For :meth:`GraphMaker.add`: sums of ``count`` products of elements of the two."""
    sizes = [
        float(
            np.max(
                np.abs(i.array.astype(np.float64)), initial=1.0, where=np.isfinite(i.array.astype(np.float64))
            )
        )
        for i in (one, other)
    ]
    return 4.0 + (2 + count) * min(sizes)


@draws(8)
def matmul(m: GraphMaker) -> None:
    x = m.floats(1)
    inner = x.shape[-1]
    other = (
        m.pick(lambda i: i.dtype == x.dtype and i.rank >= 2 and i.shape[-2] == inner) if m.flag() else None
    )
    if other is None:
        batch = [1 if m.flag() else n for n in x.shape[:-2]][m.integer(0, max(0, x.rank - 2)) :]
        shape = [inner] if m.integer(0, 5) == 0 else [*batch, inner, m.integer(1, m.extent + 1)]
        other = m.leaf(x.dtype, shape)
    m.add("MatMul", [x, other], terms=terms_of(x, other, inner))


@draws(2)
def product_with_itself(m: GraphMaker) -> None:
    x = m.floats(2, 4)
    order = [*range(x.rank - 2), x.rank - 1, x.rank - 2]
    turned = m.add("Transpose", [x], perm=order)
    if turned:
        pair = [x, turned[0]] if m.flag() else [turned[0], x]
        m.add("MatMul", pair, terms=terms_of(x, x, x.shape[-1]))


@draws(4)
def gemm(m: GraphMaker) -> None:
    a = m.floats(2, 2)
    left, right = m.integer(0, 1), m.integer(0, 1)
    rows, inner = a.shape[::-1] if left else a.shape
    columns = m.integer(1, m.extent + 1)
    b = m.leaf(a.dtype, [columns, inner] if right else [inner, columns])
    shapes = [(), (1,), (columns,), (rows, 1), (1, columns), (rows, columns)]
    c = m.leaf(a.dtype, m.choose(shapes)) if m.flag() else None
    attributes = {"alpha": 0.5} if m.integer(0, 2) == 0 else {}
    if m.integer(0, 2) == 0:
        attributes["beta"] = m.choose([0.0, 2.0])
    m.add("Gemm", [a, b, c], transA=left, transB=right, terms=terms_of(a, b, inner + 2), **attributes)


@draws(2)
def einsum(m: GraphMaker) -> None:
    x = m.floats(2, 3)
    letters = "abc"[: x.rank]
    other = m.choose([letters, letters[::-1], letters[-1] + "d", letters[0] + "d", letters[1:]])
    extents = {**dict(zip(letters, x.shape, strict=True)), "d": 3}
    y = m.leaf(x.dtype, [extents[letter] for letter in other])
    union = sorted({*letters, *other})
    kept = [letter for letter in union if m.flag()]
    equation = f"{letters},{other}->{''.join(kept)}"
    count = math.prod(extents[letter] for letter in union if letter not in kept)
    m.add("Einsum", [x, y], equation=equation, terms=terms_of(x, y, count))


def window(m: GraphMaker, spatial: tuple[int, ...], kernel: list[int]) -> dict[str, object]:
    """Strides, dilations and pads of a convolution or pool; some odd, some left out."""
    count = len(spatial)
    found: dict[str, object] = {}
    if m.flag():
        found["strides"] = [m.integer(1, 3) for _ in range(count)]
    kind = m.integer(0, 5)
    if kind == 0 and all(a <= b for a, b in zip(found.get("strides", [1] * count), kernel, strict=True)):
        # The reference computes negative pads for strides over the kernel's extent.
        found["auto_pad"] = m.choose(["SAME_UPPER", "SAME_LOWER", "VALID"])
    elif 0 < kind < 4:
        found["pads"] = [m.integer(0, extent - 1) for extent in kernel] * 2
        if kind == 3:
            found["pads"] = [m.integer(0, extent - 1) for extent in (*kernel, *kernel)]
    if m.integer(0, 3) == 0 and kind:
        found["dilations"] = [m.integer(1, 2) for _ in range(count)]
    return found


def image(m: GraphMaker) -> Item:
    """A value of two or more leading axes and one to three spatial ones."""
    if m.flag():
        x = m.pick(lambda i: i.dtype in ("float32", "float16") and 3 <= i.rank <= 5 and i.is_finite)
        if x is not None and x.size:
            return x
    spatial = [m.integer(1, 2 * m.extent - 1) for _ in range(m.choose([1, 2, 2, 2, 3]))]
    return m.leaf(
        m.choose(["float32", "float32", "float32", m.dtype()]),
        [m.integer(1, 2), m.choose([1, 2, 3, 4, m.extent + 1]), *spatial],
    )


@draws(6)
def convolution(m: GraphMaker) -> None:
    x = image(m)
    channels, spatial = x.shape[1], x.shape[2:]
    groups = m.choose([1, 1, channels, m.choose([n for n in range(1, channels + 1) if channels % n == 0])])
    kernel = [m.choose([1, 3, 3, 2]) for _ in spatial]
    filters = groups * m.integer(1, 4)
    weights = m.leaf(x.dtype, [filters, channels // groups, *kernel])
    bias = [m.leaf(x.dtype, [filters])] if m.flag() else []
    terms = WINOGRAD * terms_of(x, weights, math.prod(weights.shape[1:]) + 1)
    found = m.add("Conv", [x, weights, *bias], group=groups, terms=terms, **window(m, spatial, kernel))
    if found and m.flag():
        m.add("Relu", found)


@draws(2)
def transposed_convolution(m: GraphMaker) -> None:
    x = image(m)
    channels, spatial = x.shape[1], x.shape[2:]
    if len(spatial) > 2:
        return
    groups = m.choose([1, 1, channels])
    kernel = [m.choose([1, 3, 2]) for _ in spatial]
    weights = m.leaf(x.dtype, [channels, m.integer(1, 3), *kernel])
    attributes: dict[str, object] = {"group": groups}
    if m.flag():
        attributes["strides"] = [m.integer(1, 3) for _ in spatial]
    if m.flag():
        attributes["pads"] = [m.integer(0, (n - 1) // 2) for n in (*kernel, *kernel)]
    m.add(
        "ConvTranspose", [x, weights], terms=terms_of(x, weights, channels * math.prod(kernel)), **attributes
    )


@draws(4)
def pool(m: GraphMaker) -> None:
    x = image(m)
    spatial = x.shape[2:]
    kernel = [m.integer(1, 3) for _ in spatial]
    attributes = window(m, spatial, kernel)
    kind = m.choose(["MaxPool", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"])
    if kind.startswith("Global"):
        m.add(kind, [x], terms=8.0 + x.size)
        return
    if (kind != "MaxPool" and m.opset < 19) or "pads" in attributes:
        # Windows without any element are nowhere defined.
        attributes.pop("dilations", None)
    if kind == "AveragePool" and m.flag():
        attributes["count_include_pad"] = 1
    if m.integer(0, 3) == 0 and (kind != "LpPool" or m.opset >= 18):
        attributes["ceil_mode"] = 1
    m.add(kind, [x], kernel_shape=kernel, terms=8.0 + math.prod(kernel), **attributes)


@draws(3)
def attention_by_hand(m: GraphMaker) -> None:
    """softmax(q k^T * scale + mask) v, from single operators."""
    q = m.floats(2, 4)
    keys, width = m.integer(1, m.extent + 1), m.integer(1, 5)
    lead = list(q.shape[:-2])
    k = m.leaf(q.dtype, [*lead, keys, q.shape[-1]], low=-6, high=6)
    v = m.leaf(q.dtype, [*lead, keys, width])
    order = [*range(q.rank - 2), q.rank - 1, q.rank - 2]
    turned = m.add("Transpose", [k], perm=order)
    scores = turned and m.add("MatMul", [q, turned[0]], terms=terms_of(q, k, q.shape[-1]))
    if scores and m.integer(0, 2):
        factor = m.constant(np.array(m.choose([0.5, 0.25]), q.array.dtype))
        scores = m.add("Mul", [scores[0], factor])
    if scores and m.flag():
        mask = m.leaf("bool", [q.shape[-2], keys] if m.flag() else [keys])
        low = m.constant(np.array(m.choose([-100.0, -np.inf]), q.array.dtype))
        zero = m.constant(np.array(0, q.array.dtype))
        bias = m.add("Where", [mask, zero, low])
        scores = bias and m.add("Add", [scores[0], bias[0]])
    weights = scores and m.add("Softmax", scores, axis=-1, terms=16.0 + keys)
    if weights:
        m.add("MatMul", [weights[0], v], terms=terms_of(weights[0], v, keys))


@draws(2)
def integer_product(m: GraphMaker) -> None:
    kinds = ["uint8", "int8"]
    rows, inner, columns = (m.integer(1, 5) for _ in range(3))
    left, right = m.choose(kinds), m.choose(kinds)
    a, b = m.leaf(left, [rows, inner]), m.leaf(right, [inner, columns])
    zeros = [m.put(np.array(m.integer(0, 3), dtype)) for dtype in (left, right)] if m.flag() else []
    m.add("MatMulInteger", [a, b, *zeros])


@draws(2)
def quantisation(m: GraphMaker) -> None:
    x = m.floats(0, 4, exact=True)
    if x.dtype != "float32" or not x.is_finite:
        return
    scale = m.constant(np.array(m.choose([0.25, 0.5, 1.0]), np.float32))
    dtype = m.choose(["uint8", "int8"])
    zero = m.constant(np.array(m.integer(0, 5), dtype))
    found = m.add("QuantizeLinear", [x, scale, zero])
    if found and m.flag():
        m.add("DequantizeLinear", [found[0], scale, zero])


@draws()
def recurrent(m: GraphMaker) -> None:
    kind, gates = m.choose([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    x = m.leaf("float32", [m.integer(1, 3), m.integer(1, 2), m.integer(1, 3)])
    hidden = m.integer(1, 3)
    directions = 1
    weights = [
        m.leaf("float32", [directions, gates * hidden, columns], low=-3, high=3)
        for columns in (x.shape[-1], hidden)
    ]
    bias = [m.leaf("float32", [directions, 2 * gates * hidden], low=-3, high=3)] if m.flag() else []
    m.add(kind, [x, *weights, *bias], m.integer(1, 2), hidden_size=hidden, terms=64)


@draws(2)
def resize(m: GraphMaker) -> None:
    x = image(m)
    factors = [1.0, 1.0, *(m.choose([2.0, 0.5, 1.0, 1.5]) for _ in x.shape[2:])]
    mode = m.choose(["nearest", "linear"])
    attributes: dict[str, object] = {"mode": mode}
    attributes["coordinate_transformation_mode"] = m.choose(["half_pixel", "asymmetric", "align_corners"])
    if mode == "nearest":
        attributes["nearest_mode"] = m.choose(["floor", "round_prefer_floor", "ceil"])
    m.add("Resize", [x, None, m.constant(np.array(factors, np.float32))], terms=16, **attributes)
