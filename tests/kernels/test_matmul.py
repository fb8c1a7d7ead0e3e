import itertools

import harness
import numpy as np
import pytest
from harness import available_isas, dense, is_cuda, run_operation
from layouts import select
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
from onnxplan.compiler.view import Storage, View
from onnxplan.kernels.cpu.tiling import depth_block, register_tile

F16, BF16, F32, F64 = DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64
TYPES = [
    (F32, F32, F32, F32),
    (F64, F64, F64, F64),
    (F16, F16, F32, F16),
    (BF16, BF16, F32, BF16),
    (DType.INT32, DType.INT32, DType.INT32, DType.INT32),
    (DType.UINT64, DType.UINT64, DType.UINT64, DType.UINT64),
    (DType.UINT8, DType.INT8, DType.INT32, DType.INT32),
    (DType.INT8, DType.INT8, DType.INT8, DType.INT8),
]

pytestmark = pytest.mark.parametrize("isa", available_isas())


@pytest.fixture(autouse=True)
def poison_is_nan(monkeypatch):
    monkeypatch.setattr(harness, "POISON", 0xFF)


def reference(a, b, accumulator):
    if accumulator.is_float:
        a, b = a.astype(np.float64), b.astype(np.float64)
        return a @ b, np.abs(a) @ np.abs(b)
    with np.errstate(over="ignore"):
        return a.astype(accumulator.numpy) @ b.astype(accumulator.numpy), None


def check(isa, rng, a, b, output, extras, accumulator, *, constant=False):
    values = fill(rng, (a, b, *extras))
    expression = epilogue(accumulator, output.dtype, len(extras)) if extras else None
    operand = as_constant(b, values) if constant else b
    total, magnitude = reference(*arrays((a, b), values), accumulator)
    extra_arrays = arrays(extras, values)
    with np.errstate(over="ignore"):
        want, magnitude = apply_epilogue(
            total.astype(output.dtype.numpy) if not accumulator.is_float else total,
            magnitude,
            extra_arrays,
            output.dtype,
        )
    operation = Operation(MatMul(accumulator, expression), (a, operand, *extras), (output,))
    needed = {view.storage: values[view.storage] for view in (a, *extras)}
    if not constant:
        needed[b.storage] = values[b.storage]
    (got,) = run_operation(operation, needed, isa, rng)
    assert_close(got, want, magnitude, output.dtype)


def random_extent(rng):
    return int(rng.choice([1, 2, 3, 5, 6, 7, 12, 13, 16, 17, 64, rng.integers(1, 150)]))


def random_extra(rng, shape, dtype):
    kind = rng.integers(0, 5)
    own = list(shape)
    if kind == 0:
        own[:-1] = [1] * (len(own) - 1)
    elif kind == 1:
        own[-1] = 1
    elif kind == 2:
        own = [1] * len(own)
    return place(rng, own, dtype).expand(tuple(shape))


@pytest.mark.parametrize("types", TYPES, ids=lambda types: "-".join(t.label for t in types))
def test_random_operands(isa, types):
    a_type, b_type, accumulator, output_type = types
    rng = np.random.default_rng(0)
    for _ in range(30 if a_type is F32 else 6):
        batch = tuple(rng.integers(1, 4, rng.integers(0, 3)).tolist())
        rows, depth, columns = (random_extent(rng) for _ in range(3))
        if rng.random() < 0.1:
            depth = 0
        shape = (*batch, rows, columns)
        output = place(rng, shape, output_type)
        extras = tuple(random_extra(rng, shape, output_type) for _ in range(rng.integers(0, 3)))
        a = broadcast_batch(rng, batch, (rows, depth), a_type)
        b = broadcast_batch(rng, batch, (depth, columns), b_type)
        check(isa, rng, a, b, output, extras, accumulator, constant=rng.random() < 0.4)


def broadcast_batch(rng, batch, matrix, dtype):
    own = [1 if rng.random() < 0.3 else extent for extent in batch]
    return place(rng, (*own, *matrix), dtype).expand((*batch, *matrix))


def test_every_tail_of_the_register_tile(isa):
    rng = np.random.default_rng(0)
    for rows, columns in itertools.product(
        (1, 2, 3, 4, 5, 6, 7, 11), (1, 2, 15, 16, 17, 31, 33, 48, 63, 64, 65)
    ):
        a, b = dense(F32, (rows, 9)), dense(F32, (9, columns))
        check(isa, rng, a, b, place(rng, (rows, columns), F32, "gaps"), (), F32, constant=True)


def test_every_tail_of_the_tile_for_few_columns(isa):
    """With many registers, results of one or two vectors of columns take twelve rows at once."""
    if isa == "avx512":
        target = harness.make_target(isa)
        tiles = {columns: register_tile(target, F32, columns) for columns in (1, 16, 17, 32, 33)}
        assert [(tile.rows, tile.vectors) for tile in tiles.values()][:4] == [(12, 1)] * 2 + [(12, 2)] * 2
        assert tiles[33].rows < 12
    rng = np.random.default_rng(3)
    for rows, columns in itertools.product((1, 6, 7, 12, 13, 23, 25), (1, 9, 16, 17, 24, 31, 32)):
        a, b = dense(F32, (rows, 9)), dense(F32, (9, columns))
        bias = place(rng, (1, columns), F32, "dense").expand((rows, columns))
        check(isa, rng, a, b, place(rng, (rows, columns), F32, "gaps"), (bias,), F32, constant=True)


@pytest.mark.parametrize("types", [TYPES[0], TYPES[1], TYPES[6]], ids=["f32", "f64", "bytes"])
def test_few_rows_by_weights_from_memory(isa, types):
    """One to three register tiles of rows, whose first call fetches B ahead, and four, which do not."""
    rng = np.random.default_rng(4)
    a_type, b_type, accumulator, output_type = types
    for rows, depth, columns in itertools.product((1, 3, 6, 7, 18, 19), (1021,), (40, 70)):
        a, b = dense(a_type, (rows, depth)), dense(b_type, (depth, columns))
        output = place(rng, (rows, columns), output_type, "gaps")
        check(isa, rng, a, b, output, (), accumulator, constant=True)


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("layout", ["dense", "swapped"])
def test_deep_products_in_several_blocks(isa, constant, layout):
    rng = np.random.default_rng(1)
    for rows, depth, columns in ((50, 2100, 70), (80, 2100, 70), (7, 1400, 33), (2, 3000, 65)):
        a, b = place(rng, (rows, depth), F32, layout), place(rng, (depth, columns), F32, layout)
        output = place(rng, (rows, columns), F32, "gaps")
        bias = place(rng, (1, columns), F32, "dense").expand((rows, columns))
        residual = place(rng, (rows, columns), F32, "gaps")
        check(isa, rng, a, b, output, (bias, residual), F32, constant=constant)


def test_few_rows_meet_blocks_that_stay_in_the_first_cache(isa):
    if is_cuda(isa):
        return
    target = harness.make_target(isa)
    tile = register_tile(target, F32)
    few, many, lone = (depth_block(target, tile, 4000, 4, rows) for rows in (49, 4900, tile.rows))
    assert few * tile.width * 4 < target.cache_bytes[0]
    assert few < many < lone == 4000
    assert few % 8 == many % 8 == 0


@pytest.mark.parametrize("depth", [40, 1500])
def test_a_residual_may_share_the_outputs_memory(isa, depth):
    rng = np.random.default_rng(2)
    for rows, columns in ((13, 100), (60, 128)):
        a, b, shared = dense(F32, (rows, depth)), dense(F32, (depth, columns)), dense(F32, (rows, columns))
        check(isa, rng, a, b, shared, (shared,), F32, constant=True)


def test_in_place_is_offered_for_equal_geometry_only(isa):
    a, b = dense(F32, (8, 5)), dense(F32, (5, 70))
    output, same, bias = dense(F32, (8, 70)), dense(F32, (8, 70)), dense(F32, (1, 70)).expand((8, 70))
    other_type = dense(F64, (8, 70))
    expression = epilogue(F32, F32, 2)

    def offered(*extras):
        recorder = harness.Recorder()
        operation = Operation(MatMul(F32, expression), (a, b, *extras), (output,))
        harness.selector(isa).select(operation, recorder)
        found = {step.operands[at].storage for step in recorder.steps for _, at in step.in_place}
        return found & {view.storage for view in extras}

    assert offered(bias, same) == {same.storage}
    assert offered(bias, other_type) == set()


def test_batched_products_as_in_attention(isa):
    rng = np.random.default_rng(3)
    batch, heads, length, width = 2, 3, 37, 16
    packed = dense(F32, (batch, length, heads, width))
    query = packed.transpose((0, 2, 1, 3))
    key = dense(F32, (batch, length, heads, width)).transpose((0, 2, 3, 1))
    scores = dense(F32, (batch, heads, length, length))
    check(isa, rng, query, key, scores, (), F32)
    value = dense(F32, (batch, length, heads, width)).transpose((0, 2, 1, 3))
    check(isa, rng, scores, value, dense(F32, (batch, length, heads, width)).transpose((0, 2, 1, 3)), (), F32)
    one = dense(F32, (batch, heads, 1, width))
    check(isa, rng, one, key, dense(F32, (batch, heads, 1, length)), (), F32)


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@pytest.mark.parametrize("types", [(F32, F32), (F64, F64), (F16, F32), (DType.INT32, DType.INT32)])
def test_few_rows_by_rows_of_columns(isa, rows, types):
    """Every tail of the depth and of the columns, one group of columns and several, batches and views."""
    rng = np.random.default_rng(9)
    dtype, accumulator = types
    for batch, depth, columns in ((1, 2, 513), (3, 9, 300), (30, 16, 257), (1, 21, 2501)):
        for layout in ("dense", "gaps"):
            a = place(rng, (batch, rows, depth), dtype)
            b = place(rng, (batch, depth, columns), dtype, layout)
            output = dense(dtype, (batch, rows, columns))
            if not is_cuda(isa):
                (step,) = select(MatMul(accumulator), [a, b], [output], isa)
                assert step.kernel.family == "row_sums"
            check(isa, rng, a, b, output, (), accumulator)
            column = broadcast(rng, output.shape, dtype, 0.5)
            check(isa, rng, a, b, place(rng, output.shape, dtype, "gaps"), (column,), accumulator)


@pytest.mark.parametrize("shape", [(1, 7, 1), (40, 300, 1), (1, 300, 40), (300, 20, 1), (1, 1, 1)])
@pytest.mark.parametrize("layout", ["dense", "swapped", "stepped"])
def test_vectors(isa, shape, layout):
    rng = np.random.default_rng(4)
    rows, depth, columns = shape
    for constant in (True, False):
        a, b = place(rng, (rows, depth), F32, layout), place(rng, (depth, columns), F32, layout)
        check(isa, rng, a, b, dense(F32, (rows, columns)), (), F32, constant=constant)
        column = broadcast(rng, (rows, columns), F32, 0.5)
        check(isa, rng, a, b, place(rng, (rows, columns), F32), (column,), F32, constant=constant)


def test_empty_products(isa):
    rng = np.random.default_rng(5)
    bias = place(rng, (1, 6), F32).expand((5, 6))
    check(isa, rng, dense(F32, (5, 0)), dense(F32, (0, 6)), dense(F32, (5, 6)), (bias,), F32)
    check(isa, rng, dense(F32, (5, 0)), dense(F32, (0, 6)), dense(F32, (5, 6)), (), F32, constant=True)
    for batch, rows, columns in ((0, 5, 6), (2, 0, 6), (2, 5, 0)):
        recorder = harness.Recorder()
        operation = Operation(
            MatMul(F32),
            (dense(F32, (batch, rows, 4)), dense(F32, (batch, 4, columns))),
            (dense(F32, (batch, rows, columns)),),
        )
        harness.selector(isa).select(operation, recorder)
        assert recorder.steps == []


def test_the_reference_sample(isa):
    a, b, c = dense(F32, (3, 4)), dense(F32, (4, 3)), dense(F32, (3, 3))
    values = {a.storage: np.arange(1, 13), b.storage: np.arange(10, 130, 10)}
    (got,) = run_operation(Operation(MatMul(F32), (a, b), (c,)), values, isa)
    assert got.tolist() == [[700, 800, 900], [1580, 1840, 2100], [2460, 2880, 3300]]


def test_nan_and_infinity_stay_in_their_rows_and_columns(isa):
    rng = np.random.default_rng(6)
    a, b, c = dense(F32, (9, 20)), dense(F32, (20, 70)), dense(F32, (9, 70))
    values = fill(rng, (a, b))
    values[a.storage][3 * 20 + 7] = np.nan
    values[b.storage][5 * 70 + 69] = np.inf
    (got,) = run_operation(Operation(MatMul(F32), (a, b), (c,)), values, isa)
    left, right = arrays((a, b), values)
    with np.errstate(invalid="ignore"):
        want = left.astype(np.float64) @ right.astype(np.float64)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert np.isnan(got).sum() == 70


def test_results_do_not_depend_on_how_tiles_are_shared(isa):
    rng = np.random.default_rng(7)
    a, b, c = dense(F32, (200, 300)), dense(F32, (300, 200)), dense(F32, (200, 200))
    values = fill(rng, (a, b))
    operation = Operation(MatMul(F32), (a, b), (c,))
    (whole,) = run_operation(operation, values, isa)
    (parts,) = run_operation(operation, values, isa, rng)
    np.testing.assert_array_equal(whole, parts)


@pytest.mark.parametrize(("rows", "depth", "columns"), [(150, 100, 200), (150, 3000, 200), (49, 700, 160)])
def test_results_do_not_depend_on_the_number_of_threads(isa, rows, depth, columns):
    rng = np.random.default_rng(8)
    a, b, c = dense(F32, (rows, depth)), dense(F32, (depth, columns)), dense(F32, (rows, columns))
    values = fill(rng, (a, b))
    operation = Operation(MatMul(F32), (a, b), (c,))
    alone, *shared = (run_operation(operation, values, isa, threads=count)[0] for count in (1, 2, 16))
    for result in shared:
        np.testing.assert_array_equal(result, alone)


def test_large_problems_have_enough_tiles_to_share(isa):
    for rows, depth, columns in ((1, 4096, 4096), (128, 768, 768), (1024, 1024, 1024), (3136, 64, 64)):
        weight = Storage(F32, depth * columns, "w", np.zeros(depth * columns, np.float32), "w")
        operation = Operation(
            MatMul(F32),
            (dense(F32, (rows, depth)), View.dense(weight, (depth, columns))),
            (dense(F32, (rows, columns)),),
        )
        recorder = harness.Recorder()
        harness.selector(isa).select(operation, recorder)
        (step,) = recorder.steps
        # A library cuts its work itself.
        assert step.tiles >= 12 or step.kernel.family == "cublaslt"
        assert step.flops == 2 * rows * depth * columns


def test_coordinates_in_an_epilogue_are_refused(isa):
    from onnxplan.compiler.expression import Expression, Instruction

    expression = Expression(
        (
            Instruction("input", (0,), F32),
            Instruction("index", (1,), DType.INT64),
            Instruction("cast", (1,), F32),
            Instruction("add", (0, 2), F32),
        ),
        (3,),
    )
    operation = Operation(
        MatMul(F32, expression), (dense(F32, (2, 3)), dense(F32, (3, 4))), (dense(F32, (2, 4)),)
    )
    with pytest.raises(NotImplementedError, match="epilogue"):
        harness.selector(isa).select(operation, harness.Recorder())


def test_an_expensive_epilogue(isa):
    from onnxplan.compiler.expression import ExpressionBuilder, Instruction

    rng = np.random.default_rng(8)
    builder = ExpressionBuilder()
    total = builder.add(Instruction("input", (0,), F32))
    gate = builder.add(Instruction("sigmoid", (total,), F32))
    expression = builder.build((builder.add(Instruction("mul", (total, gate), F32)),))
    a, b, c = dense(F32, (13, 30)), dense(F32, (30, 130)), dense(F32, (13, 130))
    values = fill(rng, (a, b))
    (got,) = run_operation(Operation(MatMul(F32, expression), (a, b), (c,)), values, isa)
    left, right = arrays((a, b), values)
    total = left.astype(np.float64) @ right.astype(np.float64)
    np.testing.assert_allclose(got, total / (1 + np.exp(-total)), rtol=1e-4, atol=1e-5)
