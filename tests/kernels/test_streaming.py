"""Results that are written past the caches: heads and tails of rows that begin anywhere, and who streams."""

import harness
import numpy as np
import pytest
from harness import cpu_isas
from layouts import select
from random_views import Tracer, rms_norm, softmax
from test_mapreduce import assert_close, elements, run

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import identity
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.view import Storage, View
from onnxplan.kernels.cpu import streaming

F32, F64 = DType.FLOAT32, DType.FLOAT64
ISAS = [isa for isa in cpu_isas() if streaming.has_streams(harness.make_target(isa))]

pytestmark = pytest.mark.parametrize("isa", ISAS)


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(streaming, "STREAMED_BYTES", 0)


def rows(dtype, count, extent, offset, gap):
    """Rows with gaps between them, the first of which begins ``offset`` elements behind a line."""
    pitch = extent + gap
    return View(Storage(dtype, offset + count * pitch), offset, (count, extent), (pitch, 1))


def streamed(expression, shape, axes, views, isa):
    (step,) = select(MapReduce(expression, shape, axes), views[:-1], views[-1:], isa)
    return step.kernel.variant[{"map": 5, "reduce": 8}[step.kernel.family]]


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(("offset", "gap"), [(0, 0), (4, 0), (15, 1), (3, 7)])
def test_maps(isa, dtype, offset, gap, always):
    t = Tracer(dtype)
    expression = t.build(t("mul", t("add", t.input(0), t.input(1)), t.constant(2)))
    rng = np.random.default_rng(1)
    for count, extent in ((1, 300), (3, 257), (2, 1031), (1, 40_003)):
        inputs = [rows(dtype, count, extent, 1, 2), rows(dtype, count, extent, 0, 0)]
        output = rows(dtype, count, extent, offset, gap)
        assert streamed(expression, output.shape, (), [*inputs, output], isa)
        (got,), (want,) = run(expression, output.shape, (), inputs, [output], isa, rng)
        assert_close(got, want, dtype, 3, 4.0)


def test_costly_maps_fetch_what_they_read(isa, always):
    """Of neighbours; not what does not vary along the row, nor what lies apart."""
    t = Tracer(F32)
    expression = t.build(t("add", t("exp", t("mul", t.input(0), t.input(1))), t.input(2)))
    assert streaming.fetches(expression, streamed=True)
    rng = np.random.default_rng(10)
    for count, extent in ((1, 2500), (3, 301)):
        inputs = [
            rows(F32, count, extent, 1, 2),
            View.dense(Storage(F32, count), (count, 1)).expand((count, extent)),
            View(Storage(F32, 2 * count * extent), 0, (count, extent), (2 * extent, 2)),
        ]
        output = rows(F32, count, extent, 3, 1)
        assert streamed(expression, output.shape, (), [*inputs, output], isa)
        (got,), (want,) = run(expression, output.shape, (), inputs, [output], isa, rng)
        assert_close(got, want, F32, 4, 8.0)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(("offset", "gap"), [(0, 0), (4, 0), (15, 1), (3, 7)])
def test_norms(isa, dtype, offset, gap, always):
    rng = np.random.default_rng(2)
    for expression in (softmax(dtype), rms_norm(dtype, 301)):
        short = ((40, 77), (9, 64)) if gap == 0 else ()
        for count, extent in ((1, 301), (5, 256), (2, 2051), (1, 9001), *short):
            inputs = [rows(dtype, count, extent, 1, 2) for _ in range(expression.input_count)]
            output = rows(dtype, count, extent, offset, gap)
            assert streamed(expression, output.shape, (1,), [*inputs, output], isa)
            (got,), (want,) = run(expression, output.shape, (1,), inputs, [output], isa, rng)
            assert_close(got, want, dtype, 40, 8.0)


def test_norms_over_several_axes(isa, always):
    rng = np.random.default_rng(3)
    shape, storage = (2, 3, 260), Storage(F32, 2 * 3 * 263 + 5)
    output = View(storage, 5, shape, (3 * 263, 263, 1))
    source = View.dense(Storage(F32, 2 * 3 * 260), shape)
    (got,), (want,) = run(softmax(F32), shape, (1, 2), [source], [output], isa, rng)
    assert_close(got, want, F32, 40, 8.0)


def test_results_in_the_place_of_an_operand(isa, always):
    rng = np.random.default_rng(4)
    t = Tracer(F32)
    expression = t.build(t("mul", t.input(0), t.constant(3)))
    view = rows(F32, 3, 300, 2, 1)
    values = elements(F32, view.storage.size, rng)
    (got,), (want,) = run(expression, view.shape, (), [view], [view], isa, rng, {view.storage: values})
    assert_close(got, want, F32, 2)


@pytest.mark.parametrize("extent", [256, 301, 2051])
@pytest.mark.parametrize("gap", [0, 1])
def test_norms_in_the_place_of_their_operand(isa, extent, gap, always):
    """A row is written while the next one is read; the last of a call has none behind it.

    Where rows adjoin, the end of one is written together with the beginning of the next.
    """
    rng = np.random.default_rng(7)
    for count in (1, 2, 9, 40):
        view = rows(F32, count, extent, 3, gap)
        values = elements(F32, view.storage.size, rng)
        contents = {view.storage: values}
        (got,), (want,) = run(softmax(F32), view.shape, (1,), [view], [view], isa, rng, contents)
        assert_close(got, want, F32, 40, 8.0)


def test_rows_have_scales_of_their_own(isa, always):
    """What does not vary along a row is that of the row which is written, not of the one that is reduced."""
    rng = np.random.default_rng(8)
    t = Tracer(F32)
    powers = t("exp", t.input(0))
    expression = t.build(t("mul", t("div", powers, t("reduce_sum", powers)), t.input(1)))
    for count, extent in ((1, 300), (17, 259)):
        source, result = rows(F32, count, extent, 0, 0), rows(F32, count, extent, 5, 2)
        scales = View.dense(Storage(F32, count), (count, 1)).expand((count, extent))
        (got,), (want,) = run(expression, result.shape, (1,), [source, scales], [result], isa, rng)
        assert_close(got, want, F32, 40, 8.0)


def test_values_without_a_sum_stay_in_their_rows(isa, always):
    rng = np.random.default_rng(9)
    source, result = rows(F32, 12, 270, 0, 0), rows(F32, 12, 270, 1, 0)
    values = rng.standard_normal(source.storage.size).astype(np.float32)
    table = values.reshape(12, 270)
    table[2, 269], table[5, 0], table[7] = np.nan, np.inf, -np.inf
    table[9, :100] = -np.inf
    with np.errstate(invalid="ignore"):
        contents = {source.storage: values}
        (got,), (want,) = run(softmax(F32), (12, 270), (1,), [source], [result], isa, rng, contents)
    assert np.isnan(got).all(axis=1).nonzero()[0].tolist() == [2, 5, 7]
    assert np.isfinite(got).all(axis=1).sum() == 9
    assert_close(got, want, F32, 40, 8.0)


@pytest.mark.parametrize("dtype", [F32, F64, DType.INT16, DType.INT8])
@pytest.mark.parametrize("offset", [0, 4, 31])
def test_transpositions(isa, dtype, offset, always):
    """Rows of the result that begin anywhere in a line, with gaps; blocks and what they leave."""
    rng = np.random.default_rng(5)
    for outer, a, b in (
        (1, 64, 1024),
        (2, 37, 1027),
        (1, 200, 1091),
        (1, 9, 1030),
        (3, 16, 1050),
        (1, 130, 2000),
    ):
        pitch = (b // 64 + 2) * 64
        result = View(
            Storage(dtype, offset + outer * a * pitch), offset, (outer, a, b), (a * pitch, pitch, 1)
        )
        source = View(Storage(dtype, outer * a * b), 0, (outer, a, b), (a * b, 1, a))
        (step,) = select(MapReduce(identity(dtype), result.shape), [source], [result], isa)
        assert step.kernel.family == "transpose"
        assert step.kernel.variant[-1] is True
        (got,), _ = run(
            identity(dtype),
            result.shape,
            (),
            [source],
            [result],
            isa,
            rng,
            contents := {source.storage: elements(dtype, source.storage.size, rng)},
        )
        np.testing.assert_array_equal(got, contents[source.storage].reshape(outer, b, a).swapaxes(1, 2))


@pytest.mark.parametrize("dtype", [F32, F64, DType.INT32, DType.INT16])
@pytest.mark.parametrize("offset", [0, 4, 15])
def test_planes_that_are_joined(isa, dtype, offset, always):
    """Also one that stands for all, whose elements are repeated; with and without gaps between rows."""
    rng = np.random.default_rng(11)
    for count, planes, extent, gap, moved in ((5, 2, 300, 0, 1), (3, 3, 401, 0, 0), (2, 8, 133, 5, 1)):
        pitch = planes * extent + gap
        shape = (count, extent, planes)
        result = View(Storage(dtype, offset + count * pitch), offset, shape, (pitch, planes, 1))
        source = View(Storage(dtype, count * planes * extent), 0, shape, (planes * extent, 1, moved * extent))
        (step,) = select(MapReduce(identity(dtype), shape), [source], [result], isa)
        assert step.kernel.family == "interleave"
        assert step.kernel.variant[-1] is (dtype.itemsize >= 4)
        values = elements(dtype, source.storage.size, rng)
        contents = {source.storage: values}
        (got,), _ = run(identity(dtype), shape, (), [source], [result], isa, rng, contents)
        table = values.reshape(count, planes, extent)[:, :: 1 if moved else planes]
        np.testing.assert_array_equal(got, np.broadcast_to(table.swapaxes(1, 2), shape))


def test_rows_that_begin_at_different_places_are_not_streamed(isa, always):
    rng = np.random.default_rng(6)
    result = View.dense(Storage(F32, 33 * 1027), (33, 1027))
    source = View(Storage(F32, 33 * 1027), 0, (33, 1027), (1, 33))
    (step,) = select(MapReduce(identity(F32), result.shape), [source], [result], isa)
    assert step.kernel.family == "transpose"
    assert step.kernel.variant[-1] is False
    (got,), (want,) = run(identity(F32), result.shape, (), [source], [result], isa, rng)
    np.testing.assert_array_equal(got, want)


def test_small_and_narrow_results_stay_in_the_caches(isa):
    large = streaming.STREAMED_BYTES // 4
    for count, extent, wanted in ((large // 1024, 1024, True), (8, 1024, False), (large // 64, 64, False)):
        source, result = rows(F32, count, extent, 0, 1), rows(F32, count, extent, 0, 1)
        assert streamed(identity(F32), source.shape, (), [source, result], isa) == wanted
        assert streamed(softmax(F32), source.shape, (1,), [source, result], isa) == wanted
    for extent, gap, wanted in ((64, 0, True), (64, 1, False), (63, 0, False)):
        source = result = rows(F32, large // extent + 1, extent, 0, gap)
        assert streamed(softmax(F32), source.shape, (1,), [source, result], isa) == wanted
    half = rows(DType.FLOAT16, large // 512, 1024, 0, 1)
    t = Tracer(DType.FLOAT16)
    doubled = t.build(t("add", t.input(0), t.input(0)))
    # Small floats are computed as float32: their vectors are half a line.
    assert not streamed(doubled, half.shape, (), [half, half], isa)


@pytest.mark.parametrize("dtype", [F32, F64, DType.FLOAT16])
def test_what_later_rows_read_is_fetched(isa, dtype, always):
    """By kernels of one pass and of several, of operands that lie behind one another alone."""
    t = Tracer(dtype)
    total = t.build(t("reduce_sum", t("mul", t.input(0), t.input(1))))
    rng = np.random.default_rng(4)
    for expression, outputs in ((softmax(dtype), 1), (total, 0)):
        for count, extent in ((3, 777), (4, 2048 // dtype.itemsize), (1, 1025)):
            inputs = [rows(dtype, count, extent, 0, 0) for _ in range(expression.input_count)]
            if len(inputs) > 1:
                # Strided along the rows.
                inputs[1] = View(Storage(dtype, 2 * extent * count), 0, (count, extent), (2 * extent, 2))
            output = rows(dtype, count, extent if outputs else 1, 0, 0)
            (step,) = select(MapReduce(expression, (count, extent), (1,)), inputs, [output], isa)
            assert step.kernel.variant[-1] == (0,)
            assert step.parameters[-1] == max(streaming.LEAST_AHEAD, extent * dtype.itemsize)
            (got,), (want,) = run(expression, (count, extent), (1,), inputs, [output], isa, rng)
            assert_close(got, want, dtype, 4 + extent, 4.0)


def test_who_fetches_ahead(isa):
    """Rows of any length, however many, those of very long ones within the row; never constants."""
    t = Tracer(F32)
    total = t.build(t("reduce_sum", t("mul", t.input(0), t.constant(2))))

    exponentials = softmax(F32)

    def ahead(extent, expression=exponentials, count=3):
        source, result = rows(F32, count, extent, 0, 0), rows(F32, count, extent, 0, 0)
        if expression is total:
            result = rows(F32, count, 1, 0, 0)
        (step,) = select(MapReduce(expression, (count, extent), (1,)), [source], [result], isa)
        return step.kernel.variant[-1], step.parameters[-1]

    least, most = streaming.LEAST_AHEAD, streaming.MOST_AHEAD
    for expression in (exponentials, total):
        assert (
            ahead(8, expression) == ahead(40, expression, count=1) == ahead(300, expression) == ((0,), least)
        )
        assert ahead(most // 4, expression) == ((0,), most)
        assert ahead(most // 4 + 1, expression) == ((0,), least)
    weights = View.dense(Storage(F32, 300, "w", constant=np.ones(300, np.float32)), (1, 300)).expand((3, 300))
    views = [rows(F32, 3, 300, 0, 0), weights, rows(F32, 3, 1, 0, 0)]
    product = t.build(t("reduce_sum", t("mul", t.input(0), t.input(1))))
    (step,) = select(MapReduce(product, (3, 300), (1,)), views[:2], views[2:], isa)
    assert step.kernel.variant[-1] == (0,)
