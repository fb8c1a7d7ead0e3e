"""Convolutions by tile registers: of bfloat16, of float32 that is rounded to it, and of float32 in parts."""

import harness
import numpy as np
import pytest
from harness import run_operation
from products import apply_epilogue, arrays, as_constant, assert_close, epilogue, fill, place
from test_conv import GEOMETRIES, bias_and_residual, output_extents
from test_conv import reference as convolution
from test_pairs import FAST, PARTS, STRICT, every_form, has_tiles, needs_tiles, rounded

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.program import Operation
from onnxplan.kernels.cpu import winograd

BF16, F32 = DType.BFLOAT16, DType.FLOAT32

pytestmark = [needs_tiles, pytest.mark.usefixtures("no_least")]


def kinds(operation, isa):
    recorder = harness.Recorder()
    harness.selector(isa).select(operation, recorder)
    kernels = [step.kernel for step in recorder.steps if step.kernel.family in ("conv", "matmul", "winograd")]
    return [kernel.variant[0] if kernel.family != "winograd" else kernel.family for kernel in kernels]


def operation_of(x, w, output, geometry, groups=1, extras=()):
    primitive = Conv(*geometry[2:5], groups, F32, epilogue(F32, output.dtype, len(extras)))
    return Operation(primitive, (x, w, *extras), (output,))


@pytest.fixture(autouse=True)
def no_winograd(monkeypatch):
    """Which goes before parts."""
    monkeypatch.setattr(winograd, "ENABLED", False)


def has_conv_tiles(isa, x, w, groups):
    return isa != PARTS or (x.shape[-1] // groups >= 32 and has_tiles(isa, w.shape[-1] // groups))


def check(isa, rng, x, w, geometry, groups=1, *, threads=2):
    shape = (x.shape[0], *output_extents(*geometry), w.shape[-1])
    output = place(rng, shape, x.dtype, "gaps")
    extras = bias_and_residual(rng, shape, x.dtype)
    values = fill(rng, (x, w, *extras))
    image, weights, *more = arrays((x, w, *extras), values)
    operation = operation_of(x, as_constant(w, values), output, geometry, groups, extras)
    assert (kinds(operation, isa) == ["tiles"]) == has_conv_tiles(isa, x, w, groups)
    del values[w.storage]
    (got,) = run_operation(operation, values, isa, rng, threads)
    image, weights, primitive = rounded(image, isa), rounded(weights, isa), operation.primitive
    total = convolution(image, weights, shape, primitive)
    magnitude = convolution(np.abs(image), np.abs(weights), shape, primitive)
    assert_close(got, *apply_epilogue(total, magnitude, more, output.dtype), output.dtype)
    return got


@every_form
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda geometry: "x".join(map(str, geometry[0])))
@pytest.mark.parametrize(("channels", "features"), [(16, 40), (21, 33), (64, 16), (70, 35)])
def test_geometries(isa, dtype, geometry, channels, features):
    """Odd channels too: taps begin anywhere in a tile, also within a pair."""
    rng = np.random.default_rng(channels)
    for layout in ("dense", "gaps"):
        x = place(rng, (2, *geometry[0], channels), dtype, layout)
        check(isa, rng, x, place(rng, (*geometry[1], channels, features), dtype), geometry)


@every_form
@pytest.mark.parametrize(("groups", "channels", "features"), [(2, 32, 48), (3, 21, 40)])
def test_groups(isa, dtype, groups, channels, features):
    rng = np.random.default_rng(1)
    geometry = GEOMETRIES[1]
    x = place(rng, (2, *geometry[0], groups * channels), dtype, "gaps")
    check(isa, rng, x, place(rng, (*geometry[1], channels, groups * features), dtype), geometry, groups)


@every_form
@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize("planes", [True, False])
def test_lines_of_few_channels(isa, dtype, pad, planes):
    """A line of taps is one tap: in place, or in a copy with zeros between the lines."""
    rng = np.random.default_rng(7)
    geometry = ((21, 18), (7, 7), (2, 2), (1, 1), (pad, pad), (pad, pad))
    for channels in (1, 2, 3, 4):
        x = place(rng, (2, *geometry[0], channels), dtype, "dense")
        if planes:
            x = place(rng, (2, channels, *geometry[0]), dtype, "dense").transpose((0, 2, 3, 1))
        check(isa, rng, x, place(rng, (7, 7, channels, 96), dtype), geometry)


@every_form
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_one_by_one(isa, dtype, stride):
    rng = np.random.default_rng(2)
    geometry = ((13, 11), (1, 1), (stride, stride), (1, 1), (0, 0), (0, 0))
    x = place(rng, (2, 13, 11, 64), dtype, "gaps")
    check(isa, rng, x, place(rng, (1, 1, 64, 40), dtype, "dense"), geometry)


@every_form
def test_three_axes_and_one(isa, dtype):
    rng = np.random.default_rng(3)
    for axes in (1, 3):
        geometry = ((6,) * axes, (3,) * axes, (1,) * axes, (1,) * axes, (1,) * axes, (1,) * axes)
        x = place(rng, (2, *geometry[0], 24), dtype, "dense")
        check(isa, rng, x, place(rng, (*geometry[1], 24, 33), dtype), geometry)


@every_form
def test_results_do_not_depend_on_the_threads(isa, dtype):
    geometry = ((30, 31), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    results = []
    for threads in (1, 2, 16):
        rng = np.random.default_rng(4)
        x, w = (place(rng, shape, dtype, "dense") for shape in ((1, 30, 31, 96), (3, 3, 96, 80)))
        results.append(check(isa, rng, x, w, geometry, threads=threads))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@every_form
def test_a_number_that_is_none_stays_where_its_taps_are(isa, dtype):
    """Unlike Winograd's form, tiles mix no neighbours, and zeros around the image stay zeros."""
    rng = np.random.default_rng(5)
    geometry = ((12, 12), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    x, w = place(rng, (1, 12, 12, 32), dtype, "dense"), place(rng, (3, 3, 32, 40), dtype, "dense")
    output = place(rng, (1, 12, 12, 40), F32, "dense")
    values = fill(rng, (x, w))
    image, _ = arrays((x, w), values)
    image[0, 5, 6, 7], image[0, 0, 0, 0] = np.nan, np.inf
    operation = operation_of(x, as_constant(w, values), output, geometry)
    (got,) = run_operation(operation, {x.storage: values[x.storage]}, isa, rng)
    touched = ~np.isfinite(got).all(axis=-1)[0]
    want = np.zeros((12, 12), bool)
    want[4:7, 5:8] = want[:2, :2] = True
    np.testing.assert_array_equal(touched, want)


def test_other_convolutions_are_not_rounded():
    """Weights that are not constant, and float32 in ``math="strict"``."""
    rng = np.random.default_rng(6)
    geometry = ((12, 12), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    x, w = place(rng, (1, 12, 12, 64), F32, "dense"), place(rng, (3, 3, 64, 64), F32, "dense")
    output = place(rng, (1, 12, 12, 64), F32, "dense")
    constant = as_constant(w, fill(rng, (w,)))
    assert "tiles" not in kinds(operation_of(x, w, output, geometry), FAST)
    assert "tiles" not in kinds(operation_of(x, constant, output, geometry), STRICT)
    assert kinds(operation_of(x, constant, output, geometry), FAST) == ["tiles"]
