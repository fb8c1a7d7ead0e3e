"""Copies between a few planes and their elements side by side."""

import numpy as np
import pytest
from harness import Recorder, array_of, available_isas, is_cuda, run_operation, selector

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import identity
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.view import Storage, View

ISAS = available_isas()


def copy_between(source, result):
    return Operation(MapReduce(identity(source.dtype), source.shape), (source,), (result,))


def plane_views(dtype, batch, planes, extent):
    """The same shape ``(batch, planes, extent)`` twice: planes with gaps between them, and side by side."""
    rows = extent + 3
    apart = View(
        Storage(dtype, batch * planes * rows + 5), 5, (batch, planes, extent), (planes * rows, rows, 1)
    )
    storage = Storage(dtype, batch * planes * extent + 7)
    return apart, View(storage, 7, (batch, planes, extent), (planes * extent, 1, planes))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("planes", [2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize(
    "dtype", [DType.UINT8, DType.FLOAT16, DType.FLOAT32, DType.FLOAT64, DType.COMPLEX64, DType.COMPLEX128]
)
@pytest.mark.parametrize("direction", ["join", "split"])
def test_planes(direction, dtype, planes, isa):
    rng = np.random.default_rng(0)
    for batch, extent in [(2, 17), (3, 64), (1, 3001)]:
        source, result = plane_views(dtype, batch, planes, extent)
        if direction == "split":
            source, result = result, source
        content = rng.integers(0, 100, source.storage.size).astype(dtype.numpy)
        operation = copy_between(source, result)
        (got,) = run_operation(operation, {source.storage: content}, isa, rng)
        np.testing.assert_array_equal(got, array_of(source, content))
        recorder = Recorder()
        selector(isa).select(operation, recorder)
        if not is_cuda(isa) and dtype is not DType.COMPLEX128:
            assert [step.kernel.family for step in recorder.steps] == ["interleave"]
            assert recorder.steps[0].kernel.variant[0] == direction


@pytest.mark.parametrize("isa", ISAS)
def test_planes_in_reverse_order(isa):
    source, result = plane_views(DType.FLOAT32, 2, 3, 50)
    last = source.offset + 2 * source.strides[1]
    source = View(source.storage, last, source.shape, (source.strides[0], -source.strides[1], 1))
    content = np.arange(source.storage.size, dtype=np.float32)
    (got,) = run_operation(copy_between(source, result), {source.storage: content}, isa)
    np.testing.assert_array_equal(got, array_of(source, content))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("times", [2, 3, 8, 9])
def test_repeated_elements(times, isa):
    """As nearest neighbours are repeated along the last two axes of an image."""
    rng = np.random.default_rng(0)
    source = View(Storage(DType.FLOAT32, 4 * 35), 0, (4, times, 35, times), (35, 0, 1, 0))
    result = View.dense(Storage(DType.FLOAT32, 4 * 35 * times**2), source.shape)
    content = rng.normal(size=source.storage.size).astype(np.float32)
    operation = copy_between(source, result)
    (got,) = run_operation(operation, {source.storage: content}, isa, rng)
    np.testing.assert_array_equal(got, array_of(source, content))
    recorder = Recorder()
    selector(isa).select(operation, recorder)
    if not is_cuda(isa):
        assert (recorder.steps[0].kernel.family == "interleave") == (times <= 8)


def exchanged(dtype, outer, rows, columns, offset=0):
    """``outer`` matrices and where they go transposed, both ``offset`` elements into their storages."""
    shape, size = (outer, rows, columns), outer * rows * columns + offset
    source = View(Storage(dtype, size), offset, shape, (rows * columns, columns, 1))
    result = View(Storage(dtype, size), offset, shape, (rows * columns, 1, rows))
    return source, result


@pytest.mark.skipif("sm_90" not in ISAS, reason="needs a C++ compiler")
@pytest.mark.parametrize("dtype", [DType.UINT8, DType.FLOAT16, DType.FLOAT32, DType.FLOAT64])
@pytest.mark.parametrize(
    ("outer", "rows", "columns", "offset"),
    [
        (1, 64, 64, 0),
        (2, 72, 200, 0),
        (1, 200, 72, 1),
        (3, 8, 40, 0),
        (2, 40, 1000, 0),
        (1, 65, 72, 0),
        (2, 9, 35, 3),
    ],
)
def test_groups_of_sixteen_bytes_on_cuda(dtype, outer, rows, columns, offset):
    source, result = exchanged(dtype, outer, rows, columns, offset)
    operation = copy_between(source, result)
    content = np.random.default_rng(0).integers(0, 200, source.storage.size).astype(dtype.numpy)
    (got,) = run_operation(operation, {source.storage: content}, "sm_90")
    np.testing.assert_array_equal(got, array_of(source, content))
    recorder = Recorder()
    selector("sm_90").select(operation, recorder)
    (step,) = recorder.steps
    group = min(16 // dtype.itemsize, 8)
    assert step.kernel.family == "transpose"
    assert step.kernel.variant[-1] == (0 if rows % group or columns % group else group)
