"""Convolutions whose input and output are channels first and stay so."""

import harness
import numpy as np
import pytest
from harness import cpu_isas, dense
from layouts import select
from products import arrays, place
from test_conv import F32, F64, GEOMETRIES, check, output_extents, reference

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import ExpressionBuilder, Instruction
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.program import Operation
from onnxplan.kernels.cpu.registry import CpuKernels

pytestmark = pytest.mark.parametrize("isa", cpu_isas())


@pytest.fixture(autouse=True)
def poison_is_nan(monkeypatch):
    monkeypatch.setattr(harness, "POISON", 0xFF)


def planes(rng, batch, channels, extents, dtype=F32, layout="gaps"):
    """A channels-last view of a tensor whose rows adjoin."""
    view = place(rng, (batch, channels, *extents), dtype, layout)
    return view.transpose((0, *range(2, view.rank), 1))


def families(x, w, output, isa, groups, strides, pads, dtype=F32):
    primitive = Conv(strides, (1,) * len(strides), pads, groups, dtype)
    return [step.kernel.family for step in select(primitive, [x, w], [output], isa)]


def check_depthwise(isa, rng, extents, kernel, strides, pads, *, extras=0, channels=5, dtype=F32, **options):
    outputs = output_extents(extents, kernel, strides, (1,) * len(kernel), pads, pads)
    x = planes(rng, 2, channels, extents, dtype)
    w = place(rng, (*kernel, 1, channels), dtype)
    output = planes(rng, 2, channels, outputs, dtype)
    added = [place(rng, (1,) * (1 + len(kernel)) + (channels,), dtype, "dense").expand(output.shape)]
    added.append(planes(rng, 2, channels, outputs, dtype))
    found = families(x, w, output, isa, channels, strides, pads, dtype)
    assert found[-1] == "depthwise_rows"
    options = {"strides": strides, "pads": pads, "groups": channels, "accumulator": dtype, **options}
    check(isa, x, w, output, added[:extras], **options)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_extents(isa, kernel, stride):
    rng = np.random.default_rng(1)
    for extents in ((9, 18), (4, 31), (7, 33), (5, 70), (3, 129)):
        check_depthwise(isa, rng, extents, (kernel,) * 2, (stride,) * 2, (kernel // 2,) * 2, extras=1)


@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (2, 4), (7, 1)])
def test_depthwise_of_planes_whose_lines_share_a_vector(isa, kernel):
    """Lines of 4 to 8 elements; last vectors of fewer lines; planes at the ends of memory, and others."""
    rng = np.random.default_rng(17)
    for extents in ((7, 7), (8, 8), (5, 5), (4, 4), (3, 6), (1, 7), (9, 4), (13, 7)):
        outputs = output_extents(extents, kernel, (1, 1), (1, 1), *[[tap // 2 for tap in kernel]] * 2)
        pads = tuple(tap // 2 for tap in kernel)
        x, output, residual = (
            planes(rng, 2, 5, shape, layout="dense") for shape in (extents, outputs, outputs)
        )
        bias = place(rng, (1, 1, 1, 5), F32, "dense").expand(output.shape)
        w = place(rng, (*kernel, 1, 5), F32)
        assert families(x, w, output, isa, 5, (1, 1), pads)[-1] == "depthwise_rows"
        check(isa, x, w, output, (bias, residual), pads=pads, groups=5)


def sigmoid(dtype=F32):
    """An epilogue that takes so many registers that sums go through memory."""
    builder = ExpressionBuilder()
    value = builder.add(Instruction("input", (0,), dtype))
    return builder.build((builder.add(Instruction("sigmoid", (value,), dtype)),))


@pytest.mark.parametrize("extents", [(7, 7), (5, 8), (14, 14), (11, 40)])
def test_depthwise_with_an_epilogue_in_memory(isa, extents):
    rng = np.random.default_rng(18)
    x, output = (planes(rng, 2, 5, extents, layout="dense") for _ in range(2))
    w = dense(F32, (3, 3, 1, 5))
    values = {view.storage: rng.standard_normal(view.storage.size).astype(np.float32) for view in (x, w)}
    primitive = Conv((1, 1), (1, 1), (1, 1), 5, F32, sigmoid())
    (got,) = harness.run_operation(Operation(primitive, (x, w), (output,)), values, isa, rng)
    sums = reference(*arrays((x, w), values), output.shape, primitive)
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-sums.astype(np.float64))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("extents", [(7, 7), (14, 14), (9, 40)])
def test_depthwise_keeps_nan_in_its_plane_and_its_window(isa, extents):
    """What is read beside a line does not count."""
    rng = np.random.default_rng(19)
    x, output = (planes(rng, 1, 4, extents, layout="dense") for _ in range(2))
    w = dense(F32, (3, 3, 1, 4))
    values = {view.storage: rng.standard_normal(view.storage.size).astype(np.float32) for view in (x, w)}
    array = harness.array_of(x, values[x.storage])
    array[0, 3, :, 2] = np.nan
    array[0, :, 0, 1] = np.inf
    primitive = Conv((1, 1), (1, 1), (1, 1), 4, F32)
    (got,) = harness.run_operation(Operation(primitive, (x, w), (output,)), values, isa, rng)
    assert np.isfinite(got[..., [0, 3]]).all()
    assert np.isnan(got[0, 2:5, :, 2]).all()
    assert np.isfinite(got[0, [0, 1, 5, 6], :, 2]).all()
    assert np.isfinite(got[0, :, 2:, 1]).all()
    assert not np.isfinite(got[0, :, :2, 1]).any()


def test_depthwise_of_other_kernels(isa):
    rng = np.random.default_rng(2)
    check_depthwise(isa, rng, (6, 21), (2, 4), (1, 2), (0, 3), extras=2)
    check_depthwise(isa, rng, (2, 40), (5, 3), (2, 1), (4, 2), extras=2)
    check_depthwise(isa, rng, (70,), (5,), (1,), (0,), extras=1)


def test_depthwise_in_several_bands_and_tiles(isa):
    rng = np.random.default_rng(3)
    check_depthwise(isa, rng, (131, 90), (3, 3), (1, 1), (1, 1), extras=1, channels=3)
    check_depthwise(isa, rng, (100, 130), (5, 5), (2, 2), (2, 2), extras=1, channels=3)


def test_depthwise_in_several_groups_of_planes(isa):
    rng = np.random.default_rng(16)
    check_depthwise(isa, rng, (14, 14), (3, 3), (1, 1), (1, 1), extras=2, channels=37)
    check_depthwise(isa, rng, (15, 19), (5, 5), (2, 2), (2, 2), extras=1, channels=41)


@pytest.mark.parametrize("dtype", [F64, DType.INT32])
def test_depthwise_of_other_types(isa, dtype):
    check_depthwise(isa, np.random.default_rng(4), (6, 21), (3, 3), (1, 1), (1, 1), dtype=dtype)


def test_depthwise_by_weights_that_are_computed(isa):
    rng = np.random.default_rng(5)
    check_depthwise(isa, rng, (6, 21), (3, 3), (1, 1), (1, 1), extras=1, constant=False)


def test_depthwise_with_a_residual_that_shares_the_outputs_memory(isa):
    rng = np.random.default_rng(6)
    x, shared = planes(rng, 2, 5, (7, 19)), planes(rng, 2, 5, (7, 19), layout="dense")
    check(isa, x, dense(F32, (3, 3, 1, 5)), shared, (shared,), pads=(1, 1), groups=5)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda geometry: "x".join(map(str, geometry[0])))
@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("features", [6, 108])
def test_all_geometries(isa, geometry, groups, features):
    rng = np.random.default_rng(7)
    inputs, kernel, strides, dilations, pads, _ = geometry
    x, output = planes(rng, 2, 6, inputs), planes(rng, 2, features, output_extents(*geometry), layout="dense")
    w = place(rng, (*kernel, 6 // groups, features), F32)
    check(isa, x, w, output, strides=strides, dilations=dilations, pads=pads, groups=groups)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("constant", [True, False])
def test_one_by_one(isa, groups, constant):
    rng = np.random.default_rng(8)
    for extents in ((6, 8), (5, 27)):
        x = planes(rng, 2, 20, extents, layout="dense")
        output = planes(rng, 2, 30, extents, layout="dense")
        w = dense(F32, (30, 20 // groups, 1, 1)).transpose((2, 3, 1, 0))
        extras = (
            place(rng, (1, 1, 1, 30), F32, "dense").expand(output.shape),
            planes(rng, 2, 30, extents),
        )
        assert "transpose" not in families(x, w, output, isa, groups, (1, 1), (0, 0))
        check(isa, x, w, output, extras, groups=groups, constant=constant)


def check_planes(
    isa, rng, extents, kernel, strides=None, pads=None, dilations=None, *, channels=5, features=19, groups=1,
    extras=2, dtype=F32, images=2, family="conv_planes", **options,
):  # fmt: skip
    """A convolution with more features than make gathering worth while, and what the family is."""
    rank = len(kernel)
    strides, pads, dilations = strides or (1,) * rank, pads or (0,) * rank, dilations or (1,) * rank
    outputs = output_extents(extents, kernel, strides, dilations, pads, pads)
    x = planes(rng, images, channels * groups, extents, dtype)
    output = planes(rng, images, features * groups, outputs, dtype, layout="dense")
    w = dense(dtype, (features * groups, channels, *kernel)).transpose((*range(2, 2 + rank), 1, 0))
    primitive = Conv(strides, dilations, pads, groups, dtype)
    assert [step.kernel.family for step in select(primitive, [x, w], [output], isa)][-1] == family
    bias = place(rng, (1,) * (1 + rank) + (features * groups,), dtype, "dense").expand(output.shape)
    residual = planes(rng, images, features * groups, outputs, dtype, layout="dense")
    options |= {"strides": strides, "pads": pads, "dilations": dilations, "groups": groups}
    check(isa, x, w, output, (bias, residual)[:extras], accumulator=dtype, **options)


@pytest.fixture
def always_planes(monkeypatch):
    """Convolutions by planes also where others would be faster."""
    monkeypatch.setattr("onnxplan.kernels.cpu.winograd.ENABLED", False)
    monkeypatch.setattr("onnxplan.kernels.cpu.conv_planes.LEAST_SHARE", 0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 2, 3, 7])
def test_planes_of_all_widths(isa, kernel, stride, always_planes):
    """Panels that end inside of a row, rows shorter and longer than a panel, padding at all sides."""
    rng = np.random.default_rng(10)
    for extents in ((9, 5), (7, 14), (6, 17), (5, 33), (3, 70), (2, 131)):
        pads = ((kernel - 1) // 2,) * 2
        if kernel == stride == 1:
            continue
        check_planes(isa, rng, extents, (max(1, min(kernel, extents[0])), kernel), (stride,) * 2, pads)


@pytest.mark.parametrize("channels", [1, 3, 16])
@pytest.mark.parametrize("features", [16, 18, 25])
def test_planes_of_all_rows(isa, channels, features, always_planes):
    rng = np.random.default_rng(11)
    for extras in (0, 1, 2):
        size = {"channels": channels, "features": features, "extras": extras}
        check_planes(isa, rng, (8, 21), (3, 3), pads=(1, 1), **size)


def test_planes_of_other_geometries(isa, always_planes):
    rng = np.random.default_rng(12)
    check_planes(isa, rng, (11, 23), (3, 2), (3, 2), (2, 1), (2, 3))
    check_planes(isa, rng, (11, 23), (3, 3), (1, 1), (4, 4), (4, 4), groups=2)
    check_planes(isa, rng, (61,), (5,), (2,), (2,), channels=9)
    check_planes(isa, rng, (4, 9), (3, 3), (2, 2), (3, 3), images=1, groups=3)


def test_planes_that_take_several_tiles_and_blocks(isa, always_planes):
    rng = np.random.default_rng(13)
    check_planes(isa, rng, (40, 45), (3, 3), pads=(1, 1), channels=24, features=50, images=1, extras=1)
    check_planes(isa, rng, (9, 10), (1, 1), channels=1100, features=130, images=1, extras=1)
    check_planes(isa, rng, (5, 9), (1, 1), (2, 2), channels=900, features=130, images=1, extras=1)


@pytest.mark.parametrize("dtype", [F64, DType.INT32])
def test_planes_of_other_types(isa, dtype, always_planes):
    rng = np.random.default_rng(14)
    check_planes(isa, rng, (6, 21), (3, 3), (2, 2), (1, 1), dtype=dtype)


def test_planes_by_weights_that_are_computed_or_permuted(isa, always_planes):
    rng = np.random.default_rng(15)
    check_planes(isa, rng, (6, 21), (3, 3), pads=(1, 1), constant=False)
    x, output = planes(rng, 2, 4, (6, 21)), planes(rng, 2, 20, (6, 21), layout="dense")
    for constant in (True, False):
        w = place(rng, (3, 3, 4, 20), F32, "gaps")
        assert families(x, w, output, isa, 1, (1, 1), (1, 1))[-1] == "conv_planes"
        check(isa, x, w, output, pads=(1, 1), constant=constant)


def test_what_the_selector_prefers(isa):
    """Only what has a kernel along rows, and only if both sides are channels first."""
    rng = np.random.default_rng(9)
    kernels = CpuKernels(harness.make_target(isa))

    def prefers(x, output, kernel=(3, 3), pads=(1, 1), groups=8, dilations=(1, 1)):
        w = dense(F32, (*kernel, 8 // groups, 8))
        primitive = Conv((1, 1), dilations, pads, groups, F32)
        return kernels.prefers(Operation(primitive, (x, w), (output,)))

    first, last = planes(rng, 1, 8, (9, 9)), dense(F32, (1, 9, 9, 8))
    assert prefers(first, first)
    assert not prefers(first, last)
    assert not prefers(last, first)
    assert not prefers(first, first, groups=1)
    assert not prefers(first, first, pads=(2, 2), dilations=(2, 2))
    assert not prefers(*[planes(rng, 1, 8, (9, 3))] * 2)
    wide = planes(rng, 1, 32, (15, 15), layout="dense")
    strided = Operation(
        Conv((2, 2), (1, 1), (1, 1), 1, F32),
        (wide, dense(F32, (3, 3, 32, 32))),
        (planes(rng, 1, 32, (8, 8), layout="dense"),),
    )
    assert kernels.prefers(strided)
    # Too few positions to fill vectors.
    few = [planes(rng, 1, 256, (5, 5), layout="dense")] * 2
    assert not kernels.prefers(
        Operation(Conv((1, 1), (1, 1), (0, 0), 1, F32), (few[0], dense(F32, (1, 1, 256, 256))), few[1:])
    )
    small = planes(rng, 1, 8, (9, 9), layout="dense")
    assert prefers(small, small, (1, 1), (0, 0), 1)
