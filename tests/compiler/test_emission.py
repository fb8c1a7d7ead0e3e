from dataclasses import replace

import numpy as np
import pytest
from fake_selector import TARGET

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.emission import Emission, aligned
from onnxplan.compiler.errors import CompilerError
from onnxplan.compiler.plan import KernelSpec
from onnxplan.compiler.view import Storage, View


def test_packed_constants_are_made_once_for_all_plans_of_a_model():
    pool = ConstantPool()
    storage = pool.get("initializer:w", lambda: np.arange(12, dtype=np.float32), "w")
    view = View.dense(storage, (3, 4))
    calls = []

    def make(array):
        calls.append(1)
        return np.ascontiguousarray(array.T)

    first, second = (Emission(TARGET, pool).constant((view,), "transposed", make) for _ in range(2))
    assert first is second
    assert len(calls) == 1
    assert first.name == "w:transposed"
    assert first.constant.ctypes.data % TARGET.alignment == 0
    np.testing.assert_array_equal(first.constant, view.numpy().T.reshape(-1))
    assert Emission(TARGET, pool).constant((view,), "plain", np.ascontiguousarray) is not first
    assert Emission(TARGET, pool).constant((view.transpose((1, 0)),), "transposed", make) is not first


def test_constants_are_not_written():
    view = Builder().constant(np.zeros(4, np.float32))
    with pytest.raises(CompilerError, match="writes the constant"):
        Emission(TARGET, ConstantPool()).step(
            KernelSpec("k"), (view,), (0,), (), tiles=1, flops=0, bytes_moved=0
        )


def test_times_follow_the_slower_of_arithmetic_and_memory():
    emission = Emission(TARGET, ConstantPool())
    view = View.dense(Storage(DType.FLOAT32, 4, "s"), (4,))

    def seconds(**work):
        emission.step(KernelSpec("k"), (view,), (0,), (), tiles=1, **work)
        return emission.steps[-1].seconds

    assert seconds(flops=int(TARGET.flops), bytes_moved=0) == pytest.approx(1)
    assert seconds(flops=0, bytes_moved=int(2 * TARGET.bandwidth)) == pytest.approx(2)
    assert seconds(flops=10**12, bytes_moved=10**12, seconds=0.5) == 0.5
    emission.target = replace(TARGET, launch=3.0)
    assert seconds(flops=int(TARGET.flops), bytes_moved=0) == pytest.approx(4)


def test_what_fits_into_a_cache_is_estimated_at_its_speed():
    target = replace(TARGET, device="cpu", cache_bytes=(1 << 15, 1 << 20, 1 << 25), bandwidth=1e10)
    sizes = (1 << 14, 1 << 19, 1 << 20, 1 << 24, 1 << 25, 1 << 26)
    speeds = [size / target.seconds(0, size) / target.bandwidth for size in sizes]
    assert speeds == pytest.approx([8, 8, 2, 2, 1, 1])
    assert replace(target, device="cuda").seconds(0, 1 << 19) == (1 << 19) / target.bandwidth
    assert replace(target, cache_bytes=()).seconds(0, 1 << 14) == (1 << 14) / target.bandwidth


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.bool_])
@pytest.mark.parametrize("shape", [(0,), (3, 5), (1000,)])
def test_alignment(dtype, shape):
    for offset in (0, 1, 3):
        block = np.zeros(int(np.prod(shape)) + offset, dtype)
        array = aligned(block[offset:].reshape(shape), 64)
        assert array.ctypes.data % 64 == 0 or array.size == 0
        assert array.shape == shape
        assert array.dtype == dtype
        assert aligned(array, 64) is array
