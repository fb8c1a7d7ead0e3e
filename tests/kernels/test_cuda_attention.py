"""Attention on CUDA: forms of arithmetic, tiles, tails, masks that leave out blocks."""

import dataclasses

import emulator
import harness
import numpy as np
import pytest
from harness import Recorder, array_of, dense, run_operation, selector
from products import arrays, as_constant, broadcast, fill, place

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate
from onnxplan.compiler.primitives import Attention
from onnxplan.compiler.program import Operation
from onnxplan.compiler.trace import apply, cast, select, trace
from onnxplan.kernels.cuda import attention
from onnxplan.kernels.cuda.attention_form import Tile
from onnxplan.runtime.cuda.target import assumed_target

F16, BF16, F32, F64 = DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT64
STRICT, FAST = "sm_90", "sm_90_fast"
FORMS = [(STRICT, F16), (STRICT, BF16), (STRICT, F32), (FAST, F32)]
KINDS = ("plain", "masked", "guarded", "smooth")
# Of results that are sums of values of about 1, weighted by what adds up to 1.
TOLERANCE = {(STRICT, F32): 3e-5, (FAST, F32): 3e-2, (STRICT, F16): 4e-3, (STRICT, BF16): 4e-2}

pytestmark = pytest.mark.skipif(not emulator.COMPILER, reason="CUDA kernels run through g++ here")


@pytest.fixture(autouse=True)
def poison_is_nan(monkeypatch):
    monkeypatch.setattr(harness, "POISON", 0xFF)


def steps_of(operation, isa=STRICT):
    recorder = Recorder()
    selector(isa).select(operation, recorder)
    return recorder.steps


def check(isa, primitive, inputs, output, values):
    """Runs an operation, some inputs of which may be constants; its steps."""
    operation = Operation(primitive, tuple(inputs), (output,))
    assert selector(isa).prefers(operation)
    own = {s: v for s, v in values.items() if any(view.storage is s for view in inputs)}
    (found,) = run_operation(operation, own, isa)
    known = {**values, **{v.storage: v.storage.constant for v in inputs if v.is_constant}}
    (expected,) = evaluate(primitive, arrays(inputs, known), [output.shape], [output.dtype])
    limit = TOLERANCE[isa, inputs[0].dtype]
    wide = [array.astype(np.float64) for array in (found, expected)]
    np.testing.assert_allclose(*wide, rtol=limit, atol=limit)
    return steps_of(operation, isa)


def operands(rng, batch, rows, keys, depth, width, dtype, layout="dense"):
    """Queries, keys as exporters transpose them, values, and where results go."""
    q = place(rng, (*batch, rows, depth), dtype, layout)
    k = place(rng, (*batch, keys, depth), dtype, layout)
    k = k.transpose((*range(len(batch)), len(batch) + 1, len(batch)))
    return q, k, place(rng, (*batch, keys, width), dtype, layout)


@pytest.mark.parametrize(("isa", "dtype"), FORMS)
@pytest.mark.parametrize("seed", range(6))
def test_random_sizes_layouts_and_masks(isa, dtype, seed):
    rng = np.random.default_rng(seed)
    batch = tuple(int(n) for n in rng.integers(1, 3, rng.integers(0, 3)))
    rows, keys = int(rng.integers(16, 60)), int(rng.integers(1, 150))
    depth, width = int(rng.integers(1, 70)), int(rng.integers(1, 70))
    q, k, v = operands(rng, batch, rows, keys, depth, width, dtype, ["any", "dense", "gaps"][seed % 3])
    space = (*batch, rows, keys)
    added = trace(lambda s, mask: s * 0.25 + cast(mask, F32), (F32, dtype))
    chosen = trace(lambda s, mask: select(mask, s * 0.5, float("-inf")), (F32, DType.BOOL))
    capped = trace(lambda s: apply("tanh", s / 8.0) * 8.0, (F32,))
    score, extras = [
        (None, ()),
        (added, (broadcast(rng, space, dtype),)),
        (chosen, (broadcast(rng, space, DType.BOOL),)),
        (capped, ()),
    ][seed % 4]
    values = fill(rng, [q, k, v, *(view for view in extras if view.dtype is not DType.BOOL)])
    for view in extras:
        if view.dtype is DType.BOOL:
            values[view.storage] = rng.random(view.storage.size) < 0.7
    primitive = Attention(F32, score, KINDS[seed % 4])
    check(isa, primitive, (q, k, v, *extras), place(rng, (*batch, rows, width), dtype, "gaps"), values)


@pytest.mark.parametrize(("isa", "dtype"), FORMS)
@pytest.mark.parametrize(("depth", "width"), [(32, 32), (64, 64), (80, 96), (128, 128), (256, 256)])
def test_heads_that_are_copied_wide(isa, dtype, depth, width):
    rng = np.random.default_rng(depth)
    heads, rows, keys = 2, 37, 75
    # Heads stand beside each other, as projections leave them.
    q = dense(dtype, (rows, heads, depth)).transpose((1, 0, 2))
    k = dense(dtype, (keys, heads, depth)).transpose((1, 2, 0))
    v = dense(dtype, (keys, heads, width)).transpose((1, 0, 2))
    score = trace(lambda s: s * depth**-0.5, (F32,))
    output = dense(dtype, (rows, heads, width)).transpose((1, 0, 2))
    (step,) = check(isa, Attention(F32, score), (q, k, v), output, fill(rng, [q, k, v]))
    assert step.kernel.variant[2] == (True, True, True)


TILES = [(4, 2, 64), (4, 1, 64), (2, 2, 32), (1, 2, 16), (8, 1, 32)]


@pytest.mark.parametrize(("isa", "dtype"), FORMS)
@pytest.mark.parametrize(("warps", "groups", "keys"), TILES)
def test_tiles(isa, dtype, warps, groups, keys, monkeypatch):
    rng = np.random.default_rng(warps)
    form = "scalar" if (isa, dtype) == (STRICT, F32) else "matrix"
    tile = Tile(form, warps, groups, keys, 32, 48, dtype.itemsize)
    monkeypatch.setattr(attention, "fitting_tile", lambda *_: tile)
    rows = tile.rows + 5
    q, k, v = (dense(dtype, shape) for shape in ((rows, 24), (keys * 2 + 3, 24), (keys * 2 + 3, 40)))
    values = fill(rng, [q, k, v])
    inputs = (q, k.transpose((1, 0)), v)
    check(isa, Attention(F32), inputs, place(rng, (rows, 40), dtype, "gaps"), values)


@pytest.mark.parametrize("keys", [1, 15, 16, 17, 63, 64, 65, 128, 129])
@pytest.mark.parametrize(("isa", "dtype"), [(STRICT, F16), (STRICT, F32)])
def test_every_tail_of_keys(isa, dtype, keys):
    rng = np.random.default_rng(keys)
    q, k, v = operands(rng, (2,), 19, keys, 5, 7, dtype)
    check(isa, Attention(F32), (q, k, v), place(rng, (2, 19, 7), dtype), fill(rng, [q, k, v]))


@pytest.mark.parametrize(("isa", "dtype"), FORMS)
def test_heads_that_share_keys(isa, dtype):
    rng = np.random.default_rng(3)
    q = dense(dtype, (2, 4, 20, 16))
    k, v = (dense(dtype, (2, 1, 33, 16)).expand((2, 4, 33, 16)) for _ in range(2))
    inputs = (q, k.transpose((0, 1, 3, 2)), v)
    check(isa, Attention(F32), inputs, dense(dtype, (2, 4, 20, 16)), fill(rng, inputs))


CAUSAL = trace(
    lambda s, row, key: select(key <= row, s * 0.125, float("-inf")), (F32, DType.INT64, DType.INT64)
)


def coordinates(rows, keys, offset=0):
    row, key = dense(DType.INT64, (rows, 1)), dense(DType.INT64, (keys,))
    row = as_constant(row, {row.storage: np.arange(rows) + offset})
    key = as_constant(key, {key.storage: np.arange(keys)})
    return row.expand((rows, keys)), key.expand((rows, keys))


def table_of(step):
    view = step.operands[-1]
    assert step.kernel.variant[3]
    return array_of(view, view.storage.constant).tolist()


@pytest.mark.parametrize(("isa", "dtype"), FORMS)
def test_causal_masks_leave_out_blocks(isa, dtype, monkeypatch):
    rng = np.random.default_rng(4)
    form = "scalar" if (isa, dtype) == (STRICT, F32) else "matrix"
    monkeypatch.setattr(attention, "fitting_tile", lambda *_: Tile(form, 2, 1, 32, 16, 16, dtype.itemsize))
    q, k, v = operands(rng, (), 100, 100, 16, 16, dtype)
    inputs = (q, k, v, *coordinates(100, 100))
    output = dense(dtype, (100, 16))
    (step,) = check(isa, Attention(F32, CAUSAL), inputs, output, fill(rng, [q, k, v]))
    assert table_of(step) == [[0, 0, 0, 1], [0, 0, 1, 2], [0, 0, 2, 3], [0, 0, 3, 4]]


def test_windows_and_added_masks(monkeypatch):
    rng = np.random.default_rng(5)
    monkeypatch.setattr(attention, "fitting_tile", lambda *_: Tile("matrix", 1, 1, 16, 16, 16, 2))
    q, k, v = operands(rng, (), 64, 64, 16, 16, F16)
    row, key = np.arange(64)[:, None], np.arange(64)
    hidden = np.where((key <= row) & (row - key < 40), 0, np.finfo(np.float32).min).astype(np.float32)
    # All keys of this row are hidden alike, so none is left out.
    hidden[30] = np.finfo(np.float32).min
    mask = dense(F32, (64, 64))
    mask = as_constant(mask, {mask.storage: hidden.reshape(-1)})
    score = trace(lambda s, m: s * 0.25 + m, (F32, F32))
    output = dense(F16, (64, 16))
    (step,) = check(STRICT, Attention(F32, score), (q, k, v, mask), output, fill(rng, [q, k, v]))
    assert table_of(step) == [[0, 0, 0, 1], [0, 0, 0, 4], [0, 1, 2, 3], [0, 2, 3, 4]]


def test_masks_without_gain_have_no_table():
    rng = np.random.default_rng(6)
    q, k, v = operands(rng, (), 32, 64, 16, 16, F16)
    mask = dense(F32, (32, 64))
    mask = as_constant(mask, {mask.storage: rng.standard_normal(32 * 64).astype(np.float32)})
    score = trace(lambda s, m: s + m, (F32, F32))
    (step,) = check(
        STRICT, Attention(F32, score), (q, k, v, mask), dense(F16, (32, 16)), fill(rng, [q, k, v])
    )
    assert not step.kernel.variant[3]


@pytest.mark.parametrize(("isa", "dtype"), FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_infinities_and_nan(isa, dtype, kind):
    rng = np.random.default_rng(7)
    rows, keys = 20, 70
    q, k, v = operands(rng, (), rows, keys, 16, 8, dtype)
    mask = dense(F32, (rows, keys))
    values = fill(rng, [q, k, v])
    added = np.zeros((rows, keys), np.float32)
    added[0] = -np.inf
    added[1, :64] = -np.inf
    added[2, 5] = np.nan
    added[3, 69] = np.inf
    added[4, 1:] = -np.inf
    values[mask.storage] = added.reshape(-1)
    score = trace(lambda s, m: s + m, (F32, F32))
    check(isa, Attention(F32, score, kind), (q, k, v, mask), dense(dtype, (rows, 8)), values)


def test_results_of_another_type_and_doubles_of_scores():
    rng = np.random.default_rng(8)
    q, k, v = operands(rng, (2,), 24, 40, 16, 24, F16)
    output = dense(F32, (2, 24, 24))
    operation = Operation(Attention(F32), (q, k, v), (output,))
    values = fill(rng, [q, k, v])
    (found,) = run_operation(operation, values, STRICT)
    (expected,) = evaluate(operation.primitive, arrays((q, k, v), values), [output.shape], [output.dtype])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.astype(np.float64), rtol=4e-3, atol=4e-3)


def test_what_the_selector_prefers():
    rng = np.random.default_rng(9)

    def prefers(rows=32, depth=64, dtype=F16, isa=STRICT, keys=64, accumulator=F32):
        q, k, v = operands(rng, (), rows, keys, depth, depth, dtype)
        operation = Operation(Attention(accumulator), (q, k, v), (dense(dtype, (rows, depth)),))
        return selector(isa).prefers(operation)

    assert prefers()
    assert prefers(rows=1)
    assert not prefers(rows=0)
    assert not prefers(keys=0)
    assert prefers(depth=256)
    assert not prefers(depth=257)
    assert not prefers(dtype=F64, accumulator=F64)
    assert prefers(isa="sm_75")
    assert not prefers(isa="sm_75", dtype=BF16)
    assert prefers(isa="sm_75", dtype=F32)


SHARERS = {"none": ((2, 3), ()), "one": ((2, 3), (1,)), "both": ((2, 3), (0, 1)), "first": ((3, 2), (0,))}
"""Batch axes, and those along which keys and values are shared."""


@pytest.mark.parametrize(("isa", "dtype"), FORMS)
@pytest.mark.parametrize("sharers", SHARERS)
@pytest.mark.parametrize("seed", range(4))
def test_few_queries(isa, dtype, sharers, seed, monkeypatch):
    """Any number of blocks share the keys, some of which get none; heads share keys."""
    rng = np.random.default_rng(seed)
    parts = (1, 2, 3, 16)[seed]
    monkeypatch.setattr(attention, "fitting_parts", lambda *_: parts)
    batch, shared = SHARERS[sharers]
    rows, keys = (1, 7, int(rng.integers(2, 16)), 1)[seed], int(rng.integers(40, 400))
    depth, width = ((64, 64), (13, 27), (8, 16), (80, 40))[seed]
    layout = ["dense", "any", "gaps", "dense"][seed]
    own = tuple(1 if axis in shared else extent for axis, extent in enumerate(batch))
    q = place(rng, (*batch, rows, depth), dtype, layout)
    k = place(rng, (*own, keys, depth), dtype, layout).expand((*batch, keys, depth)).transpose((0, 1, 3, 2))
    v = place(rng, (*own, keys, width), dtype, layout).expand((*batch, keys, width))
    space = (*batch, rows, keys)
    added = trace(lambda s, mask: s * 0.25 + cast(mask, F32), (F32, dtype))
    score, extras = [(None, ()), (added, (broadcast(rng, space, dtype),))][seed % 2]
    values = fill(rng, [q, k, v, *extras])
    output = place(rng, (*batch, rows, width), dtype, "gaps")
    primitive = Attention(F32, score, KINDS[seed])
    steps = check(isa, primitive, (q, k, v, *extras), output, values)
    assert [step.kernel.family for step in steps] == ["attention", "reduce"][: 1 + (parts > 1)]
    row_tiles = -(-rows * max([batch[axis] for axis in shared], default=1) // 16)
    assert steps[0].tiles <= row_tiles * int(np.prod(own)) * parts * (2 if sharers == "both" else 1)


@pytest.mark.parametrize(("isa", "dtype"), FORMS)
@pytest.mark.parametrize("parts", [1, 4])
def test_heads_that_share_keys_read_them_once(isa, dtype, parts, monkeypatch):
    """Eight heads of three queries, beside each other as projections leave them, are rows of two tiles."""
    rng = np.random.default_rng(5)
    monkeypatch.setattr(attention, "fitting_parts", lambda *_: parts)
    form = "scalar" if (isa, dtype) == (STRICT, F32) else "matrix"
    tile = Tile(form, 1, 1, 16, 32, 32, dtype.itemsize)
    monkeypatch.setattr(attention, "fitting_tile", lambda *_: tile)
    q = dense(dtype, (2, 3, 2, 8, 32)).transpose((0, 2, 3, 1, 4))
    k, v = (dense(dtype, (2, 2, 1, 75, 32)).expand((2, 2, 8, 75, 32)) for _ in range(2))
    output = dense(dtype, (2, 3, 2, 8, 32)).transpose((0, 2, 3, 1, 4))
    space = (2, 2, 8, 3, 75)
    # A window, the same for all heads, and a bias of each head
    row, key = coordinates(3, 75, offset=72)
    bias = dense(F32, (8, 1, 75)).expand(space)
    score = trace(
        lambda s, row, key, bias: select(key <= row, select(key > row - 40, s * 0.2 + bias, -1e38), -1e38),
        (F32, DType.INT64, DType.INT64, F32),
    )
    extras = (row.expand(space), key.expand(space), bias)
    inputs = (q, k.transpose((0, 1, 2, 4, 3)), v, *extras)
    (step, *_) = check(isa, Attention(F32, score), inputs, output, fill(rng, [q, k, v, bias]))
    assert step.tiles == 2 * 2 * 2 * parts
    assert step.kernel.variant[2] == (True, True, True)
    assert table_of(step) == [[2, 3, 4, 5]] * 2


@pytest.mark.parametrize(("isa", "dtype"), FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_infinities_and_nan(isa, dtype, kind, monkeypatch):
    rng = np.random.default_rng(7)
    monkeypatch.setattr(attention, "fitting_parts", lambda *_: 3)
    rows, keys = 9, 200
    q, k, v = operands(rng, (), rows, keys, 16, 8, dtype)
    mask = dense(F32, (rows, keys))
    values = fill(rng, [q, k, v])
    added = np.zeros((rows, keys), np.float32)
    added[0] = -np.inf
    added[1, :130] = -np.inf
    added[2, 5] = np.nan
    added[3, 199] = np.inf
    added[4, 1:] = -np.inf
    added[5] = np.finfo(np.float32).min
    added[6, :190] = np.finfo(np.float32).min
    values[mask.storage] = added.reshape(-1)
    score = trace(lambda s, m: s + m, (F32, F32))
    steps = check(isa, Attention(F32, score, kind), (q, k, v, mask), dense(dtype, (rows, 8)), values)
    assert len(steps) == 2


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_weights_of_few_queries_are_not_rounded(dtype):
    """Results in float32 tell: with weights of 16 bits they are off by thousandths."""
    rng = np.random.default_rng(10)
    q, k, v = operands(rng, (2,), 9, 70, 16, 24, dtype)
    output = dense(F32, (2, 9, 24))
    operation = Operation(Attention(F32), (q, k, v), (output,))
    values = fill(rng, [q, k, v])
    (found,) = run_operation(operation, values, STRICT)
    exact = [array.astype(np.float64) for array in arrays((q, k, v), values)]
    scores = exact[0] @ exact[1]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ exact[2]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 if dtype is F16 else 5e-5)


def test_the_number_of_parts_fills_the_device():
    """One token of one sequence, 32 heads in 8 groups, against a long past: and of many sequences."""
    target = assumed_target("sm_90", "strict")

    def blocks(batch, keys):
        shape = attention.AttentionExtents(8 * batch, 4, keys, 128, 128)
        tile = attention.fitting_tile(target, shape, F16)
        assert tile.rows <= 32
        return 8 * batch * attention.fitting_parts(target, shape, tile)

    assert target.threads / 2 <= blocks(1, 1 << 14) <= 4 * target.threads
    assert blocks(64, 1 << 14) >= 64 * 8
    little = attention.AttentionExtents(8, 4, 16, 64, 64)
    assert attention.fitting_parts(target, little, Tile("matrix", 1, 1, 16, 64, 64, 2)) == 1
    assert blocks(64, 64) == 64 * 8


@pytest.mark.parametrize(("isa", "dtype"), FORMS)
def test_tiles_fill_the_device_and_fit_it(isa, dtype):
    target = harness.make_target(isa)
    large = attention.AttentionExtents(128, 2048, 2048, 64, 64)
    small = dataclasses.replace(large, batch=12, rows=128)
    big, little = (attention.fitting_tile(target, shape, dtype) for shape in (large, small))
    assert big.rows > little.rows
    for head in (32, 64, 128, 256):
        tile = attention.fitting_tile(target, dataclasses.replace(large, depth=head, width=head), dtype)
        assert tile.shared_bytes <= target.cache_bytes[0]
        assert tile.registers <= 170
        if head <= 128:
            assert tile.rows >= 64
