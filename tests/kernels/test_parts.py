"""Products of float32 in three parts of bfloat16: as exact as float32's own, whatever the numbers."""

import harness
import numpy as np
import pytest
from harness import dense, run_operation
from products import arrays, as_constant, fill
from test_pairs import F32, PARTS, needs_tiles, takes_tiles

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import MatMul
from onnxplan.compiler.program import Operation
from onnxplan.kernels.cpu.part_tiling import cut_parts, depth_of_parts
from onnxplan.kernels.cpu.tiling import Problem, round_up

pytestmark = [needs_tiles, pytest.mark.usefixtures("no_least")]
VECTORS = "avx512"


def product(left, right, isa, threads=2):
    """The product of two arrays of float32 as a kernel of ``isa`` computes it, the second being constant."""
    rows, columns = left.shape[0], right.shape[1]
    a, b = dense(F32, left.shape), dense(F32, right.shape)
    values = fill(np.random.default_rng(0), (a, b))
    for target, source in zip(arrays((a, b), values), (left, right), strict=True):
        target[...] = source
    operation = Operation(MatMul(F32), (a, as_constant(b, values)), (dense(F32, (rows, columns)),))
    assert takes_tiles(operation, isa) == (isa == PARTS)
    (got,) = run_operation(operation, {a.storage: values[a.storage]}, isa, threads=threads)
    return got


def errors(got, left, right):
    """Differences from the product in float64, over that of absolute values."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(all="ignore"):
        return np.abs(got - left @ right) / (np.abs(left) @ np.abs(right))


@pytest.mark.parametrize("depth", [1, 2, 33, 64, 65, 500, 3000])
@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_errors_are_no_larger_than_those_of_vectors(depth, spread):
    """Also where numbers differ by orders of magnitude, and where sums cancel or do not."""
    rng = np.random.default_rng(depth)
    for shift in (0.0, 2.0):
        left, right = (
            (rng.standard_normal(shape) + shift) * np.exp(spread * rng.standard_normal(shape))
            for shape in ((70, depth), (depth, 90))
        )
        left, right = left.astype(np.float32), right.astype(np.float32)
        parts, vectors = (errors(product(left, right, isa), left, right) for isa in (PARTS, VECTORS))
        assert parts.max() <= max(2.0**-23, vectors.max())
        assert np.sqrt(np.mean(parts**2)) <= max(2.0**-25, np.sqrt(np.mean(vectors**2)))


@pytest.mark.parametrize(
    "bits", [0x3F800000, 0x3F7FFFFF, 0x3F80FFFF, 0x3F808000, 0x3F7F8000, 0xBFFFFFFF, 0x4B7FFFFF]
)
def test_parts_sum_to_the_number(bits):
    """The product with 1 is the number itself, for every pattern of its bits."""
    rng = np.random.default_rng(1)
    random = rng.integers(0, 1 << 23, (32, 32), dtype=np.uint32) | np.uint32(0x3F800000)
    numbers = np.where(rng.random((32, 32)) < 0.5, random, np.uint32(bits)).view(np.float32)
    one = np.eye(32, dtype=np.float32)
    np.testing.assert_array_equal(product(numbers, one, PARTS), numbers)
    np.testing.assert_array_equal(product(one, numbers, PARTS), numbers)


@pytest.mark.parametrize("depth", [40, 1500])
@pytest.mark.parametrize("rows", [3, 40])
def test_numbers_of_no_size_are_those_of_float32(depth, rows):
    """In one operand or both, at any depth, also where finite numbers have no finite part above."""
    rng = np.random.default_rng(2)
    largest = np.finfo(np.float32).max
    cases = [(np.inf, 1.0), (-np.inf, 0.0), (np.nan, 1.0), (largest, 1e-10), (largest, 2.0), (1.0, np.inf),
             (1.0, np.nan), (1e-30, largest), (np.inf, -np.inf), (np.inf, np.nan)]  # fmt: skip
    for of_a, of_b in cases:
        left = rng.standard_normal((rows, depth)).astype(np.float32)
        right = rng.standard_normal((depth, 40)).astype(np.float32)
        row, column = rng.integers(rows), rng.integers(40)
        at = rng.integers(depth)
        left[row, at], right[at, column] = of_a, of_b
        with np.errstate(all="ignore"):
            want = (left.astype(np.float64) @ right.astype(np.float64)).astype(np.float32)
        got = product(left, right, PARTS)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        infinite = np.isinf(want)
        np.testing.assert_array_equal(got[infinite], want[infinite])
        finite = ~infinite & ~np.isnan(want)
        assert (errors(got, left, right)[finite] <= 2e-6).all()


def test_sums_that_overflow_are_infinite():
    left, right = np.full((32, 64), 1e38, np.float32), np.ones((64, 32), np.float32)
    right[:, 1] = -1.0
    right[2:, 2] = 0.0
    got = product(left, right, PARTS)
    assert np.isposinf(got[:, 0]).all()
    assert np.isneginf(got[:, 1]).all()
    np.testing.assert_allclose(got[:, 2], 2e38, rtol=1e-6)


@pytest.mark.parametrize("exponent", [-140, -120, -100, -60, 60, 100])
def test_small_and_large_numbers(exponent):
    """What of a number is less than the smallest normal one is lost, and nothing else."""
    rng = np.random.default_rng(3)
    left = np.ldexp(rng.standard_normal((40, 50)), exponent).astype(np.float32)
    right = rng.standard_normal((50, 40)).astype(np.float32)
    got = product(left, right, PARTS)
    want = left.astype(np.float64) @ right.astype(np.float64)
    scale = np.abs(left).astype(np.float64) @ np.abs(right).astype(np.float64)
    lost = 2.0**-126 * 50 * 8
    assert (np.abs(got - want) <= 2.0**-22 * scale + lost).all()


def test_other_products_take_vectors():
    """Operands that are not constant, other types, few columns, and those that gain too little."""
    rng = np.random.default_rng(4)
    for dtype, columns, constant in ((F32, 64, False), (DType.FLOAT64, 64, True), (F32, 16, True)):
        a, b = dense(dtype, (100, 64)), dense(dtype, (64, columns))
        right = as_constant(b, fill(rng, (b,))) if constant else b
        assert not takes_tiles(Operation(MatMul(dtype), (a, right), (dense(dtype, (100, columns)),)), PARTS)


def test_plans_share_packed_weights(monkeypatch):
    """Products in parts and by vectors pack B alike, so that a model keeps it once for any number of rows."""
    layouts, kinds = set(), set()

    class Listing(harness.Recorder):
        def constant(self, sources, layout, make):
            layouts.add(layout)
            return super().constant(sources, layout, make)

    monkeypatch.undo()
    b = dense(F32, (768, 768))
    right = as_constant(b, fill(np.random.default_rng(5), (b,)))
    for rows in (1, 8, 32, 128, 500):
        recorder = Listing()
        operation = Operation(MatMul(F32), (dense(F32, (rows, 768)), right), (dense(F32, (rows, 768)),))
        harness.selector(PARTS).select(operation, recorder)
        kinds.add(recorder.steps[-1].kernel.variant[0] == "tiles")
    assert len(layouts) == 1
    assert kinds == {True, False}


@pytest.mark.parametrize("threads", [1, 2, 6])
def test_cuts(threads):
    """Tiles cover a product, their rows stay in the second cache, and no thread is without a tile."""
    target = harness.make_target(PARTS, threads)
    second = target.cache_bytes[1]
    for rows, depth, columns in ((64, 768, 768), (197, 3072, 768), (5000, 96, 384), (128, 200, 50000)):
        block = depth_of_parts(target, depth)
        tiling = cut_parts(target, Problem(1, rows, columns, round_up(depth, 32), 4, 4, 4), block)
        assert block % 32 == 0
        assert tiling.depth_blocks * block >= depth > (tiling.depth_blocks - 1) * block
        assert tiling.rows == 32 or tiling.rows * block * 6 <= second // 2
        assert tiling.rows * tiling.row_tiles >= rows
        assert 32 * tiling.panels * tiling.column_tiles >= columns
        assert tiling.tiles >= threads
