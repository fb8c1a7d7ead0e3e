"""Convolution by matrix instructions: geometries, tiles, pieces of the depth, and what others do."""

import dataclasses
import math

import emulator
import harness
import numpy as np
import pytest
import test_conv
from harness import Recorder, dense, selector
from products import place

from bench import cuda_resources
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import Conv
from onnxplan.compiler.program import Operation
from onnxplan.kernels.convolution import Convolution
from onnxplan.kernels.cuda import conv_matrix, registry
from onnxplan.kernels.cuda.conv_matrix_code import MatrixTile

F16, BF16, F32 = DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32
STRICT, FAST = "sm_90", "sm_90_fast"
FORMS = [(STRICT, F16), (STRICT, BF16)]

pytestmark = pytest.mark.skipif(not emulator.COMPILER, reason="CUDA kernels run through g++ here")


@pytest.fixture(autouse=True)
def poison_is_nan(monkeypatch):
    monkeypatch.setattr(harness, "POISON", 0xFF)


def families(isa, x, w, output, strides, pads, groups=1):
    recorder = Recorder()
    rank = len(strides)
    primitive = Conv(strides, (1,) * rank, pads, groups, F32)
    selector(isa).select(Operation(primitive, (x, w), (output,)), recorder)
    return [step.kernel.family for step in recorder.steps]


def operands(dtype, batch, inputs, channels, kernel, features, groups=1, **window):
    """Dense operands, channels last, and the output of a convolution with ``window``."""
    strides, pads = window.get("strides", (1,) * len(kernel)), window.get("pads", (0,) * len(kernel))
    dilations = window.get("dilations", (1,) * len(kernel))
    outputs = test_conv.output_extents(inputs, kernel, strides, dilations, pads, pads)
    x = dense(dtype, (batch, *inputs, channels * groups))
    w = dense(dtype, (*kernel, channels, features * groups))
    return x, w, dense(dtype, (batch, *outputs, features * groups))


GEOMETRIES = {
    "3x3": ((9, 11), (3, 3), {"pads": (1, 1)}),
    "strided": ((13, 12), (3, 3), {"pads": (1, 1), "strides": (2, 2)}),
    "dilated": ((12, 9), (3, 2), {"dilations": (2, 3), "pads": (2, 1)}),
    "a line": ((40,), (5,), {"pads": (2,)}),
    "a volume": ((4, 5, 6), (2, 3, 2), {"pads": (1, 1, 0)}),
    "no pads": ((7, 7), (7, 7), {}),
}


@pytest.mark.parametrize(("isa", "dtype"), FORMS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("channels", "features"), [(8, 16), (24, 50), (40, 72)])
def test_geometries(isa, dtype, geometry, channels, features):
    inputs, kernel, window = GEOMETRIES[geometry]
    x, w, output = operands(dtype, 2, inputs, channels, kernel, features, **window)
    test_conv.check(
        isa,
        x,
        w,
        output,
        test_conv.bias_and_residual(np.random.default_rng(1), output.shape, dtype),
        **window,
    )
    rank = len(kernel)
    strides, pads = window.get("strides", (1,) * rank), window.get("pads", (0,) * rank)
    if "dilations" not in window:
        assert "conv_matrix" in families(isa, x, w, output, strides, pads)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("isa", "dtype"), FORMS)
def test_groups(isa, dtype, constant):
    x, w, output = operands(dtype, 2, (6, 7), 16, (3, 3), 24, groups=3, pads=(1, 1))
    test_conv.check(isa, x, w, output, pads=(1, 1), groups=3, constant=constant)
    assert "conv_matrix" in families(isa, x, w, output, (1, 1), (1, 1), 3)


@pytest.mark.parametrize("shape", conv_matrix.SHAPES)
@pytest.mark.parametrize("pieces", [1, 4])
@pytest.mark.parametrize(("isa", "dtype"), FORMS[:1])
def test_tiles_and_pieces(isa, dtype, shape, pieces, monkeypatch):
    choice = conv_matrix._Choice(MatrixTile(*shape, 3, dtype.itemsize), pieces)
    monkeypatch.setattr(conv_matrix, "fitting_choice", lambda *_: choice)
    # More positions than one tile has, and neither extent fills the last one.
    x, w, output = operands(dtype, 1, (12, 14), 32, (3, 3), shape[1] + 20, pads=(1, 1))
    test_conv.check(isa, x, w, output, pads=(1, 1))


@pytest.mark.parametrize("layout", ["gaps", "swapped"])
def test_outputs_and_extras_that_lie_apart(layout):
    rng = np.random.default_rng(2)
    x, w, output = operands(F16, 2, (5, 6), 16, (3, 3), 20, pads=(1, 1))
    output = place(rng, output.shape, F16, layout)
    test_conv.check(STRICT, x, w, output, test_conv.bias_and_residual(rng, output.shape, F16), pads=(1, 1))


@pytest.mark.parametrize("shape", conv_matrix.SHAPES)
@pytest.mark.parametrize(("isa", "dtype"), [*FORMS, (FAST, F32)])
def test_sixteen_bytes_are_stored_at_a_time(isa, dtype, shape, monkeypatch):
    nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc")
    stages = 4 if dtype is F16 else 2
    choice = conv_matrix._Choice(MatrixTile(*shape, stages, dtype.itemsize), 1)
    monkeypatch.setattr(conv_matrix, "fitting_choice", lambda *_: choice)
    x, w, output = operands(dtype, 1, (9, 9), 32, (3, 3), 64, pads=(1, 1))
    recorder = Recorder()
    selector(isa).select(Operation(Conv((1, 1), (1, 1), (1, 1), 1, F32), (x, w), (output,)), recorder)
    step = recorder.steps[-1]
    assert step.kernel.family == "conv_matrix"
    source = registry.build(step.kernel, selector(isa).target)
    ptx, _ = cuda_resources.compiled(nvrtc, source.text, "-arch=compute_90")
    _, stores = cuda_resources.widths(ptx)
    assert max(stores) == 16
    # The others are for the last columns of a tile.
    eights = shape[1] // shape[3] // 8
    assert stores[16] == shape[0] // shape[2] // 16 * 2 * eights * dtype.itemsize // 8


def test_tf32_is_close(monkeypatch):
    rng = np.random.default_rng(3)
    x, w, output = operands(F32, 2, (9, 9), 20, (3, 3), 36, pads=(1, 1))
    assert "conv_matrix" in families(FAST, x, w, output, (1, 1), (1, 1))
    assert "conv_matrix" not in families(STRICT, x, w, output, (1, 1), (1, 1))
    values = {view.storage: rng.standard_normal(view.storage.size).astype(np.float32) for view in (x, w)}
    primitive = Conv((1, 1), (1, 1), (1, 1), 1, F32)
    (found,) = harness.run_operation(Operation(primitive, (x, w), (output,)), values, FAST)
    wide = [values[view.storage].reshape(view.shape).astype(np.float64) for view in (x, w)]
    expected = test_conv.reference(*wide, output.shape, primitive)
    # Factors are rounded to 11 bits, so errors add up like those of 180 products.
    np.testing.assert_allclose(found, expected, atol=4 * 2**-11 * math.sqrt(180), rtol=0)
    assert np.abs(found - expected).max() > 1e-5


def test_what_is_left_to_other_kernels():
    def found(dtype=F16, channels=16, features=32, isa=STRICT):
        x, w, output = operands(dtype, 1, (8, 8), channels, (3, 3), features)
        return "conv_matrix" in families(isa, x, w, output, (1, 1), (0, 0))

    assert found()
    assert not found(channels=3)
    assert not found(features=8)
    assert not found(dtype=F32)
    assert not found(dtype=BF16, isa="sm_75")
    assert found(isa="sm_75")
    assert not found(dtype=F32, channels=6, isa=FAST)


def test_few_positions_cut_the_depth():
    def choice(batch, extent, channels, features):
        x, w, output = operands(F16, batch, (extent, extent), channels, (3, 3), features, pads=(1, 1))
        conv = Convolution(x, w, output, (), (1, 1), (1, 1), (1, 1), 1)
        target = dataclasses.replace(harness.make_target(STRICT), bandwidth=3e12, launch=1.5e-6)
        return conv_matrix.fitting_choice(target, conv)

    many, few = choice(64, 56, 64, 64), choice(1, 7, 512, 512)
    assert many.pieces == 1
    assert many.tile.columns == 64
    assert few.pieces > 1
    assert choice(64, 14, 256, 256).tile.rows == 128
