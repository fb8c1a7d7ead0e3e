import numpy as np
import pytest
from harness import available_isas
from layouts import assert_close, laid_out, run

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Pool

# Spatial extents, kernel, strides, dilations, pads, outputs, pads at the ends.
CASES = [
    ((7,), (3,), (2,), (1,), (1,), (4,), (1,)),
    ((5, 6), (2, 3), (2, 2), (1, 1), (0, 1), (3, 4), (0, 1)),
    ((6, 5), (2, 2), (1, 2), (2, 3), (1, 1), (6, 2), (1, 1)),
    ((4, 3, 5), (2, 2, 3), (2, 1, 2), (1, 1, 1), (0, 1, 1), (2, 3, 3), (0, 0, 1)),
    ((4, 3), (3, 3), (1, 5), (1, 1), (-1, 2), (2, 3), (0, 1)),
]
KINDS = ["max", "positions", "column major", "average", "counted"]
TOLERANCES = {DType.FLOAT16: 1e-3, DType.BFLOAT16: 1e-2, DType.FLOAT32: 1e-6, DType.FLOAT64: 1e-14}

pytestmark = pytest.mark.parametrize("isa", available_isas())


def random_data(rng, dtype, shape):
    low = -5 if dtype.kind != "u" else 0
    data = rng.integers(low, 5, shape).astype(dtype.numpy)
    if dtype.is_float:
        wide = data.astype(np.float32)
        wide[rng.random(shape) < 0.05] = np.nan
        wide[rng.random(shape) < 0.2] = -np.inf
        data = wide.astype(dtype.numpy)
    return data


def check(isa, rng, kind, dtype, case, channels, layout, output_layout, batch=2):
    spatial, kernel, strides, dilations, pads, outputs, ends = case
    primitive = Pool(
        "average" if kind in ("average", "counted") else "max",
        kernel,
        strides,
        dilations,
        pads,
        ends if kind == "counted" else None,
        kind == "column major",
    )
    x = laid_out(dtype, (batch, *spatial, channels), layout, "x")
    shape = (batch, *outputs, channels)
    results = [laid_out(dtype, shape, output_layout, "y")]
    if kind in ("positions", "column major"):
        results.append(laid_out(DType.INT64, shape, output_layout, "positions"))
    found, expected = run(primitive, [x], results, [random_data(rng, dtype, x.shape)], isa, rng)
    assert_close(found[0], expected[0], TOLERANCES.get(dtype, 0) if primitive.kind == "average" else 0)
    if len(results) == 2:
        np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_windows_and_channels(isa, case, kind):
    rng = np.random.default_rng(1)
    for channels in (1, 3, 17, 70):
        check(isa, rng, kind, DType.FLOAT32, case, channels, "dense", "dense")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "layouts", [("permuted", "permuted"), ("gaps", "gaps"), ("holes", "dense"), ("reversed", "holes")]
)
def test_strides(isa, layouts, kind):
    rng = np.random.default_rng(2)
    for case in CASES[:4]:
        check(isa, rng, kind, DType.FLOAT32, case, 5, *layouts)


@pytest.mark.parametrize(
    "dtype",
    [DType.FLOAT64, DType.FLOAT16, DType.BFLOAT16, DType.INT8, DType.UINT8, DType.INT32],
)
def test_element_types(isa, dtype):
    rng = np.random.default_rng(3)
    for kind in KINDS if dtype.is_float else KINDS[:2]:
        check(isa, rng, kind, dtype, CASES[1], 19, "dense", "dense")


def test_windows_beyond_the_input(isa):
    rng = np.random.default_rng(4)
    outside = ((2, 3), (1, 2), (4, 1), (1, 1), (0, 0), (3, 2), (0, 0))
    for kind in KINDS:
        check(isa, rng, kind, DType.FLOAT32, outside, 5, "dense", "dense")
    check(isa, rng, "max", DType.INT8, outside, 5, "dense", "dense")
    check(isa, rng, "max", DType.UINT8, outside, 5, "dense", "dense")


def test_zero_sized_tensors(isa):
    rng = np.random.default_rng(5)
    check(isa, rng, "max", DType.FLOAT32, CASES[0], 3, "dense", "dense", batch=0)
    check(isa, rng, "max", DType.FLOAT32, CASES[1], 0, "dense", "dense")


def test_large_tensors_are_cut_into_tiles(isa):
    rng = np.random.default_rng(6)
    case = ((40, 41), (3, 3), (1, 1), (1, 1), (1, 1), (40, 41), (1, 1))
    check(isa, rng, "max", DType.FLOAT32, case, 32, "dense", "dense")
    check(isa, rng, "average", DType.FLOAT32, case, 1, "dense", "dense")


@pytest.mark.parametrize("kind", KINDS)
def test_large_windows(isa, kind):
    rng = np.random.default_rng(8)
    for case in (
        ((9, 11), (9, 11), (1, 1), (1, 1), (0, 0), (1, 1), (0, 0)),
        ((9, 11), (8, 9), (2, 2), (1, 1), (3, 3), (4, 4), (2, 3)),
        ((40, 30), (20, 52), (9, 1), (2, 1), (1, 20), (3, 3), (0, 0)),
        ((40,), (70,), (2,), (1,), (36,), (3,), (0,)),
    ):
        for channels in (1, 35):
            check(isa, rng, kind, DType.FLOAT32, case, channels, "dense", "gaps")


def test_averages_of_integers_are_refused(isa):
    with pytest.raises(NotImplementedError, match="average pool"):
        check(isa, np.random.default_rng(7), "average", DType.INT8, CASES[0], 3, "dense", "dense")
