"""The emulator's matrix instructions and asynchronous copies: what they compute, and that they land late."""

import emulator
import numpy as np
import pytest

from onnxplan.compiler.dtypes import DType
from onnxplan.kernels.cuda.source import KernelText
from onnxplan.kernels.cuda.tensor_core import TENSOR_CORE

pytestmark = pytest.mark.skipif(not emulator.COMPILER, reason="CUDA kernels run through g++ here")

READ = """\
ONNXPLAN_DYNAMIC_SHARED(shared);
float* const tile = (float*)shared;
const int thread = (int)threadIdx.x;
onnxplan_copy_16(tile + 4 * thread, a + 4 * thread, live);
onnxplan_copy_commit();
"""
WRITE = "for (int i = 0; i < 4; ++i) out[4 * thread + i] = tile[4 * (31 - thread) + i];"


def launch(body, arrays, *numbers, threads=32, shared=4096, blocks=1):
    """Runs a kernel on arrays of 32-bit floats or words (the last one is written) and integers."""
    kernel = KernelText(threads)
    for name, array in zip("ab", arrays[:-1], strict=False):
        dtype = DType.FLOAT32 if array.dtype == np.float32 else DType.UINT32
        kernel.operand(name, dtype)
    kernel.operand("out", DType.FLOAT32, written=True)
    for number in range(len(numbers)):
        kernel.parameter("live" if number == 0 else f"n{number}", "int")
    kernel.function(TENSOR_CORE)
    kernel.line(body)
    source = kernel.source("matrix")
    words = np.array([*(array.ctypes.data for array in arrays), *numbers], np.int64)
    emulator.load(emulator.compile_source(source.text), source.symbol).launch(
        blocks, threads, shared, words.ctypes.data
    )
    return arrays[-1]


def aligned(values):
    """A copy that begins at a multiple of 16 bytes."""
    values = np.ascontiguousarray(values)
    raw = np.empty(values.nbytes + 16, np.uint8)
    start = -raw.ctypes.data % 16
    placed = raw[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    placed[...] = values
    return placed


@pytest.mark.parametrize("live", [0, 1])
def test_copies_land_where_they_are_waited_for(live):
    given = aligned(np.arange(128, dtype=np.float32))
    wanted = (given.reshape(32, 4)[::-1] * live).reshape(-1)
    found = launch(
        READ + "onnxplan_copy_wait<0>();\n__syncthreads();\n" + WRITE,
        [given, np.zeros(128, np.float32)],
        live,
    )
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("wait", ["", "onnxplan_copy_wait<1>();"])
def test_copies_that_nobody_waits_for_are_missed(wait):
    given = aligned(np.arange(128, dtype=np.float32))
    found = launch(READ + wait + "\n__syncthreads();\n" + WRITE, [given, np.zeros(128, np.float32)], 1)
    assert np.isnan(found).all()


def test_a_missing_barrier_shows_in_one_of_two_blocks():
    given = aligned(np.arange(128, dtype=np.float32))
    body = (
        READ
        + "onnxplan_copy_wait<0>();\n"
        + WRITE.replace("out[", "out[128 * blockIdx.x + ")
        + "\n__syncwarp();"
    )
    found = launch(body, [given, np.zeros(256, np.float32)], 1, blocks=2)
    assert (found != np.tile(given.reshape(32, 4)[::-1].reshape(-1), 2)).any()


def test_later_groups_may_still_be_on_their_way():
    given = aligned(np.arange(256, dtype=np.float32))
    body = (
        READ
        + "onnxplan_copy_16(tile + 128 + 4 * thread, a + 128 + 4 * thread, true);\nonnxplan_copy_commit();\n"
        + "onnxplan_copy_wait<1>();\n__syncthreads();\n"
        + "for (int i = 0; i < 8; ++i) out[8 * thread + i] = tile[8 * thread + i];"
    )
    found = launch(body, [given, np.zeros(256, np.float32)], 1)
    np.testing.assert_array_equal(found[:128], given[:128])
    assert np.isnan(found[128:]).all()


def test_misaligned_copies_and_missing_lanes_are_errors():
    given = aligned(np.zeros(140, np.float32))[1:]
    body = READ + "onnxplan_copy_wait<0>();\n__syncthreads();\n" + WRITE
    with pytest.raises(emulator.EmulationError, match="not aligned"):
        launch(body, [given, np.zeros(128, np.float32)], 1)
    body = """\
float sums[4] = {};
const unsigned words[4] = {};
if (threadIdx.x < 31u - (unsigned)live) onnxplan_warp_multiply_float16(sums, words, 0u, 0u);
out[threadIdx.x] = sums[0];
"""
    with pytest.raises(emulator.EmulationError, match="lacks lanes"):
        launch(body, [np.zeros(4, np.float32), np.zeros(32, np.float32)], 1)


MULTIPLY = """\
ONNXPLAN_DYNAMIC_SHARED(shared);
unsigned* const tile = (unsigned*)shared;
const int lane = (int)threadIdx.x;
for (int i = lane; i < 16 * 8; i += 32) tile[i] = a[i];
for (int i = lane; i < WORDS; i += 32) tile[128 + i] = b[i];
__syncwarp();
unsigned left[4], right[4];
onnxplan_warp_load_matrices(left, tile + lane % 16 * 8 + lane / 16 * 4);
LOAD
float sums[4] = {1.0f, 2.0f, 3.0f, 4.0f};
onnxplan_warp_multiply_TYPE(sums, left, right[0], right[1]);
for (int i = 0; i < 4; ++i) out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
"""
# B as 8 columns of neighbours, as 16 rows of 8 neighbours, and word by word.
COLUMNS = "onnxplan_warp_load_matrices(right, tile + 128 + lane % 8 * 8 + lane / 8 % 2 * 4);"
ROWS = "onnxplan_warp_load_transposed(right, tile + 128 + lane % 16 * 4);"
SINGLE = (
    "right[0] = tile[128 + lane % 4 * 8 + lane / 4], right[1] = tile[128 + (lane % 4 + 4) * 8 + lane / 4];"
)


@pytest.mark.parametrize(
    ("label", "load"),
    [("float16", COLUMNS), ("float16", ROWS), ("bfloat16", ROWS), ("float32", COLUMNS), ("float32", SINGLE)],
)
def test_products_of_fragments(label, load):
    dtype = DType.from_label(label)
    rng = np.random.default_rng(0)
    depth = 8 if dtype is DType.FLOAT32 else 16
    # Integers of few bits are exact in all of these types.
    a = rng.integers(-8, 9, (16, depth)).astype(dtype.numpy)
    b = rng.integers(-8, 9, (depth, 8)).astype(dtype.numpy)
    stored = np.ascontiguousarray(b.T if load is COLUMNS else b)
    words = [aligned(array.view(np.uint32).reshape(-1)) for array in (a, stored)]
    body = MULTIPLY.replace("LOAD", load).replace("TYPE", label).replace("WORDS", str(words[1].size))
    found = launch(body, [*words, np.zeros(128, np.float32)]).reshape(16, 8)
    begin = np.tile([[1, 2], [3, 4]], (1, 4)).repeat(8, axis=0)
    np.testing.assert_array_equal(found, a.astype(np.float32) @ b.astype(np.float32) + begin)


def test_factors_of_tf32_lose_thirteen_bits():
    body = """\
float sums[4] = {};
const unsigned left[4] = {__float_as_uint(a[0]), 0u, 0u, 0u};
onnxplan_warp_multiply_float32(sums, left, threadIdx.x % 4 ? 0u : __float_as_uint(1.0f), 0u);
out[threadIdx.x] = sums[0];
out[32 + threadIdx.x] = __uint_as_float(onnxplan_round_tf32(a[0]));
"""
    given = np.full(4, 1 + 3 * 2.0**-12, np.float32)
    found = launch(body, [given, np.zeros(64, np.float32)])
    assert found[0] == 1
    assert found[32] == 1 + 2.0**-10
