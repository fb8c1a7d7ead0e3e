"""Copies into large results of short rows, which are put together before they are written past the caches."""

import harness
import numpy as np
import pytest
from harness import array_of, cpu_isas, run_operation
from layouts import select

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.expression import identity
from onnxplan.compiler.primitives import MapReduce
from onnxplan.compiler.program import Operation
from onnxplan.compiler.view import Storage, View, dense_strides
from onnxplan.kernels.cpu import streaming

F32 = DType.FLOAT32
ISAS = [isa for isa in cpu_isas() if streaming.has_streams(harness.make_target(isa))]
DTYPES = [DType.UINT8, DType.FLOAT16, F32, DType.FLOAT64, DType.COMPLEX128]

pytestmark = pytest.mark.parametrize("isa", ISAS)


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(streaming, "STREAMED_BYTES", 0)


def permuted(dtype, shape, order, offset=0):
    """A tensor of ``shape`` in another ``order`` of axes, and a place for it ``offset`` elements further."""
    size = int(np.prod(shape))
    source = View.dense(Storage(dtype, size), shape).transpose(order)
    result = View(Storage(dtype, size + offset), offset, source.shape, dense_strides(source.shape))
    return source, result


def check(source, result, isa):
    """Copies and compares; returns the variant of the kernel that copied."""
    rng = np.random.default_rng(7)
    content = rng.integers(0, 250, source.storage.size).astype(source.dtype.numpy)
    operation = Operation(MapReduce(identity(source.dtype), source.shape), (source,), (result,))
    (got,) = run_operation(operation, {source.storage: content}, isa, rng)
    np.testing.assert_array_equal(got, array_of(source, content))
    (step,) = select(operation.primitive, [source], [result], isa)
    return (step.kernel.family, step.kernel.variant[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1, 37])
def test_rows_of_heads(isa, dtype, offset, always):
    """Tokens and heads change places, and windows of an image follow one another."""
    for width in (64 // dtype.itemsize, 100 // dtype.itemsize + 1, 1000 // dtype.itemsize):
        for shape, order in (
            ((2, 83, 3, width), (0, 2, 1, 3)),
            ((1, 3, 130, width), (0, 2, 1, 3)),
            ((2, 2, 7, 3, 2, 80 // dtype.itemsize), (0, 1, 3, 2, 4, 5)),
        ):
            assert check(*permuted(dtype, shape, order, offset), isa) == ("staged_copy", "rows")


def test_parts_of_rows(isa, always):
    """Some columns of a matrix, and rows that are repeated."""
    source = View(Storage(F32, 1000 * 50), 3, (999, 33), (50, 1))
    result = View.dense(Storage(F32, 999 * 33), (999, 33))
    assert check(source, result, isa) == ("staged_copy", "rows")
    source = View(Storage(F32, 20 * 40), 0, (20, 7, 40), (40, 0, 1))
    result = View.dense(Storage(F32, 20 * 7 * 40), (20, 7, 40))
    assert check(source, result, isa) == ("staged_copy", "rows")


@pytest.mark.parametrize("dtype", DTYPES[:-1])
@pytest.mark.parametrize("offset", [0, 1, 37])
def test_channels_last(isa, dtype, offset, always):
    """Positions that fill stages, leave a few over, or are fewer than one holds."""
    for channels in (16, 19, 64, 1000 // dtype.itemsize):
        for batch, positions in ((1, 16), (2, 65), (1, 1111)):
            source, result = permuted(dtype, (batch, channels, positions), (0, 2, 1), offset)
            assert check(source, result, isa) == ("staged_copy", "blocks")


def test_gaps_between_channels(isa, always):
    source = View(Storage(F32, 40 * 500), 9, (300, 40), (1, 500))
    result = View.dense(Storage(F32, 300 * 40), (300, 40))
    assert check(source, result, isa) == ("staged_copy", "blocks")


def test_what_is_not_staged(isa, always):
    """Rows that are long or very short, that do not adjoin in the result, and few of them."""
    for shape, order in (((2, 40, 3, 256), (0, 2, 1, 3)), ((2, 40, 3, 7), (0, 2, 1, 3)), ((300, 64), (1, 0))):
        assert check(*permuted(F32, shape, order), isa)[0] != "staged_copy"
    source = View.dense(Storage(F32, 64 * 100), (64, 100)).transpose((1, 0))
    apart = View(Storage(F32, 100 * 70), 0, (100, 64), (70, 1))
    assert check(source, apart, isa)[0] == "transpose"


def test_small_results_stay_in_the_caches(isa):
    assert check(*permuted(F32, (2, 40, 3, 64), (0, 2, 1, 3)), isa)[0] == "map"
    assert check(*permuted(F32, (2, 64, 300), (0, 2, 1)), isa)[0] == "transpose"
