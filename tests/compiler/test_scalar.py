"""The NumPy meaning of scalar operations and conversions, against loops and the ONNX reference."""

from __future__ import annotations

import math
import warnings

import ml_dtypes
import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.scalar import OPERATIONS, convert
from onnxplan.compiler.scalar import evaluate as evaluate_scalar

F32, F64, I64 = DType.FLOAT32, DType.FLOAT64, DType.INT64


def generator(seed=0):
    return np.random.default_rng(seed)


def test_erf_is_exact_to_one_ulp():
    x = np.concatenate(
        [generator().uniform(-7, 7, 20000), [0.0, -0.0, np.inf, -np.inf, 0.84375, 1.25, 6.0, 1e-310]]
    )
    exact = np.array([math.erf(value) for value in x])
    found = evaluate_scalar("erf", F64, [x])
    assert np.all(np.abs(found - exact) <= np.spacing(np.abs(exact)))
    assert np.isnan(evaluate_scalar("erf", F32, [np.full(9, np.nan, np.float32)])).all()
    assert np.signbit(evaluate_scalar("erf", F64, [np.full(9, -0.0)])).all()
    few = evaluate_scalar("erf", F32, [x[:3].astype(np.float32)])
    assert few.dtype == np.float32
    np.testing.assert_array_equal(few, evaluate_scalar("erf", F32, [x.astype(np.float32)])[:3])


@pytest.mark.parametrize(
    "dtype", [DType.INT8, DType.INT32, DType.INT64, DType.UINT8, DType.INT4, DType.UINT2]
)
@pytest.mark.parametrize("op", ["div", "mod", "remainder"])
def test_integer_division_truncates_and_never_warns(dtype, op):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = np.arange(-9 if dtype.kind == "i" else 0, 10).astype(dtype.numpy)
        a, b = (v.ravel() for v in np.meshgrid(values, values))
        found = evaluate_scalar(op, dtype, [a, b])
    assert found.dtype == dtype.numpy
    for x, y, z in zip(a.astype(int), b.astype(int), found.astype(int), strict=True):
        y = y or 1
        expected = {"div": int(x / y), "mod": x % y, "remainder": int(math.fmod(x, y))}[op]
        assert z == np.asarray(expected).astype(dtype.numpy).astype(int)


def test_smallest_integer_over_minus_one_wraps():
    assert evaluate_scalar("div", DType.INT8, [np.array([-128], np.int8), np.array([-1], np.int8)]) == -128


@pytest.mark.parametrize("dtype", [DType.INT4, DType.UINT4, DType.INT2, DType.UINT2])
@pytest.mark.parametrize(
    "op", ["add", "sub", "mul", "min", "max", "bitwise_xor", "neg", "bitwise_not", "abs"]
)
def test_narrow_integers_wrap(dtype, op):
    low = -(2 ** (dtype.numpy.itemsize * 8)) if dtype.kind == "i" else 0
    values = np.unique(np.arange(low, 16).astype(np.int8).astype(dtype.numpy).astype(np.int8)).astype(
        dtype.numpy
    )
    arguments = [v.ravel() for v in np.meshgrid(values, values)][: OPERATIONS[op].arity]
    found = evaluate_scalar(op, dtype, arguments)
    wide = [a.astype(np.int64) for a in arguments]
    expected = OPERATIONS[op].evaluate(*wide)
    np.testing.assert_array_equal(found.astype(int), expected.astype(dtype.numpy).astype(int))


def test_integer_power_of_negative_exponents():
    base = np.array([2, 1, -1, -1, 3, -2], np.int64)
    exponent = np.array([-1, -5, -3, -4, 4, 3], np.int64)
    np.testing.assert_array_equal(evaluate_scalar("pow", I64, [base, exponent]), [0, 1, -1, 1, 81, -8])


def test_shifts_by_the_width_give_zero():
    a, b = np.array([255, 255, 255, 3], np.uint8), np.array([1, 8, 200, 0], np.uint8)
    np.testing.assert_array_equal(evaluate_scalar("shift_left", DType.UINT8, [a, b]), [254, 0, 0, 3])
    np.testing.assert_array_equal(evaluate_scalar("shift_right", DType.UINT8, [a, b]), [127, 0, 0, 3])


def test_small_floats_are_computed_in_float32():
    a = np.array([0.1, 3.0, 300.0], ml_dtypes.bfloat16)
    found = evaluate_scalar("tanh", DType.BFLOAT16, [a])
    np.testing.assert_array_equal(found, np.tanh(a.astype(np.float32)).astype(ml_dtypes.bfloat16))
    chosen = evaluate_scalar("select", DType.BFLOAT16, [np.array([True, False, True]), a, -a])
    np.testing.assert_array_equal(
        chosen.astype(np.float32), np.array([0.1, -3, 300], ml_dtypes.bfloat16).astype(np.float32)
    )
    assert chosen.dtype == a.dtype


@pytest.mark.parametrize("op", sorted(set(OPERATIONS) - {"select", "cast", "cast_saturate"}))
def test_every_operation_takes_its_kinds_and_zero_sized_arrays(op):
    entry = OPERATIONS[op]
    for dtype in DType:
        if dtype.kind not in entry.kinds:
            continue
        result = DType.BOOL if entry.result == "bool" else dtype
        for shape in [(), (3, 2), (0, 4)]:
            found = evaluate_scalar(op, result, [np.ones(shape, dtype.numpy)] * entry.arity)
            assert found.shape == shape
            assert found.dtype == result.numpy


EDGES = [0, -0.0, 1, 1.5, 464, 465, 1e6, -1e6, 1e-7, np.inf, -np.inf, np.nan, 57344, 61440, 7, 2.0**-10]


@pytest.mark.parametrize(
    "dtype", [DType.FLOAT8E4M3FN, DType.FLOAT8E4M3FNUZ, DType.FLOAT8E5M2, DType.FLOAT8E5M2FNUZ]
)
@pytest.mark.parametrize("saturate", [True, False])
def test_float8_conversion_is_that_of_the_reference(dtype, saturate):
    x = np.concatenate([np.array(EDGES, np.float32), generator().normal(0, 300, 200).astype(np.float32)])
    node = helper.make_node("Cast", ["x"], ["y"], to=dtype.code, saturate=int(saturate))
    graph = helper.make_graph(
        [node],
        "cast",
        [helper.make_tensor_value_info("x", 1, [x.size])],
        [helper.make_tensor_value_info("y", dtype.code, [x.size])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
    found = convert(x, dtype, saturate=saturate)
    assert found.dtype == dtype.numpy
    np.testing.assert_array_equal(found.astype(np.float32), expected.astype(np.float32))


def test_powers_of_two_round_up_and_drop_the_sign():
    x = np.array([1, 1.1, -3, 0, np.inf, np.nan, 3e38, 2.0**-130], np.float32)
    exponents = convert(x, DType.FLOAT8E8M0, saturate=True).view(np.uint8)
    np.testing.assert_array_equal(exponents, [127, 128, 129, 0, 254, 255, 254, 0])
    np.testing.assert_array_equal(convert(x, DType.FLOAT8E8M0).view(np.uint8)[[4, 6]], 255)


@pytest.mark.parametrize("dtype", [DType.FLOAT4E2M1, DType.FLOAT6E2M3, DType.FLOAT6E3M2])
def test_floats_without_infinities_round_to_the_nearest_even_and_saturate(dtype):
    values = np.arange(2 ** (dtype.bits - 1), dtype=np.uint8).view(dtype.numpy).astype(np.float64)
    between = (values[1:] + values[:-1]) / 2
    x = np.concatenate([values, between, [2 * values[-1], np.inf]])
    codes = np.arange(len(between))
    even = np.concatenate([np.arange(len(values)), codes + codes % 2, [len(values) - 1] * 2])
    for sign in (1, -1):
        found = convert(sign * x, dtype)
        np.testing.assert_array_equal(found.astype(np.float64), sign * values[even])


def test_float_to_integer():
    x = np.array([1.9, -1.9, np.nan, np.inf, -np.inf, 300.7, -300.7, 3e9, 1e19, 1.8e19, -5])
    smallest = np.iinfo(np.int64).min
    wide = np.array([1, -1, smallest, smallest, smallest, 300, -300, 3 * 10**9, smallest, smallest, -5])
    for dtype in [DType.INT64, DType.INT32, DType.INT8, DType.UINT8, DType.UINT32, DType.INT4, DType.UINT4]:
        np.testing.assert_array_equal(
            convert(x, dtype).astype(np.int64), wide.astype(dtype.numpy).astype(np.int64)
        )
    unsigned = convert(x, DType.UINT64)
    assert unsigned[[0, 1, 8, 10]].tolist() == [1, 2**64 - 1, 10**19, 2**64 - 5]


def test_doubles_round_once():
    tie = np.array(
        [1 + 2.0**-8, 1 + 2.0**-8 + 2.0**-40, 1 + 3 * 2.0**-8 - 2.0**-40, -1 - 2.0**-8 - 2.0**-50, 1e300]
    )
    expected = np.array([1, 1 + 2.0**-7, 1 + 2.0**-7, -1 - 2.0**-7, np.inf])
    np.testing.assert_array_equal(convert(tie, DType.BFLOAT16).astype(np.float64), expected)
    x = generator().normal(size=10000)
    candidates = np.arange(0x7F80, dtype=np.uint16).view(ml_dtypes.bfloat16).astype(np.float64)
    places = np.searchsorted(candidates, np.abs(x))
    below, above = candidates[places - 1], candidates[places]
    nearest = np.copysign(np.where(np.abs(x) - below < above - np.abs(x), below, above), x)
    np.testing.assert_array_equal(convert(x, DType.BFLOAT16).astype(np.float64), nearest)
    assert np.isnan(convert(np.array([np.nan, -np.nan]), DType.BFLOAT16).astype(np.float32)).all()


def test_truth_of_numbers():
    for dtype in [F32, DType.FLOAT16, DType.BFLOAT16, DType.FLOAT8E5M2, DType.INT8, DType.INT4, F64]:
        x = np.array([0, 1, 2], dtype.numpy)
        np.testing.assert_array_equal(convert(x, DType.BOOL), [False, True, True])
        np.testing.assert_array_equal(convert(np.array([False, True]), dtype).astype(np.float32), [0, 1])
    assert convert(np.array([np.nan, 1e-300]), DType.BOOL).all()
