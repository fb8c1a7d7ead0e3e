import numpy as np
import pytest
from harness import Memory, Recorder, array_of, cpu_isas, make_target, run_steps
from products import fill, place

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cpu import registry
from onnxplan.kernels.cpu.pack import pack, pack_array
from onnxplan.kernels.cpu.tiling import RegisterTile

DTYPES = {1: DType.UINT8, 2: DType.FLOAT16, 4: DType.FLOAT32, 8: DType.FLOAT64}

pytestmark = pytest.mark.parametrize("isa", cpu_isas())


def steps_of(matrices, tile):
    recorder = Recorder()
    return recorder.steps, pack(recorder, matrices, tile)


def tiles(isa, itemsize):
    lanes = make_target(isa).vector_bytes // max(itemsize, 4)
    return [RegisterTile(1, vectors, lanes) for vectors in (1, 3, 4)]


@pytest.mark.parametrize("itemsize", DTYPES)
@pytest.mark.parametrize("layout", ["dense", "swapped", "stepped"])
def test_every_tail_of_depth_and_columns(isa, itemsize, layout):
    """What lies beyond the columns is zero, and nothing beyond them is read."""
    rng = np.random.default_rng(itemsize)
    for tile in tiles(isa, itemsize):
        for depth in (1, 2, 3, 4, 5, 7, 16, 33):
            for columns in (1, tile.lanes - 1, tile.lanes, tile.width, tile.width + 1, 2 * tile.width - 1):
                matrices = place(rng, (2, depth, max(columns, 1)), DTYPES[itemsize], layout)
                steps, packed = steps_of(matrices, tile)
                values = fill(rng, [matrices])
                memories = {matrices.storage: Memory(matrices.storage, values[matrices.storage])}
                memories[packed.storage] = Memory(packed.storage)
                run_steps(steps, memories, isa, rng)
                expected = pack_array(array_of(matrices, values[matrices.storage]), tile.width)
                np.testing.assert_array_equal(memories[packed.storage].elements, expected.reshape(-1))
                memories[packed.storage].check(np.ones(memories[packed.storage].nbytes, bool))


@pytest.mark.parametrize("layout", ["dense", "swapped", "stepped"])
def test_the_code_is_small(isa, layout):
    """A new model's first start waits for it."""
    matrices = place(np.random.default_rng(0), (2, 70, 90), DType.FLOAT32, layout)
    (step,), _ = steps_of(matrices, tiles(isa, 4)[-1])
    assert len(registry.build(step.kernel, make_target(isa)).code) < 2600
