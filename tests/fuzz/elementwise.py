"""Elementwise operators, with broadcasting, and conversions."""

from __future__ import annotations

import numpy as np

from tests.fuzz.drawers import draws
from tests.fuzz.maker import GraphMaker, Item

SMOOTH = (
    "Exp Tanh Sigmoid Erf Sin Cos Sqrt Log Atan Reciprocal Softplus Softsign Elu Selu Celu HardSigmoid "
    "Sinh Cosh Asinh"
).split()
PIECEWISE = "Relu Abs Neg LeakyRelu Identity Relu Neg".split()
STEPS = "Floor Ceil Round Sign".split()
SINCE = {"HardSwish": 14, "Mish": 18, "Gelu": 20, "Swish": 24}


@draws(6)
def smooth(m: GraphMaker) -> None:
    names = [*SMOOTH, *(name for name, since in SINCE.items() if m.opset >= since)]
    op_type, x = m.choose(names), m.floats()
    if op_type == "HardSwish" and x.dtype == "float64":
        # The reference takes 1/6 in float32.
        return
    attributes: dict[str, object] = {}
    if op_type in ("Elu", "Celu", "LeakyRelu", "HardSigmoid") and m.flag():
        attributes["alpha"] = m.choose([0.5, 0.25, 1.5])
    if op_type == "Gelu":
        attributes["approximate"] = m.choose(["none", "tanh"])
    m.add(op_type, [x], **attributes)


@draws(4)
def piecewise(m: GraphMaker) -> None:
    op_type = m.choose(PIECEWISE)
    # Relu and LeakyRelu of integers came late or never.
    x = m.floats() if op_type in ("Relu", "LeakyRelu") else m.numbers()
    if op_type == "Neg" and x.dtype.startswith("u"):
        return
    m.add(op_type, [x])


@draws(2)
def step(m: GraphMaker) -> None:
    op_type, x = m.choose([*STEPS, "IsNaN", "IsInf", "ThresholdedRelu", "Shrink"]), m.floats(exact=True)
    if op_type == "IsInf":
        if x.dtype in ("float32", "float64"):
            m.add(op_type, [x], detect_negative=m.integer(0, 1), detect_positive=m.integer(0, 1))
    elif op_type == "Shrink":
        m.add(op_type, [x], lambd=m.choose([0.5, 1.0]), bias=m.choose([0.0, 0.25]))
    else:
        m.add(op_type, [x])


def partner(m: GraphMaker, x: Item, **limits: int) -> Item:
    """An operand of ``x``'s type that broadcasts with it, new or not."""
    if m.integer(0, 2) == 0:
        found = m.pick(lambda item: item.dtype == x.dtype and _broadcasts(item.shape, x.shape))
        if found is not None:
            return found
    shape = [1 if m.integer(0, 3) == 0 else n for n in x.shape]
    kind = m.integer(0, 5)
    if kind == 0:
        shape = shape[m.integer(0, x.rank) :]
    elif kind == 1:
        shape = []
    elif kind == 2 and x.rank < 4:
        shape = [m.integer(1, 3), *shape]
    elif kind == 3:
        # The other one is the smaller of the two.
        shape = [m.integer(1, 4) if n == 1 else n for n in x.shape]
    return m.leaf(x.dtype, shape, **limits)


def _broadcasts(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(a == b or 1 in (a, b) for a, b in zip(one[::-1], other[::-1], strict=False))


def ordered(m: GraphMaker, x: Item, y: Item) -> list[Item]:
    return [x, y] if m.flag() else [y, x]


@draws(14)
def arithmetic(m: GraphMaker) -> None:
    x = m.numbers()
    m.add(m.choose(["Add", "Sub", "Mul", "Add", "Mul"]), ordered(m, x, partner(m, x)))


@draws(3)
def division(m: GraphMaker) -> None:
    x = m.numbers()
    if x.is_float:
        m.add("Div", ordered(m, x, partner(m, x)))
    else:
        m.add("Div", [x, m.constant(m.random.choice([1, 2, 3, 5], x.shape[-1:]).astype(x.dtype))])


@draws(3)
def extremum(m: GraphMaker) -> None:
    x = m.numbers()
    others = [partner(m, x) for _ in range(m.integer(1, 2))]
    kinds = ["Max", "Min", "Sum", "Mean"] if x.is_float else ["Max", "Min"]
    m.add(m.choose(kinds), [x, *others], terms=8)


@draws()
def power(m: GraphMaker) -> None:
    x = m.floats()
    exponent = m.constant(np.array(m.choose([2.0, 3.0, 0.5, 1.0, 0.0, -1.0]), x.array.dtype))
    m.add("Pow", [x, exponent])


@draws()
def remainder(m: GraphMaker) -> None:
    x = m.numbers(exact=True)
    divisor = m.constant(m.random.choice([1, 2, 3, 5], x.shape[-1:]).astype(x.array.dtype))
    m.add("Mod", [x, divisor], fmod=1 if x.is_float else m.integer(0, 1))


@draws()
def parametric_relu(m: GraphMaker) -> None:
    x = m.floats()
    shape = [1 if m.flag() else n for n in x.shape]
    m.add("PRelu", [x, m.leaf(x.dtype, shape[m.integer(0, x.rank) :])])


@draws(3)
def comparison(m: GraphMaker) -> None:
    x = m.numbers(exact=True)
    y = partner(m, x)
    if not y.error:
        m.add(m.choose("Equal Less Greater LessOrEqual GreaterOrEqual".split()), ordered(m, x, y))


@draws(2)
def logical(m: GraphMaker) -> None:
    x = m.pick(lambda item: item.dtype == "bool") or m.leaf("bool", m.shape())
    if m.integer(0, 3) == 0:
        m.add("Not", [x])
    else:
        m.add(m.choose(["And", "Or", "Xor"]), ordered(m, x, partner(m, x)))


@draws()
def bitwise(m: GraphMaker) -> None:
    x = m.pick(lambda item: item.is_integer) or m.leaf(m.choose(["int32", "uint8"]), m.shape())
    kind = m.integer(0, 3)
    if kind == 3 and x.dtype.startswith("u"):
        amounts = m.constant(m.random.integers(0, 4, x.shape[-1:]).astype(x.dtype))
        m.add("BitShift", [x, amounts], direction=m.choose(["LEFT", "RIGHT"]))
    elif m.opset >= 18 and kind == 2:
        m.add("BitwiseNot", [x])
    elif m.opset >= 18:
        m.add(m.choose(["BitwiseAnd", "BitwiseOr", "BitwiseXor"]), ordered(m, x, partner(m, x)))


@draws(4)
def where(m: GraphMaker) -> None:
    x = m.any()
    condition = m.pick(lambda item: item.dtype == "bool" and _broadcasts(item.shape, x.shape))
    if condition is None:
        shape = [1 if m.integer(0, 2) == 0 else n for n in x.shape]
        condition = m.leaf("bool", shape[m.integer(0, x.rank) if m.flag() else 0 :])
    m.add("Where", [condition, *ordered(m, x, partner(m, x))])


@draws(2)
def clip(m: GraphMaker) -> None:
    x = m.numbers()
    bounds = sorted(m.random.integers(0 if x.dtype.startswith("u") else -6, 7, 2))
    limits = [
        m.put(np.array(value, x.array.dtype)) if m.integer(0, 3) else None
        for value in (bounds if m.integer(0, 5) else bounds[::-1])
    ]
    m.add("Clip", [x, *limits])


@draws(4)
def cast(m: GraphMaker) -> None:
    from onnx import helper

    x = m.any()
    target = m.choose([*m.dtypes, "float32", "float64", "int64", "int32", "bool", "uint8", "int8"])
    if x.error and target not in m.dtypes and target != "float64":
        return
    if not target.startswith(("f", "bf", "bool")) and not x.is_finite:
        return
    if target.startswith("u") and x.size and x.dtype != "bool" and x.array.min() < 0:
        return
    if target == "float16" and m.opset < 13:
        return
    m.add("Cast", [x], to=helper.np_dtype_to_tensor_dtype(np.dtype(target)), terms=1)


@draws(2)
def gelu_by_hand(m: GraphMaker) -> None:
    """x * 0.5 * (1 + erf(x / sqrt 2)), in one of the orders of exporters."""
    x = m.floats()
    half, one = (m.constant(np.array(v, x.array.dtype)) for v in (0.5, 1.0))
    inner = m.add("Div", [x, m.constant(np.array(np.sqrt(2), x.array.dtype))])
    inner = inner and m.add("Erf", inner)
    inner = inner and m.add("Add", ordered(m, inner[0], one))
    outer = inner and m.add("Mul", ordered(m, x, inner[0]))
    if outer:
        m.add("Mul", ordered(m, outer[0], half))
