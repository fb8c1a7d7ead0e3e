"""Rows of float32 that are resampled, alone or together with another axis, and streamed if they are large."""

import numpy as np
import pytest
from harness import cpu_isas, make_target, selector
from layouts import assert_close, laid_out, run, select
from test_resample import constant

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Resample, ResamplePlane
from onnxplan.compiler.program import Operation
from onnxplan.compiler.view import Storage, View, dense_strides
from onnxplan.kernels.cpu import streaming

F32 = DType.FLOAT32
ISAS = [isa for isa in cpu_isas() if streaming.has_streams(make_target(isa))]

pytestmark = pytest.mark.parametrize("isa", ISAS)


def table(rng, extent, outputs, taps):
    """Positions that rise as those of a resize do, some outside, and weights: constant views and arrays."""
    centres = np.arange(outputs) * extent / max(outputs, 1)
    places = (centres[:, None] + np.arange(taps) - taps // 2).astype(np.int32)
    arrays = places, rng.normal(size=(outputs, taps)).astype(np.float32)
    dtypes = (DType.INT32, F32)
    views = [constant(laid_out(dtype, places.shape), a) for dtype, a in zip(dtypes, arrays, strict=True)]
    return views, arrays


def operands(rng, shape, axis, lines, last, layout="dense", output=None):
    line_views, line_arrays = table(rng, shape[axis], *lines)
    last_views, last_arrays = table(rng, shape[-1], *last)
    data = rng.normal(size=shape).astype(np.float32)
    result_shape = (*shape[:axis], lines[0], *shape[axis + 1 : -1], last[0])
    views = [laid_out(F32, shape, layout, "x"), *line_views, *last_views]
    result = laid_out(F32, result_shape, layout, "y") if output is None else output(result_shape)
    return views, result, [data, *line_arrays, *last_arrays]


def check(isa, rng, shape, axis, lines, last, **options):
    views, result, arrays = operands(rng, shape, axis, lines, last, **options)
    primitive = ResamplePlane(axis)
    assert selector(isa).prefers(Operation(primitive, tuple(views), (result,)))
    (found,), (expected,) = run(primitive, views, [result], arrays, isa, rng)
    assert_close(found, expected, 1e-5)


CASES = [
    ((2, 5, 19), 1, (9, 2), (40, 2)),
    ((3, 20, 33), 1, (41, 2), (66, 2)),
    ((3, 7, 5), 0, (6, 2), (33, 2)),
    ((6, 40), 0, (3, 4), (71, 4)),
    ((2, 3, 70), 1, (5, 7), (50, 5)),
    ((1, 1), 0, (1, 1), (1, 1)),
    ((2, 300, 130), 1, (450, 2), (200, 2)),
]


@pytest.mark.parametrize("layout", ["dense", "gaps"])
@pytest.mark.parametrize("case", CASES)
def test_planes(isa, case, layout):
    check(isa, np.random.default_rng(1), *case, layout=layout)


@pytest.mark.parametrize("offset", [0, 1, 7, 31])
@pytest.mark.parametrize("case", CASES)
def test_results_past_the_caches_begin_anywhere(isa, case, offset, monkeypatch):
    monkeypatch.setattr(streaming, "STREAMED_BYTES", 0)
    for gap in (0, 3):

        def output(shape, gap=gap):
            """Planes with gaps between them."""
            plane = int(np.prod(shape[-2:])) + gap
            strides = (*(plane * stride for stride in dense_strides(shape[:-2])), shape[-1], 1)
            return View(Storage(F32, offset + plane * int(np.prod(shape[:-2]))), offset, shape, strides)

        check(isa, np.random.default_rng(2), *case, output=output)


@pytest.mark.parametrize("extent", [1, 15, 16, 17, 40, 333])
@pytest.mark.parametrize("offset", [0, 5])
def test_rows_alone(isa, extent, offset, monkeypatch):
    monkeypatch.setattr(streaming, "STREAMED_BYTES", 0)
    rng = np.random.default_rng(3)
    for shape in ((extent,), (9, extent), (2, 3, extent)):
        views, arrays = table(rng, extent, 2 * extent + 3, 2)
        result_shape = (*shape[:-1], 2 * extent + 3)
        size = int(np.prod(result_shape))
        result = View(Storage(F32, offset + size), offset, result_shape, dense_strides(result_shape))
        data = rng.normal(size=shape).astype(np.float32)
        operation = Resample(len(shape) - 1), [laid_out(F32, shape), *views], [result]
        (step,) = select(*operation, isa)
        assert step.kernel.family == "resample_rows"
        (found,), (expected,) = run(*operation, [data, *arrays], isa, rng)
        assert_close(found, expected, 1e-5)


def test_not_a_number_and_infinities_stay_where_they_are_read(isa, monkeypatch):
    rng = np.random.default_rng(4)
    for streamed in (0, streaming.STREAMED_BYTES):
        monkeypatch.setattr(streaming, "STREAMED_BYTES", streamed)
        views, result, arrays = operands(rng, (3, 8, 40), 1, (16, 2), (80, 2))
        arrays[0][1, 3, 20], arrays[0][2, 7, 39], arrays[0][0, 0, 0] = np.nan, np.inf, -np.inf
        (found,), (expected,) = run(ResamplePlane(1), views, [result], arrays, isa, rng)
        assert_close(found, expected, 1e-5)
        assert np.isfinite(found).mean() > 0.9


def test_who_is_preferred(isa):
    """Float32 rows that adjoin, constant tables, places of neighbours that are close together."""
    rng = np.random.default_rng(5)

    def prefers(*, dtype=F32, layout="dense", fixed=True, last=(40, 2), shape=(4, 20)):
        views, result, _ = operands(rng, shape, 0, (9, 2), last, layout=layout)
        if dtype is not F32:
            views[0], result = laid_out(dtype, shape), laid_out(dtype, result.shape)
        if not fixed:
            views[1] = laid_out(DType.INT32, (9, 2))
        return selector(isa).prefers(Operation(ResamplePlane(0), tuple(views), (result,)))

    assert prefers()
    assert prefers(last=(10, 2))
    assert not prefers(last=(10, 2), shape=(4, 200))
    assert not prefers(dtype=DType.FLOAT64)
    assert not prefers(layout="holes")
    assert not prefers(layout="permuted")
    assert not prefers(fixed=False)
    assert not prefers(last=(0, 2))
    assert not prefers(shape=(0, 20))
