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


@pytest.mark.parametrize("isa", available_isas())
def test_many_candidates(isa):
    rng = np.random.default_rng(4)
    extent, most = 3000, 40
    corners = rng.uniform(0, 50, (1, extent, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(-9, 9, corners.shape)], -1).astype(np.float32)
    scores = (rng.integers(-300, 300, (1, 2, extent)) / 64).astype(np.float32)
    scores[0, 1, 7] = -0.0
    values = [boxes, scores, np.float32(0.1), np.float32(0)]
    inputs = [laid_out(DType.FLOAT32, np.shape(v), "dense", "x") for v in values]
    outputs = [laid_out(DType.INT64, (1, 2, most)), laid_out(DType.INT64, (1, 2))]
    found, expected = run(SuppressNonMaximum(False, False), inputs, outputs, values, isa, rng)
    for own, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(own, right)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize(("extent", "most"), [(0, 3), (5, 0), (3, 8)])
def test_few_candidates(isa, extent, most):
    rng = np.random.default_rng(5)
    values = [
        rng.uniform(0, 9, (2, extent, 4)).astype(np.float32),
        rng.uniform(0, 1, (2, 3, extent)).astype(np.float32),
        np.float32(0.5),
        np.float32(0.4),
    ]
    inputs = [laid_out(DType.FLOAT32, np.shape(v), "dense", "x") for v in values]
    outputs = [laid_out(DType.INT64, (2, 3, most)), laid_out(DType.INT64, (2, 3))]
    found, expected = run(SuppressNonMaximum(False, True), inputs, outputs, values, isa, rng)
    for own, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(own, right)
