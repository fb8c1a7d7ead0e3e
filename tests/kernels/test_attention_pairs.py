"""Attention by AMX's tiles: bfloat16 in any mode, and float32 that is rounded to it in ``math="fast"``."""

from functools import partial

import harness
import numpy as np
import pytest
from attentions import KINDS, SCORES, added, extras_of, hard_scores, operands, score, values_of
from harness import array_of, dense, run_operation
from products import arrays, as_constant, fill, place
from test_pairs import FAST, STRICT, needs_tiles, of_pairs

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate
from onnxplan.compiler.primitives import Attention
from onnxplan.compiler.program import Operation
from onnxplan.compiler.trace import cast, trace
from onnxplan.kernels.cpu import attention
from onnxplan.kernels.cpu.matrix_tiles import needs_tiles as uses_tiles

BF16, F16, F32, F64 = DType.BFLOAT16, DType.FLOAT16, DType.FLOAT32, DType.FLOAT64
ROUNDING = 2.0**-8 * (1 + 1 / 8)
"""Half a unit in the last place of a weight's bfloat16, relative to it, and errors of the exponential."""
STORED = {F32: 2e-6, BF16: 2.0**-8}

pytestmark = needs_tiles


@pytest.fixture(autouse=True)
def poison_is_nan(monkeypatch):
    monkeypatch.setattr(harness, "POISON", 0xFF)


def kernels(operation, isa, threads=2):
    recorder = harness.Recorder()
    harness.selector(isa, threads).select(operation, recorder)
    return [step.kernel for step in recorder.steps]


def reference(kind, score, inputs, output, values):
    """Results and their tolerances: by float64, of operands that are rounded to bfloat16.

    A result is a weighted mean: what weights lose by rounding is relative to the mean of magnitudes.
    """
    q, k, v, *extras = arrays(inputs, values)
    q, k, v = (part.astype(BF16.numpy).astype(np.float64) for part in (q, k, v))
    extras = [extra.astype(np.float64) if extra.dtype.kind == "f" else extra for extra in extras]
    primitive = Attention(F64, score and score[1], kind)
    with np.errstate(all="ignore"):
        want, size = (
            evaluate(primitive, [q, k, values, *extras], [output.shape], [F64])[0]
            for values in (v, np.abs(v))
        )
    return want, (ROUNDING + STORED[output.dtype]) * size + 1e-6


def check(isa, rng, kind, score, inputs, output, values, threads=2):
    operation = Operation(Attention(F32, score and score[0], kind), tuple(inputs), (output,))
    (kernel,) = kernels(operation, isa, threads)
    assert kernel.variant[0] == "tiles"
    assert uses_tiles(kernel)
    known = {**values, **{view.storage: view.storage.constant for view in inputs if view.is_constant}}
    own = {view.storage: values[view.storage] for view in inputs if not view.is_constant}
    (found,) = run_operation(operation, own, isa, rng, threads=threads)
    want, limit = reference(kind, score, inputs, output, known)
    number = np.isfinite(want)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(want))
    np.testing.assert_array_equal(found[~number & ~np.isnan(want)], want[~number & ~np.isnan(want)])
    error = np.abs(found[number].astype(np.float64) - want[number])
    assert (error <= limit[number]).all(), (error / limit[number]).max()
    return found


def both(make):
    """An expression of scores of float32, and the same of float64."""
    return make and tuple(make(accumulator=accumulator) for accumulator in (F32, F64))


@of_pairs
@pytest.mark.parametrize("seed", range(16))
def test_random_sizes_layouts_and_masks(isa, dtype, seed):
    rng = np.random.default_rng(seed)
    batch = tuple(int(n) for n in rng.integers(1, 4, rng.integers(0, 3)))
    rows, keys = int(rng.integers(32, 150)), int(rng.choice([rng.integers(1, 40), rng.integers(1, 700)]))
    depth, width = int(rng.integers(1, 80)), int(rng.integers(1, 150))
    q, k, v = operands(rng, batch, rows, keys, depth, width, dtype)
    space = (*batch, rows, keys)
    make = SCORES[seed % 4]
    inputs = (q, k, v, *extras_of(rng, make, space))
    values = values_of(rng, inputs)
    output = place(rng, (*batch, rows, width), rng.choice([dtype, F32]), rng.choice(["dense", "gaps"]))
    check(isa, rng, KINDS[seed // 4 % 4], both(make), inputs, output, values)


@of_pairs
@pytest.mark.parametrize("layout", ["dense", "swapped", "stepped"])
def test_every_tail(isa, dtype, layout):
    """Of keys, depth, width and rows: around the sides of tiles, and around blocks of keys."""
    rng = np.random.default_rng(0)
    sizes = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65)
    block = attention.KEY_BLOCK
    for number, keys in enumerate((*sizes, block - 1, block, block + 1, 2 * block + 1, 3 * block - 31)):
        depth, width = sizes[number * 3 % len(sizes)], sizes[number * 5 % len(sizes)]
        q, k, v = operands(rng, (2,), 32 + number * 7 % 40, keys, depth, width, dtype, layout)
        output = place(rng, (*q.shape[:-1], width), F32, "gaps")
        check(isa, rng, "plain", None, (q, k, v), output, fill(rng, [q, k, v]))


@of_pairs
@pytest.mark.parametrize("threads", [1, 16])
def test_every_tail_of_rows(isa, dtype, threads):
    """The last group begins within the one before, or within the tile before."""
    rng = np.random.default_rng(1)
    for rows in (32, 33, 47, 48, 49, 63, 64, 65, 95, 97, 129, 200):
        q, k, v = operands(rng, (2,), rows, 200, 40, 24, dtype)
        output = place(rng, (2, rows, 24), F32, "gaps")
        check(isa, rng, "plain", None, (q, k, v), output, fill(rng, [q, k, v]), threads)


@of_pairs
def test_constants_and_heads_that_share_keys(isa, dtype):
    rng = np.random.default_rng(2)
    q, k, v = operands(rng, (2, 3, 1), 40, 90, 8, 10, dtype)
    q = place(rng, (2, 3, 4, 40, 8), dtype)
    values = fill(rng, [q, k, v])
    output = dense(F32, (2, 3, 4, 40, 10))
    shared = [view.expand((2, 3, 4, *view.shape[-2:])) for view in (k, v)]
    check(isa, rng, "plain", None, (q, *shared), output, values)
    constants = [as_constant(view, values).expand((2, 3, 4, *view.shape[-2:])) for view in (k, v)]
    check(isa, rng, "plain", None, (q, *constants), output, values)


@of_pairs
@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_a_finite_maximum(isa, dtype, kind):
    """Rows of scores: all masked, masked but for one block, NaN, infinite, low, huge, growing."""
    rng = np.random.default_rng(3)
    rows, keys = 40, 600
    q, k, v = operands(rng, (), rows, keys, 4, 20, dtype, layout="dense")
    mask = dense(F32, (rows, keys))
    values = fill(rng, [q, k, v])
    scores = hard_scores(rows, keys)
    scores[39] = np.linspace(-80, -100, keys)
    values[mask.storage] = scores.reshape(-1)
    # What float32 rounds of scores in the thousands is more than weights lose.
    array_of(q, values[q.storage])[9:11] = 0
    halved = both(partial(score, lambda s, mask: s * 0.5 + mask, F32))
    found = check(isa, rng, kind, halved, (q, k, v, mask), dense(F32, (rows, 20)), values)
    assert (np.isnan(found[3:6]).all(axis=1) == (kind != "guarded")).all()
    assert np.isfinite(found[6:]).all()


@of_pairs
@pytest.mark.parametrize("kind", KINDS)
def test_values_that_are_not_finite(isa, dtype, kind):
    """A weight of 0 times infinity is NaN, in rows without any weights too; zeros behind the keys are not."""
    rng = np.random.default_rng(4)
    q, k, v = operands(rng, (), 33, 40, 4, 33, dtype, layout="dense")
    mask = dense(F32, (33, 40))
    values = fill(rng, [q, k, v])
    array_of(v, values[v.storage])[7, 3] = np.inf
    array_of(v, values[v.storage])[39, 32] = np.nan
    scores = np.zeros((33, 40), np.float32)
    scores[1] = -np.inf
    scores[2, 5] = np.nan
    scores[3, 7] = -np.inf
    values[mask.storage] = scores.reshape(-1)
    check(isa, rng, kind, both(added), (q, k, v, mask), dense(F32, (33, 33)), values)


@of_pairs
def test_queries_and_keys_that_are_not_finite(isa, dtype):
    """They make NaN of their rows, and of all rows; large ones make weights of 0 and 1."""
    rng = np.random.default_rng(5)
    q, k, v = operands(rng, (), 50, 70, 33, 17, dtype, layout="dense")
    values = fill(rng, [q, k, v])
    queries = array_of(q, values[q.storage])
    queries[7, 32], queries[49, 0] = np.nan, np.inf
    queries[20] *= 100
    check(isa, rng, "plain", None, (q, k, v), dense(F32, (50, 17)), values)
    array_of(k, values[k.storage])[32, 69] = np.nan
    found = check(isa, rng, "plain", None, (q, k, v), dense(F32, (50, 17)), values)
    assert np.isnan(found).all()


@of_pairs
def test_results_do_not_depend_on_the_threads(isa, dtype):
    rng = np.random.default_rng(6)
    q, k, v = operands(rng, (3,), 200, 300, 16, 40, dtype)
    operation = Operation(Attention(F32), (q, k, v), (dense(F32, (3, 200, 40)),))
    values = fill(rng, [q, k, v])
    (first,) = run_operation(operation, values, isa)
    for threads in (1, 3, 16):
        (again,) = run_operation(operation, values, isa, np.random.default_rng(threads), threads=threads)
        np.testing.assert_array_equal(first, again)


def test_what_tiles_do_not_take():
    """Few queries, factors of several types or wider ones, strict products of float32."""
    score = trace(lambda s: cast(s, F32), (F32,))
    for isa, dtypes, rows in (
        (FAST, (F32, F32, F32), 31),
        (FAST, (F32, BF16, F32), 40),
        (FAST, (F16, F16, F16), 40),
        (STRICT, (F32, F32, F32), 40),
        ("avx512", (BF16, BF16, BF16), 40),
    ):
        shapes = (rows, 8), (8, 50), (50, 8)
        inputs = tuple(dense(dtype, shape) for dtype, shape in zip(dtypes, shapes, strict=True))
        operation = Operation(Attention(F32, score), inputs, (dense(F32, (rows, 8)),))
        assert not any(map(uses_tiles, kernels(operation, isa)))
    doubles = tuple(dense(F64, shape) for shape in ((40, 8), (8, 50), (50, 8)))
    operation = Operation(Attention(F64), doubles, (dense(F64, (40, 8)),))
    assert not any(map(uses_tiles, kernels(operation, FAST)))


@of_pairs
def test_the_code_is_small(isa, dtype):
    q, k, v = (dense(dtype, shape) for shape in ((200, 64), (64, 300), (300, 64)))
    mask = dense(F32, (200, 300))
    operation = Operation(Attention(F32, added(), "guarded"), (q, k, v, mask), (dense(F32, (200, 64)),))
    (kernel,) = kernels(operation, isa)
    assert len(harness.registry.build(kernel, harness.make_target(isa)).code) < 10_000
