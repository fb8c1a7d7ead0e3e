"""Winograd's convolution: against float64, and its errors against those of the direct form."""

import itertools

import harness
import numpy as np
import pytest
from harness import cpu_isas, dense, run_operation
from products import apply_epilogue, arrays, as_constant, assert_close, epilogue, fill, place
from test_conv import bias_and_residual, reference

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.program import Operation
from onnxplan.compiler.view import View
from onnxplan.kernels.cpu import winograd
from onnxplan.kernels.cpu.tiling import ceil_div, register_tile

F32 = DType.FLOAT32

pytestmark = pytest.mark.parametrize("isa", cpu_isas())


@pytest.fixture(autouse=True)
def poison_is_nan(monkeypatch):
    monkeypatch.setattr(harness, "POISON", 0xFF)


@pytest.fixture(params=[2, 4])
def extent(request, monkeypatch):
    """The extent of output tiles, forced whether it pays or not."""
    monkeypatch.setattr(winograd, "EXTENTS", (request.param,))
    monkeypatch.setattr(winograd, "WORTH", float("inf"))
    return request.param


def families(operation, isa):
    recorder = harness.Recorder()
    harness.selector(isa).select(operation, recorder)
    return [step.kernel.family for step in recorder.steps]


def convolution(x, w, output, extras, pads, values):
    program = epilogue(F32, output.dtype, len(extras)) if extras else None
    primitive = Conv((1, 1), (1, 1), pads, 1, F32, program)
    return Operation(primitive, (x, as_constant(w, values), *extras), (output,))


def check(isa, x, w, output, extras=(), pads=(1, 1)):
    values = fill(np.random.default_rng(0), (x, w, *extras))
    operation = convolution(x, w, output, extras, pads, values)
    assert "winograd" in families(operation, isa)
    x_array, w_array = (array.astype(np.float64) for array in arrays((x, w), values))
    total = reference(x_array, w_array, output.shape, operation.primitive)
    # Sums of the values at the points are larger than those of the inputs, by no more than this.
    magnitude = 4 * reference(np.abs(x_array), np.abs(w_array), output.shape, operation.primitive).max()
    magnitude = np.full(output.shape, magnitude)
    want, magnitude = apply_epilogue(total, magnitude, arrays(extras, values), output.dtype)
    needed = {view.storage: values[view.storage] for view in (x, *extras)}
    (got,) = run_operation(operation, needed, isa, np.random.default_rng(1))
    # Sums are float32 whatever the output is.
    assert_close(got, want, magnitude, F32 if output.dtype is DType.FLOAT64 else output.dtype)


@pytest.mark.parametrize("features", [1, 16, 37, 64, 70, 150])
@pytest.mark.parametrize("channels", [1, 7, 16, 45])
def test_channels_and_features(isa, extent, channels, features):
    rng = np.random.default_rng(1)
    x, w = place(rng, (2, 9, 10, channels), F32, "dense"), place(rng, (3, 3, channels, features), F32)
    shape = (2, 9, 10, features)
    check(isa, x, w, place(rng, shape, F32, "gaps"), bias_and_residual(rng, shape, F32))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (5, 4), (8, 8), (7, 13), (26, 3)])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 1, 3), (-1, 2, 3, -1)])
def test_extents_and_padding(isa, extent, size, pads):
    rng = np.random.default_rng(2)
    shape = (
        3,
        *(n + before + after - 2 for n, before, after in zip(size, pads[:2], pads[2:], strict=True)),
        20,
    )
    if min(shape) <= 0:
        pytest.skip("the output would be empty")
    x, w = place(rng, (3, *size, 19), F32, "dense"), place(rng, (3, 3, 19, 20), F32)
    check(isa, x, w, place(rng, shape, F32, "gaps"), pads=pads[:2])


@pytest.mark.parametrize("output", [F32, DType.FLOAT16, DType.FLOAT64], ids=lambda dtype: dtype.label)
@pytest.mark.parametrize("layout", ["gaps", "swapped", "stepped"])
def test_layouts_and_types_of_the_output(isa, extent, output, layout):
    rng = np.random.default_rng(3)
    x, w = dense(F32, (2, 6, 7, 20)), place(rng, (3, 3, 20, 41), F32, "swapped")
    shape = (2, 6, 7, 41)
    extras = (*bias_and_residual(rng, shape, output), place(rng, shape, output, "swapped"))
    check(isa, x, w, place(rng, shape, output, layout), extras)


def test_input_layouts(isa, extent):
    rng = np.random.default_rng(4)
    w = place(rng, (3, 3, 20, 33), F32)
    whole = dense(F32, (2, 9, 10, 50))
    part = View(whole.storage, 17, (2, 8, 4, 20), (9 * 10 * 50, 500, 100, 1))
    check(isa, part, w, dense(F32, (2, 8, 4, 33)))
    channels_first = dense(F32, (2, 20, 8, 7)).transpose((0, 2, 3, 1))
    check(isa, channels_first, w, dense(F32, (2, 8, 7, 33)))


def test_a_residual_may_share_the_outputs_memory(isa, extent):
    shared = dense(F32, (2, 10, 11, 84))
    check(isa, dense(F32, (2, 10, 11, 12)), dense(F32, (3, 3, 12, 84)), shared, (shared,))


def test_many_blocks_and_panels(isa, extent):
    x, w = dense(F32, (1, 61, 50, 40)), dense(F32, (3, 3, 40, 200))
    check(isa, x, w, dense(F32, (1, 61, 50, 200)))


def test_nan_outside_of_the_input_is_not_read(isa, extent):
    x, w = dense(F32, (1, 8, 8, 18)), dense(F32, (3, 3, 18, 20))
    values = fill(np.random.default_rng(5), (x, w))
    values[x.storage].reshape(8, 8, 18)[7, 7] = np.nan
    operation = convolution(x, w, dense(F32, (1, 8, 8, 20)), (), (1, 1), values)
    (got,) = run_operation(operation, {x.storage: values[x.storage]}, isa)
    where = np.isnan(got).any(axis=-1)[0]
    assert where[6:, 6:].all()
    # The tiles that read the last position, and no others.
    first = 8 - extent
    assert not where[:first].any()
    assert not where[:, :first].any()


@pytest.mark.parametrize("channels", [16, 64, 256])
def test_errors_are_at_most_ten_times_those_of_the_direct_form(isa, extent, monkeypatch, channels):
    x, w, output = (
        dense(F32, (1, 14, 14, channels)),
        dense(F32, (3, 3, channels, 64)),
        dense(F32, (1, 14, 14, 64)),
    )
    values = fill(np.random.default_rng(6), (x, w))
    operation = convolution(x, w, output, (), (1, 1), values)
    exact = reference(
        *(array.astype(np.float64) for array in arrays((x, w), values)), output.shape, operation.primitive
    )
    errors = {}
    for enabled in (True, False):
        monkeypatch.setattr(winograd, "ENABLED", enabled)
        assert families(operation, isa) == ["winograd" if enabled else "conv"]
        (got,) = run_operation(operation, {x.storage: values[x.storage]}, isa)
        errors[enabled] = np.abs(got - exact)
    assert errors[True].max() <= 10 * errors[False].max()
    assert np.sqrt((errors[True] ** 2).mean()) <= 5 * np.sqrt((errors[False] ** 2).mean())


def test_results_do_not_depend_on_how_tiles_are_shared(isa, extent):
    x, w, output = dense(F32, (1, 30, 31, 24)), dense(F32, (3, 3, 24, 130)), dense(F32, (1, 30, 31, 130))
    values = fill(np.random.default_rng(7), (x, w))
    operation = convolution(x, w, output, (), (1, 1), values)
    results = [
        run_operation(operation, {x.storage: values[x.storage]}, isa, rng)[0]
        for rng in (None, np.random.default_rng(8), np.random.default_rng(9))
    ]
    for one, other in itertools.pairwise(results):
        np.testing.assert_array_equal(one, other)


def test_it_is_chosen_where_it_pays(isa):
    def chosen(size, channels, features, *, constant=True, strides=(1, 1), groups=1, dtype=F32):
        x, w = dense(dtype, (1, size, size, channels)), dense(dtype, (3, 3, channels // groups, features))
        values = fill(np.random.default_rng(10), (w,))
        out = (size + strides[0] - 1) // strides[0]
        primitive = Conv(strides, (1, 1), (1, 1), groups, F32)
        weights = as_constant(w, values) if constant else w
        operation = Operation(primitive, (x, weights), (dense(F32, (1, out, out, features)),))
        return families(operation, isa)[-1] == "winograd"

    assert chosen(56, 64, 64)
    assert chosen(28, 128, 128)
    assert not chosen(56, 64, 64, constant=False)
    assert not chosen(56, 64, 64, strides=(2, 2))
    assert not chosen(56, 64, 64, groups=2)
    assert not chosen(56, 64, 64, dtype=DType.FLOAT16)
    assert not chosen(224, 3, 64)
    assert not chosen(224, 64, 3)
    assert not chosen(2, 512, 512)


@pytest.mark.parametrize(("size", "channels"), [(14, 256), (7, 512)])
def test_batches_share_the_form_that_weights_are_transformed_for(isa, size, channels):
    """A session that meets many batches makes and keeps one form of the weights of ResNet's layers.

    A lone image may have another: its time is that of reading the weights, which are fewer in it.
    """
    forms = {batch: _form(isa, batch, size, channels) for batch in range(1, 9)}
    several = {form for batch, form in forms.items() if batch > 1}
    assert len(several) == 1
    assert forms[1] is None or forms[1] <= min(several)


def _form(isa, batch, size, channels):
    """The extent of output tiles that is chosen for a batch, None where the direct form is."""
    (step,) = _chosen(isa, batch, size, channels, 2)
    return step.kernel.variant[0] if step.kernel.family == "winograd" else None


def _chosen(isa, batch, size, channels, threads):
    w = dense(F32, (3, 3, channels, channels))
    x, output = (dense(F32, (batch, size, size, channels)) for _ in range(2))
    values = {w.storage: np.ones(w.storage.size, np.float32)}
    recorder = harness.Recorder()
    harness.selector(isa, threads).select(convolution(x, w, output, (), (1, 1), values), recorder)
    return recorder.steps


@pytest.mark.parametrize("threads", [2, 4])
def test_few_tiles_are_cut_no_further_than_each_thread_gets_one(isa, extent, threads):
    """A thread that took two cuts of the panels would transform the same inputs twice."""
    panels = ceil_div(512, register_tile(harness.make_target(isa), F32, 512).width)
    (step,) = _chosen(isa, 1, 4, 512, threads)
    assert step.tiles == min(threads, panels)
