"""Convolutions of bytes by tile registers: what taps read is copied as tiles, and all sums are exact."""

import harness
import numpy as np
import pytest
from harness import dense, run_operation
from products import arrays, as_constant, place
from test_conv import GEOMETRIES, output_extents
from test_conv import reference as convolution
from test_quads import PAIRS, TILES, families, random_bytes, requantization, requantized

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.program import Operation
from onnxplan.compiler.trace import trace
from onnxplan.compiler.view import View

I8, U8, I32, F32 = DType.INT8, DType.UINT8, DType.INT32, DType.FLOAT32

pytestmark = pytest.mark.skipif(not TILES, reason="this processor, or its system, has no AMX")
each_pair = pytest.mark.parametrize("types", PAIRS, ids=lambda types: "-".join(t.label for t in types))


def conv_operation(x, w, output, geometry, groups=1, epilogue=None, extras=()):
    return Operation(Conv(*geometry[2:5], groups, I32, epilogue), (x, w, *extras), (output,))


def kinds(operation):
    return [kind for family, kind in families(operation, TILES[0]) if family in ("conv", "matmul")]


def check(
    x, w, geometry, groups=1, *, features_last=True, constant=True, extreme=False, dtype=I32, threads=2
):
    """Compares with sums of 64 bits; with another ``dtype`` they are requantised."""
    rng = np.random.default_rng(0)
    features = w.shape[-1]
    shape = (x.shape[0], *output_extents(*geometry), features)
    output = dense(dtype, shape)
    if not features_last:
        planes = dense(dtype, (shape[0], features, *shape[1:-1]))
        output = planes.transpose((0, *range(2, planes.rank), 1))
    values = random_bytes(rng, (x, w), extreme)
    image, weights = (array.astype(np.int64) for array in arrays((x, w), values))
    want = convolution(image, weights, shape, Conv(*geometry[2:5], groups, I32)).astype(np.int32)
    extras, epilogue = (), None
    if dtype is not I32:
        bias, scale = dense(I32, (features,)), dense(F32, (features,))
        values[bias.storage] = rng.integers(-9999, 9999, features).astype(np.int32)
        values[scale.storage] = np.full(features, 2.0**-8, np.float32)
        extras = tuple(view.expand(shape) for view in (bias, scale))
        epilogue = requantization(dtype)
        want = requantized(want, values[bias.storage], values[scale.storage], dtype)
    operand = as_constant(w, values) if constant else w
    operation = conv_operation(x, operand, output, geometry, groups, epilogue, extras)
    assert kinds(operation) == ["tiles"]
    needed = {view.storage: values[view.storage] for view in (x, *extras)}
    if not constant:
        needed[w.storage] = values[w.storage]
    (got,) = run_operation(operation, needed, TILES[0], rng, threads)
    np.testing.assert_array_equal(got, want)
    return got


@each_pair
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda geometry: "x".join(map(str, geometry[0])))
@pytest.mark.parametrize(("channels", "features"), [(16, 40), (21, 33), (64, 16), (70, 5), (130, 70)])
def test_geometries(types, geometry, channels, features):
    """Taps of any number of channels begin and end anywhere in a tile, inside of ``x`` and outside."""
    rng = np.random.default_rng(channels)
    for layout in ("dense", "gaps"):
        x = place(rng, (3, *geometry[0], channels), types[0], layout)
        w = place(rng, (*geometry[1], channels, features), types[1])
        check(x, w, geometry)


@each_pair
def test_extremes(types):
    """Sums that leave 16 bits, in several blocks of the depth and of rows."""
    rng = np.random.default_rng(1)
    geometry = ((17, 19), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    for channels, features in ((192, 34), (515, 20)):
        x = place(rng, (1, 17, 19, channels), types[0], "dense")
        check(x, place(rng, (3, 3, channels, features), types[1], "dense"), geometry, extreme=True)


@pytest.mark.parametrize("dtype", [U8, I8])
@pytest.mark.parametrize("features_last", [True, False])
def test_requantisation(dtype, features_last):
    rng = np.random.default_rng(2)
    for geometry in GEOMETRIES[:4]:
        x = place(rng, (3, *geometry[0], 36), U8, "dense")
        w = place(rng, (*geometry[1], 36, 50), I8)
        check(x, w, geometry, dtype=dtype, features_last=features_last)


@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("channels", [20, 64, 131])
def test_strided_one_by_one(stride, channels):
    rng = np.random.default_rng(3)
    geometry = ((13, 11), (1, 1), (stride, stride), (1, 1), (0, 0), (0, 0))
    x = place(rng, (2, 13, 11, channels), U8, "gaps")
    check(x, place(rng, (1, 1, channels, 40), I8, "dense"), geometry)


@pytest.mark.parametrize(("groups", "channels", "features"), [(2, 32, 48), (3, 21, 40), (4, 64, 16)])
@pytest.mark.parametrize("constant", [True, False])
def test_groups(groups, channels, features, constant):
    rng = np.random.default_rng(4)
    geometry = GEOMETRIES[1]
    x = place(rng, (2, *geometry[0], groups * channels), U8, "gaps")
    w = place(rng, (*geometry[1], channels, groups * features), I8)
    check(x, w, geometry, groups, constant=constant)


@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("constant", [True, False])
def test_lines_of_few_channels(pad, first, constant):
    """A line of taps is one tap: in place, or in a copy with zeros between the lines."""
    rng = np.random.default_rng(5)
    for width, stride in ((23, 2), (24, 3)):
        geometry = ((15, width), (7, 7), (2, stride), (1, 1), (pad, pad), (pad, pad))
        planes = dense(U8, (2, 3, 15, width))
        x = planes.transpose((0, 2, 3, 1)) if first else dense(U8, (2, 15, width, 3))
        check(x, place(rng, (7, 7, 3, 64), I8), geometry, constant=constant)


def test_lines_that_reach_the_end_of_the_input():
    geometry = ((9, 10), (3, 3), (1, 1), (1, 1), (0, 0), (0, 0))
    check(dense(U8, (2, 9, 10, 33)), dense(I8, (3, 3, 33, 40)), geometry)


def test_views_of_a_larger_input():
    whole = dense(U8, (2, 9, 10, 150))
    part = View(whole.storage, 17, (2, 8, 7, 100), (9 * 10 * 150, 1500, 150, 1))
    geometry = ((8, 7), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    check(part, dense(I8, (3, 3, 100, 33)), geometry)


def test_results_do_not_depend_on_threads():
    geometry = ((40, 30), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    x, w = dense(U8, (1, 40, 30, 100)), dense(I8, (3, 3, 100, 150))
    alone, *others = (check(x, w, geometry, dtype=U8, threads=threads) for threads in (1, 2, 16))
    for result in others:
        np.testing.assert_array_equal(result, alone)


def test_a_residual_may_share_the_outputs_memory():
    geometry = ((9, 10), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    rng = np.random.default_rng(6)
    x, w, shared = dense(U8, (2, 9, 10, 64)), dense(I8, (3, 3, 64, 70)), dense(I32, (2, 9, 10, 70))
    values = random_bytes(rng, (x, w))
    values[shared.storage] = rng.integers(-9999, 9999, shared.size).astype(np.int32)
    image, weights = (array.astype(np.int64) for array in arrays((x, w), values))
    want = convolution(image, weights, shared.shape, Conv(*geometry[2:5], 1, I32))
    want += values[shared.storage].reshape(shared.shape)
    add = trace(lambda total, other: total + other, (I32, I32))
    operation = conv_operation(x, as_constant(w, values), shared, geometry, 1, add, (shared,))
    assert kinds(operation) == ["tiles"]
    needed = {view.storage: values[view.storage] for view in (x, shared)}
    (got,) = run_operation(operation, needed, TILES[0], rng)
    np.testing.assert_array_equal(got, want.astype(np.int32))


def test_tiles_are_left_to_where_they_pay():
    """Few rows leave them empty, and few channels and features take longer to copy than to multiply."""
    geometry = ((9, 10), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    cases = (
        ((2, 3), 64, 64, 1, "quads_addressed"),
        ((9, 10), 8, 8, 32, "quads_addressed"),
        ((9, 10), 64, 64, 1, "tiles"),
        ((9, 10), 32, 32, 8, "tiles"),
    )
    for extents, channels, features, groups, kind in cases:
        x, w = dense(U8, (1, *extents, groups * channels)), dense(I8, (3, 3, channels, groups * features))
        values = random_bytes(np.random.default_rng(7), (w,))
        output = dense(I32, (1, *extents, groups * features))
        operation = conv_operation(x, as_constant(w, values), output, geometry, groups)
        assert kinds(operation) == [kind], (extents, channels, groups)


def test_weights_are_packed_alike_for_any_number_of_rows():
    """Plans for other shapes share what was packed once."""
    geometry = ((9, 10), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    w = dense(I8, (3, 3, 20, 40))
    constant = as_constant(w, random_bytes(np.random.default_rng(8), (w,)))
    packed = []
    for extents in ((3, 4), (9, 10)):
        x, output = dense(U8, (1, *extents, 20)), dense(I32, (1, *extents, 40))
        recorder = harness.Recorder()
        operation = conv_operation(x, constant, output, geometry)
        harness.selector(TILES[0]).select(operation, recorder)
        packed.append(recorder.steps[-1].operands[1].storage)
    assert packed[0].name == packed[1].name
    np.testing.assert_array_equal(packed[0].constant, packed[1].constant)
