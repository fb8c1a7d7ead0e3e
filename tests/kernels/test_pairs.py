"""Products by AMX's tiles: of bfloat16, of float32 rounded to it in ``math="fast"``, of float32 in parts."""

import itertools

import harness
import numpy as np
import pytest
from harness import cpu_isas, dense, run_operation
from products import (
    apply_epilogue,
    arrays,
    as_constant,
    assert_close,
    broadcast,
    epilogue,
    fill,
    place,
)

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.primitives import MatMul
from onnxplan.compiler.program import Operation
from onnxplan.kernels.cpu import matrix_tiles_code
from onnxplan.kernels.cpu.pack import pack_groups
from onnxplan.runtime.cpu.target import has_bfloat16_tiles

BF16, F16, F32 = DType.BFLOAT16, DType.FLOAT16, DType.FLOAT32
FAST, STRICT, PARTS = "avx512_fast", "avx512_tiles", "avx512_parts"
CASES = [
    pytest.param(FAST, F32, id="rounded"),
    pytest.param(STRICT, BF16, id="bfloat16"),
    pytest.param(PARTS, F32, id="parts"),
]

needs_tiles = pytest.mark.skipif(
    not has_bfloat16_tiles(), reason="this processor, or its system, has no AMX of bfloat16"
)
every_form = pytest.mark.parametrize(("isa", "dtype"), CASES)
of_pairs = pytest.mark.parametrize(("isa", "dtype"), CASES[:2])


def rounded(array, isa=FAST):
    """What products of ``isa`` multiply: parts are all of a number."""
    return (array if isa == PARTS else array.astype(BF16.numpy)).astype(np.float64)


def has_tiles(isa, columns):
    """Parts take panels of two tiles' width, which products of few columns do not have."""
    return isa != PARTS or columns > 16


def takes_tiles(operation, isa):
    recorder = harness.Recorder()
    harness.selector(isa).select(operation, recorder)
    return ("matmul", "tiles") in [(step.kernel.family, step.kernel.variant[0]) for step in recorder.steps]


def check_product(isa, rng, a, b, output, extras=()):
    values = fill(rng, (a, b, *extras))
    left, right, *more = arrays((a, b, *extras), values)
    primitive = MatMul(F32, epilogue(F32, output.dtype, len(extras)))
    operation = Operation(primitive, (a, as_constant(b, values), *extras), (output,))
    assert takes_tiles(operation, isa) == has_tiles(isa, b.shape[-1])
    values.pop(b.storage)
    (got,) = run_operation(operation, values, isa, rng)
    left, right = rounded(left, isa), rounded(right, isa)
    total, magnitude = apply_epilogue(left @ right, np.abs(left) @ np.abs(right), more, output.dtype)
    assert_close(got, total, magnitude, output.dtype)


@pytest.mark.usefixtures("no_least")
@needs_tiles
@every_form
def test_every_tail(isa, dtype):
    rng = np.random.default_rng(0)
    for rows, columns in itertools.product(
        (1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 70), (2, 15, 16, 17, 31, 32, 33, 64, 65, 100)
    ):
        depth = 2 * int(rng.choice([1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 65, 300]))
        a, b = place(rng, (rows, depth), dtype, "gaps"), place(rng, (depth, columns), dtype, "gaps")
        check_product(isa, rng, a, b, place(rng, (rows, columns), F32, "gaps"))


@pytest.mark.usefixtures("no_least")
@needs_tiles
@every_form
@pytest.mark.parametrize("layout", ["dense", "gaps", "swapped", "stepped"])
def test_layouts_batches_and_epilogues(isa, dtype, layout):
    rng = np.random.default_rng(1)
    for rows, depth, columns in ((2, 34, 50), (7, 64, 17), (19, 130, 70), (40, 2000, 33), (3, 4200, 40)):
        a, b = place(rng, (rows, depth), dtype, layout), place(rng, (depth, columns), dtype, layout)
        output = dense(dtype, (rows, columns))
        extras = [broadcast(rng, output.shape, dtype, 0.5) for _ in range(2)]
        check_product(isa, rng, a, b, output, extras)
        batch = (2, 3)
        a = place(rng, (2, 1, rows, depth), dtype, layout).expand((*batch, rows, depth))
        b = place(rng, (3, depth, columns), dtype, layout).expand((*batch, depth, columns))
        check_product(isa, rng, a, b, place(rng, (*batch, rows, columns), dtype, "gaps"))


@pytest.mark.usefixtures("no_least")
@needs_tiles
@every_form
def test_numbers_of_no_size(isa, dtype):
    """NaN and infinities stay in their rows and columns, also where they round to infinity."""
    rng = np.random.default_rng(2)
    for rows in (2, 21):
        a, b = dense(dtype, (rows, 42)), dense(dtype, (42, 37))
        values = fill(rng, (a, b))
        left, right = arrays((a, b), values)
        left[1, 3], right[5, 7] = np.nan, np.inf
        if rows > 2:
            left[0, 40], left[9, 0], left[20, 41] = np.finfo(np.float32).max, -np.inf, np.inf
        operation = Operation(MatMul(F32), (a, as_constant(b, values)), (dense(F32, (rows, 37)),))
        (got,) = run_operation(operation, {a.storage: values[a.storage]}, isa, rng)
        with np.errstate(invalid="ignore", over="ignore"):
            want = (rounded(left, isa) @ rounded(right, isa)).astype(np.float32)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        infinite = np.isinf(want)
        np.testing.assert_array_equal(got[infinite], want[infinite])
        finite = np.isfinite(want)
        np.testing.assert_allclose(got[finite], want[finite], rtol=1e-6, atol=1e-4)


@pytest.mark.usefixtures("no_least")
@needs_tiles
@every_form
def test_rows_do_not_depend_on_their_number(isa, dtype):
    rng = np.random.default_rng(8)
    a, b = dense(dtype, (50, 96)), dense(dtype, (96, 40))
    values = fill(rng, (a, b))
    right = as_constant(b, values)
    (all_rows,) = run_operation(
        Operation(MatMul(F32), (a, right), (dense(F32, (50, 40)),)), {a.storage: values[a.storage]}, isa
    )
    for rows in (1, 7, 17):
        some = a.slice(0, 0, rows)
        operation = Operation(MatMul(F32), (some, right), (dense(F32, (rows, 40)),))
        (got,) = run_operation(operation, {a.storage: values[a.storage]}, isa)
        np.testing.assert_array_equal(got, all_rows[:rows])


@pytest.mark.usefixtures("no_least")
@needs_tiles
def test_float32_is_rounded_to_nearest_even():
    """As NumPy rounds: ties to even, also where the last bit carries into the exponent."""
    bits = np.array([0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x3FFFFFFF, 0xBF818000], np.uint32)
    numbers = np.tile(bits.view(np.float32), (16, 1))
    a, b = dense(F32, (16, 6)), dense(F32, (6, 6))
    values = {a.storage: numbers.reshape(-1), b.storage: np.eye(6, dtype=np.float32).reshape(-1)}
    operation = Operation(MatMul(F32), (a, as_constant(b, values)), (dense(F32, (16, 6)),))
    (got,) = run_operation(operation, {a.storage: values[a.storage]}, FAST)
    np.testing.assert_array_equal(got, rounded(numbers))


@needs_tiles
@every_form
def test_results_do_not_depend_on_the_threads(isa, dtype):
    rng = np.random.default_rng(3)
    a, b = dense(dtype, (150, 900)), dense(dtype, (900, 200))
    values = fill(rng, (a, b))
    operation = Operation(MatMul(F32), (a, as_constant(b, values)), (dense(F32, (150, 200)),))
    feed = {a.storage: values[a.storage]}
    alone, *others = (run_operation(operation, feed, isa, rng, threads)[0] for threads in (1, 2, 16))
    for result in others:
        np.testing.assert_array_equal(result, alone)


def test_other_products_are_not_rounded():
    """Odd depths, operands that are not constant, other types, float32 in ``math="strict"``, few numbers."""
    rng = np.random.default_rng(4)
    for isa, dtype, depth, constant in (
        (FAST, F32, 33, True),
        (FAST, F32, 32, False),
        (FAST, F16, 32, True),
        (FAST, DType.FLOAT64, 32, True),
        (STRICT, F32, 32, True),
        (cpu_isas()[0], BF16, 32, True),
        (FAST, F32, 2, True),
    ):
        a, b = dense(dtype, (100, depth)), dense(dtype, (depth, 20))
        right = as_constant(b, fill(rng, (b,))) if constant else b
        sums = dtype if dtype is DType.FLOAT64 else F32
        operation = Operation(MatMul(sums), (a, right), (dense(sums, (100, 20)),))
        assert not takes_tiles(operation, isa)


@pytest.mark.usefixtures("no_least")
def test_plans_share_packed_weights():
    """Those for few rows and for many pack B alike, so that a model keeps it once."""
    layouts = set()

    class Listing(harness.Recorder):
        def constant(self, sources, layout, make):
            layouts.add(layout)
            return super().constant(sources, layout, make)

    values = fill(np.random.default_rng(5), (b := dense(F32, (64, 48)),))
    for rows in (1, 3, 4, 16, 500):
        operation = Operation(
            MatMul(F32), (dense(F32, (rows, 64)), as_constant(b, values)), (dense(F32, (rows, 48)),)
        )
        harness.selector(FAST).select(operation, Listing())
    assert len(layouts) == 1


def test_packing_rounds_and_fills_up():
    matrix = np.random.default_rng(6).standard_normal((6, 5)).astype(np.float32)
    packed = pack_groups(matrix, 4, 2, 4, BF16).reshape(2, 4, 4, 2)
    assert packed.dtype == BF16.numpy
    for k, column in np.ndindex(6, 5):
        assert packed[column // 4, k // 2, column % 4, k % 2] == matrix[k, column].astype(BF16.numpy)
    assert not packed[:, 3].any()
    assert not packed[1, :, 1:].any()


@pytest.mark.usefixtures("no_least")
@needs_tiles
def test_tiles_that_the_processor_lacks_are_refused(monkeypatch):
    features = "+avx512vnni,+amx-tile,+amx-int8,-amx-bf16"
    monkeypatch.setattr(matrix_tiles_code, "machine_description", lambda isa: ("", "", features))
    b = dense(BF16, (40, 20))
    right = as_constant(b, fill(np.random.default_rng(7), (b,)))
    operation = Operation(MatMul(F32), (dense(BF16, (16, 40)), right), (dense(F32, (16, 20)),))
    recorder = harness.Recorder()
    harness.selector(STRICT).select(operation, recorder)
    with pytest.raises(ValueError, match="lacks amx-bf16"):
        harness.registry.build(recorder.steps[-1].kernel, harness.make_target(STRICT))
