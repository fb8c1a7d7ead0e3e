import numpy as np
import pytest
from harness import available_isas
from layouts import LAYOUTS, assert_close, laid_out, run, select

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import GatherReduce

# Rows of the table, rows and taps of positions, columns.
CASES = [
    (5, 7, 4, 3),
    (9, 4, 1, 1),
    (6, 20, 16, 33),
    (3, 5, 2, 150),
    (4, 0, 3, 2),
    (4, 6, 0, 5),
    (0, 3, 2, 4),
]

pytestmark = pytest.mark.parametrize("isa", available_isas())


def check(isa, rng, kind, dtype, case, layouts, output_layout, low=-2):
    rows, count, taps, columns = case
    weight = DType.FLOAT64 if dtype is DType.FLOAT64 else DType.FLOAT32
    table = rng.integers(-9, 9, (rows, columns)).astype(dtype.numpy)
    table[rng.random(table.shape) < 0.03] = np.nan
    arrays = [
        table,
        rng.integers(low, rows + 2, (count, taps)),
        rng.integers(-3, 4, (count, taps)).astype(weight.numpy),
    ]
    views = [
        laid_out(dtype, (rows, columns), layouts[0], "table"),
        laid_out(DType.INT64, (count, taps), layouts[1], "positions"),
        laid_out(weight, (count, taps), layouts[1], "weights"),
    ]
    output = laid_out(dtype, (count, columns), output_layout, "y")
    (found,), (expected,) = run(GatherReduce(kind), views, [output], arrays, isa, rng)
    assert_close(found, expected, {DType.FLOAT16: 1e-3, DType.BFLOAT16: 1e-2}.get(dtype, 1e-6))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["sum", "max"])
def test_shapes_and_strides(isa, kind, layout):
    rng = np.random.default_rng(1)
    for case in CASES:
        for output_layout in ("dense", "gaps", "permuted"):
            check(isa, rng, kind, DType.FLOAT32, case, (layout, "dense"), output_layout)
        check(isa, rng, kind, DType.FLOAT32, case, ("dense", layout), "dense")


@pytest.mark.parametrize("kind", ["sum", "max"])
def test_planes(isa, kind):
    """Adjoining rows of all operands: vectors of them and what is left, groups of columns and single ones."""
    rng = np.random.default_rng(5)
    for columns in (1, 3, 4, 5, 9):
        for count in (1, 16, 37, 600):
            case = (29, count, 4, columns)
            check(isa, rng, kind, DType.FLOAT32, case, ("permuted", "permuted"), "permuted")
    for case in CASES:
        check(isa, rng, kind, DType.FLOAT32, case, ("permuted", "permuted"), "permuted", low=-9)
    planes = [laid_out(DType.FLOAT32, (29, 5), "permuted"), laid_out(DType.INT64, (40, 4), "permuted")]
    planes += [laid_out(DType.FLOAT32, shape, "permuted") for shape in ((40, 4), (40, 5))]
    (step,) = select(GatherReduce(kind), planes[:-1], planes[-1:], isa)
    assert (step.kernel.family == "gather_reduce_planes") == (isa in ("avx512", "avx2"))


@pytest.mark.parametrize("kind", ["sum", "max"])
@pytest.mark.parametrize("dtype", [DType.FLOAT64, DType.FLOAT16, DType.BFLOAT16])
def test_element_types(isa, kind, dtype):
    rng = np.random.default_rng(2)
    for case in CASES:
        check(isa, rng, kind, dtype, case, ("dense", "dense"), "dense")


@pytest.mark.parametrize("kind", ["sum", "max"])
def test_rows_without_positions_are_zero(isa, kind):
    rng = np.random.default_rng(3)
    check(isa, rng, kind, DType.FLOAT32, (4, 60, 1, 20), ("dense", "dense"), "dense", low=-20)


@pytest.mark.parametrize("kind", ["sum", "max"])
def test_many_rows_and_columns_are_cut_into_tiles(isa, kind):
    rng = np.random.default_rng(4)
    check(isa, rng, kind, DType.FLOAT32, (70, 3000, 4, 50), ("dense", "dense"), "dense")
    check(isa, rng, kind, DType.FLOAT32, (7, 30, 4, 5003), ("dense", "dense"), "dense")


def test_integers_are_refused(isa):
    views = [laid_out(DType.INT32, (3, 1)), laid_out(DType.INT64, (2, 1)), laid_out(DType.FLOAT32, (2, 1))]
    with pytest.raises(NotImplementedError, match="gather_reduce"):
        select(GatherReduce(), views, [laid_out(DType.INT32, (2, 1))], isa)
