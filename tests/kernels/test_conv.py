import harness
import numpy as np
import pytest
from harness import available_isas, dense, run_operation
from products import (
    apply_epilogue,
    arrays,
    as_constant,
    assert_close,
    epilogue,
    fill,
    place,
)

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.program import Operation
from onnxplan.compiler.view import View

F16, BF16, F32, F64 = DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64

pytestmark = pytest.mark.parametrize("isa", available_isas())


@pytest.fixture(autouse=True)
def poison_is_nan(monkeypatch):
    monkeypatch.setattr(harness, "POISON", 0xFF)


def reference(x, w, output_shape, primitive):
    """Cross-correlation tap by tap, in the types of ``x`` and ``w``."""
    spatial = len(primitive.strides)
    groups, features = primitive.groups, output_shape[-1] // primitive.groups
    channels = w.shape[-2]
    total = np.zeros(output_shape, np.result_type(x, w))
    for tap in np.ndindex(*w.shape[:spatial]):
        read, written = [], []
        for axis in range(spatial):
            at = np.arange(output_shape[1 + axis]) * primitive.strides[axis]
            at += tap[axis] * primitive.dilations[axis] - primitive.pads[axis]
            inside = (at >= 0) & (at < x.shape[1 + axis])
            read.append(at[inside])
            written.append(np.flatnonzero(inside))
        batch = np.arange(x.shape[0])
        for group in range(groups):
            part = np.arange(group * channels, (group + 1) * channels)
            out = np.arange(group * features, (group + 1) * features)
            total[np.ix_(batch, *written, out)] += x[np.ix_(batch, *read, part)] @ w[tap][:, out]
    return total


def check(
    isa,
    x,
    w,
    output,
    extras=(),
    *,
    strides=None,
    dilations=None,
    pads=None,
    groups=1,
    constant=True,
    accumulator=F32,
):
    rng = np.random.default_rng(0)
    spatial = x.rank - 2
    primitive = Conv(
        strides or (1,) * spatial,
        dilations or (1,) * spatial,
        pads or (0,) * spatial,
        groups,
        accumulator,
        epilogue(accumulator, output.dtype, len(extras)) if extras else None,
    )
    values = fill(rng, (x, w, *extras))
    x_array, w_array = arrays((x, w), values)
    if accumulator.is_float:
        x_array, w_array = x_array.astype(np.float64), w_array.astype(np.float64)
    else:
        x_array, w_array = x_array.astype(accumulator.numpy), w_array.astype(accumulator.numpy)
    with np.errstate(over="ignore"):
        total = reference(x_array, w_array, output.shape, primitive)
        magnitude = None
        if accumulator.is_float:
            magnitude = reference(np.abs(x_array), np.abs(w_array), output.shape, primitive)
        want, magnitude = apply_epilogue(total, magnitude, arrays(extras, values), output.dtype)
    operand = as_constant(w, values) if constant else w
    needed = {view.storage: values[view.storage] for view in (x, *extras)}
    if not constant:
        needed[w.storage] = values[w.storage]
    operation = Operation(primitive, (x, operand, *extras), (output,))
    (got,) = run_operation(operation, needed, isa, np.random.default_rng(1))
    assert_close(got, want, magnitude, output.dtype)


def output_extents(inputs, kernel, strides, dilations, pads, ends):
    return tuple(
        (size + before + after - (taps - 1) * dilation - 1) // stride + 1
        for size, taps, stride, dilation, before, after in zip(
            inputs, kernel, strides, dilations, pads, ends, strict=True
        )
    )


def bias_and_residual(rng, shape, dtype):
    bias = place(rng, (1,) * (len(shape) - 1) + shape[-1:], dtype, "dense").expand(shape)
    return bias, place(rng, shape, dtype, "gaps")


GEOMETRIES = [
    # inputs, kernel, strides, dilations, pads, ends
    ((9, 11), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((9, 11), (3, 2), (2, 1), (1, 2), (1, 0), (0, 3)),
    ((7, 20), (5, 5), (2, 2), (1, 1), (2, 2), (2, 2)),
    ((12, 12), (3, 3), (1, 1), (2, 2), (2, 2), (2, 2)),
    ((13, 13), (7, 7), (2, 2), (1, 1), (3, 3), (3, 3)),
    ((10, 10), (3, 3), (3, 2), (1, 1), (-1, -2), (-1, 0)),
    ((2, 3), (5, 5), (1, 1), (1, 1), (4, 4), (4, 4)),
    ((30,), (4,), (2,), (3,), (5,), (1,)),
    ((4, 5, 6), (3, 2, 3), (2, 1, 1), (1, 2, 1), (1, 1, 2), (1, 1, 0)),
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda geometry: "x".join(map(str, geometry[0])))
@pytest.mark.parametrize(("channels", "features"), [(1, 33), (3, 70), (8, 16), (20, 24)])
def test_geometries(isa, geometry, channels, features):
    rng = np.random.default_rng(0)
    inputs, kernel, strides, dilations, pads, _ = geometry
    shape = (2, *output_extents(*geometry), features)
    x, w = place(rng, (2, *inputs, channels), F32, "dense"), place(rng, (*kernel, channels, features), F32)
    extras = bias_and_residual(rng, shape, F32)
    options = {"strides": strides, "dilations": dilations, "pads": pads}
    check(isa, x, w, place(rng, shape, F32, "gaps"), extras, **options)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda geometry: "x".join(map(str, geometry[0])))
def test_few_channels_first(isa, geometry):
    """Lines of taps are read in place out of one copy, with zeros between the lines only."""
    rng = np.random.default_rng(3)
    inputs, kernel, strides, dilations, pads, _ = geometry
    shape = (2, *output_extents(*geometry), 48)
    planes = place(rng, (2, 3, *inputs), F32, "dense")
    x = planes.transpose((0, *range(2, planes.rank), 1))
    w = place(rng, (*kernel, 3, 48), F32)
    options = {"strides": strides, "dilations": dilations, "pads": pads}
    check(isa, x, w, place(rng, shape, F32, "dense"), bias_and_residual(rng, shape, F32), **options)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda geometry: "x".join(map(str, geometry[0])))
@pytest.mark.parametrize("channels", [5, 16, 61, 100])
def test_depthwise_geometries(isa, geometry, channels):
    rng = np.random.default_rng(1)
    inputs, kernel, strides, dilations, pads, _ = geometry
    shape = (2, *output_extents(*geometry), channels)
    x, w = place(rng, (2, *inputs, channels), F32, "gaps"), place(rng, (*kernel, 1, channels), F32)
    extras = bias_and_residual(rng, shape, F32)
    options = {"strides": strides, "dilations": dilations, "pads": pads, "groups": channels}
    check(isa, x, w, place(rng, shape, F32, "gaps"), extras, **options)


@pytest.mark.parametrize("width", [1, 6, 7, 12, 15, 30])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_widths(isa, width, kernel, stride):
    rng = np.random.default_rng(11)
    pads, strides = (kernel // 2,) * 2, (stride, stride)
    sizes = (4, width)
    extents = output_extents(sizes, (kernel, kernel), strides, (1, 1), pads, pads)
    x, w = place(rng, (1, *sizes, 53), F32, "gaps"), place(rng, (kernel, kernel, 1, 53), F32)
    output = place(rng, (1, *extents, 53), F32, "gaps")
    check(isa, x, w, output, strides=strides, pads=pads, groups=53)


def test_depthwise_with_a_multiplier_and_other_layouts(isa):
    rng = np.random.default_rng(2)
    x, w = place(rng, (2, 6, 7, 5), F32, "swapped"), place(rng, (3, 3, 1, 15), F32, "swapped")
    options = {"pads": (1, 1), "groups": 5}
    check(isa, x, w, place(rng, (2, 6, 7, 15), F32, "stepped"), **options)
    check(isa, x, w, place(rng, (2, 6, 7, 15), F32, "stepped"), constant=False, **options)


@pytest.mark.parametrize(("channels", "features"), [(2, 3), (8, 4), (24, 40)])
@pytest.mark.parametrize("constant", [True, False])
def test_groups(isa, channels, features, constant):
    rng = np.random.default_rng(3)
    groups = 3
    x = place(rng, (2, 8, 9, groups * channels), F32, "dense")
    for kernel, pads in (((3, 3), (1, 1)), ((1, 1), (0, 0))):
        w = place(rng, (*kernel, channels, groups * features), F32)
        shape = (2, 8, 9, groups * features)
        extras = bias_and_residual(rng, shape, F32)
        check(isa, x, w, place(rng, shape, F32, "gaps"), extras, pads=pads, groups=groups, constant=constant)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [7, 30])
@pytest.mark.parametrize("constant", [True, False])
def test_one_by_one(isa, stride, channels, constant):
    rng = np.random.default_rng(4)
    x, w = place(rng, (2, 9, 13, channels), F32, "gaps"), place(rng, (1, 1, channels, 70), F32)
    shape = (2, (9 - 1) // stride + 1, (13 - 1) // stride + 1, 70)
    extras = bias_and_residual(rng, shape, F32)
    check(isa, x, w, place(rng, shape, F32, "gaps"), extras, strides=(stride, stride), constant=constant)


def test_one_by_one_with_padding(isa):
    rng = np.random.default_rng(5)
    x, w = dense(F32, (1, 4, 5, 20)), dense(F32, (1, 1, 20, 17))
    check(isa, x, w, dense(F32, (1, 6, 7, 17)), bias_and_residual(rng, (1, 6, 7, 17), F32), pads=(1, 1))


@pytest.mark.parametrize("channels", [3, 40])
def test_channels_first_input(isa, channels):
    rng = np.random.default_rng(6)
    x = dense(F32, (2, channels, 12, 13)).transpose((0, 2, 3, 1))
    w = dense(F32, (33, channels, 3, 3)).transpose((2, 3, 1, 0))
    check(isa, x, w, place(rng, (2, 6, 7, 33), F32, "gaps"), strides=(2, 2), pads=(1, 1))


@pytest.mark.parametrize("groups", [1, 20])
def test_channels_first_output(isa, groups):
    for kernel, features in ((1, 20), (3, 40)):
        x = dense(F32, (2, 9, 11, 20))
        w = dense(F32, (kernel, kernel, 20 // groups, features))
        pads = (kernel // 2,) * 2
        output = dense(F32, (2, features, 9, 11)).transpose((0, 2, 3, 1))
        bias = dense(F32, (features,)).expand(output.shape)
        check(isa, x, w, output, (bias,), pads=pads, groups=groups)


@pytest.mark.parametrize("groups", [1, 4, 24])
def test_an_output_that_is_a_phase_of_another_tensor(isa, groups):
    x, w = dense(F32, (2, 5, 7, 24)), dense(F32, (2, 2, 24 // groups, 24))
    whole = dense(F32, (2, 12, 16, 24))
    phase = whole.slice(1, 1, 6, 2).slice(2, 0, 8, 2)
    check(isa, x, w, phase, pads=(1, 1), groups=groups)


@pytest.mark.parametrize("channels", [64, 800])
def test_deep_convolutions_in_several_blocks(isa, channels):
    rng = np.random.default_rng(7)
    x, w = dense(F32, (1, 5, 6, channels)), dense(F32, (3, 3, channels, 70))
    extras = bias_and_residual(rng, (1, 5, 6, 70), F32)
    check(isa, x, w, dense(F32, (1, 5, 6, 70)), extras, pads=(1, 1))
    wide, weights = dense(F32, (1, 8, 40, 3)), dense(F32, (11, 31, 3, 20))
    check(isa, wide, weights, dense(F32, (1, 8, 40, 20)), pads=(5, 15))


@pytest.mark.parametrize("groups", [1, 12])
def test_a_residual_may_share_the_outputs_memory(isa, groups):
    x, w, shared = dense(F32, (2, 6, 7, 12)), dense(F32, (3, 3, 12 // groups, 84)), dense(F32, (2, 6, 7, 84))
    check(isa, x, w, shared, (shared,), pads=(1, 1), groups=groups)


@pytest.mark.parametrize(
    "types",
    [(F64, F64, F64), (F16, F32, F16), (BF16, F32, BF16), (DType.INT32, DType.INT32, DType.INT32)],
    ids=lambda types: types[0].label,
)
@pytest.mark.parametrize("groups", [1, 2, 20])
def test_other_types(isa, types, groups):
    dtype, accumulator, output_type = types
    rng = np.random.default_rng(8)
    x, w = dense(dtype, (2, 6, 9, 20)), dense(dtype, (3, 3, 20 // groups, 40))
    output = place(rng, (2, 6, 9, 40), output_type, "gaps")
    check(isa, x, w, output, pads=(1, 1), groups=groups, accumulator=accumulator)


def test_small_integers_accumulate_in_int32(isa):
    x, w = dense(DType.UINT8, (1, 6, 9, 20)), dense(DType.INT8, (3, 3, 20, 17))
    check(isa, x, w, dense(DType.INT32, (1, 6, 9, 17)), pads=(1, 1), accumulator=DType.INT32)


def test_empty_convolutions(isa):
    check(isa, dense(F32, (2, 4, 4, 0)), dense(F32, (3, 3, 0, 5)), dense(F32, (2, 4, 4, 5)), pads=(1, 1))
    check(isa, dense(F32, (1, 0, 4, 3)), dense(F32, (3, 3, 3, 5)), dense(F32, (1, 2, 4, 5)), pads=(2, 1))
    recorder = harness.Recorder()
    operation = Operation(
        Conv((1, 1), (1, 1), (0, 0), 1, F32),
        (dense(F32, (0, 4, 4, 3)), dense(F32, (1, 1, 3, 5))),
        (dense(F32, (0, 4, 4, 5)),),
    )
    harness.selector(isa).select(operation, recorder)
    assert recorder.steps == []


def test_nan_outside_of_the_taps_is_not_read(isa):
    rng = np.random.default_rng(9)
    for channels, groups in ((20, 1), (3, 1), (20, 20)):
        x, w = dense(F32, (1, 6, 6, channels)), dense(F32, (3, 3, channels // groups, 20))
        values = fill(rng, (x, w))
        image = values[x.storage].reshape(6, 6, channels)
        image[5, 5] = np.nan
        operation = Operation(Conv((1, 1), (1, 1), (1, 1), groups, F32), (x, w), (dense(F32, (1, 6, 6, 20)),))
        (got,) = run_operation(operation, values, isa)
        where = np.isnan(got).any(axis=-1)[0]
        want = np.zeros((6, 6), bool)
        want[4:, 4:] = True
        np.testing.assert_array_equal(where, want)


@pytest.mark.parametrize("groups", [1, 3])
def test_more_than_three_spatial_axes(isa, groups):
    x, w = dense(F32, (2, 3, 4, 3, 5, 6)), dense(F32, (2, 1, 3, 2, 6 // groups, 9))
    output = dense(F32, (2, 3, 4, 2, 3, 9))
    options = {"strides": (1, 1, 1, 2), "pads": (1, 0, 0, 1), "groups": groups}
    if harness.is_cuda(isa):
        check(isa, x, w, output, **options)
        return
    with pytest.raises(NotImplementedError, match="spatial"):
        check(isa, x, w, output, **options)


def test_views_of_a_larger_input(isa):
    rng = np.random.default_rng(10)
    whole = dense(F32, (2, 9, 10, 50))
    part = View(whole.storage, 17, (2, 8, 4, 20), (9 * 10 * 50, 500, 100, 1))
    w = place(rng, (3, 3, 20, 33), F32)
    check(isa, part, w, dense(F32, (2, 8, 4, 33)), pads=(1, 1))
