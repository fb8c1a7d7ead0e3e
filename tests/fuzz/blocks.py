"""Small pieces of real networks, whose nodes the passes put together."""

from __future__ import annotations

import numpy as np

from tests.fuzz.drawers import draws
from tests.fuzz.maker import GraphMaker, Item
from tests.fuzz.products import WINOGRAD, image, terms_of


def linear(m: GraphMaker, x: Item, columns: int, *, bias: bool) -> Item | None:
    weights = m.constant(m.elements(x.dtype, [x.shape[-1], columns], -6, 6))
    found = m.add("MatMul", [x, weights], terms=terms_of(x, weights, x.shape[-1]))
    if found and bias:
        shift = m.constant(m.elements(x.dtype, [columns]))
        found = m.add("Add", [found[0], shift] if m.flag() else [shift, found[0]])
    return found[0] if found else None


@draws(4)
def dense_layer(m: GraphMaker) -> None:
    """x W + b, an activation, and perhaps a residual or a gate."""
    x = m.floats(1, 4)
    y = linear(m, x, m.choose([x.shape[-1], 3, 8, 17, 4 * m.extent]), bias=m.flag())
    if y is None:
        return
    active = m.add(m.choose(["Relu", "Tanh", "Sigmoid", "Softplus", "Elu"]), [y])
    if not active:
        return
    if m.flag() and active[0].shape == x.shape:
        m.add("Add", [x, active[0]] if m.flag() else [active[0], x])
    elif m.flag():
        m.add("Mul", [y, active[0]])


@draws(4)
def several_products(m: GraphMaker) -> None:
    """Products of one value with several weights, split or used apart."""
    x = m.floats(2, 3)
    width = m.integer(1, m.extent + 1)
    made = [
        linear(m, x, width if m.flag() else m.integer(1, 6), bias=m.flag()) for _ in range(m.integer(2, 3))
    ]
    shapes = {item.shape for item in made if item is not None}
    if None not in made and len(shapes) == 1:
        m.add(m.choose(["Add", "Mul", "Sub"]), made[:2])


@draws(4)
def heads(m: GraphMaker) -> None:
    """Self-attention from linear layers, with heads split off by Reshape and Transpose."""
    batch, length, count, width = (
        m.integer(1, 2),
        m.integer(1, m.extent + 2),
        m.integer(1, 3),
        m.integer(1, m.extent),
    )
    x = m.leaf(m.dtype(), [batch, length, count * width], low=-4, high=4)
    apart = []
    for kind in "qkv":
        y = linear(m, x, count * width, bias=m.flag())
        y = m.add("Reshape", [y, m.indices(batch if m.flag() else 0, length, count, width)]) if y else None
        order = [0, 2, 3, 1] if kind == "k" else [0, 2, 1, 3]
        y = m.add("Transpose", y, perm=order) if y else None
        if not y:
            return
        apart.append(y[0])
    q, k, v = apart
    scale = m.constant(np.array(1 / 8, q.array.dtype))
    scores = m.add("MatMul", [q, k], terms=terms_of(q, k, width))
    scores = scores and m.add("Mul", [scores[0], scale])
    if scores and m.flag():
        mask = m.leaf("float32", [batch, 1, 1, length]) if q.dtype == "float32" else None
        scores = m.add("Add", [scores[0], mask]) if mask is not None else scores
    weights = scores and m.add("Softmax", scores, axis=-1, terms=16.0 + length)
    mixed = weights and m.add("MatMul", [weights[0], v], terms=terms_of(weights[0], v, length))
    turned = mixed and m.add("Transpose", mixed, perm=[0, 2, 1, 3])
    if turned:
        m.add("Reshape", [turned[0], m.indices(batch, length, -1)])


def convolved(
    m: GraphMaker, x: Item, filters: int, extent: int, groups: int = 1, **attributes: object
) -> list[Item]:
    spatial = x.rank - 2
    weights = m.constant(m.elements(x.dtype, [filters, x.shape[1] // groups, *[extent] * spatial], -4, 4))
    bias = [m.constant(m.elements(x.dtype, [filters]))] if m.flag() else []
    terms = WINOGRAD * terms_of(x, weights, x.shape[1] // groups * extent**spatial + 1)
    pads = [extent // 2] * 2 * spatial
    return m.add("Conv", [x, weights, *bias], group=groups, pads=pads, terms=terms, **attributes)


@draws(5)
def convolution_block(m: GraphMaker) -> None:
    """A convolution, perhaps a normalisation, an activation, and a residual, gate or concatenation."""
    x = image(m)
    channels = x.shape[1]
    filters = m.choose([channels, channels, 8, m.extent])
    depthwise = filters == channels and m.flag()
    y = convolved(m, x, filters, m.choose([1, 3]), channels if depthwise else 1)
    if y and m.flag():
        vectors = [m.constant(m.elements(x.dtype, [filters])) for _ in range(3)]
        variance = m.constant(m.elements(x.dtype, [filters], 1))
        y = (
            m.add("BatchNormalization", [y[0], *vectors, variance], epsilon=0.125, terms=16)
            if m.opset >= 15
            else y
        )
    if y and m.flag():
        y = m.add(m.choose(["Relu", "Sigmoid", "HardSigmoid", "LeakyRelu"]), y)
    if not y:
        return
    kind = m.integer(0, 4)
    if kind == 0 and y[0].shape == x.shape:
        m.add("Add", [x, y[0]] if m.flag() else [y[0], x])
    elif kind == 1:
        m.add("Concat", [x, y[0]] if m.flag() else [y[0], x, y[0]], axis=1)
    elif kind == 2:
        gate = m.add("GlobalAveragePool", y, terms=8.0 + y[0].size)
        gate = gate and convolved(m, gate[0], filters, 1)
        gate = gate and m.add("Sigmoid", gate)
        if gate:
            m.add("Mul", [y[0], gate[0]])
    elif kind == 3:
        convolved(m, y[0], m.choose([3, filters]), m.choose([1, 3]))
    else:
        kernel = [2] * (x.rank - 2)
        m.add("MaxPool", y, kernel_shape=kernel, strides=kernel, ceil_mode=m.integer(0, 1))


@draws(3)
def channel_shuffle(m: GraphMaker) -> None:
    x = image(m)
    batch, channels, *spatial = x.shape
    groups = m.choose([n for n in range(1, channels + 1) if channels % n == 0])
    y = m.add("Reshape", [x, m.indices(batch, groups, channels // groups, *spatial)])
    order = [0, 2, 1, *range(3, x.rank + 1)]
    y = y and m.add("Transpose", y, perm=order)
    if y:
        m.add("Reshape", [y[0], m.indices(*x.shape)])


@draws(3)
def rotated(m: GraphMaker) -> None:
    """Rotary embedding by slices: x cos + rotate(x) sin."""
    x = m.floats(1, 4)
    half = x.shape[-1] // 2
    if not half:
        return
    first = m.add("Slice", [x, m.indices(0), m.indices(half), m.indices(-1)])
    second = m.add("Slice", [x, m.indices(half), m.indices(2**62), m.indices(-1)])
    negative = second and m.add("Neg", second)
    turned = negative and first and m.add("Concat", [negative[0], first[0]], axis=-1)
    tables = [m.leaf(x.dtype, x.shape[-2:]) for _ in range(2)]
    left = turned and m.add("Mul", [x, tables[0]])
    right = turned and m.add("Mul", [turned[0], tables[1]])
    if left and right:
        m.add("Add", [left[0], right[0]])


@draws(2)
def token_embedding(m: GraphMaker) -> None:
    """Rows of a table plus positions."""
    rows, width, length = m.integer(1, 9), m.integer(1, 6), m.integer(1, 5)
    table = m.constant(m.elements(m.dtype(), [rows, width]))
    tokens = m.put(m.random.integers(0, rows, (m.integer(1, 2), length)).astype(np.int64))
    found = m.add("Gather", [table, tokens])
    if found:
        m.add("Add", [found[0], m.constant(m.elements(table.dtype, [length, width]))])
