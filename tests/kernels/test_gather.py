import numpy as np
import pytest
from harness import available_isas
from layouts import LAYOUTS, laid_out, run, select

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Gather, GatherElements
from onnxplan.compiler.view import Storage, View

CASES = [
    ((5, 7, 3), 1, (2, 4)),
    ((9,), 0, (3,)),
    ((9, 33), 0, (4,)),
    ((4, 5), 1, ()),
    ((4, 6, 3), 2, (0,)),
    ((2, 3, 1000), 1, (5,)),
    ((3, 4, 2), 0, (2, 1, 3)),
]

pytestmark = pytest.mark.parametrize("isa", available_isas())


def check(isa, rng, dtype, index_dtype, shape, axis, indices, layouts, output_layout):
    data = rng.integers(0, 2 if dtype is DType.BOOL else 100, shape).astype(dtype.numpy)
    places = rng.integers(-12, 12, indices).astype(index_dtype.numpy)
    views = [laid_out(dtype, shape, layouts[0], "x"), laid_out(index_dtype, indices, layouts[1], "i")]
    output = laid_out(dtype, shape[:axis] + indices + shape[axis + 1 :], output_layout, "y")
    (found,), (expected,) = run(Gather(axis), views, [output], [data, places], isa, rng)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "axis", "indices"), CASES)
def test_strides_and_axes(isa, shape, axis, indices, layout):
    rng = np.random.default_rng(1)
    for output_layout in ("dense", "holes", "permuted"):
        check(isa, rng, DType.FLOAT32, DType.INT64, shape, axis, indices, (layout, layout), output_layout)


@pytest.mark.parametrize(
    "dtype", [DType.UINT8, DType.BOOL, DType.FLOAT16, DType.FLOAT64, DType.COMPLEX128, DType.INT4]
)
@pytest.mark.parametrize("index_dtype", [DType.INT32, DType.INT64])
def test_element_types(isa, dtype, index_dtype):
    rng = np.random.default_rng(2)
    for shape, axis, indices in CASES[:4]:
        check(isa, rng, dtype, index_dtype, shape, axis, indices, ("dense", "dense"), "dense")
        check(isa, rng, dtype, index_dtype, shape, axis, indices, ("holes", "gaps"), "reversed")


@pytest.mark.parametrize("index_dtype", [DType.INT32, DType.INT64])
def test_elements_side_by_side(isa, index_dtype):
    """Copied several at a time, with every rest, in several tiles, and from strided data."""
    rng = np.random.default_rng(5)
    for count in (*range(1, 10), 16, 17, 33, 30_011):
        for dtype in (DType.FLOAT32, DType.FLOAT64, DType.UINT8):
            check(isa, rng, dtype, index_dtype, (11,), 0, (count,), ("dense", "dense"), "dense")
        check(isa, rng, DType.FLOAT32, index_dtype, (3, 11), 1, (count,), ("holes", "dense"), "dense")


def test_vectors_are_gathered_where_offsets_fit_an_instruction(isa):
    if isa != "avx512":
        pytest.skip("no instruction for it")

    def vectors(dtype, extent):
        views = [View.dense(Storage(dtype, extent), (extent,)), laid_out(DType.INT64, (40,))]
        (step,) = select(Gather(0), views, [laid_out(dtype, (40,))], isa)
        return step.kernel.variant[-1]

    assert vectors(DType.FLOAT32, (1 << 29) - 1)
    assert not vectors(DType.FLOAT32, 1 << 29)
    assert vectors(DType.INT64, (1 << 28) - 1)
    assert not vectors(DType.FLOAT16, 40)
    assert not vectors(DType.FLOAT32, 0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("index_dtype", [DType.INT32, DType.INT64])
def test_one_index_for_each_element(isa, layout, index_dtype):
    """Along any axis, of strided operands, with fewer indices than data along others."""
    rng = np.random.default_rng(6)
    cases = [((9,), 0, (40,)), ((5, 37), 1, (4, 50)), ((11, 35), 0, (7, 33)), ((3, 11, 20), 1, (3, 5, 17))]
    for dtype in (DType.FLOAT32, DType.FLOAT64, DType.FLOAT16, DType.COMPLEX128):
        for shape, axis, count in [*cases, ((2, 0, 20), 1, (2, 3, 17)), ((2, 4), 0, (0, 3))]:
            data = rng.integers(0, 100, shape).astype(dtype.numpy)
            places = rng.integers(-12, 12, count).astype(index_dtype.numpy)
            views = [laid_out(dtype, shape, layout, "x"), laid_out(index_dtype, count, layout, "i")]
            for written in ("dense", "holes"):
                output = laid_out(dtype, count, written, "y")
                (found,), (expected,) = run(GatherElements(axis), views, [output], [data, places], isa, rng)
                np.testing.assert_array_equal(found, expected)


def test_nothing_to_gather_from_gives_zeros(isa):
    rng = np.random.default_rng(3)
    check(isa, rng, DType.FLOAT32, DType.INT64, (4, 0, 3), 1, (2,), ("dense", "dense"), "gaps")
    check(isa, rng, DType.FLOAT32, DType.INT64, (0, 40), 0, (2,), ("dense", "dense"), "dense")


def test_long_runs_are_cut_into_tiles(isa):
    rng = np.random.default_rng(4)
    check(isa, rng, DType.FLOAT32, DType.INT64, (3, 100_003), 0, (4,), ("dense", "dense"), "dense")
    check(isa, rng, DType.UINT8, DType.INT32, (50, 3000), 0, (700,), ("dense", "dense"), "dense")


def test_strings_are_refused(isa):
    data, indices = laid_out(DType.STRING, (3,)), laid_out(DType.INT64, (2,))
    with pytest.raises(NotImplementedError, match="gather of string"):
        select(Gather(0), [data, indices], [laid_out(DType.STRING, (2,))], isa)
