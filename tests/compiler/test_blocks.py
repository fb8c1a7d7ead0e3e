"""Memory for constants: where blocks lie, and that constants made on demand are held by nobody else."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from onnxplan.compiler.blocks import ALIGNMENT, HUGE_PAGE, MAPPED_BYTES, empty_block
from onnxplan.compiler.constant_pool import MEMO_BYTES, RELEASE_BYTES, ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.view import View

SIZES = [0, 1, 63, MAPPED_BYTES - 8, MAPPED_BYTES, MAPPED_BYTES + 24, HUGE_PAGE, 2 * HUGE_PAGE + 8]


@pytest.mark.parametrize("nbytes", SIZES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_blocks_are_aligned_and_writable(nbytes, dtype):
    count = nbytes // np.dtype(dtype).itemsize
    blocks = [empty_block(count, np.dtype(dtype)) for _ in range(3)]
    for number, block in enumerate(blocks):
        assert block.shape == (count,)
        assert block.dtype == dtype
        assert block.ctypes.data % ALIGNMENT == 0 or count == 0
        block[...] = number
    for number, block in enumerate(blocks):
        assert (block == number).all()


def test_a_block_that_no_machine_has():
    with pytest.raises(MemoryError):
        empty_block(1 << 60, np.dtype(np.uint8))


def deferred(pool, count):
    """A deferred constant and the list that its making appends to."""
    made = []

    def make():
        made.append(1)
        return np.add.outer(
            np.arange(0, count, count // 2, dtype=np.float32), np.arange(count // 2, dtype=np.float32)
        )

    return pool.defer("key", DType.FLOAT32, count, make, "name"), made


def test_large_constants_are_made_when_they_are_read():
    count = MEMO_BYTES
    pool = ConstantPool()
    storage, made = deferred(pool, count)
    view = View.dense(storage, (count // 4, 4)).transpose((1, 0))
    assert storage.is_constant
    assert view.is_constant
    assert not made
    assert pool.nbytes == 0
    first, second = view.numpy(), view.numpy()
    np.testing.assert_array_equal(first, np.arange(count, dtype=np.float32).reshape(-1, 4).T)
    assert np.shares_memory(first, second)
    assert len(made) == 1
    del first, second
    gc.collect()
    assert view.numpy()[1, 0] == 1
    assert len(made) == 2
    assert pool.nbytes == 0
    assert deferred(pool, count)[0] is storage
    pool.keep_only([])
    assert deferred(pool, count)[0] is not storage


def test_small_constants_are_kept():
    pool = ConstantPool()
    storage, made = deferred(pool, 8)
    assert made
    assert storage.constant is storage.elements()
    assert pool.nbytes == 32


def test_sources_are_released_after_deferred_constants_too():
    released = []
    pool = ConstantPool(lambda: released.append(1))
    storage, _ = deferred(pool, RELEASE_BYTES // 4)
    assert storage.elements() is not None
    assert released == [1]
    assert pool.take_made_bytes() == RELEASE_BYTES
    assert pool.take_made_bytes() == 0
