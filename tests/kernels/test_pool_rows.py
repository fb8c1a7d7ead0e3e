"""Pooling of one channel whose rows adjoin."""

import numpy as np
import pytest
from harness import cpu_isas
from layouts import assert_close, laid_out, run, select
from test_pool import TOLERANCES, random_data

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Pool

# Spatial extents, kernel, strides, dilations, pads, pads at the ends.
CASES = [
    ((9, 7), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    ((5, 70), (2, 2), (2, 2), (1, 1), (0, 0), (0, 0)),
    ((4, 150), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((6, 131), (1, 3), (2, 2), (1, 1), (0, 2), (0, 1)),
    ((6, 37), (2, 5), (3, 3), (2, 1), (1, 2), (1, 2)),
    ((4, 61), (2, 7), (1, 2), (1, 3), (0, 5), (0, 9)),
    ((3, 4, 45), (2, 3, 2), (2, 1, 4), (1, 1, 2), (1, 0, 1), (0, 1, 0)),
    ((33,), (4,), (2,), (1,), (3,), (2,)),
    # Several blocks a row, of which only the first and the last reach padding.
    ((5000,), (5,), (1,), (1,), (2,), (2,)),
    ((5001,), (3,), (2,), (1,), (1,), (1,)),
    ((7001,), (3,), (3,), (1,), (1,), (1,)),
]
KINDS = ["max", "average", "counted"]

pytestmark = pytest.mark.parametrize("isa", cpu_isas())


def check(isa, rng, kind, dtype, case, layouts=("dense", "dense"), images=3, beyond=0):
    """``beyond`` more windows along x start behind the input and its padding."""
    spatial, kernel, strides, dilations, pads, ends = case
    outputs = [
        (extent + pad + end - (taps - 1) * dilation - 1) // stride + 1
        for extent, taps, stride, dilation, pad, end in zip(*case, strict=True)
    ]
    outputs[-1] += beyond
    primitive = Pool(
        "max" if kind == "max" else "average",
        kernel,
        strides,
        dilations,
        pads,
        ends if kind == "counted" else None,
    )
    x, y = (
        laid_out(dtype, (images, *extents), layout, name).unsqueeze((1 + len(spatial),))
        for extents, layout, name in zip((spatial, outputs), layouts, "xy", strict=True)
    )
    assert {step.kernel.family for step in select(primitive, [x], [y], isa)} <= {"pool_rows"}
    found, expected = run(primitive, [x], [y], [random_data(rng, dtype, x.shape)], isa, rng)
    assert_close(found[0], expected[0], TOLERANCES.get(dtype, 0) if kind != "max" else 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_windows(isa, case, kind):
    check(isa, np.random.default_rng(1), kind, DType.FLOAT32, case)


@pytest.mark.parametrize("kind", KINDS)
def test_lines_with_gaps(isa, kind):
    rng = np.random.default_rng(2)
    for case in CASES[:7]:
        check(isa, rng, kind, DType.FLOAT32, case, ("gaps", "gaps"))


@pytest.mark.parametrize(
    "dtype", [DType.FLOAT64, DType.FLOAT16, DType.BFLOAT16, DType.INT8, DType.UINT8, DType.INT32]
)
def test_element_types(isa, dtype):
    rng = np.random.default_rng(3)
    for kind in KINDS if dtype.is_float else KINDS[:1]:
        check(isa, rng, kind, dtype, CASES[3])


def test_windows_behind_the_input(isa):
    rng = np.random.default_rng(4)
    for case in (CASES[0], CASES[2], CASES[6]):
        check(isa, rng, "max", DType.FLOAT32, case, beyond=20)
        check(isa, rng, "average", DType.FLOAT32, case, beyond=20)


def test_no_images(isa):
    check(isa, np.random.default_rng(5), "max", DType.FLOAT32, CASES[0], images=0)


def test_many_tiles(isa):
    case = ((40, 41), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    check(isa, np.random.default_rng(6), "max", DType.FLOAT32, case, images=40)
