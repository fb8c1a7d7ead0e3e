"""Derivatives of scalar operations, against central differences."""

import numpy as np
import pytest

from onnxplan.compiler.derivatives import adjoint_expression
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate_expression
from onnxplan.compiler.scalar import OPERATIONS
from onnxplan.compiler.trace import Scalar, apply, cast, index, reduce, select, trace

F64 = DType.FLOAT64
STEP = 1e-6
SHAPE = (3, 4)

# Where the operations are defined, and as far from their poles as differences need.
DOMAINS = {
    **dict.fromkeys(["asin", "acos", "atanh"], (-0.9, 0.9)),
    **dict.fromkeys(["sqrt", "log", "div", "mod", "remainder"], (0.5, 3.0)),
    "log1p": (-0.5, 2.0),
    "acosh": (1.2, 3.0),
    "pow": (0.3, 2.0),
}


def check(body, inputs, axes=(), dtypes=None):
    """Adjoints of the sum of all outputs of ``body`` against differences of that sum."""
    expression = trace(body, dtypes or [DType.from_numpy(array.dtype) for array in inputs])
    outputs = evaluate_expression(expression, inputs, SHAPE, axes)
    generator = np.random.default_rng(7)
    given = [generator.uniform(0.5, 2, output.shape) for output in outputs]
    wanted = tuple(range(len(inputs)))
    adjoint, reads, places = adjoint_expression(expression, tuple(range(len(outputs))), wanted)
    operands = [*inputs, *given]
    views = [np.broadcast_to(operands[number], SHAPE) for number in reads]
    results = evaluate_expression(adjoint, views, SHAPE, axes) if adjoint.outputs else ()

    def total(arrays):
        values = evaluate_expression(expression, arrays, SHAPE, axes)
        return sum(np.sum(factor * value) for factor, value in zip(given, values, strict=True))

    for number, array in enumerate(inputs):
        if array.dtype != np.float64:
            assert number not in places
            continue
        expected = np.zeros(SHAPE)
        for place in np.ndindex(SHAPE):
            moved = [[other.copy() for other in inputs] for _ in range(2)]
            moved[0][number][place] += STEP
            moved[1][number][place] -= STEP
            expected[place] = (total(moved[0]) - total(moved[1])) / (2 * STEP)
        found = np.broadcast_to(results[places[number]], SHAPE) if number in places else np.zeros(SHAPE)
        np.testing.assert_allclose(found, expected, 1e-6, 1e-7)


def drawn(count, low, high, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.uniform(low, high, SHAPE) for _ in range(count)]


FLOATING = [
    op for op, definition in OPERATIONS.items() if "f" in definition.kinds and definition.result == "same"
]


@pytest.mark.parametrize("op", [op for op in FLOATING if op not in ("select", "cast", "cast_saturate")])
def test_operation(op):
    arity = OPERATIONS[op].arity
    check(lambda *values: apply(op, *values), drawn(arity, *DOMAINS.get(op, (-1.4, 1.4))))


def test_choices_and_conversions():
    x, y = drawn(2, -1, 1)
    condition = np.random.default_rng(1).random(SHAPE) < 0.5
    check(lambda c, a, b: select(c, a * b, a), [condition, x, y])
    check(lambda a: cast(cast(a * a, DType.FLOAT32), F64) * 0.0 + a, [x])
    check(lambda a: a * cast(index(a, 1), F64), [x])
    check(lambda a, b: a * cast(cast(b, DType.INT64), F64), [x, y])


def test_equal_arguments_share():
    expression = trace(lambda a, b: apply("max", a, b), [F64, F64])
    adjoint, reads, places = adjoint_expression(expression, (0,), (0, 1))
    equal = np.full(SHAPE, 2.0)
    results = evaluate_expression(adjoint, [[equal, equal, equal][number] for number in reads], SHAPE)
    for number in (0, 1):
        np.testing.assert_array_equal(results[places[number]], equal / 2)


def softmax(a: Scalar) -> Scalar:
    power = apply("exp", a - reduce("max", a))
    return power / reduce("sum", power)


@pytest.mark.parametrize(
    "body",
    [
        lambda a: reduce("sum", a * a),
        lambda a: reduce("max", a) * 3.0,
        lambda a: a * reduce("min", a),
        lambda a: (a - reduce("sum", a) / 4.0) / apply("sqrt", reduce("sum", a * a)),
        softmax,
        lambda a: [reduce("sum", softmax(a) * a), a + reduce("max", a)],
        lambda a: reduce("sum", apply("exp", a)) * reduce("sum", a) + 1.0,
    ],
)
@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_reductions(body, axes):
    check(body, drawn(1, -2, 2), axes)


def test_products_of_elements_have_none():
    expression = trace(lambda a: reduce("prod", a), [F64])
    with pytest.raises(ValueError, match="no derivative of reduce_prod"):
        adjoint_expression(expression, (0,), (0,))
