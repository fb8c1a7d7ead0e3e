"""Numbers that kernels take as parameters."""

import numpy as np
import pytest
from harness import Recorder, cpu_isas, dense, run_operation, selector
from random_views import Tracer, layer_norm, reference

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.kernels.cpu.lifted_constants import lift_constants
from onnxplan.kernels.float_words import float_word


def operation_of(expression, shape, axes=()):
    """A MapReduce of dense operands, all of the first result's type."""
    dtype = expression.dtypes[0]
    small = tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))
    reduced = expression.reduced()
    inputs = tuple(dense(dtype, shape) for _ in range(expression.input_count))
    outputs = tuple(dense(dtype, small if reduced[output] else shape) for output in expression.outputs)
    return Operation(MapReduce(expression, shape, axes), inputs, outputs)


def kernels(operation):
    recorder = Recorder()
    selector(cpu_isas()[0]).select(operation, recorder)
    return [step.kernel for step in recorder.steps]


def arithmetic(dtype, *numbers):
    """``x * a / b + c ...`` with the operations of arithmetic in turn."""
    t = Tracer(dtype)
    value = t.input(0)
    for position, number in enumerate(numbers):
        value = t(("mul", "div", "add", "sub")[position % 4], value, t.constant(number))
    return t.build(value)


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_kernels_that_differ_in_numbers_are_one(dtype):
    rows = [kernels(operation_of(layer_norm(dtype, count), (4, count), (1,))) for count in (384, 768, 1024)]
    assert rows[0] == rows[1] == rows[2]
    maps = [kernels(operation_of(arithmetic(dtype, *numbers), (7,))) for numbers in ((0.3, 3.3), (1.1, 7.7))]
    assert maps[0] == maps[1]


@pytest.mark.parametrize("isa", cpu_isas())
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64])
def test_results_are_those_of_the_numbers(isa, dtype):
    rng = np.random.default_rng(0)
    for shape, axes, expression in (
        ((3, 37), (), arithmetic(dtype, 0.1, 3.7, 1e-9, 1e30)),
        ((5, 387), (1,), layer_norm(dtype, 387)),
        ((387, 5), (0,), layer_norm(dtype, 387)),
    ):
        assert lift_constants(expression)[1]
        operation = operation_of(expression, shape, axes)
        values = {
            view.storage: rng.normal(size=view.storage.size).astype(dtype.numpy) for view in operation.inputs
        }
        arrays = [values[view.storage].reshape(shape) for view in operation.inputs]
        results = run_operation(operation, values, isa, rng)
        for got, want in zip(results, reference(expression, axes, arrays, shape), strict=True):
            epsilon = 64 * np.finfo(dtype.numpy).eps
            np.testing.assert_allclose(got, want, rtol=epsilon, atol=epsilon * np.abs(want).max())


@pytest.mark.parametrize("number", [0.0, -0.0, 1.0, -1.5, 6.0, 255.0, np.inf, -np.inf, np.nan])
def test_plain_numbers_stay(number):
    expression = arithmetic(DType.FLOAT32, number)
    assert lift_constants(expression) == (expression, ())


def test_numbers_that_code_is_made_for_stay():
    t = Tracer(DType.FLOAT32)
    x = t.input(0)
    power, bound = t.constant(1.7), t.constant(0.3)
    kept = t.build(t("pow", x, power), t("min", x, bound), t("div", x, t.constant(1024.0)), t.constant(0.7))
    assert lift_constants(kept) == (kept, ())
    half = arithmetic(DType.FLOAT16, 0.3, 0.7)
    assert lift_constants(half) == (half, ())
    # What is also read by something else stays for all of its readers.
    t = Tracer(DType.FLOAT32)
    both = t.build(t("min", t("mul", t.input(0), t.constant(0.3)), t.constant(0.3)))
    assert lift_constants(both) == (both, ())


def test_words_stand_in_the_order_of_parameters():
    lifted, words = lift_constants(arithmetic(DType.FLOAT32, 0.1, 0.3, 1.0, 0.1))
    assert str(lifted) == "sub(add(div(mul(x0, p0), p1), 1), p0)"
    assert words == (float_word(0.1), float_word(0.3))


def test_a_mean_of_a_power_of_two_is_lifted_but_no_division_of_vectors():
    t = Tracer(DType.FLOAT32)
    count = t.constant(1024.0)
    mean = t.build(t("div", t("reduce_sum", t.input(0)), count))
    assert len(lift_constants(mean)[1]) == 1
    t = Tracer(DType.FLOAT32)
    count = t.constant(1024.0)
    scaled = t.build(t("div", t("sub", t.input(0), t("div", t("reduce_sum", t.input(0)), count)), count))
    assert lift_constants(scaled) == (scaled, ())


def test_lengths_of_rows_are_lifted_however_small():
    rows = [
        kernels(operation_of(layer_norm(DType.FLOAT32, count), (4, count), (1,))) for count in (32, 49, 384)
    ]
    assert rows[0] == rows[1] == rows[2]
