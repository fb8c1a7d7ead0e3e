import numpy as np
import pytest
from harness import available_isas, is_cuda
from layouts import LAYOUTS, laid_out, run, select

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate
from onnxplan.compiler.primitives import Sort
from onnxplan.runtime.cpu.bound_plan import WAKE_SECONDS

# Shape, axis, elements wanted.
CASES = [
    ((37,), 0, 37),
    ((5, 7, 3), 1, 7),
    ((5, 7, 3), 1, 1),
    ((4, 64), 1, 64),
    ((4, 65), 1, 16),
    ((33, 6), 0, 5),
    ((3, 500), 1, 100),
    ((3, 500), 1, 126),
    ((1,), 0, 1),
    ((8,), 0, 2),
    ((2, 9), 1, 0),
    ((0, 4), 1, 2),
    ((0, 4), 0, 0),
]

pytestmark = pytest.mark.parametrize("isa", available_isas())


def random_data(rng, dtype, shape, values=40):
    low = -values // 2 if dtype.kind in "fi" else 0
    data = rng.integers(low, 2 if dtype is DType.BOOL else low + values, shape)
    if not dtype.is_float:
        return data.astype(dtype.numpy)
    wide = data.astype(np.float32)
    for value in (np.nan, np.inf, -np.inf, -0.0, 0.0):
        wide[rng.random(shape) < 0.04] = value
    return wide.astype(dtype.numpy)


def check(isa, rng, dtype, case, largest, layout, output_layout, data=None):
    shape, axis, kept = case
    result = (*shape[:axis], kept, *shape[axis + 1 :])
    data = random_data(rng, dtype, shape) if data is None else data
    outputs = [laid_out(dtype, result, output_layout, "v"), laid_out(DType.INT64, result, output_layout, "p")]
    primitive = Sort(axis, largest)
    found, _ = run(primitive, [laid_out(dtype, shape, layout, "x")], outputs, [data], isa, rng)
    expected = evaluate(primitive, [data], [result, result])
    np.testing.assert_array_equal(found[1], expected[1])
    # Zeros keep their signs and NaN their place.
    np.testing.assert_array_equal(found[0].view(np.uint8), np.ascontiguousarray(expected[0]).view(np.uint8))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("largest", [False, True])
def test_axes_and_strides(isa, largest, layout):
    rng = np.random.default_rng(1)
    for case in CASES:
        for output_layout in ("dense", "holes", "reversed"):
            check(isa, rng, DType.FLOAT32, case, largest, layout, output_layout)


@pytest.mark.parametrize(
    "dtype",
    [
        DType.FLOAT64,
        DType.FLOAT16,
        DType.BFLOAT16,
        DType.INT8,
        DType.UINT8,
        DType.INT16,
        DType.INT32,
        DType.UINT32,
        DType.INT64,
        DType.UINT64,
        DType.BOOL,
    ],
)
def test_element_types(isa, dtype):
    rng = np.random.default_rng(2)
    for case in CASES:
        for largest in (False, True):
            check(isa, rng, dtype, case, largest, "dense", "dense")


@pytest.mark.parametrize("dtype", [DType.INT8, DType.UINT8, DType.INT64, DType.UINT64, DType.INT32])
def test_the_whole_range_of_integers(isa, dtype):
    info = np.iinfo(dtype.numpy)
    data = np.array([info.max, info.min, 0, info.max - 1, info.min + 1, 1, info.max // 2 + 1], dtype.numpy)
    for largest in (False, True):
        for kept in (1, 7):
            check(isa, None, dtype, ((7,), 0, kept), largest, "dense", "dense", data)


def test_every_length_and_count(isa):
    rng = np.random.default_rng(3)
    for length in [*range(1, 40), 63, 64, 65, 127, 129]:
        for kept in {1, length // 5, length // 4, length // 2, length}:
            check(isa, rng, DType.INT32, ((length,), 0, kept), bool(length % 2), "dense", "dense")


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT64, DType.INT64, DType.UINT8])
def test_keys_of_any_bytes(isa, dtype):
    """Around the length from which entries are sorted by bytes, of which some are the same in all keys."""
    rng = np.random.default_rng(7)
    size = dtype.itemsize
    for length in (95, 96, 97, 700):
        for mask in (-1, 0xFF00, 0xFF, 0):
            bits = rng.integers(-(1 << 63), 1 << 63, length, np.int64)
            data = (bits & mask).view(np.uint8).reshape(length, 8)[:, :size]
            data = np.ascontiguousarray(data).view(dtype.numpy).reshape(length)
            for kept in (length // 5, length - 1, length):
                case = ((length,), 0, kept)
                check(isa, rng, dtype, case, bool(kept % 2), "dense", "dense", data)


def test_sorted_and_equal_elements(isa):
    rng = np.random.default_rng(4)
    for data in (np.arange(200), np.arange(200)[::-1], np.zeros(200), np.arange(200) // 50):
        for kept in (1, 20, 200):
            for largest in (False, True):
                values = data.astype(np.float32)
                check(isa, rng, DType.FLOAT32, ((200,), 0, kept), largest, "dense", "dense", values)


def test_many_rows_are_cut_into_tiles(isa):
    rng = np.random.default_rng(5)
    check(isa, rng, DType.FLOAT32, ((900, 300), 1, 300), False, "dense", "dense")
    check(isa, rng, DType.FLOAT64, ((300, 900), 0, 9), True, "dense", "dense")
    check(isa, rng, DType.FLOAT32, ((2, 100_000), 1, 50), True, "dense", "dense")


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.INT64, DType.BFLOAT16])
def test_long_rows(isa, dtype):
    rng = np.random.default_rng(6)
    for shape, axis in [((2, 2049), 1), ((9001, 3), 0), ((16384,), 0)]:
        length = shape[axis]
        for kept in (1, 1024, 1025, 2048, 2049, length - 1, length):
            if kept <= length:
                data = random_data(rng, dtype, shape, 120 if dtype is DType.BFLOAT16 else 3000)
                check(isa, rng, dtype, (shape, axis, kept), bool(kept % 2), "dense", "dense", data)


def test_sorting_counts_as_work_worth_sharing(isa):
    """Rows that take a tenth of a millisecond each are several tiles, and worth waking a helper for."""
    if is_cuda(isa):
        pytest.skip("a GPU has no helpers to wake")
    for kept in (300, 8400):
        results = [laid_out(DType.FLOAT32, (8, kept), "dense"), laid_out(DType.INT64, (8, kept), "dense")]
        (step,) = select(Sort(1), [laid_out(DType.FLOAT32, (8, 8400), "dense")], results, isa)
        assert step.tiles == 8
        assert step.seconds > 3 * WAKE_SECONDS


def test_strings_are_refused(isa):
    views = [laid_out(DType.STRING, (3,)), laid_out(DType.STRING, (3,)), laid_out(DType.INT64, (3,))]
    with pytest.raises(NotImplementedError, match="sort"):
        select(Sort(0), views[:1], views[1:], isa)
