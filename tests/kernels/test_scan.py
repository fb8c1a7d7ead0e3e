import numpy as np
import pytest
from harness import available_isas
from layouts import assert_close, laid_out, run, select

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Scan

CASES = [
    ((5, 7, 3), 1),
    ((37,), 0),
    ((33, 150), 0),
    ((33, 70), 1),
    ((4, 0, 3), 1),
    ((2, 5, 150), 1),
    ((1,), 0),
    ((3, 2, 19), 2),
]
TOLERANCES = {DType.FLOAT16: 2e-3, DType.BFLOAT16: 1e-2, DType.FLOAT32: 1e-5, DType.FLOAT64: 1e-12}

pytestmark = pytest.mark.parametrize("isa", available_isas())


def check(isa, rng, primitive, dtype, shape, layout, output_layout):
    if dtype.is_float:
        data = (rng.uniform(0.7, 1.3, shape) * rng.choice([-1, 1], shape)).astype(dtype.numpy)
    else:
        data = rng.integers(1, 4, shape).astype(dtype.numpy)
    views = laid_out(dtype, shape, layout, "x"), laid_out(dtype, shape, output_layout, "y")
    (found,), (expected,) = run(primitive, views[:1], views[1:], [data], isa, rng)
    assert_close(found, expected, TOLERANCES.get(dtype, 0))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("layouts", [("dense", "dense"), ("permuted", "holes"), ("reversed", "dense")])
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_axes_and_strides(isa, shape, axis, layouts, reverse):
    rng = np.random.default_rng(1)
    for kind, exclusive in [("sum", False), ("sum", True), ("prod", False)]:
        check(isa, rng, Scan(kind, axis, exclusive, reverse), DType.FLOAT32, shape, *layouts)


@pytest.mark.parametrize(
    "dtype",
    [DType.FLOAT64, DType.FLOAT16, DType.BFLOAT16, DType.INT32, DType.INT64, DType.UINT32, DType.UINT8],
)
def test_element_types(isa, dtype):
    rng = np.random.default_rng(2)
    check(isa, rng, Scan("sum", 1), dtype, (3, 70), "dense", "dense")
    check(isa, rng, Scan("prod", 0, exclusive=True), dtype, (9, 70), "dense", "dense")
    check(isa, rng, Scan("sum", 1, reverse=True), dtype, (3, 70), "holes", "holes")


def test_not_a_number_reaches_what_follows_only(isa):
    data = np.ones((2, 40), np.float32)
    data[0, 20], data[1, 3] = np.nan, np.inf
    views = laid_out(DType.FLOAT32, (2, 40)), laid_out(DType.FLOAT32, (2, 40))
    for reverse in (False, True):
        (found,), (expected,) = run(Scan("sum", 1, reverse=reverse), views[:1], views[1:], [data], isa, None)
        np.testing.assert_array_equal(found, expected)


def test_many_rows_are_cut_into_tiles(isa):
    rng = np.random.default_rng(3)
    check(isa, rng, Scan("sum", 1), DType.INT32, (300, 1000), "dense", "dense")
    check(isa, rng, Scan("sum", 0), DType.INT32, (100, 3000), "dense", "dense")
    views = laid_out(DType.INT32, (300, 1000)), laid_out(DType.INT32, (300, 1000))
    assert select(Scan("sum", 1), views[:1], views[1:], isa)[0].tiles > 4


@pytest.mark.parametrize("shape", [(3, 300_000), (200_001, 3), (1, 70_000)])
def test_few_long_lines(isa, shape):
    rng = np.random.default_rng(4)
    axis = int(shape[1] > shape[0])
    for exclusive in (False, True):
        for reverse in (False, True):
            check(isa, rng, Scan("sum", axis, exclusive, reverse), DType.INT32, shape, "dense", "dense")
    data = rng.normal(size=shape).astype(np.float32)
    views = laid_out(DType.FLOAT32, shape), laid_out(DType.FLOAT32, shape)
    (found,), (expected,) = run(Scan("sum", axis), views[:1], views[1:], [data], isa, rng)
    # What serial addition of as many terms of size 1 may err by.
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_booleans_are_refused(isa):
    views = laid_out(DType.BOOL, (3,)), laid_out(DType.BOOL, (3,))
    with pytest.raises(NotImplementedError, match="scan of bool"):
        select(Scan("sum", 0), views[:1], views[1:], isa)
