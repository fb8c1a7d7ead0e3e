"""Hypothesis strategies for programs that exercise the passes: maps, reductions, products, views."""

import numpy as np
from hypothesis import strategies as st

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Conv, Gather, Pool
from onnxplan.compiler.program import Program
from onnxplan.compiler.trace import apply, cast, index, reduce

MAX_SIZE = 2000


class ProgramMaker:
    """Draws operations on values drawn before; ``random`` draws the constants."""

    def __init__(self, draw, shape):
        self.draw = draw
        self.random = np.random.default_rng(draw(st.integers(0, 1000)))
        self.builder = Builder(ConstantPool())
        x = self.builder.new(DType.FLOAT32, shape)
        x.storage.name = "x"
        self.x = x
        self.values = [x]

    def pick(self):
        return self.draw(st.sampled_from(self.values[-5:]))

    def axis(self, view):
        return self.draw(st.integers(0, view.rank - 1))

    def weights(self, *shape):
        return self.builder.constant((self.random.standard_normal(shape) * 0.5).astype(np.float32))

    def unary(self):
        kind = self.draw(st.sampled_from(["tanh", "neg", "relu", "scale", "shift", "exp", "wide", "square"]))
        x, b = self.pick(), self.builder
        if kind in ("tanh", "neg"):
            return b.scalar(kind, x)
        if kind == "relu":
            return b.scalar("max", x, b.constant(np.float32(0)))
        if kind == "scale":
            return b.scalar("mul", x, b.constant(np.float32(0.5)))
        if kind == "shift":
            return b.scalar("add", b.constant(np.float32(0.25)), x)
        if kind == "exp":
            return b.map(lambda v: apply("exp", apply("tanh", v)), x)
        if kind == "wide":
            return b.cast(b.map(lambda v: cast(v, DType.FLOAT64) * 0.5, x), DType.FLOAT32)
        return b.scalar("mul", x, x)

    def binary(self):
        x = self.pick()
        others = [v for v in self.values if v.rank <= x.rank and _broadcasts(v.shape, x.shape)]
        y = self.draw(st.sampled_from(others))
        op = self.draw(st.sampled_from(["add", "sub", "max", "min"]))
        pair = (x, y) if self.draw(st.booleans()) else (y, x)
        return self.builder.scalar(op, *pair)

    def channels(self):
        x = self.pick()
        op = self.draw(st.sampled_from(["add", "mul", "sub", "div"]))
        extents = [1] * x.rank
        axis = self.axis(x)
        extents[axis] = x.shape[axis]
        factors = self.builder.constant(self.random.uniform(0.5, 1.5, extents).astype(np.float32))
        return self.builder.scalar(op, x, factors)

    def transpose(self):
        x = self.pick()
        return x.transpose(tuple(self.draw(st.permutations(range(x.rank)))))

    def slice(self):
        x = self.pick()
        axis = self.axis(x)
        if x.shape[axis] == 0:
            return x
        start = self.draw(st.integers(0, x.shape[axis] - 1))
        step = self.draw(st.sampled_from([1, 1, 2, -1]))
        room = x.shape[axis] - start if step > 0 else start + 1
        return x.slice(axis, start, self.draw(st.integers(1, -(-room // abs(step)))), step)

    def reshape(self):
        x = self.pick()
        if x.size == 0:
            return x
        outer = self.draw(st.sampled_from([n for n in range(1, x.size + 1) if x.size % n == 0]))
        rest = x.size // outer
        inner = self.draw(st.sampled_from([n for n in range(1, rest + 1) if rest % n == 0]))
        shape = self.draw(
            st.sampled_from([(outer, rest), (outer, inner, rest // inner), (1, outer, inner, rest // inner)])
        )
        return self.builder.reshape(x, shape)

    def copy(self):
        return self.builder.copy(self.pick())

    def expand(self):
        x = self.pick()
        if x.rank > 3:
            return x
        wide = x.unsqueeze((self.draw(st.integers(0, x.rank)),))
        extents = tuple(3 if n == 1 and self.draw(st.booleans()) else n for n in wide.shape)
        result = wide.expand(extents)
        return self.builder.copy(result) if self.draw(st.booleans()) else result

    def reduce(self):
        x = self.pick()
        axes = tuple(sorted(self.draw(st.sets(st.integers(0, x.rank - 1), min_size=1, max_size=2))))
        kind = self.draw(st.sampled_from(["sum", "max", "mean"]))
        keep = self.draw(st.booleans()) or x.rank == len(axes)
        if kind == "mean":
            count = max(1, int(np.prod([x.shape[axis] for axis in axes])))
            result = self.builder.compute(lambda v: reduce("sum", v) * (1 / count), (x,), axes)[0]
            return result if keep else result.squeeze(axes)
        if kind == "max" and 0 in x.shape:
            kind = "sum"
        return self.builder.reduce(kind, x, axes, keepdims=keep)

    def center(self):
        x, b = self.pick(), self.builder
        axis = self.axis(x)
        count = max(1, x.shape[axis])
        mean = b.compute(lambda v: reduce("sum", v) * (1 / count), (x,), (axis,))[0]
        return b.scalar("sub", x, mean)

    def normalize(self):
        x, b = self.pick(), self.builder
        axis = self.axis(x)
        d = self.center()
        axis = min(axis, d.rank - 1)
        variance = b.reduce("sum", b.scalar("mul", d, d), (axis,), keepdims=True)
        root = b.scalar("sqrt", b.scalar("add", variance, b.constant(np.float32(0.1))))
        return b.scalar("div", d, root)

    def softmax(self):
        x, b = self.pick(), self.builder
        if 0 in x.shape:
            return x
        axis = self.axis(x)
        e = b.scalar("exp", b.scalar("sub", x, b.reduce("max", x, (axis,), keepdims=True)))
        return b.scalar("div", e, b.reduce("sum", e, (axis,), keepdims=True))

    def positions(self):
        x = self.pick()
        axis = self.axis(x)
        return self.builder.map(lambda v: v + cast(index(v, axis), DType.FLOAT32) * 0.125, x)

    def matmul(self):
        x = self.pick()
        if x.rank < 2:
            return x
        if self.draw(st.booleans()):
            return self.builder.matmul(x, self.weights(x.shape[-1], self.draw(st.integers(1, 5))))
        axes = (*range(x.rank - 2), x.rank - 1, x.rank - 2)
        return self.builder.matmul(self.builder.scalar("tanh", x), x.transpose(axes))

    def conv(self):
        x = self.pick()
        if x.rank != 4 or 0 in x.shape:
            return x
        filters, (n, h, w, c) = self.draw(st.integers(1, 4)), x.shape
        primitive = Conv((1, 1), (1, 1), (1, 1), 1, DType.FLOAT32)
        result = self.builder.emit(
            primitive,
            [x, self.weights(3, 3, c, filters)],
            [self.builder.new(DType.FLOAT32, (n, h, w, filters))],
        )[0]
        return result.transpose((0, 3, 1, 2)) if self.draw(st.booleans()) else result

    def padded_conv(self):
        x = self.pick()
        if x.rank != 4 or 0 in x.shape:
            return x
        b, (n, h, w, c) = self.builder, x.shape
        top, left, bottom, right = (self.draw(st.integers(0, 2)) for _ in range(4))
        shape = (n, h + top + bottom, w + left + right, c)
        order = self.draw(st.sampled_from([None, (0, 3, 1, 2)]))
        padded = b.new(DType.FLOAT32, shape, order)
        b.fill_into(0.0, padded)
        b.copy_into(x, padded.slice(1, top, h).slice(2, left, w))
        primitive = Conv((1, 1), (1, 1), (1, 0), 1, DType.FLOAT32)
        result = b.new(DType.FLOAT32, (n, shape[1] + 1, shape[2], 2))
        return b.emit(primitive, [padded, self.weights(2, 1, c, 2)], [result])[0]

    def pool(self):
        x = self.pick()
        if x.rank != 4 or 0 in x.shape:
            return x
        primitive = Pool("max", (3, 3), (1, 1), (1, 1), (1, 1))
        return self.builder.emit(primitive, [x], [self.builder.new(DType.FLOAT32, x.shape)])[0]

    def concat(self):
        x, y = self.pick(), self.pick()
        axis = self.axis(x)
        if y.rank != x.rank or any(
            a != b for n, (a, b) in enumerate(zip(x.shape, y.shape, strict=True)) if n != axis
        ):
            y = x
        return self.builder.concat([x, y], axis)

    def gather(self):
        x = self.pick()
        axis = self.axis(x)
        if x.shape[axis] == 0:
            return x
        indices = self.builder.constant(self.random.integers(0, x.shape[axis], 3))
        shape = (*x.shape[:axis], 3, *x.shape[axis + 1 :])
        return self.builder.emit(Gather(axis), [x, indices], [self.builder.new(DType.FLOAT32, shape)])[0]

    def add(self, kind):
        view = getattr(self, kind)()
        if view.size <= MAX_SIZE and 1 <= view.rank <= 5:
            self.values.append(view)


def _broadcasts(shape, target):
    lead = len(target) - len(shape)
    return all(n in (1, m) for n, m in zip(shape, target[lead:], strict=True))


KINDS = (
    "unary", "unary", "unary", "binary", "binary", "channels", "transpose", "slice", "reshape", "copy",
    "expand", "reduce", "center", "normalize", "softmax", "positions", "matmul", "conv", "pool", "concat",
    "gather", "padded_conv",
)  # fmt: skip


@st.composite
def programs(draw, kinds=KINDS, max_operations=14):
    """``(program, feeds)``; the program's outputs are some of its values, views of any kind."""
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    if draw(st.integers(0, 20)) == 0:
        shape = (*shape[:-1], 0)
    maker = ProgramMaker(draw, shape)
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=max_operations)):
        maker.add(kind)
    chosen = draw(st.lists(st.integers(0, len(maker.values) - 1), max_size=2))
    outputs = {"last": maker.values[-1]}
    outputs.update({f"y{n}": maker.values[number] for n, number in enumerate(chosen)})
    program = Program({"x": maker.x}, outputs, maker.builder.operations)
    feed = maker.random.standard_normal(shape).astype(np.float32)
    return program, {"x": feed}
