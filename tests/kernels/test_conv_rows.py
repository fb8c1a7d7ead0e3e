"""Convolutions whose input and output are channels first and stay so."""

import harness
import numpy as np
import pytest
from harness import cpu_isas, dense
from layouts import select
from products import place
from test_conv import F32, F64, GEOMETRIES, check, output_extents

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Conv
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


def test_depthwise_of_other_kernels(isa):
    rng = np.random.default_rng(2)
    check_depthwise(isa, rng, (6, 21), (2, 4), (1, 2), (0, 3), extras=2)
    check_depthwise(isa, rng, (2, 40), (5, 3), (2, 1), (4, 2), extras=2)
    check_depthwise(isa, rng, (70,), (5,), (1,), (0,), extras=1)


def test_depthwise_in_several_bands_and_tiles(isa):
    rng = np.random.default_rng(3)
    check_depthwise(isa, rng, (131, 90), (3, 3), (1, 1), (1, 1), extras=1, channels=3)
    check_depthwise(isa, rng, (100, 130), (5, 5), (2, 2), (2, 2), extras=1, channels=3)


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
def test_all_geometries(isa, geometry, groups):
    rng = np.random.default_rng(7)
    inputs, kernel, strides, dilations, pads, _ = geometry
    x, output = planes(rng, 2, 6, inputs), planes(rng, 2, 6, output_extents(*geometry))
    w = place(rng, (*kernel, 6 // groups, 6), F32)
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


def test_what_the_selector_prefers(isa):
    """Only what has a kernel along rows, and only if both sides are channels first."""
    from onnxplan.compiler.program import Operation

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
    assert not prefers(*[planes(rng, 1, 8, (9, 4))] * 2)
    small = planes(rng, 1, 8, (9, 9), layout="dense")
    assert prefers(small, small, (1, 1), (0, 0), 1)
