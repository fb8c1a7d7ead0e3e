"""Groups of points on CUDA: vectors, tails, addresses that are not aligned, and rows held in registers."""

from __future__ import annotations

import numpy as np
import pytest
from harness import Recorder, available_isas, dense, selector
from random_views import Tracer, layer_norm, softmax
from test_mapreduce import assert_close, run

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.view import Storage, View
from onnxplan.kernels.cuda.indexing import divider
from onnxplan.kernels.cuda.registry import build

ISA = "sm_90"
pytestmark = pytest.mark.skipif(ISA not in available_isas(), reason="needs a C++ compiler")


def shifted(dtype: DType, shape: tuple[int, ...], offset: int) -> View:
    """A dense tensor that begins ``offset`` elements into its storage."""
    count = int(np.prod(shape))
    strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    return View(Storage(dtype, count + offset), offset, shape, strides)


def chosen(operation: Operation) -> list:
    recorder = Recorder()
    selector(ISA).select(operation, recorder)
    return recorder.steps


def addition(dtype: DType):
    t = Tracer(dtype)
    return t.build(t("add", t.input(0), t.input(1)))


def test_division_by_multiplication():
    rng = np.random.default_rng(0)
    extents = [1, 2, 3, 5, 7, 10, 641, (1 << 16) + 1, (1 << 30) - 1, (1 << 30) + 1, (1 << 31) - 1]
    extents += [int(n) for n in rng.integers(1, 1 << 31, 200)] + [int(n) for n in rng.integers(1, 5000, 200)]
    for extent in extents:
        multiples = np.arange(0, 1 << 31, max(extent, 1 << 21), dtype=np.uint64)
        edges = multiples // np.uint64(extent) * np.uint64(extent)
        numbers = np.concatenate([edges, edges + np.uint64(extent - 1), [np.uint64((1 << 31) - 1)]])
        numbers = numbers[numbers < 1 << 31]
        word = divider(extent)
        factor, shift = np.uint64(word & 0xFFFFFFFF), np.uint64(word >> 32)
        quotients = (np.uint64(2) * numbers * factor >> np.uint64(32)) >> shift
        np.testing.assert_array_equal(quotients, numbers // np.uint64(extent), err_msg=str(extent))


@pytest.mark.parametrize(
    ("dtype", "group"),
    [(DType.FLOAT32, 4), (DType.FLOAT16, 8), (DType.INT8, 16), (DType.FLOAT64, 2), (DType.BFLOAT16, 8)],
)
@pytest.mark.parametrize("count", [3, 15, 4096, 70_001])
@pytest.mark.parametrize("offset", [0, 1])
def test_groups_fill_sixteen_bytes(dtype, group, count, offset):
    views = [shifted(dtype, (count,), offset * (number != 1)) for number in range(3)]
    (step,) = chosen(Operation(MapReduce(addition(dtype), (count,)), tuple(views[:2]), (views[2],)))
    assert step.kernel.variant[-1] == group
    rng = np.random.default_rng(count)
    (got,), (want,) = run(addition(dtype), (count,), (), views[:2], views[2:], ISA, rng)
    assert_close(got, want, dtype, 2)


@pytest.mark.parametrize("shape", [(9, 24), (5, 12), (7, 3, 16), (11, 6)])
def test_rows_of_groups_beside_broadcast_operands(shape):
    dtype = DType.FLOAT16
    x, y = dense(dtype, shape), dense(dtype, shape)
    bias = dense(dtype, shape[-1:])
    row = View(bias.storage, 0, shape, (0,) * (len(shape) - 1) + (1,))
    (step,) = chosen(Operation(MapReduce(addition(dtype), shape), (x, row), (y,)))
    assert step.kernel.variant[-1] == {24: 8, 12: 4, 16: 8, 6: 0}[shape[-1]]
    (got,), (want,) = run(addition(dtype), shape, (), [x, row], [y], ISA, np.random.default_rng(0))
    assert_close(got, want, dtype, 2)


def test_few_points_are_spread_over_the_device_and_share_the_kernel():
    def step(count):
        x, y, z = (dense(DType.FLOAT32, (count,)) for _ in range(3))
        (found,) = chosen(Operation(MapReduce(addition(DType.FLOAT32), (count,)), (x, y), (z,)))
        return found

    few, many = step(1 << 12), step(1 << 24)
    assert few.kernel == many.kernel
    assert few.parameters[1] == 1
    assert many.parameters[1] == 2
    assert few.tiles == (1 << 12) // 1024
    assert many.tiles == (1 << 24) // 2048


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.FLOAT16, DType.FLOAT64])
@pytest.mark.parametrize("region", [3, 33, 250, 1000, 1001, 5000, 20_001])
@pytest.mark.parametrize("offset", [0, 1])
def test_norms_of_held_rows(dtype, region, offset):
    shape = (5, region)
    rng = np.random.default_rng(region)
    x, y = shifted(dtype, shape, offset), shifted(dtype, shape, offset)
    (got,), (want,) = run(softmax(dtype), shape, (1,), [x], [y], ISA, rng)
    assert_close(got, want, dtype, 40)


def text_of(step) -> str:
    return build(step.kernel, selector(ISA).target).text


def test_rows_that_registers_hold_are_read_once():
    def reads(region):
        shape = (5000, region)
        x, y = dense(DType.FLOAT32, shape), dense(DType.FLOAT32, shape)
        primitive = MapReduce(softmax(DType.FLOAT32), shape, (1,))
        (step,) = chosen(Operation(primitive, (x,), (y,)))
        return text_of(step).count("x0 + at0")

    assert reads(256) == reads(1024) == reads(4096) == 1
    assert reads(1 << 16) == 3, "maximum, sum, result"


def test_scales_are_read_in_the_pass_that_needs_them():
    shape = (64, 512)
    x, y = dense(DType.FLOAT32, shape), dense(DType.FLOAT32, shape)
    scale, bias = (View(dense(DType.FLOAT32, (512,)).storage, 0, shape, (0, 1)) for _ in range(2))
    primitive = MapReduce(layer_norm(DType.FLOAT32, 512), shape, (1,))
    means = [View(dense(DType.FLOAT32, (64,)).storage, 0, (64, 1), (1, 1)) for _ in range(2)]
    (step,) = chosen(Operation(primitive, (x, scale, bias), (y, *means)))
    text = text_of(step)
    assert [text.count(f"x{place} + at{place}") for place in range(4)] == [1, 1, 1, 1]
    rng = np.random.default_rng(3)
    outputs = [y, *means]
    for got, want in zip(
        *run(primitive.expression, shape, (1,), [x, scale, bias], outputs, ISA, rng), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
