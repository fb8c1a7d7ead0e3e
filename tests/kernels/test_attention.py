import harness
import numpy as np
import pytest
from attentions import KINDS, SCORES, added, extras_of, hard_scores, operands, values_of
from harness import Recorder, array_of, cpu_isas, dense, run_operation, selector
from layouts import assert_close
from products import arrays, as_constant, broadcast, fill, place

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate
from onnxplan.compiler.primitives import Attention
from onnxplan.compiler.program import Operation
from onnxplan.compiler.trace import cast, trace

F16, BF16, F32, F64 = DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64
TOLERANCE = {F64: 1e-12, F32: 2e-5, F16: 2e-3, BF16: 2e-2}

pytestmark = pytest.mark.parametrize("isa", cpu_isas())


@pytest.fixture(autouse=True)
def poison_is_nan(monkeypatch):
    monkeypatch.setattr(harness, "POISON", 0xFF)


def check(isa, rng, primitive, inputs, output, values):
    """Runs an operation whose inputs may be constants; returns what it gave."""
    operation = Operation(primitive, tuple(inputs), (output,))
    assert selector(isa).prefers(operation)
    own = {s: v for s, v in values.items() if any(view.storage is s for view in inputs)}
    (found,) = run_operation(operation, own, isa, rng)
    known = {**values, **{v.storage: v.storage.constant for v in inputs if v.is_constant}}
    (expected,) = evaluate(primitive, arrays(inputs, known), [output.shape], [output.dtype])
    assert_close(found, expected, TOLERANCE[output.dtype])
    return found


def result(rng, batch, rows, width, dtype=F32):
    return place(rng, (*batch, rows, width), dtype, rng.choice(["dense", "gaps"]))


@pytest.mark.parametrize("seed", range(24))
def test_random_sizes_layouts_and_masks(isa, seed):
    rng = np.random.default_rng(seed)
    batch = tuple(int(n) for n in rng.integers(1, 4, rng.integers(0, 3)))
    rows, keys = int(rng.integers(6, 90)), int(rng.choice([rng.integers(1, 40), rng.integers(1, 700)]))
    depth, width = int(rng.integers(1, 80)), int(rng.integers(1, 150))
    q, k, v = operands(rng, batch, rows, keys, depth, width)
    space = (*batch, rows, keys)
    make = SCORES[seed % 4]
    inputs = (q, k, v, *extras_of(rng, make, space))
    values = values_of(rng, inputs)
    primitive = Attention(F32, make and make(), KINDS[seed // 4 % 4])
    check(isa, rng, primitive, inputs, result(rng, batch, rows, width), values)


@pytest.mark.parametrize("keys", [1, 15, 16, 17, 63, 64, 65, 128, 255, 256, 257, 320, 513])
def test_every_tail_of_keys(isa, keys):
    rng = np.random.default_rng(keys)
    q, k, v = operands(rng, (2,), 13, keys, 5, 7)
    check(isa, rng, Attention(F32), (q, k, v), result(rng, (2,), 13, 7), fill(rng, [q, k, v]))


@pytest.mark.parametrize("rows", range(6, 27))
def test_every_tail_of_rows_and_columns(isa, rows):
    rng = np.random.default_rng(rows)
    for width in (rows - 5, 15 + rows, 60 + rows):
        q, k, v = operands(rng, (1,), rows, 70, 9, width)
        check(isa, rng, Attention(F32), (q, k, v), result(rng, (1,), rows, width), fill(rng, [q, k, v]))


@pytest.mark.parametrize("dtype", [F16, BF16, F64])
def test_other_floats(isa, dtype):
    rng = np.random.default_rng(0)
    accumulator = F64 if dtype is F64 else F32
    q, k, v = operands(rng, (2, 3), 31, 300, 33, 21, dtype)
    mask = broadcast(rng, (2, 3, 31, 300), dtype)
    score = trace(lambda s, mask: s * 0.125 + cast(mask, accumulator), (accumulator, dtype))
    values = fill(rng, [q, k, v, mask])
    output = result(rng, (2, 3), 31, 21, dtype)
    check(isa, rng, Attention(accumulator, score, "guarded"), (q, k, v, mask), output, values)


def test_keys_and_values_that_heads_share(isa):
    rng = np.random.default_rng(0)
    q, k, v = operands(rng, (2, 3, 1), 20, 90, 8, 10)
    q = place(rng, (2, 3, 4, 20, 8), F32)
    k, v = k.expand((2, 3, 4, 8, 90)), v.expand((2, 3, 4, 90, 10))
    check(isa, rng, Attention(F32), (q, k, v), result(rng, (2, 3, 4), 20, 10), fill(rng, [q, k, v]))


def test_constant_keys_and_values(isa):
    rng = np.random.default_rng(0)
    q, k, v = operands(rng, (2,), 200, 300, 16, 64)
    values = fill(rng, [q, k, v])
    constants = [as_constant(view, values) for view in (k, v)]
    check(isa, rng, Attention(F32), (q, *constants), result(rng, (2,), 200, 64), values)


def test_many_rows_pack_keys_in_a_step_of_its_own(isa):
    rng = np.random.default_rng(0)
    q, k, v = operands(rng, (1,), 700, 600, 64, 64, layout="dense")
    output = result(rng, (1,), 700, 64)
    recorder = Recorder()
    selector(isa).select(Operation(Attention(F32), (q, k, v), (output,)), recorder)
    assert [step.kernel.family for step in recorder.steps] == ["pack", "attention"]
    assert recorder.steps[1].tiles > 1
    check(isa, rng, Attention(F32), (q, k, v), output, fill(rng, [q, k, v]))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_a_finite_maximum(isa, kind):
    """Rows of scores: all masked, masked but for one block, NaN, infinite, uniformly low, huge, growing."""
    rng = np.random.default_rng(1)
    rows, keys = 14, 600
    q, k, v = operands(rng, (), rows, keys, 4, 20, layout="dense")
    mask = dense(F32, (rows, keys))
    values = fill(rng, [q, k, v])
    scores = hard_scores(rows, keys)
    scores[8] = 3e38 * rng.uniform(-1, 1, keys)
    scores[12] = np.linspace(-80, -100, keys)
    values[mask.storage] = scores.reshape(-1)
    score = trace(lambda s, mask: s * 0.5 + mask, (F32, F32))
    found = check(isa, rng, Attention(F32, score, kind), (q, k, v, mask), result(rng, (), rows, 20), values)
    empty = {"plain": np.isnan, "masked": np.logical_not, "guarded": np.logical_not, "smooth": np.logical_not}
    assert empty[kind](found[0]).all()
    assert (np.isnan(found[3:6]).all(axis=1) == (kind != "guarded")).all()
    assert np.isfinite(found[6:]).all()


def test_weights_are_exact_to_some_ulp(isa):
    """Two keys of scores 0 and x, of which the second has the value 1: exp(x) / (1 + exp(x))."""
    rng = np.random.default_rng(3)
    rows = 6000
    x = np.linspace(-86, 0, rows, dtype=np.float32)
    q, k, v, mask = (dense(F32, shape) for shape in ((rows, 1), (1, 2), (2, 1), (rows, 2)))
    values = {q.storage: np.zeros(rows, np.float32), k.storage: np.zeros(2, np.float32)}
    values[v.storage] = np.array([0, 1], np.float32)
    values[mask.storage] = np.stack([np.zeros_like(x), x], axis=1).reshape(-1)
    score = trace(lambda s, mask: s + mask, (F32, F32))
    found = check(isa, rng, Attention(F32, score, "plain"), (q, k, v, mask), dense(F32, (rows, 1)), values)
    expected = 1 / (1 + np.exp(-x.astype(np.float64)))
    errors = np.abs(found[:, 0] / expected - 1) * 2.0**23
    # Sum, quotient and product round as well.
    assert errors.max() < 4 + 1.5
    assert errors[x > -16].max() < 2 + 1.5


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_are_not_finite(isa, kind):
    """A weight of 0 times infinity is NaN, in rows without any weights too."""
    rng = np.random.default_rng(2)
    q, k, v = operands(rng, (), 8, 40, 4, 33, layout="dense")
    mask = dense(F32, (8, 40))
    values = fill(rng, [q, k, v])
    array_of(v, values[v.storage])[7, 3] = np.inf
    array_of(v, values[v.storage])[39, 32] = np.nan
    scores = np.zeros((8, 40), np.float32)
    scores[1] = -np.inf
    scores[2, 5] = np.nan
    scores[3, 7] = -np.inf
    values[mask.storage] = scores.reshape(-1)
    check(isa, rng, Attention(F32, added(), kind), (q, k, v, mask), result(rng, (), 8, 33), values)


def test_few_queries_and_empty_operands_are_left_to_products(isa):
    rng = np.random.default_rng(0)
    for batch, rows, keys, depth, width in (
        ((2,), 1, 9, 4, 4),
        ((0,), 9, 9, 4, 4),
        ((2,), 9, 0, 4, 4),
        ((2,), 9, 9, 0, 4),
        ((2,), 9, 9, 4, 0),
    ):
        q, k, v = operands(rng, batch, rows, keys, depth, width, layout="dense")
        output = dense(F32, (*batch, rows, width))
        assert not selector(isa).prefers(Operation(Attention(F32), (q, k, v), (output,)))


def test_results_do_not_depend_on_the_ranges_of_tiles(isa):
    rng = np.random.default_rng(0)
    q, k, v = operands(rng, (3,), 200, 300, 16, 40)
    operation = Operation(Attention(F32), (q, k, v), (dense(F32, (3, 200, 40)),))
    values = fill(rng, [q, k, v])
    (first,) = run_operation(operation, values, isa)
    for seed in range(3):
        (again,) = run_operation(operation, values, isa, np.random.default_rng(seed))
        np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("rows", [67, 70, 77, 132, 199])
def test_last_tiles_of_few_rows(isa, rows):
    """A tile has whole groups of queries: its last group begins within the one before, or the tile before."""
    rng = np.random.default_rng(rows)
    q, k, v = operands(rng, (2,), rows, 300, 64, 64)
    output = result(rng, (2,), rows, 64)
    recorder = Recorder()
    selector(isa, threads=16).select(Operation(Attention(F32), (q, k, v), (output,)), recorder)
    assert recorder.steps[-1].tiles > 2
    operation = Operation(Attention(F32), (q, k, v), (output,))
    values = fill(rng, [q, k, v])
    (cut,) = run_operation(operation, values, isa, rng, threads=16)
    (uncut,) = run_operation(operation, values, isa, rng, threads=1)
    np.testing.assert_array_equal(cut, uncut)
    check(isa, rng, Attention(F32), (q, k, v), output, values)


def test_the_code_is_small(isa):
    """Each product is one loop of one micro-kernel: generating code is what a first start waits for."""
    rng = np.random.default_rng(0)
    q, k, v = operands(rng, (2,), 200, 300, 64, 64, layout="dense")
    mask = broadcast(rng, (2, 200, 300), F32)
    recorder = Recorder()
    inputs = (q, *(as_constant(view, fill(rng, [view])) for view in (k, v)), mask)
    operation = Operation(Attention(F32, added(), "guarded"), inputs, (dense(F32, (2, 200, 64)),))
    selector(isa).select(operation, recorder)
    (step,) = recorder.steps
    assert len(harness.registry.build(step.kernel, harness.make_target(isa)).code) < 10_000
