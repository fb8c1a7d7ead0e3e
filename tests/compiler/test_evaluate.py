"""The NumPy meaning of the primitives, against loops and the ONNX reference."""

from __future__ import annotations

import itertools
import math
import warnings

import ml_dtypes
import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate, evaluate_expression, evaluate_program
from onnxplan.compiler.expression import Expression, Instruction, constant, identity
from onnxplan.compiler.primitives import (
    ArgReduce,
    Conv,
    Gather,
    MapReduce,
    MatMul,
    Pool,
    Primitive,
    Recurrent,
    Resample,
    Scan,
)
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.scalar import OPERATIONS, convert
from onnxplan.compiler.scalar import evaluate as evaluate_scalar
from onnxplan.compiler.view import Storage, View

F32, F64, I64 = DType.FLOAT32, DType.FLOAT64, DType.INT64


def generator(seed=0):
    return np.random.default_rng(seed)


def unary(op, dtype):
    return Expression((Instruction("input", (0,), dtype), Instruction(op, (0,), dtype)), (1,))


# Scalar operations


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


# Conversions

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
    np.testing.assert_array_equal(exponents, [127, 128, 129, 0, 255, 255, 254, 1])
    assert convert(x, DType.FLOAT8E8M0).view(np.uint8)[6] == 255


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


# Expressions


def test_softmax_expression():
    x = generator().normal(size=(3, 5)).astype(np.float32)
    expression = Expression(
        (
            Instruction("input", (0,), F32),
            Instruction("reduce_max", (0,), F32),
            Instruction("sub", (0, 1), F32),
            Instruction("exp", (2,), F32),
            Instruction("reduce_sum", (3,), F32),
            Instruction("div", (3, 4), F32),
        ),
        (5, 1),
    )
    softmax, largest = evaluate(MapReduce(expression, (3, 5), (1,)), [x])
    exact = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(softmax, exact / exact.sum(1, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(largest, x.max(1, keepdims=True))


def test_constants_and_indices_take_the_iteration_shape():
    expression = Expression((constant(2.5, F32), Instruction("index", (1,), I64)), (0, 1))
    value, index = evaluate(MapReduce(expression, (2, 3)), [])
    np.testing.assert_array_equal(value, np.full((2, 3), 2.5, np.float32))
    np.testing.assert_array_equal(index, [[0, 1, 2]] * 2)
    reduced, index = evaluate(MapReduce(expression, (2, 3), (0,)), [])
    assert reduced.shape == (1, 3)
    assert index.shape == (2, 3)


def test_reductions_of_broadcast_and_empty_arguments():
    count = Expression((constant(1, I64), Instruction("reduce_sum", (0,), I64)), (1,))
    assert evaluate_expression(count, [], (4, 3), (0, 1))[0].tolist() == [[12]]
    for op, expected in [("sum", 0), ("prod", 1), ("max", -np.inf), ("min", np.inf)]:
        (found,) = evaluate_expression(
            unary(f"reduce_{op}", F32), [np.empty((0, 2), np.float32)], (0, 2), (0,)
        )
        np.testing.assert_array_equal(found, np.full((1, 2), expected, np.float32))
    for op, expected in [("sum", 0), ("prod", 1), ("max", -128), ("min", 127)]:
        (found,) = evaluate_expression(
            unary(f"reduce_{op}", DType.INT8), [np.empty((0,), np.int8)], (0,), (0,)
        )
        assert found.tolist() == [expected]


def test_sums_wrap_in_their_own_integer_type_and_float_sums_round_once():
    (found,) = evaluate_expression(unary("reduce_sum", DType.INT8), [np.full(3, 100, np.int8)], (3,), (0,))
    assert found.tolist() == [300 - 256]
    x = np.array([1e8, 1, -1e8], np.float32)
    assert evaluate_expression(unary("reduce_sum", F32), [x], (3,), (0,))[0].tolist() == [1]
    half = np.full(5000, 1, np.float16)
    assert evaluate_expression(unary("reduce_sum", DType.FLOAT16), [half], (5000,), (0,))[0].tolist() == [
        5000
    ]


# Contractions


def test_matmul_with_epilogue():
    rng = generator()
    a, b = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(1, 4, 5)).astype(np.float32)
    bias = rng.normal(size=(5,)).astype(np.float32)
    epilogue = Expression(
        (Instruction("input", (0,), F32), Instruction("input", (1,), F32), Instruction("add", (0, 1), F32)),
        (2,),
    )
    inputs = [a, np.broadcast_to(b, (2, 4, 5)), np.broadcast_to(bias, (2, 3, 5))]
    (found,) = evaluate(MatMul(F32, epilogue), inputs)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, a.astype(float) @ b.astype(float) + bias, rtol=1e-5, atol=1e-6)


def test_matmul_of_bytes_accumulates_in_int32():
    a, b = np.full((1, 1000), 255, np.uint8), np.full((1000, 1), -128, np.int8)
    (found,) = evaluate(MatMul(DType.INT32), [a, b], [(1, 1)], [F32])
    assert found.dtype == np.float32
    assert found.tolist() == [[-255 * 128 * 1000]]


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_conv(rank, groups):
    rng = generator(rank)
    spatial, kernel = (7, 5, 6)[:rank], (3, 2, 1)[:rank]
    strides, dilations, pads = (2, 1, 3)[:rank], (2, 1, 1)[:rank], (1, -1, 2)[:rank]
    outputs = (4, 3, 3)[:rank]
    x = rng.normal(size=(2, *spatial, 4)).astype(np.float32)
    w = rng.normal(size=(*kernel, 4 // groups, 6)).astype(np.float32)
    expected = np.zeros((2, *outputs, 6))
    for o in itertools.product(*map(range, outputs)):
        for k in itertools.product(*map(range, kernel)):
            place = [p * s + t * d - q for p, s, t, d, q in zip(o, strides, k, dilations, pads, strict=True)]
            if any(p < 0 or p >= e for p, e in zip(place, spatial, strict=True)):
                continue
            for m in range(6):
                g = m // (6 // groups)
                part = x[(slice(None), *place)][:, g * 4 // groups : (g + 1) * 4 // groups].astype(float)
                expected[(slice(None), *o, m)] += part @ w[(*k, slice(None), m)]
    primitive = Conv(strides, dilations, pads, groups, F32)
    (found,) = evaluate(primitive, [x, w], [(2, *outputs, 6)], [F32])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def pool_by_loops(primitive: Pool, x, shape):
    values, places = np.zeros(shape, np.float64), np.zeros(shape, np.int64)
    spatial = x.shape[1:-1]
    channels_first = np.moveaxis(np.arange(x.size).reshape(x.shape[0], x.shape[-1], *spatial), 1, -1)
    if primitive.column_major:
        plane = np.arange(math.prod(spatial)).reshape(spatial, order="F")
        bases = channels_first[(slice(None), *[slice(0, 1)] * len(spatial))]
        channels_first = bases + plane[..., None]
    for o in itertools.product(*map(range, shape)):
        taps, positions, counted = [], [], 0
        for k in itertools.product(*map(range, primitive.kernel)):
            place = tuple(
                p * s + t * d - q
                for p, s, t, d, q in zip(
                    o[1:-1], primitive.strides, k, primitive.dilations, primitive.pads, strict=True
                )
            )
            if primitive.count_padding is not None:
                limits = [e + q for e, q in zip(spatial, primitive.count_padding, strict=True)]
                counted += all(p < limit for p, limit in zip(place, limits, strict=True))
            if all(0 <= p < e for p, e in zip(place, spatial, strict=True)):
                taps.append(x[(o[0], *place, o[-1])])
                positions.append(channels_first[(o[0], *place, o[-1])])
        if primitive.kind == "average":
            values[o] = sum(taps) / (len(taps) if primitive.count_padding is None else counted)
        else:
            best = next((i for i, t in enumerate(taps) if np.isnan(t)), int(np.argmax(taps)))
            values[o], places[o] = taps[best], positions[best]
    return values, places


POOLS = [
    ((7,), (3,), (2,), (1,), (1,), (4,), (1,)),
    ((5, 6), (2, 3), (2, 2), (1, 1), (0, 1), (3, 4), (0, 1)),
    ((6, 5), (2, 2), (1, 2), (2, 3), (1, 1), (6, 2), (1, 1)),
    ((4, 3, 5), (2, 2, 3), (2, 1, 2), (1, 1, 1), (0, 1, 1), (2, 3, 3), (0, 0, 1)),
]


@pytest.mark.parametrize(("spatial", "kernel", "strides", "dilations", "pads", "outputs", "ends"), POOLS)
@pytest.mark.parametrize("kind", ["max", "column", "average", "padded"])
def test_pool(spatial, kernel, strides, dilations, pads, outputs, ends, kind):
    x = generator().integers(-3, 4, (2, *spatial, 3)).astype(np.float32)
    x[0, spatial[0] // 2] = np.nan
    x[1] = np.where(x[1] < 0, -np.inf, x[1])
    primitive = Pool(
        "max" if kind in ("max", "column") else "average",
        kernel,
        strides,
        dilations,
        pads,
        ends if kind == "padded" else None,
        kind == "column",
    )
    shape = (2, *outputs, 3)
    expected, places = pool_by_loops(primitive, x, shape)
    if primitive.kind == "max":
        found, positions = evaluate(primitive, [x], [shape, shape])
        np.testing.assert_array_equal(positions, places)
        assert len(evaluate(primitive, [x], [shape])) == 1
    else:
        (found,) = evaluate(primitive, [x], [shape])
    np.testing.assert_allclose(found, expected, rtol=1e-6)


# Data movement and searches


def test_gather_counts_from_the_end_and_clamps():
    data = np.arange(24).reshape(2, 3, 4)
    indices = np.array([[0, -1], [7, -9]])
    (found,) = evaluate(Gather(1), [data, indices])
    np.testing.assert_array_equal(found, data[:, [[0, 2], [2, 0]]])
    (found,) = evaluate(Gather(0), [np.empty((0, 3), np.float32), indices])
    np.testing.assert_array_equal(found, np.zeros((2, 2, 3)))


@pytest.mark.parametrize("dtype", [F32, DType.BFLOAT16, DType.INT8, DType.UINT4])
def test_arg_reduce(dtype):
    x = np.array([[1, 3, 3, 0], [2, 2, 1, 2]], dtype.numpy)
    for kind, last, expected in [("max", False, [1, 0]), ("max", True, [2, 3]), ("min", False, [3, 2])]:
        (found,) = evaluate(ArgReduce(kind, 1, last), [x])
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found[:, 0], expected)


def test_nan_wins_an_arg_reduce():
    x = np.array([1, np.nan, -np.inf, np.nan, np.inf], np.float32)
    for kind in ("max", "min"):
        assert evaluate(ArgReduce(kind, 0), [x])[0].tolist() == [1]
        assert evaluate(ArgReduce(kind, 0, last=True), [x])[0].tolist() == [3]


@pytest.mark.parametrize("kind", ["sum", "prod"])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [F32, DType.FLOAT16, DType.INT32, DType.UINT8])
def test_scan(kind, exclusive, reverse, dtype):
    x = generator().integers(1, 4, (3, 5, 2)).astype(dtype.numpy)
    (found,) = evaluate(Scan(kind, 1, exclusive, reverse), [x])
    combine = np.sum if kind == "sum" else np.prod
    for i in range(5):
        part = x[:, i + exclusive :] if reverse else x[:, : i + 1 - exclusive]
        expected = combine(part.astype(np.int64), axis=1)
        np.testing.assert_array_equal(found[:, i], expected.astype(dtype.numpy))
    assert found.dtype == dtype.numpy
    assert evaluate(Scan(kind, 0, exclusive, reverse), [x[:0]])[0].shape == (0, 5, 2)


def test_resample():
    x = np.array([[0, 10, 20], [250, 7, 8]], np.uint8)
    positions = np.array([[0, 1], [1, 2], [2, 9]], np.int32)
    weights = np.array([[0.5, 0.5], [0.25, 0.75], [1, 0]], np.float32)
    (found,) = evaluate(Resample(1), [x, positions, weights])
    np.testing.assert_array_equal(found, [[5, 17, 20], [128, 7, 8]])
    (found,) = evaluate(
        Resample(0), [x.astype(np.float32), positions[:, :1] * 0 + 1, np.ones((3, 1), np.float32)]
    )
    np.testing.assert_array_equal(found, np.repeat(x[1:], 3, axis=0))


# Recurrences

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
DEFAULTS = {"lstm": ("Sigmoid", "Tanh", "Tanh"), "gru": ("Sigmoid", "Tanh"), "rnn": ("Tanh",)}


@pytest.mark.parametrize(("kind", "linear"), [("lstm", False), ("gru", False), ("gru", True), ("rnn", False)])
def test_recurrent_is_that_of_the_reference(kind, linear):
    steps, rows, inputs, size = 4, 3, 2, 5
    rng = generator()
    x = rng.normal(size=(steps, rows, inputs)).astype(np.float32)
    count = GATES[kind] * size
    w, r = (rng.normal(size=(1, count, extent)).astype(np.float32) for extent in (inputs, size))
    b = rng.normal(size=(1, 2 * count)).astype(np.float32)
    h, c = rng.normal(size=(2, 1, rows, size)).astype(np.float32)
    p = rng.normal(size=(1, 3 * size)).astype(np.float32)
    feeds = {"x": x, "w": w, "r": r, "b": b, "": None, "h": h}
    if kind == "lstm":
        feeds |= {"c": c, "p": p}
    attributes = {"linear_before_reset": int(linear)} if kind == "gru" else {}
    node = helper.make_node(kind.upper(), list(feeds), ["y", "yh"], hidden_size=size, **attributes)
    graph = helper.make_graph(
        [node],
        kind,
        [helper.make_tensor_value_info(name, 1, None) for name in feeds if name],
        [helper.make_tensor_value_info(name, 1, None) for name in ("y", "yh")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)])
    y, yh = ReferenceEvaluator(model).run(None, {name: value for name, value in feeds.items() if name})

    bias = b[0, :count] + b[0, count:]
    extra = []
    if kind == "gru":
        bias = bias - np.concatenate([np.zeros(2 * size), b[0, -size:]])
        extra = [b[0, -size:]]
    if kind == "lstm":
        extra = [c[0], p.reshape(3, size)]
    primitive = Recurrent(
        kind,
        False,
        tuple((name, 0.0, 0.0) for name in DEFAULTS[kind]),
        linear_before_reset=linear,
    )
    gates = (x @ w[0].T + bias).astype(np.float32)
    found = evaluate(primitive, [gates, r[0].T, h[0], np.full(rows, steps, np.int32), *extra])
    np.testing.assert_allclose(found[0], y[:, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], yh[0], rtol=1e-4, atol=1e-5)


def test_recurrent_stops_at_each_sequence_end_and_reverses_within_it():
    rng = generator()
    gates = rng.normal(size=(5, 3, 4))
    r, h = rng.normal(size=(4, 4)), rng.normal(size=(3, 4))
    lengths = np.array([5, 2, 0], np.int32)
    for reverse in (False, True):
        primitive = Recurrent("rnn", reverse, (("Tanh", 0.0, 0.0),))
        y, last = evaluate(primitive, [gates, r, h, lengths])
        for row, length in enumerate(lengths):
            state = h[row]
            for step in reversed(range(length)) if reverse else range(length):
                state = np.tanh(gates[step, row] + state @ r)
                np.testing.assert_allclose(y[step, row], state)
            np.testing.assert_allclose(last[row], state)
            assert not y[length:, row].any()


# Programs


def test_program_runs_through_views_and_shows_what_was_not_written():
    source, whole = Storage(F32, 6, "x"), Storage(F32, 12, "y")
    x = View.dense(source, (2, 3))
    left = View(whole, 0, (2, 3), (6, 1))
    right = View(whole, 5, (2, 3), (6, -1))
    copy = MapReduce(identity(F32), (2, 3))
    program = Program(
        {"x": x},
        {"y": View.dense(whole, (2, 6)), "t": x.transpose((1, 0))},
        [Operation(copy, (x,), (left,)), Operation(copy, (x,), (right,))],
    )
    feed = np.arange(6, dtype=np.float32).reshape(2, 3)
    results = evaluate_program(program, {"x": feed})
    np.testing.assert_array_equal(results["y"], np.concatenate([feed, feed[:, ::-1]], 1))
    np.testing.assert_array_equal(results["t"], feed.T)
    del program.operations[1]
    assert np.isnan(evaluate_program(program, {"x": feed})["y"][:, 3:]).all()
    with pytest.raises(ValueError, match="input 'x'"):
        evaluate_program(program, {"x": feed.astype(np.float64)})


def test_unknown_primitives_are_refused():
    with pytest.raises(NotImplementedError, match="primitive"):
        evaluate(Primitive(), [])
