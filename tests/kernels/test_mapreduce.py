"""Generated maps, copies, reductions and norms against NumPy in float64."""

import math

import numpy as np
import pytest
from harness import Recorder, array_of, available_isas, dense, run_operation, selector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_views import Tracer, layer_norm, log_sum_exp, reference, rms_norm, shapes, softmax, views

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import identity
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.view import Storage, View

ISAS = available_isas()
SETTINGS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
NUMBERS = [
    DType.FLOAT32, DType.FLOAT64, DType.FLOAT16, DType.BFLOAT16, DType.INT8, DType.INT16, DType.INT32,
    DType.INT64, DType.UINT8, DType.UINT16, DType.UINT32, DType.UINT64,
]  # fmt: skip
FLOATS = [dtype for dtype in NUMBERS if dtype.is_float]
EPSILON = {DType.FLOAT16: 2.0**-10, DType.BFLOAT16: 2.0**-7, DType.FLOAT32: 2.0**-23, DType.FLOAT64: 2.0**-52}
MOVABLE = [dtype for dtype in DType if dtype is not DType.STRING]


def elements(dtype, size, rng):
    """Random contents: small numbers, so that integer results rarely wrap and floats never overflow."""
    if dtype.kind == "c":
        return (rng.normal(size=size) + 1j * rng.normal(size=size)).astype(dtype.numpy)
    if dtype is DType.BOOL:
        return rng.integers(0, 2, size).astype(bool)
    if dtype.is_float:
        return rng.normal(size=size).astype(dtype.numpy)
    return rng.integers(0 if dtype.kind == "u" else -50, 50, size).astype(dtype.numpy)


def run(expression, shape, axes, inputs, outputs, isa, rng, contents=None):
    """Runs one MapReduce; returns its outputs and the reference's."""
    values = {view.storage: elements(view.dtype, view.storage.size, rng) for view in inputs}
    values.update(contents or {})
    operation = Operation(MapReduce(expression, shape, axes), tuple(inputs), tuple(outputs))
    got = run_operation(operation, values, isa, rng)
    arrays = [array_of(view, values[view.storage]) for view in inputs]
    return got, reference(expression, axes, arrays, shape)


def assert_close(got, want, dtype, units, scale=1.0):
    """Exact for integers; else within ``units`` epsilons of ``dtype`` relative to the value and ``scale``."""
    if not dtype.is_float:
        np.testing.assert_array_equal(got, want.astype(dtype.numpy))
        return
    epsilon = units * EPSILON[dtype]
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=epsilon, atol=epsilon * scale)


def reduced_shape(shape, axes):
    return tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))


@SETTINGS
@given(data=st.data(), isa=st.sampled_from(ISAS), dtype=st.sampled_from(NUMBERS), seed=st.integers(0, 2**32))
def test_binary_maps(data, isa, dtype, seed):
    shape = data.draw(shapes(zeros=True))
    inputs = [data.draw(views(dtype, shape)) for _ in range(2)]
    outputs = [data.draw(views(dtype, shape, broadcast=False)) for _ in range(2)]
    t = Tracer(dtype)
    total = t("add", t.input(0), t.input(1))
    expression = t.build(total, t("max", t("mul", total, t.constant(2)), t.input(0)))
    got, want = run(expression, shape, (), inputs, outputs, isa, np.random.default_rng(seed))
    for result, expected in zip(got, want, strict=True):
        assert_close(result, expected, dtype, 3, 4.0)


@SETTINGS
@given(data=st.data(), isa=st.sampled_from(ISAS), seed=st.integers(0, 2**32))
def test_mixed_types_and_booleans(data, isa, seed):
    shape = data.draw(shapes())
    types = [DType.FLOAT32, DType.INT64, DType.BOOL, DType.FLOAT16]
    inputs = [data.draw(views(dtype, shape)) for dtype in types]
    results = [DType.FLOAT32, DType.BOOL, DType.INT8]
    outputs = [data.draw(views(dtype, shape, broadcast=False)) for dtype in results]
    t = Tracer(DType.FLOAT32)
    a, b = t.input(0), t("cast", t.input(1, DType.INT64))
    half = t("cast", t.input(3, DType.FLOAT16))
    chosen = t("select", t.input(2, DType.BOOL), t("add", a, b), half)
    flag = t("and", t.input(2, DType.BOOL), t("less", a, b, dtype=DType.BOOL), dtype=DType.BOOL)
    expression = t.build(chosen, flag, t("cast", t.input(1, DType.INT64), dtype=DType.INT8))
    got, want = run(expression, shape, (), inputs, outputs, isa, np.random.default_rng(seed))
    for result, expected, dtype in zip(got, want, results, strict=True):
        assert_close(result, expected, dtype, 2)


@SETTINGS
@given(data=st.data(), isa=st.sampled_from(ISAS), dtype=st.sampled_from(MOVABLE), seed=st.integers(0, 2**32))
def test_copies(data, isa, dtype, seed):
    shape = data.draw(shapes(zeros=True))
    source, result = data.draw(views(dtype, shape)), data.draw(views(dtype, shape, broadcast=False))
    bits = np.random.default_rng(seed).integers(0, 2, source.storage.size * dtype.itemsize).astype(np.uint8)
    contents = {source.storage: bits.view(dtype.numpy)}
    operation = Operation(MapReduce(identity(dtype), shape), (source,), (result,))
    (got,) = run_operation(operation, contents, isa, np.random.default_rng(seed))
    want = array_of(source, contents[source.storage]).copy()
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "dtype", [DType.UINT8, DType.FLOAT16, DType.FLOAT32, DType.FLOAT64, DType.COMPLEX128]
)
def test_transpositions(dtype, isa):
    rng = np.random.default_rng(0)
    for shape in [(64, 64), (33, 130), (5, 70, 66), (3, 17, 4, 90), (128, 3, 5)]:
        source = dense(dtype, shape)
        contents = {source.storage: rng.integers(0, 100, source.storage.size).astype(dtype.numpy)}
        for permutation in [tuple(reversed(range(len(shape)))), (*range(1, len(shape)), 0)]:
            moved = source.transpose(permutation)
            operation = Operation(
                MapReduce(identity(dtype), moved.shape), (moved,), (dense(dtype, moved.shape),)
            )
            (got,) = run_operation(operation, contents, isa, rng)
            np.testing.assert_array_equal(got, array_of(moved, contents[source.storage]))


@SETTINGS
@given(data=st.data(), isa=st.sampled_from(ISAS), seed=st.integers(0, 2**32))
def test_coordinates(data, isa, seed):
    shape = data.draw(shapes().filter(bool))
    axes = [data.draw(st.integers(0, len(shape) - 1)) for _ in range(2)]
    t = Tracer(DType.INT64)
    mixed = t("add", t("mul", t.index(axes[0]), t.constant(1000)), t.index(axes[1]))
    expression = t.build(t("add", mixed, t.input(0)))
    source = data.draw(views(DType.INT64, shape))
    result = data.draw(views(DType.INT64, shape, broadcast=False))
    got, want = run(expression, shape, (), [source], [result], isa, np.random.default_rng(seed))
    np.testing.assert_array_equal(got[0], want[0])


OPS = ["reduce_sum", "reduce_max", "reduce_min", "reduce_prod"]


@SETTINGS
@given(data=st.data(), isa=st.sampled_from(ISAS), dtype=st.sampled_from(NUMBERS), op=st.sampled_from(OPS),
       seed=st.integers(0, 2**32))  # fmt: skip
def test_reductions(data, isa, dtype, op, seed):
    shape = data.draw(shapes(zeros=True))
    axes = tuple(axis for axis in range(len(shape)) if data.draw(st.booleans()))
    small = reduced_shape(shape, axes)
    t = Tracer(dtype)
    value = t(op, t.input(0))
    expression = t.build(t("add", value, t.constant(1)), value)
    source = data.draw(views(dtype, shape))
    outputs = [data.draw(views(dtype, small, broadcast=False)) for _ in range(2)]
    contents = {}
    if op == "reduce_prod" and dtype.is_float:
        values = np.exp(np.random.default_rng(seed).normal(size=source.storage.size) / 40)
        contents = {source.storage: values.astype(dtype.numpy)}
    got, want = run(expression, shape, axes, [source], outputs, isa, np.random.default_rng(seed), contents)
    region = math.prod(shape[axis] for axis in axes)
    units = 4 + (region if op == "reduce_prod" else math.sqrt(region) if op == "reduce_sum" else 0)
    for result, expected in zip(got, want, strict=True):
        assert_close(result, expected, dtype, units, 8.0)


@SETTINGS
@given(data=st.data(), isa=st.sampled_from(ISAS), dtype=st.sampled_from(FLOATS), seed=st.integers(0, 2**32),
       kind=st.sampled_from(["softmax", "layer_norm", "rms_norm", "log_sum_exp"]))  # fmt: skip
def test_norms(data, isa, dtype, seed, kind):
    shape = data.draw(shapes(limit=3000).filter(bool))
    axes = tuple(axis for axis in range(len(shape)) if data.draw(st.booleans())) or (len(shape) - 1,)
    small = reduced_shape(shape, axes)
    count = math.prod(shape[axis] for axis in axes)
    expression = {
        "softmax": softmax, "log_sum_exp": log_sum_exp,
        "layer_norm": lambda dtype: layer_norm(dtype, count),
        "rms_norm": lambda dtype: rms_norm(dtype, count),
    }[kind](dtype)  # fmt: skip
    inputs = [data.draw(views(dtype, shape)) for _ in range(expression.input_count)]
    flags = expression.reduced()
    outputs = [
        data.draw(views(dtype, small if flags[output] else shape, broadcast=False))
        for output in expression.outputs
    ]
    got, want = run(expression, shape, axes, inputs, outputs, isa, np.random.default_rng(seed))
    for result, expected in zip(got, want, strict=True):
        # A variance near zero amplifies what its rounding leaves by 1 / sqrt(1e-5).
        assert_close(result, expected, dtype, 40 if kind != "layer_norm" else 400, 8.0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(1 << 20,), (2, 300000), (300000, 5), (700, 1000), (3, 70, 70, 30)])
def test_large_reductions_are_split(shape, isa):
    rng = np.random.default_rng(7)
    for axes in [tuple(range(len(shape))), (0,), (len(shape) - 1,)]:
        t = Tracer(DType.FLOAT32)
        total = t("reduce_sum", t.input(0))
        expression = t.build(t("mul", total, t.constant(0.5)), t("reduce_max", t.input(0)))
        source = dense(DType.FLOAT32, shape)
        outputs = [dense(DType.FLOAT32, reduced_shape(shape, axes)) for _ in range(2)]
        got, want = run(expression, shape, axes, [source], outputs, isa, rng)
        # Pairwise summation of n terms of size 1 errs by about log2(n) roundings of the running sum.
        bound = EPSILON[DType.FLOAT32] * 8 * math.sqrt(math.prod(shape[a] for a in axes))
        np.testing.assert_allclose(got[0], want[0], rtol=1e-6, atol=bound)
        np.testing.assert_array_equal(got[1], want[1])


@pytest.mark.parametrize("isa", ISAS)
def test_large_norms(isa):
    rng = np.random.default_rng(8)
    for shape, axes in [
        ((1, 600000), (1,)),
        ((2, 32, 90, 90), (1, 2, 3)),
        ((4, 1000, 64), (1,)),
        ((3, 50257), (1,)),
    ]:
        inputs = [dense(DType.FLOAT32, shape) for _ in range(3)]
        count = math.prod(shape[axis] for axis in axes)
        small = reduced_shape(shape, axes)
        expression = layer_norm(DType.FLOAT32, count)
        outputs = [dense(DType.FLOAT32, wanted) for wanted in (shape, small, small)]
        got, want = run(expression, shape, axes, inputs, outputs, isa, rng)
        for result, expected in zip(got, want, strict=True):
            np.testing.assert_allclose(result, expected, rtol=2e-5, atol=2e-5)
        got, want = run(softmax(DType.FLOAT32), shape, axes, inputs[:1], outputs[:1], isa, rng)
        np.testing.assert_allclose(got[0], want[0], rtol=3e-6)


@pytest.mark.skipif("sm_90" not in ISAS, reason="needs a C++ compiler")
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis", "form"),
    [
        ((700, 3), 1, (256, "row", 64)),
        ((90, 50), 1, (256, "row", 32)),
        ((5, 100), 1, (256, "row", 8)),
        ((530, 200), 1, (256, "row", 8)),
        ((7, 300), 1, (256, "row", 1)),
        ((3, 9000), 1, (1024, "row", 1)),
        ((60, 7), 0, (256, "column", 8)),
        ((70, 45), 0, (256, "column", 32)),
        ((3, 500), 0, (256, "column", 256)),
    ],
)
def test_forms_of_cuda_blocks(shape, axis, form, wide, monkeypatch):
    if wide:
        # As where offsets do not fit into 32 bits.
        monkeypatch.setattr("onnxplan.kernels.cuda.indexing.NARROW_LIMIT", 0)
    x, y = dense(DType.FLOAT32, shape), dense(DType.FLOAT32, shape)
    recorder = Recorder()
    primitive = MapReduce(softmax(DType.FLOAT32), shape, (axis,))
    selector("sm_90").select(Operation(primitive, (x,), (y,)), recorder)
    (step,) = recorder.steps
    assert step.kernel.variant[:3] == form
    assert step.kernel.variant[9] == ("long long" if wide else "int")
    rng = np.random.default_rng(12)
    (got,), (want,) = run(primitive.expression, shape, (axis,), [x], [y], "sm_90", rng)
    assert_close(got, want, DType.FLOAT32, 20)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("axes", [(0,), (1,)])
def test_not_a_number_and_infinity_pass(axes, isa):
    rng = np.random.default_rng(9)
    shape = (37, 53)
    source = dense(DType.FLOAT32, shape)
    values = rng.normal(size=shape).astype(np.float32)
    values[3, 5], values[7, 11], values[8, 2] = np.nan, np.inf, -np.inf
    small = reduced_shape(shape, axes)
    t = Tracer(DType.FLOAT32)
    expression = t.build(*(t(op, t.input(0)) for op in OPS[:3]))
    outputs = [dense(DType.FLOAT32, small) for _ in range(3)]
    contents = {source.storage: values.ravel()}
    got, want = run(expression, shape, axes, [source], outputs, isa, rng, contents)
    for result, expected in zip(got, want, strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_empty_reductions_give_the_identity(isa):
    for dtype in [DType.FLOAT32, DType.INT8, DType.UINT16, DType.FLOAT16, DType.INT64]:
        for op in OPS:
            t = Tracer(dtype)
            expression = t.build(t(op, t.input(0)))
            source, result = dense(dtype, (3, 0, 2)), dense(dtype, (3, 1, 2))
            got, want = run(expression, (3, 0, 2), (1,), [source], [result], isa, np.random.default_rng(0))
            np.testing.assert_array_equal(got[0].astype(np.float64), want[0].astype(np.float64))


@pytest.mark.parametrize("isa", ISAS)
def test_boolean_reductions(isa):
    rng = np.random.default_rng(10)
    for shape, axes in [((40, 70), (1,)), ((40, 70), (0,)), ((5,), (0,))]:
        t = Tracer(DType.BOOL)
        expression = t.build(t("reduce_max", t.input(0)), t("reduce_min", t.input(0)))
        source = dense(DType.BOOL, shape)
        values = rng.random(source.size) < rng.random(source.size) ** 8
        outputs = [dense(DType.BOOL, reduced_shape(shape, axes)) for _ in range(2)]
        got, want = run(expression, shape, axes, [source], outputs, isa, rng, {source.storage: values})
        for result, expected in zip(got, want, strict=True):
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("isa", ISAS)
def test_results_do_not_depend_on_tiles(isa):
    rng = np.random.default_rng(11)
    shape = (9, 40000)
    source = dense(DType.FLOAT32, shape)
    values = {source.storage: rng.normal(size=source.size).astype(np.float32)}
    t = Tracer(DType.FLOAT32)
    for expression, extents in [
        (t.build(t("reduce_sum", t.input(0))), (9, 1)),
        (softmax(DType.FLOAT32), shape),
    ]:
        operation = Operation(MapReduce(expression, shape, (1,)), (source,), (dense(DType.FLOAT32, extents),))
        whole = run_operation(operation, values, isa)[0]
        for _ in range(3):
            assert run_operation(operation, values, isa, rng)[0].tobytes() == whole.tobytes()


def select(operation):
    recorder = Recorder()
    selector(ISAS[0]).select(operation, recorder)
    return recorder.steps


def test_shapes_share_kernels():
    t = Tracer(DType.FLOAT32)
    expression = t.build(t("add", t.input(0), t.input(1)))
    kernels = set()
    for shape in [(3, 4), (128,), (5, 6, 7, 8), (1, 1000000)]:
        operands = [dense(DType.FLOAT32, shape) for _ in range(3)]
        (step,) = select(Operation(MapReduce(expression, shape), tuple(operands[:2]), (operands[2],)))
        kernels.add(step.kernel)
    assert len(kernels) == 1


def test_in_place_pairs():
    shape = (6, 8)
    x, y = dense(DType.FLOAT32, shape), dense(DType.FLOAT32, (8,))
    t = Tracer(DType.FLOAT32)
    expression = t.build(t("add", t.input(0), t.input(1)))
    out = dense(DType.FLOAT32, shape)
    (step,) = select(Operation(MapReduce(expression, shape), (x, y.expand(shape)), (out,)))
    assert step.in_place == ((2, 0),)
    (step,) = select(
        Operation(MapReduce(expression, shape), (x, x.transpose((1, 0)).reshape(shape) or x), (out,))
    )
    assert step.in_place == ()
    wide = View.dense(Storage(DType.FLOAT64, 48, "wide"), shape)
    t = Tracer(DType.FLOAT64)
    (step,) = select(
        Operation(MapReduce(t.build(t("cast", t.input(0, DType.FLOAT32))), shape), (x,), (wide,))
    )
    assert step.in_place == ()


def test_strings_are_refused():
    view = dense(DType.STRING, (3,))
    with pytest.raises(NotImplementedError, match="string"):
        select(Operation(MapReduce(identity(DType.STRING), (3,)), (view,), (dense(DType.STRING, (3,)),)))
