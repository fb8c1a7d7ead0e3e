import numpy as np
import pytest
from harness import available_isas
from layouts import laid_out, run, select

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import ArgReduce

CASES = [
    ((5, 7, 3), 1),
    ((37,), 0),
    ((33, 70), 0),
    ((33, 70), 1),
    ((4, 0, 3), 1),
    ((2, 5, 150), 1),
    ((1,), 0),
    ((0, 4), 1),
    ((300,), 0),
]

pytestmark = pytest.mark.parametrize("isa", available_isas())


def random_data(rng, dtype, shape):
    data = rng.integers(0, 4, shape).astype(dtype.numpy)
    if dtype.is_float:
        wide = data.astype(np.float32)
        for value in (np.nan, np.inf, -np.inf):
            wide[rng.random(shape) < 0.03] = value
        data = wide.astype(dtype.numpy)
    return data


def check(isa, rng, primitive, dtype, shape, layout, output_layout):
    data = random_data(rng, dtype, shape)
    reduced = (*shape[: primitive.axis], 1, *shape[primitive.axis + 1 :])
    x, y = laid_out(dtype, shape, layout, "x"), laid_out(DType.INT64, reduced, output_layout, "y")
    (found,), (expected,) = run(primitive, [x], [y], [data], isa, rng)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "layouts", [("dense", "dense"), ("permuted", "holes"), ("reversed", "dense"), ("gaps", "permuted")]
)
@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_axes_and_strides(isa, shape, axis, layouts):
    rng = np.random.default_rng(1)
    for kind in ("max", "min"):
        for last in (False, True):
            check(isa, rng, ArgReduce(kind, axis, last), DType.FLOAT32, shape, *layouts)


@pytest.mark.parametrize(
    "dtype",
    [
        DType.FLOAT64,
        DType.FLOAT16,
        DType.BFLOAT16,
        DType.INT8,
        DType.UINT8,
        DType.INT32,
        DType.UINT64,
        DType.BOOL,
    ],
)
def test_element_types(isa, dtype):
    rng = np.random.default_rng(2)
    for shape, axis in [((6, 70), 0), ((6, 70), 1)]:
        check(isa, rng, ArgReduce("max", axis), dtype, shape, "dense", "dense")
        check(isa, rng, ArgReduce("min", axis, last=True), dtype, shape, "holes", "dense")


def test_signs_are_compared_as_the_type_says(isa):
    for dtype, expected in [(DType.INT8, 1), (DType.UINT8, 0)]:
        data = np.array([200, 100, 3], np.uint8).view(dtype.numpy)
        x, y = laid_out(dtype, (3,)), laid_out(DType.INT64, (1,))
        assert run(ArgReduce("max", 0), [x], [y], [data], isa, None)[0][0].tolist() == [expected]


def test_the_first_or_last_of_equals_and_of_nan_wins(isa):
    rng = np.random.default_rng(3)
    for length in (1, 2, 15, 16, 17, 63, 64, 65, 200):
        data = np.full(length, 7, np.float32)
        places = [np.zeros(0, int), np.sort(rng.choice(length, min(length, 3), replace=False))]
        for nans in places:
            data[nans] = np.nan
            candidates = nans if len(nans) else np.arange(length)
            x, y = laid_out(DType.FLOAT32, (length,)), laid_out(DType.INT64, (1,))
            for last in (False, True):
                (found,), _ = run(ArgReduce("min", 0, last), [x], [y], [data], isa, None)
                assert found.tolist() == [candidates[-1 if last else 0]]


def test_many_rows_are_cut_into_tiles(isa):
    rng = np.random.default_rng(4)
    check(isa, rng, ArgReduce("max", 1), DType.FLOAT32, (500, 700), "dense", "dense")
    check(isa, rng, ArgReduce("max", 0), DType.FLOAT32, (100, 3000), "dense", "dense")


@pytest.mark.parametrize("shape", [(300_000,), (2, 140_000), (140_000, 3), (7, 30_000, 2)])
def test_few_long_rows(isa, shape):
    rng = np.random.default_rng(5)
    axis = shape.index(max(shape))
    for last in (False, True):
        check(isa, rng, ArgReduce("min", axis, last), DType.FLOAT32, shape, "dense", "dense")
        check(isa, rng, ArgReduce("max", axis, last), DType.INT32, shape, "reversed", "holes")


def test_strings_are_refused(isa):
    with pytest.raises(NotImplementedError, match="arg_reduce"):
        select(ArgReduce("max", 0), [laid_out(DType.STRING, (3,))], [laid_out(DType.INT64, (1,))], isa)
