"""Operators that move elements: views, copies, gathers and scatters."""

from __future__ import annotations

import math

import numpy as np

from tests.fuzz.drawers import draws
from tests.fuzz.maker import GraphMaker, Item


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


@draws(8)
def transpose(m: GraphMaker) -> None:
    x = m.any(1)
    order = list(range(x.rank))
    for axis in range(x.rank - 1):
        other = m.integer(axis, x.rank - 1)
        order[axis], order[other] = order[other], order[axis]
    if m.integer(0, 8) == 0:
        m.add("Transpose", [x])
    else:
        m.add("Transpose", [x], perm=order)


@draws(8)
def reshape(m: GraphMaker) -> None:
    x = m.any()
    shape, rest = [], x.size
    if x.size == 0:
        shape = sorted(x.shape)
        m.add("Reshape", [x, m.indices(*shape)], allowzero=1)
        return
    for _ in range(m.integer(0, 3)):
        extent = m.choose(divisors(rest))
        shape.append(extent)
        rest //= extent
    if rest > 1 or m.flag():
        shape.insert(m.integer(0, len(shape)), rest)
    if shape and m.integer(0, 2) == 0:
        shape[m.integer(0, len(shape) - 1)] = -1
    shape = [
        0 if axis < x.rank and extent == x.shape[axis] and m.integer(0, 3) == 0 else extent
        for axis, extent in enumerate(shape)
    ]
    m.add("Reshape", [x, m.indices(*shape)])


@draws(2)
def flatten(m: GraphMaker) -> None:
    x = m.any(1)
    m.add("Flatten", [x], axis=m.integer(-x.rank, x.rank))


@draws(3)
def squeeze(m: GraphMaker) -> None:
    x = m.any(1)
    ones = [axis for axis, extent in enumerate(x.shape) if extent == 1]
    if not ones or m.flag():
        rank = x.rank + 1
        m.add("Unsqueeze", [x, m.indices(m.integer(-rank, rank - 1))])
    elif m.integer(0, 3) == 0:
        m.add("Squeeze", [x])
    else:
        m.add("Squeeze", [x, m.indices(m.choose(ones))])


@draws(8)
def cut(m: GraphMaker) -> None:
    x = m.any(1)
    axes = [axis for axis in range(x.rank) if m.flag()] or [0]
    starts, ends, steps = [], [], []
    for axis in axes:
        extent = x.shape[axis]
        steps.append(m.choose([1, 1, 2, -1, -2, 3]))
        starts.append(m.choose([0, m.integer(-extent - 1, extent + 1), 1]))
        ends.append(m.choose([extent, 2**62, -(2**62), m.integer(-extent - 1, extent + 1)]))
        if steps[-1] < 0:
            starts[-1], ends[-1] = ends[-1], starts[-1] - m.integer(0, extent + 1)
    named = [axis - x.rank if m.flag() else axis for axis in axes]
    operands: list[Item | None] = [x, m.indices(*starts), m.indices(*ends), m.indices(*named)]
    if any(step != 1 for step in steps) or m.flag():
        operands.append(m.indices(*steps))
    m.add("Slice", operands)


@draws(4)
def expand(m: GraphMaker) -> None:
    x = m.any(0, 3)
    shape = [m.integer(1, 4) if n == 1 else m.choose([1, n]) for n in x.shape]
    if m.flag():
        shape = [m.integer(1, 3), *shape]
    m.add("Expand", [x, m.indices(*shape)])


@draws(2)
def tile(m: GraphMaker) -> None:
    x = m.any(1, 4)
    m.add(
        "Tile",
        [x, m.indices(*(m.choose([1, 1, 2, 3, 0][: 5 if m.integer(0, 9) == 0 else 4]) for _ in x.shape))],
    )


@draws(5)
def concat(m: GraphMaker) -> None:
    x = m.any(1)
    axis = m.axis(x)
    at = axis % x.rank

    def fits(item: Item) -> bool:
        return (
            item.dtype == x.dtype
            and item.rank == x.rank
            and all(a == b or n == at for n, (a, b) in enumerate(zip(item.shape, x.shape, strict=True)))
        )

    parts = [x]
    for _ in range(m.integer(0, 2)):
        other = m.pick(fits) if m.integer(0, 2) else None
        if other is None:
            other = m.leaf(x.dtype, [m.integer(0, 3) if n == at else e for n, e in enumerate(x.shape)])
        parts.insert(m.integer(0, len(parts)), other)
    m.add("Concat", parts, axis=axis)


@draws(3)
def split(m: GraphMaker) -> None:
    x = m.any(1)
    axis = m.axis(x)
    extent = x.shape[axis]
    first = m.integer(0, extent)
    sizes = [first, extent - first] if m.flag() else [first, 0, extent - first]
    m.add("Split", [x, m.indices(*sizes)], len(sizes), axis=axis)


@draws(4)
def pad(m: GraphMaker) -> None:
    x = m.any(1)
    mode = m.choose(["constant", "constant", "reflect", "edge"])
    low = -1 if mode == "constant" and m.integer(0, 3) == 0 else 0
    room = [max(0, n - 1) if mode == "reflect" else 2 for n in x.shape]
    pads = [
        m.integer(low if extent > 2 else 0, min(2, room[axis]))
        for _ in (0, 1)
        for axis, extent in enumerate(x.shape)
    ]
    if mode != "constant" and 0 in x.shape:
        return
    value = m.put(np.array(1, x.array.dtype)) if mode == "constant" and m.flag() else None
    m.add("Pad", [x, m.indices(*pads), value], mode=mode)


def positions(m: GraphMaker, extent: int, shape: tuple[int, ...], *, negative: bool = True) -> Item:
    """Indices of an axis of this extent, fed or constant."""
    dtype = m.choose(["int64", "int32"])
    return m.put(m.random.integers(-extent if negative else 0, extent, shape).astype(dtype))


@draws(6)
def gather(m: GraphMaker) -> None:
    x = m.any(1)
    axis = m.axis(x)
    if x.shape[axis]:
        m.add("Gather", [x, positions(m, x.shape[axis], m.shape(0, 2, 4))], axis=axis)


@draws(2)
def gather_elements(m: GraphMaker) -> None:
    x = m.any(1)
    axis = m.axis(x)
    if x.shape[axis]:
        shape = list(x.shape)
        shape[axis] = m.integer(1, 4)
        m.add("GatherElements", [x, positions(m, x.shape[axis], tuple(shape))], axis=axis)


@draws(2)
def gather_nd(m: GraphMaker) -> None:
    x = m.any(1)
    depth = m.integer(1, x.rank)
    if 0 in x.shape:
        return
    columns = [
        m.random.integers(-n, n, m.integer(1, 4) if not k else None) for k, n in enumerate(x.shape[:depth])
    ]
    table = np.stack(np.broadcast_arrays(*columns), -1).astype(np.int64)
    m.add("GatherND", [x, m.put(table)])


@draws(2)
def scatter_elements(m: GraphMaker) -> None:
    x = m.any(1)
    axis = m.axis(x)
    extent = x.shape[axis]
    if not x.size:
        return
    shape = list(x.shape)
    shape[axis] = m.integer(1, extent)
    order = np.argsort(m.random.random(x.shape), axis=axis).take(range(shape[axis]), axis)
    updates = m.leaf(x.dtype, shape)
    kinds = ["none"] if x.dtype == "bool" or m.opset < 18 else ["none", "add", "max", "min"]
    m.add(
        "ScatterElements",
        [x, m.put(order.astype(np.int64)), updates],
        axis=axis,
        **_reduction(m, kinds),
        terms=8,
    )


@draws(2)
def scatter_nd(m: GraphMaker) -> None:
    x = m.any(1)
    if not x.size:
        return
    depth = m.integer(1, x.rank)
    count = math.prod(x.shape[:depth])
    rows = m.random.permutation(count)[: m.integer(1, min(4, count))]
    table = np.stack(np.unravel_index(rows, x.shape[:depth]), -1).astype(np.int64)
    updates = m.leaf(x.dtype, (len(rows), *x.shape[depth:]))
    kinds = ["none"] if x.dtype == "bool" or m.opset < 18 else ["none", "add", "max", "min"]
    m.add("ScatterND", [x, m.put(table), updates], **_reduction(m, kinds), terms=8)


def _reduction(m: GraphMaker, kinds: list[str]) -> dict[str, str]:
    kind = m.choose(kinds)
    return {} if kind == "none" else {"reduction": kind}


@draws(2)
def depth_and_space(m: GraphMaker) -> None:
    x = m.any(4, 4)
    block = m.choose([1, 2])
    if m.flag():
        if x.shape[1] % (block * block) == 0:
            m.add("DepthToSpace", [x], blocksize=block, mode=m.choose(["DCR", "CRD"]))
    elif x.shape[2] % block == 0 and x.shape[3] % block == 0:
        m.add("SpaceToDepth", [x], blocksize=block)


@draws(2)
def triangle(m: GraphMaker) -> None:
    x = m.any(2)
    if m.opset >= 14:
        offset = [m.put(np.array(m.integer(-3, 3), np.int64))] if m.flag() else []
        m.add("Trilu", [x, *offset], upper=m.integer(0, 1))


@draws()
def reverse_sequence(m: GraphMaker) -> None:
    x = m.any(2)
    batch = m.integer(0, 1)
    if 0 in x.shape[:2]:
        return
    lengths = m.random.integers(1, x.shape[1 - batch] + 1, x.shape[batch]).astype(np.int64)
    m.add("ReverseSequence", [x, m.put(lengths)], batch_axis=batch, time_axis=1 - batch)


@draws()
def compress(m: GraphMaker) -> None:
    x = m.any(1)
    if m.flag():
        axis = m.axis(x)
        m.add("Compress", [x, m.leaf("bool", [m.integer(0, x.shape[axis])])], axis=axis)
    else:
        m.add("Compress", [x, m.leaf("bool", [m.integer(0, x.size)])])


@draws()
def nonzero(m: GraphMaker) -> None:
    x = m.pick(lambda item: item.rank >= 1 and not item.error and item.is_finite)
    if x is not None:
        m.add("NonZero", [x])


@draws(2)
def shape_arithmetic(m: GraphMaker) -> None:
    """The shape of one value, permuted or cut, decides on another."""
    x = m.any(1, 4)
    found = m.add("Shape", [x])
    if not found:
        return
    kind = m.integer(0, 3)
    if kind == 0:
        order = m.constant(m.random.permutation(x.rank))
        picked = m.add("Gather", [found[0], order])
        if picked:
            m.add("Reshape", [x, picked[0]], allowzero=1)
    elif kind == 1:
        m.add("ConstantOfShape", found)
    elif kind == 2:
        m.add("Expand", [m.leaf(x.dtype, [1] * m.integer(0, x.rank)), found[0]])
    else:
        m.add("Size", [x])


@draws()
def range_of(m: GraphMaker) -> None:
    dtype = m.choose(["int64", "float32", "int32"])
    step = m.choose([1, 2, -1])
    bounds = (m.integer(-3, 3), m.integer(-3, 8), step)
    m.add("Range", [m.put(np.array(bound, dtype)) for bound in bounds])


@draws()
def one_hot(m: GraphMaker) -> None:
    shape = m.shape(0, 3, 4)
    depth = m.integer(1, 5)
    values = m.leaf(m.choose(["float32", "int64"]), [2])
    m.add(
        "OneHot",
        [positions(m, depth + 1, shape), m.put(np.array(depth, np.int64)), values],
        axis=m.integer(-1, len(shape)),
    )


@draws()
def eye(m: GraphMaker) -> None:
    x = m.floats(2, 2)
    m.add("EyeLike", [x], k=m.integer(-2, 2))


@draws()
def center_crop_or_pad(m: GraphMaker) -> None:
    x = m.any(1)
    if m.opset >= 18:
        axis = m.axis(x)
        m.add("CenterCropPad", [x, m.indices(m.integer(1, 6))], axes=[axis])
