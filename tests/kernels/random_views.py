"""Random strided views and a float64 reference for MapReduce."""

import numpy as np
from hypothesis import strategies as st

from onnxplan.compiler import scalar
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import REDUCTIONS, Expression, ExpressionBuilder, Instruction, constant
from onnxplan.compiler.view import Storage, View

EXTENTS = st.sampled_from([1, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 64, 65])


@st.composite
def shapes(draw, max_rank=4, limit=6000, zeros=False):
    """Up to ``max_rank`` extents of at most ``limit`` elements together."""
    shape = []
    for _ in range(draw(st.integers(0, max_rank))):
        extent = draw(EXTENTS)
        if int(np.prod([*shape, extent])) <= limit:
            shape.append(extent)
    if zeros and shape and draw(st.integers(0, 9)) == 0:
        shape[draw(st.integers(0, len(shape) - 1))] = 0
    return tuple(shape)


@st.composite
def views(draw, dtype, shape, broadcast=True):
    """A view of ``shape``: any order of axes in memory, steps, reversed axes, gaps, and stride 0."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 1, 1, 2, 3, -1, -2])) for _ in shape]
    repeated = [broadcast and draw(st.integers(0, 4)) == 0 for _ in shape]
    strides, size = [0] * len(shape), 1
    for axis in reversed(order):
        if not repeated[axis]:
            strides[axis] = size * steps[axis]
            size *= max(shape[axis], 1) * abs(steps[axis])
    start = draw(st.integers(0, 3))
    lowest = (
        sum(min(0, stride * (extent - 1)) for stride, extent in zip(strides, shape, strict=True))
        if 0 not in shape
        else 0
    )
    storage = Storage(dtype, size + start + draw(st.integers(0, 2)), "x")
    return View(storage, start - lowest, shape, tuple(strides))


def reference(expression, axes, inputs, shape):
    """The outputs in NumPy with all floats in float64; ``inputs`` are arrays of ``shape``."""
    values = []
    for instruction in expression.instructions:
        dtype = DType.FLOAT64 if instruction.dtype.is_float else instruction.dtype
        arguments = [values[a] for a in instruction.operands]
        if instruction.op == "input":
            value = inputs[instruction.arguments[0]].astype(dtype.numpy)
        elif instruction.op == "constant":
            value = np.full((1,) * len(shape), instruction.number, dtype.numpy)
        elif instruction.op == "index":
            axis = instruction.arguments[0]
            along = np.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(len(shape))])
            value = np.broadcast_to(along, shape).astype(np.int64)
        elif instruction.op in REDUCTIONS:
            value = _reduce(instruction.op, np.broadcast_to(arguments[0], shape), axes, dtype)
        elif instruction.op == "cast":
            value = scalar.convert(arguments[0], dtype)
        else:
            with np.errstate(all="ignore"):
                value = np.asarray(scalar.OPERATIONS[instruction.op].evaluate(*arguments)).astype(dtype.numpy)
        values.append(value)
    reduced = expression.reduced()
    small = tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))
    return [
        np.broadcast_to(values[output], small if reduced[output] else shape) for output in expression.outputs
    ]


def _reduce(op, array, axes, dtype):
    function = {
        "reduce_sum": np.add, "reduce_prod": np.multiply, "reduce_max": np.maximum, "reduce_min": np.minimum,
    }[op]  # fmt: skip
    if dtype is DType.BOOL:
        function = {"reduce_max": np.logical_or, "reduce_min": np.logical_and}[op]
        return function.reduce(array, axis=axes, keepdims=True)
    initial = None
    if op in ("reduce_max", "reduce_min"):
        low, high = (
            (-np.inf, np.inf) if dtype.is_float else (np.iinfo(dtype.numpy).min, np.iinfo(dtype.numpy).max)
        )
        initial = low if op == "reduce_max" else high
        return function.reduce(array, axis=axes, keepdims=True, initial=initial)
    with np.errstate(all="ignore"):
        return function.reduce(array, axis=axes, keepdims=True, dtype=dtype.numpy)


class Tracer:
    """Writes expressions: ``t.input(0)``, ``t("add", a, b)``, ``t.build(c)``."""

    def __init__(self, dtype):
        self.builder, self.dtype = ExpressionBuilder(), dtype

    def input(self, number, dtype=None):
        return self.builder.add(Instruction("input", (number,), dtype or self.dtype))

    def constant(self, value):
        return self.builder.add(constant(value, self.dtype))

    def index(self, axis):
        return self.builder.add(Instruction("index", (axis,), DType.INT64))

    def __call__(self, op, *arguments, dtype=None):
        return self.builder.add(Instruction(op, arguments, dtype or self.dtype))

    def build(self, *outputs) -> Expression:
        return self.builder.build(outputs)


def softmax(dtype):
    t = Tracer(dtype)
    x = t.input(0)
    e = t("exp", t("sub", x, t("reduce_max", x)))
    return t.build(t("div", e, t("reduce_sum", e)))


def layer_norm(dtype, count):
    """Outputs: normalised, mean, variance; inputs: x, scale, bias."""
    t = Tracer(dtype)
    x, inverse = t.input(0), t.constant(1 / max(count, 1))
    mean = t("mul", t("reduce_sum", x), inverse)
    centred = t("sub", x, mean)
    variance = t("mul", t("reduce_sum", t("mul", centred, centred)), inverse)
    scaled = t("div", centred, t("sqrt", t("add", variance, t.constant(1e-5))))
    return t.build(t("add", t("mul", scaled, t.input(1)), t.input(2)), mean, variance)


def rms_norm(dtype, count):
    t = Tracer(dtype)
    x = t.input(0)
    mean = t("mul", t("reduce_sum", t("mul", x, x)), t.constant(1 / max(count, 1)))
    return t.build(t("mul", t("div", x, t("sqrt", t("add", mean, t.constant(1e-6)))), t.input(1)))


def log_sum_exp(dtype):
    t = Tracer(dtype)
    x = t.input(0)
    top = t("reduce_max", x)
    return t.build(t("add", top, t("log", t("reduce_sum", t("exp", t("sub", x, top))))))
