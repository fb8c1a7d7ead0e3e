"""The NumPy meaning of the primitives, against loops and the ONNX reference."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate, evaluate_expression, evaluate_program
from onnxplan.compiler.expression import Expression, Instruction, constant, identity
from onnxplan.compiler.primitives import (
    ArgReduce,
    Attention,
    Conv,
    Gather,
    MapReduce,
    MatMul,
    Pool,
    Primitive,
    Recurrent,
    Resample,
    ResamplePlane,
    Scan,
)
from onnxplan.compiler.program import Operation, Program
from onnxplan.compiler.view import Storage, View

F32, F64, I64 = DType.FLOAT32, DType.FLOAT64, DType.INT64


def generator(seed=0):
    return np.random.default_rng(seed)


def unary(op, dtype):
    return Expression((Instruction("input", (0,), dtype), Instruction(op, (0,), dtype)), (1,))


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
    halves = np.array([[0, 1]], np.int32), np.array([[0.5, 0.5]], np.float32)
    (found,) = evaluate(ResamplePlane(0), [x.astype(np.float32), *halves, positions, weights])
    np.testing.assert_array_equal(found, [[66.75, 12.625, 14]])


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


ATTENTION_ROWS = [
    ("plain", [np.nan, np.nan, np.nan]),
    ("masked", [0.0, np.nan, np.nan]),
    ("guarded", [0.0, 0.0, 0.0]),
    ("smooth", [0.0, np.nan, np.nan]),
]


@pytest.mark.parametrize(("kind", "lost"), ATTENTION_ROWS)
def test_attention(kind, lost):
    """Rows of minus infinity alone, with NaN and with infinity; one by the definition, row by row."""
    rng = generator()
    q, k, v = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 4, 3), (2, 3, 5), (2, 5, 6)))
    mask = rng.standard_normal((2, 4, 5)).astype(np.float32)
    mask[0, :3] = [[-np.inf] * 5, [0, np.nan, 0, 0, 0], [np.inf, 0, 0, 0, 0]]
    mask[1, 0, 1:] = -np.inf
    score = Expression(
        (Instruction("input", (0,), F32), Instruction("input", (1,), F32), Instruction("add", (0, 1), F32)),
        (2,),
    )
    (found,) = evaluate(Attention(F32, score, kind), [q, k, v, mask], output_dtypes=[F32])
    assert found.dtype == np.float32
    for row, value in enumerate(lost):
        np.testing.assert_array_equal(found[0, row], np.full(6, value))
    for batch, row in ((0, 3), (1, 0), (1, 1), (1, 2), (1, 3)):
        scores = (q[batch, row] @ k[batch] + mask[batch, row]).astype(np.float64)
        powers = np.exp(scores)
        expected = powers @ v[batch] / (powers.sum() + (kind == "smooth"))
        np.testing.assert_allclose(found[batch, row], expected, rtol=1e-5, atol=1e-6)
