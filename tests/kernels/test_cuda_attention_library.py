"""Which attention is given to cuDNN, and as what: tensors of four axes, a scale, a mask, something added."""

from dataclasses import replace

import numpy as np
import pytest
from harness import Recorder, array_of, dense, make_target
from products import arrays, as_constant, fill

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate
from onnxplan.compiler.primitives import Attention
from onnxplan.compiler.program import Operation
from onnxplan.compiler.trace import apply, cast, select, trace
from onnxplan.kernels.cuda import attention_scores
from onnxplan.kernels.cuda.attention_library import FAMILY
from onnxplan.kernels.cuda.registry import CudaKernels
from onnxplan.runtime.cuda.cudnn_library import own_kernel

F16, BF16, F32, I64, BOOL = DType.FLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.INT64, DType.BOOL
TARGET = replace(make_target("sm_90_fast"), cudnn=92801)
TOKENS, KEYS, WIDTH = 64, 72, 16
LOWEST = float(np.finfo(np.float32).min)


def steps_of(operation, target=TARGET):
    recorder = Recorder()
    CudaKernels(target).select(operation, recorder)
    return recorder.steps


def views(batch, shared=(), *, tokens=TOKENS, keys=KEYS, width=WIDTH, dtype=F16, beside=False):
    """Queries, transposed keys, values and the output; keys and values are shared along some batch axes.

    ``beside``: all heads of a token stand beside each other, after the first axis.
    """

    def view(extents, rows):
        if not beside:
            return dense(dtype, (*extents, rows, width))
        made = dense(dtype, (extents[0], rows, *extents[1:], width))
        return made.transpose((0, *range(2, len(extents) + 1), 1, len(extents) + 1))

    own = tuple(1 if axis in shared else extent for axis, extent in enumerate(batch))
    k, v = (view(own, keys).expand((*batch, keys, width)) for _ in range(2))
    rank = len(batch)
    return view(batch, tokens), k.transpose((*range(rank), rank + 1, rank)), v, view(batch, tokens)


def of_four_axes(step, values):
    """What a library step means, from its own operands and variant; (batch, heads, tokens, width)."""
    causal, scale, place, _ = step.kernel.variant
    known = {view.storage: view.storage.constant for view in step.operands if view.is_constant}
    q, k, v = (array_of(view, values[view.storage]).astype(np.float64) for view in step.operands[:3])
    group = q.shape[1] // k.shape[1]
    scores = scale * (q @ np.swapaxes(np.repeat(k, group, 1), 2, 3))
    if place:
        bias = step.operands[place]
        scores = scores + array_of(bias, {**values, **known}[bias.storage]).astype(np.float64)
    if causal:
        scores = np.where(np.tril(np.ones(scores.shape[2:])), scores, -np.inf)
    powers = np.exp(scores - scores.max(3, keepdims=True))
    return powers / powers.sum(3, keepdims=True) @ np.repeat(v, group, 1)


def check(primitive, inputs, output, causal=False, bias=False):
    """The operation is one step for cuDNN, which means the same."""
    operation = Operation(primitive, (*inputs,), (output,))
    assert CudaKernels(TARGET).prefers(operation)
    (step,) = steps_of(operation)
    assert step.kernel.family == FAMILY
    assert (step.kernel.variant[0], step.kernel.variant[2] > 0) == (causal, bias)
    values = fill(np.random.default_rng(1), [view for view in inputs if not view.is_constant])
    known = {**values, **{v.storage: v.storage.constant for v in inputs if v.is_constant}}
    (expected,) = evaluate(primitive, arrays(inputs, known), [output.shape], [output.dtype])
    found = of_four_axes(step, values)
    written = step.operands[step.outputs[0]]
    memory = np.full(written.storage.size, np.nan)
    array_of(written, memory)[...] = found
    limit = 2e-2 if output.dtype is BF16 else 3e-3
    result = array_of(output, memory)
    np.testing.assert_allclose(result, expected.astype(np.float64), rtol=limit, atol=limit)
    # Our own kernel takes the same step.
    (own,) = steps_of(operation, replace(TARGET, cudnn=0))
    assert (own_kernel(step.kernel).family, own.kernel.family) == ("attention", "attention")
    if own.outputs == step.outputs:
        assert own_kernel(step.kernel) == own.kernel
        assert (own.parameters, own.tiles, own.scratch) == (step.parameters, step.tiles, step.scratch)
        assert [(v.storage, v.offset) for v in own.operands[:3]] == [
            (v.storage, v.offset) for v in step.operands[:3]
        ]
    return step


SCALED = trace(lambda s: s * 0.25, (F32,))


@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    ("batch", "shared", "q_heads", "k_heads"),
    [
        ((), (), (1, 1), (1, 1)),
        ((3,), (), (1, 3), (1, 3)),
        ((3,), (0,), (1, 3), (1, 1)),
        ((2, 3), (), (2, 3), (2, 3)),
        ((2, 3), (1,), (2, 3), (2, 1)),
        ((2, 3, 2), (2,), (2, 6), (2, 3)),
        ((1, 3, 2), (2,), (3, 2), (3, 1)),
        ((2, 1, 4), (2,), (2, 4), (2, 1)),
    ],
)
def test_batches_and_heads(batch, shared, q_heads, k_heads, beside, dtype):
    if beside and not batch:
        return
    q, k, v, output = views(batch, shared, dtype=dtype, beside=beside)
    step = check(Attention(F32, SCALED), (q, k, v), output)
    assert [view.shape for view in step.operands[:3]] == [
        (*q_heads, TOKENS, WIDTH),
        (*k_heads, KEYS, WIDTH),
        (*k_heads, KEYS, WIDTH),
    ]


def coordinates(rows, keys, space):
    row, key = dense(I64, (rows, 1)), dense(I64, (keys,))
    row = as_constant(row, {row.storage: np.arange(rows)})
    key = as_constant(key, {key.storage: np.arange(keys)})
    return row.expand(space), key.expand(space)


def constant(array, dtype, space):
    view = dense(dtype, array.shape)
    return as_constant(view, {view.storage: array.astype(dtype.numpy).reshape(-1)}).expand(space)


LOWER = np.tril(np.ones((TOKENS, KEYS), np.bool_))
BATCH = (2, 3)
SPACE = (*BATCH, TOKENS, KEYS)


def causal_scores():
    """Ways to say a causal mask: the score, its extras, and the kind of softmax."""
    row_key = coordinates(TOKENS, KEYS, SPACE)
    seen = constant(LOWER, BOOL, SPACE)
    types = (F32, I64, I64)
    added = {value: constant(np.where(LOWER, 0.0, value), F32, SPACE) for value in (LOWEST, float("-inf"))}
    return {
        "coordinates": (trace(lambda s, r, k: select(k <= r, s * 0.5, float("-inf")), types), row_key),
        "other branch": (trace(lambda s, r, k: select(k > r, LOWEST, s * 0.5), types), row_key),
        "places": (trace(lambda s, r, k: select(k <= (r + 0) + 0, s * 0.5, LOWEST), types), row_key),
        "boolean": (trace(lambda s, m: select(m, s * 0.5, float("-inf")), (F32, BOOL)), (seen,)),
        "lowest": (trace(lambda s, m: s * 0.5 + m, (F32, F32)), (added[LOWEST],)),
        "infinity": (trace(lambda s, m: s * 0.5 + m, (F32, F32)), (added[float("-inf")],)),
        "rounded": (
            trace(lambda s, m: cast(cast(cast(s, F16) * 0.5, F32) + m, F32), (F32, F32)),
            (added[LOWEST],),
        ),
    }


@pytest.mark.parametrize("kind", ["plain", "masked", "guarded"])
@pytest.mark.parametrize("name", list(causal_scores()))
def test_causal_masks(name, kind):
    score, extras = causal_scores()[name]
    q, k, v, output = views(BATCH)
    check(Attention(F32, score, kind), (q, k, v, *extras), output, causal=True)


ADDED = trace(lambda s, m: s * 0.5 + m, (F32, F32))


@pytest.mark.parametrize("shape", [SPACE, (2, 1, 1, KEYS), (1, 3, TOKENS, KEYS), (1, 1, TOKENS, KEYS)])
@pytest.mark.parametrize("dtype", [F16, F32])
def test_what_is_added(shape, dtype):
    q, k, v, output = views(BATCH)
    score = trace(lambda s, m: s * 0.5 + cast(m, F32), (F32, dtype))
    step = check(Attention(F32, score), (q, k, v, dense(dtype, shape).expand(SPACE)), output, bias=True)
    assert step.operands[3].shape == shape


def test_what_is_added_to_grouped_heads():
    batch = (2, 3, 2)
    q, k, v, output = views(batch, (2,))
    space = (*batch, TOKENS, KEYS)
    for shape, folded in (((2, 3, 2), (2, 6)), ((2, 1, 1), (2, 1))):
        bias = dense(F32, (*shape, TOKENS, KEYS)).expand(space)
        step = check(Attention(F32, ADDED), (q, k, v, bias), output, bias=True)
        assert step.operands[3].shape == (*folded, TOKENS, KEYS)
    bias = dense(F32, (2, 3, 1, TOKENS, KEYS)).expand(space)
    assert family(Attention(F32, ADDED), (q, k, v, bias), output) == "attention"


def test_a_causal_mask_and_what_is_added():
    q, k, v, output = views(BATCH)
    score = trace(
        lambda s, r, k, m: select(
            k <= r, select(apply("equal", m, float("-inf")), float("-inf"), s * 0.5 + m), float("-inf")
        ),
        (F32, I64, I64, F32),
    )
    extras = (*coordinates(TOKENS, KEYS, SPACE), dense(F32, SPACE))
    step = check(Attention(F32, score), (q, k, v, *extras), output, causal=True, bias=True)
    assert step.kernel.variant[2] == 5


def family(primitive, inputs, output, **changes):
    operation = Operation(primitive, tuple(inputs), (output,))
    return steps_of(operation, replace(TARGET, **changes))[0].kernel.family


def test_scores_that_are_more_than_that():
    q, k, v, output = views(BATCH)
    row_key = coordinates(TOKENS, KEYS, SPACE)
    types = (F32, I64, I64)
    shifted = trace(lambda s, r, k: select(k <= r + 8, s, float("-inf")), types)
    window = trace(lambda s, r, k: select(apply("and", k <= r, k > r - 9), s, float("-inf")), types)
    finite = trace(lambda s, r, k: select(k <= r, s, -10000.0), types)
    capped = trace(lambda s: apply("tanh", s / 8.0) * 8.0, (F32,))
    negative = trace(lambda s: s * -0.5, (F32,))
    later = trace(lambda s, m: (s + m) * 0.5, (F32, F32))
    twice = trace(lambda s, m, n: s + m + n, (F32, F32, F32))
    factor = trace(lambda s, m: s * m, (F32, F32))
    masked = trace(lambda s, m: select(m, s, float("-inf")), (F32, BOOL))
    bias = dense(F32, SPACE)
    cases = [
        *((score, row_key) for score in (shifted, window, finite)),
        *((score, ()) for score in (capped, negative)),
        *((score, (bias,)) for score in (later, factor)),
        (twice, (bias, dense(F32, SPACE))),
        (masked, (dense(BOOL, SPACE),)),
    ]
    for score, extras in cases:
        assert family(Attention(F32, score), (q, k, v, *extras), output) == "attention", score


@pytest.mark.parametrize("kind", ["masked", "guarded", "smooth"])
def test_rows_that_may_have_no_keys_are_ours(kind):
    q, k, v, output = views(BATCH)
    assert family(Attention(F32, ADDED, kind), (q, k, v, dense(F32, SPACE)), output) == "attention"
    plain = family(Attention(F32, SCALED, kind), (q, k, v), output)
    assert plain == ("attention" if kind == "smooth" else FAMILY)


def test_large_masks_are_not_looked_at(monkeypatch):
    monkeypatch.setattr(attention_scores, "MOST_SCORES", TOKENS * KEYS - 1)
    q, k, v, output = views(BATCH)
    score, extras = causal_scores()["coordinates"]
    assert family(Attention(F32, score), (q, k, v, *extras), output) == "attention"
    check(Attention(F32, SCALED), (q, k, v), output)
    check(Attention(F32, ADDED), (q, k, v, dense(F32, SPACE)), output, bias=True)


def test_what_is_given_to_cudnn():
    def chosen(isa="sm_90", changes=None, **options):
        q, k, v, output = views(BATCH, **options)
        return family(Attention(F32, SCALED), (q, k, v), output, isa=isa, **(changes or {})) == FAMILY

    assert chosen()
    assert chosen(isa="sm_80")
    assert chosen(width=128)
    assert chosen(width=8)
    assert not chosen(isa="sm_75")
    assert not chosen(width=136)
    assert not chosen(width=20)
    assert not chosen(dtype=F32)
    assert not chosen(tokens=63)
    assert not chosen(keys=56)
    assert not chosen(changes={"cudnn": 0})
    assert not chosen(changes={"math": "strict"})


def test_layouts_that_are_ours():
    q, k, v, output = views(BATCH)
    primitive = Attention(F32, SCALED)
    assert family(primitive, (q, k, v), output) == FAMILY
    turned = dense(F16, (*BATCH, WIDTH, KEYS))
    assert family(primitive, (q, turned, v), output) == "attention", "keys are not neighbours along the width"
    apart = dense(F16, (*BATCH, TOKENS, WIDTH + 1)).slice(3, 0, WIDTH)
    assert family(primitive, (apart, k, v), output) == "attention", "rows at any address"
    assert family(primitive, (q.slice(0, 0, 1).expand(q.shape), k, v), output) == "attention"
    assert family(primitive, (q, k.slice(0, 0, 1).expand(k.shape), v), output) == "attention"
    alone = v.slice(1, 0, 1).expand(v.shape)
    assert family(primitive, (q, k, alone), output) == "attention", "values shared by more heads than keys"
    bias = dense(F32, (*BATCH, TOKENS, KEYS + 1)).slice(3, 0, KEYS)
    assert family(Attention(F32, ADDED), (q, k, v, bias), output) == "attention"
    many = views((2, 3, 2))
    assert family(primitive, many[:3], many[3]) == "attention", "three axes of which none is shared"
    assert family(primitive, (output, k, v), output) == "attention", "queries and results are the same memory"
