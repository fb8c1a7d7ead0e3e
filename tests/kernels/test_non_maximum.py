"""The kernel of SuppressNonMaximum: strides, thresholds at run time, tiles in any order."""

import numpy as np
import pytest
from harness import available_isas
from layouts import laid_out, run

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import SuppressNonMaximum


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("layout", ["dense", "permuted", "gaps"])
@pytest.mark.parametrize(("centered", "limited"), [(False, True), (True, False)])
def test_selection(isa, layout, centered, limited):
    rng = np.random.default_rng(3)
    images, classes, extent, most = 2, 3, 57, 9
    boxes = rng.uniform(0.5, 3, (images, extent, 4)).astype(np.float32)
    scores = (rng.integers(0, 9, (images, classes, extent)) / 8).astype(np.float32)
    scores[0, 0, :5] = [np.nan, np.inf, -np.inf, np.nan, 0.5]
    values = [boxes, scores, np.float32(0.4), np.float32(0.3)]
    inputs = [laid_out(DType.FLOAT32, np.shape(v), layout if np.ndim(v) else "dense", "x") for v in values]
    outputs = [
        laid_out(DType.INT64, (images, classes, most), layout, "picks"),
        laid_out(DType.INT64, (images, classes), layout, "counts"),
    ]
    found, expected = run(SuppressNonMaximum(centered, limited), inputs, outputs, values, isa, rng)
    for own, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(own, right)
    assert 0 < expected[1].min() <= most
