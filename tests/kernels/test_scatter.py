import numpy as np
import pytest
from harness import available_isas, is_cuda
from layouts import LAYOUTS, assert_close, laid_out, run, select

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Scatter
from onnxplan.kernels.cpu.scatter import LEAST_SHARED

# Rows of data, updates, columns.
CASES = [(5, 7, 3), (9, 4, 1), (6, 20, 33), (3, 5, 150), (4, 0, 3), (4, 6, 2), (0, 3, 4), (1, 9, 64)]
KINDS = ("none", "add", "mul", "min", "max")

pytestmark = pytest.mark.parametrize("isa", available_isas())


def random_data(rng, dtype, shape):
    data = rng.integers(0, 2 if dtype is DType.BOOL else 5, shape).astype(dtype.numpy)
    if dtype.is_float:
        data[rng.random(shape) < 0.05] = np.nan
    return data


def check(isa, rng, kind, dtype, case, layouts, output_layout):
    rows, count, columns = case
    arrays = [
        random_data(rng, dtype, (rows, columns)),
        rng.integers(-2, rows + 2, count),
        random_data(rng, dtype, (count, columns)),
    ]
    views = [
        laid_out(dtype, (rows, columns), layouts[0], "data"),
        laid_out(DType.INT64, (count,), layouts[1], "positions"),
        laid_out(dtype, (count, columns), layouts[2], "updates"),
    ]
    output = laid_out(dtype, (rows, columns), output_layout, "y")
    (found,), (expected,) = run(Scatter(kind), views, [output], arrays, isa, rng)
    assert_close(found, expected, {DType.FLOAT16: 4e-3, DType.BFLOAT16: 3e-2}.get(dtype, 1e-6))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_columns_and_strides(isa, kind, layout):
    rng = np.random.default_rng(1)
    for case in CASES:
        for output_layout in ("dense", "gaps", "reversed"):
            check(isa, rng, kind, DType.FLOAT32, case, ("dense", layout, layout), output_layout)
        check(isa, rng, kind, DType.FLOAT32, case, (layout, "dense", "dense"), "dense")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "dtype",
    [DType.FLOAT64, DType.FLOAT16, DType.BFLOAT16, DType.INT8, DType.UINT8, DType.INT64, DType.UINT16],
)
def test_element_types(isa, kind, dtype):
    rng = np.random.default_rng(2)
    for case in [(5, 7, 3), (9, 4, 1), (6, 9, 33)]:
        check(isa, rng, kind, dtype, case, ("dense",) * 3, "dense")
        check(isa, rng, kind, dtype, case, ("dense", "dense", "holes"), "dense")


def test_types_without_arithmetic(isa):
    rng = np.random.default_rng(3)
    for dtype in (DType.BOOL, DType.COMPLEX64, DType.COMPLEX128, DType.INT4):
        for case in CASES:
            check(isa, rng, "none", dtype, case, ("dense",) * 3, "dense")
            check(isa, rng, "none", dtype, case, ("dense", "dense", "permuted"), "holes")
    for kind in ("min", "max"):
        check(isa, rng, kind, DType.BOOL, (5, 20, 7), ("dense",) * 3, "dense")


@pytest.mark.parametrize("kind", ["none", "add"])
def test_wide_rows_are_cut_into_tiles(isa, kind):
    rng = np.random.default_rng(4)
    check(isa, rng, kind, DType.INT32, (7, 40, 5003), ("dense",) * 3, "dense")
    check(isa, rng, kind, DType.INT32, (7, 40, 5003), ("dense", "dense", "permuted"), "dense")


def updated_in_order(kind, data, positions, updates):
    """What the updates make of the data, one after the other."""
    right = data.copy()
    combine = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}.get(kind)
    for position, update in zip(positions, updates, strict=True):
        if 0 <= position < len(data):
            right[position] = update if combine is None else combine(right[position], update)
    return right


@pytest.mark.parametrize("layout", ["dense", "gaps", "reversed"])
@pytest.mark.parametrize("kind", KINDS)
def test_many_updates_in_order(isa, kind, layout):
    """Rounding shows an order other than that of the updates: each is compared with NumPy one by one."""
    rng = np.random.default_rng(5)
    for rows, count, columns in [(7, 300, 1), (400, 300, 1), (5, 100, 9), (90, 200, 16)]:
        dtype = DType.FLOAT16
        data, updates = (rng.uniform(0.5, 1.5, (n, columns)).astype(np.float16) for n in (rows, count))
        positions = rng.integers(-1, rows + 1, count)
        views = [
            laid_out(dtype, data.shape, layout),
            laid_out(DType.INT64, positions.shape, layout),
            laid_out(dtype, updates.shape, layout),
        ]
        output = laid_out(dtype, data.shape, layout)
        (found,), _ = run(Scatter(kind), views, [output], [data, positions, updates], isa, rng)
        np.testing.assert_array_equal(found, updated_in_order(kind, data, positions, updates))


@pytest.mark.parametrize("kind", ["none", "add"])
def test_thousands_of_updates(isa, kind):
    rng = np.random.default_rng(7)
    check(isa, rng, kind, DType.INT32, (700, 9000, 1), ("dense",) * 3, "dense")
    check(isa, rng, kind, DType.INT32, (3, 9000, 2), ("dense",) * 3, "dense")


@pytest.mark.parametrize("layout", ["dense", "gaps"])
@pytest.mark.parametrize("kind", KINDS)
def test_threads_share_the_rows_of_the_output(isa, kind, layout):
    """Each tile does the updates of its rows in order, and no others; there may be one row for all."""
    rng = np.random.default_rng(8)
    count = 2 * LEAST_SHARED + 77
    for rows, columns in [(1, 1), (3, 1), (1001, 1), (41, 3)]:
        data, updates = (rng.uniform(0.9, 1.1, (n, columns)).astype(np.float32) for n in (rows, count))
        positions = rng.integers(-1, rows + 1, count)
        views = [
            laid_out(DType.FLOAT32, data.shape, layout),
            laid_out(DType.INT64, positions.shape, layout),
            laid_out(DType.FLOAT32, updates.shape, layout),
        ]
        output = laid_out(DType.FLOAT32, data.shape, layout)
        if not is_cuda(isa):
            assert select(Scatter(kind), views, [output], isa)[-1].tiles == min(rows, 2)
        (found,), _ = run(Scatter(kind), views, [output], [data, positions, updates], isa, rng)
        np.testing.assert_array_equal(found, updated_in_order(kind, data, positions, updates))


def test_many_updates_of_all_types(isa):
    rng = np.random.default_rng(6)
    for kind, dtype in [
        ("none", DType.COMPLEX128),
        ("none", DType.UINT8),
        ("add", DType.INT8),
        ("mul", DType.INT64),
        ("max", DType.BOOL),
        ("add", DType.FLOAT64),
    ]:
        check(isa, rng, kind, dtype, (20, 150, 3), ("dense",) * 3, "dense")
        check(isa, rng, kind, dtype, (300, 90, 1), ("dense",) * 3, "gaps")


def test_the_last_of_several_updates_stays(isa):
    updates = np.arange(6, dtype=np.float32).reshape(6, 1)
    arrays = [np.zeros((3, 1), np.float32), np.array([1, 1, 0, 1, -1, 3]), updates]
    views = [
        laid_out(dtype, array.shape)
        for dtype, array in zip((DType.FLOAT32, DType.INT64, DType.FLOAT32), arrays, strict=True)
    ]
    (found,), _ = run(Scatter(), views, [laid_out(DType.FLOAT32, (3, 1))], arrays, isa, None)
    assert found.tolist() == [[2], [3], [0]]


def test_strings_are_refused(isa):
    views = [laid_out(DType.STRING, (3, 1)), laid_out(DType.INT64, (2,)), laid_out(DType.STRING, (2, 1))]
    with pytest.raises(NotImplementedError, match="scatter"):
        select(Scatter(), views, [laid_out(DType.STRING, (3, 1))], isa)
