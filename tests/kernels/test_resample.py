import numpy as np
import pytest
from harness import available_isas
from layouts import assert_close, laid_out, run, select

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Resample
from onnxplan.compiler.view import Storage, View

CASES = [
    ((5, 7, 3), 1, (4, 2)),
    ((37,), 0, (50, 3)),
    ((33, 70), 0, (20, 4)),
    ((33, 70), 1, (90, 1)),
    ((4, 0, 3), 1, (2, 2)),
    ((2, 5, 150), 1, (9, 2)),
    ((3, 2, 19), 2, (40, 2)),
    ((3, 4), 1, (0, 2)),
]
TYPES = [
    (DType.FLOAT64, DType.FLOAT64, 1e-14),
    (DType.FLOAT64, DType.FLOAT32, 1e-14),
    (DType.FLOAT16, DType.FLOAT16, 1e-3),
    (DType.BFLOAT16, DType.FLOAT32, 1e-2),
    (DType.UINT8, DType.FLOAT32, 0),
    (DType.INT8, DType.FLOAT32, 0),
    (DType.INT32, DType.FLOAT32, 0),
]

pytestmark = pytest.mark.parametrize("isa", available_isas())


def constant(view, array):
    storage = Storage(view.dtype, view.storage.size, "constant", array.reshape(-1).copy(), "constant")
    return View(storage, 0, view.shape, view.strides)


def check(isa, rng, dtype, weight_dtype, case, layouts, tolerance, *, fixed, ascending=False):
    shape, axis, (outputs, taps) = case
    if dtype.is_float:
        data = rng.normal(size=shape).astype(dtype.numpy)
        weights = rng.random((outputs, taps)).astype(weight_dtype.numpy)
    else:
        # Sums of quarters are exact, so that truncation has one right answer.
        data = rng.integers(-20 if dtype.kind == "i" else 0, 20, shape).astype(dtype.numpy)
        weights = (rng.integers(0, 4, (outputs, taps)) / 4).astype(weight_dtype.numpy)
    places = rng.integers(-2, shape[axis] + 2, (outputs, taps)).astype(np.int32)
    if ascending:
        places = np.sort(places, axis=0)
    tables = [laid_out(DType.INT32, places.shape), laid_out(weight_dtype, weights.shape)]
    if fixed:
        tables = [constant(view, array) for view, array in zip(tables, (places, weights), strict=True)]
    result = laid_out(dtype, (*shape[:axis], outputs, *shape[axis + 1 :]), layouts[1], "y")
    inputs = [laid_out(dtype, shape, layouts[0], "x"), *tables]
    (found,), (expected,) = run(Resample(axis), inputs, [result], [data, places, weights], isa, rng)
    assert_close(found, expected, tolerance)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize(
    "layouts", [("dense", "dense"), ("permuted", "permuted"), ("holes", "gaps"), ("reversed", "dense")]
)
@pytest.mark.parametrize("case", CASES)
def test_axes_and_strides(isa, case, layouts, fixed):
    check(isa, np.random.default_rng(1), DType.FLOAT32, DType.FLOAT32, case, layouts, 2e-6, fixed=fixed)


@pytest.mark.parametrize("layouts", [("dense", "dense"), ("holes", "dense"), ("gaps", "permuted")])
@pytest.mark.parametrize("extent", [1, 7, 16, 40, 90])
def test_places_that_are_close_together(isa, extent, layouts):
    """As when rows are enlarged: the elements of a vector of results come from fewer than a vector."""
    rng = np.random.default_rng(4)
    for dtype, tolerance in ((DType.FLOAT32, 2e-6), (DType.INT32, 0)):
        case = ((3, extent), 1, (2 * extent + 33, 2))
        check(isa, rng, dtype, DType.FLOAT32, case, layouts, tolerance, fixed=True, ascending=True)


@pytest.mark.parametrize(("dtype", "weights", "tolerance"), TYPES)
def test_element_types(isa, dtype, weights, tolerance):
    rng = np.random.default_rng(2)
    for case in CASES[2:4]:
        check(isa, rng, dtype, weights, case, ("dense", "dense"), tolerance, fixed=True)
        check(isa, rng, dtype, weights, case, ("holes", "holes"), tolerance, fixed=False)


def test_not_a_number_and_infinities_pass(isa):
    data = np.array([[1, np.nan, np.inf, 2]], np.float32).repeat(20, axis=0)
    places, weights = np.array([[0, 1], [2, 3], [0, 3]], np.int32), np.full((3, 2), 0.5, np.float32)
    for axis, array in ((1, data), (0, data.T)):
        x = laid_out(DType.FLOAT32, array.shape)
        y = laid_out(DType.FLOAT32, tuple(3 if n == axis else e for n, e in enumerate(array.shape)))
        inputs = [x, laid_out(DType.INT32, (3, 2)), laid_out(DType.FLOAT32, (3, 2))]
        (found,), (expected,) = run(Resample(axis), inputs, [y], [array, places, weights], isa, None)
        np.testing.assert_array_equal(found, expected)


def test_large_tensors_are_cut_into_tiles(isa):
    rng = np.random.default_rng(3)
    for case in [((50, 40, 100), 1, (80, 2)), ((400, 30), 1, (200, 2)), ((7, 3000), 0, (14, 2))]:
        check(isa, rng, DType.FLOAT32, DType.FLOAT32, case, ("dense", "dense"), 2e-6, fixed=True)


def test_booleans_are_refused(isa):
    views = [laid_out(DType.BOOL, (3,)), laid_out(DType.INT32, (3, 1)), laid_out(DType.FLOAT32, (3, 1))]
    with pytest.raises(NotImplementedError, match="resample of bool"):
        select(Resample(0), views, [laid_out(DType.BOOL, (3,))], isa)
