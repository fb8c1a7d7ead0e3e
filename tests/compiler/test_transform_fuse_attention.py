import numpy as np
import pytest
from transforming import Sketch, operations_text, random_feeds, transform

from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.evaluate import evaluate_program
from onnxplan.compiler.ops.attention import Scoring, attend
from onnxplan.compiler.passes.elide_copies import elide_copies
from onnxplan.compiler.passes.fuse_attention import fuse_attention
from onnxplan.compiler.passes.fuse_epilogues import fuse_epilogues
from onnxplan.compiler.passes.fuse_maps import fuse_maps
from onnxplan.compiler.passes.fuse_norms import fuse_norms
from onnxplan.compiler.passes.softmax import find_softmax
from onnxplan.compiler.primitives import Attention
from onnxplan.compiler.trace import apply, cast, reduce, select, trace
from onnxplan.compiler.verify import verify_program

F32 = DType.FLOAT32


def fuse(b, prefers=lambda operation: True):
    return lambda program: fuse_attention(program, b.pool, prefers)


def softmax(b, scores):
    powers = b.scalar(
        "exp", b.scalar("sub", scores, b.reduce("max", scores, (-1 % scores.rank,), keepdims=True))
    )
    return b.scalar("div", powers, b.reduce("sum", powers, (-1 % scores.rank,), keepdims=True))


def prepared(program):
    """The program as the passes before leave it."""
    for function in (fuse_maps, fuse_epilogues, fuse_norms, elide_copies):
        program = function(program)
    return program


def test_two_products_around_a_softmax():
    b = Sketch()
    q, k, v, mask = b.input("q", 2, 3, 4), b.input("k", 2, 5, 4), b.input("v", 2, 5, 6), b.input("mask", 5)
    scores = b.scalar("add", b.matmul(q, k.transpose((0, 2, 1))), mask)
    transform(
        prepared(b.program(y=b.matmul(softmax(b, scores), v))),
        fuse(b),
        """
        %6:float32[2, 3, 5] = matmul[accumulator=float32, epilogue=add(x0, x1)](q:float32[2, 3, 4], k:float32[2, 4, 5]@0[20, 1, 4], mask:float32[2, 3, 5]@0[0, 0, 1])
        %11:float32[2, 3, 5] = norm[t3 = exp(sub(x0, reduce_max(x0))); div(t3, reduce_sum(t3)) over 2](%6:float32[2, 3, 5])
        %12:float32[2, 3, 6] = matmul[accumulator=float32](%11:float32[2, 3, 5], v:float32[2, 5, 6])
        """,  # noqa: E501
        """
        %12:float32[2, 3, 6] = attention[accumulator=float32, score=add(x0, x1), softmax=plain](q:float32[2, 3, 4], k:float32[2, 4, 5]@0[20, 1, 4], v:float32[2, 5, 6], mask:float32[2, 3, 5]@0[0, 0, 1])
        """,  # noqa: E501
    )


def attention(b, heads, groups, scoring, **options):
    """The program of :func:`attend` for queries ``(2, 3, heads * 4)`` and 5 keys of ``groups`` heads."""
    q = b.input("q", 2, 3, heads * 4).reshape((2, 3, heads, 4)).transpose((0, 2, 1, 3))
    k, v = b.input("k", 2, groups, 5, 4), b.input("v", 2, groups, 5, 6)
    y, shown = attend(b, q, k, v, scoring, **options)
    y = b.reshape(y.transpose((0, 2, 1, 3)), (2, 3, heads * 6))
    return prepared(b.program(y=y) if shown is None else b.program(y=y, shown=shown))


def test_heads_that_share_keys_and_coordinates():
    """Each head reads its keys through a stride of 0; coordinates become constants."""
    b = Sketch()
    transform(
        attention(b, 4, 2, Scoring(0.5, F32, right=0)),
        lambda program: elide_copies(fuse(b)(program)),
        """
        %4:float32[2, 2, 2, 3, 5] = matmul[accumulator=float32](q:float32[2, 2, 2, 3, 4]@0[48, 8, 4, 16, 1], k:float32[2, 2, 2, 4, 5]@0[40, 20, 0, 1, 4])
        %5:float32[2, 4, 3, 5] = norm[t10 = select(less_equal(i3, add(add(i2, 0), 0)), mul(x0, 0.5), -inf); t11 = reduce_max(t10); t12 = equal(t11, -inf); t16 = exp(sub(t10, select(t12, 0, t11))); mul(t16, div(1, select(t12, 1, reduce_sum(t16)))) over 3](%4:float32[2, 4, 3, 5])
        %6:float32[2, 2, 6, 6] = matmul[accumulator=float32](%5:float32[2, 2, 6, 5], v:float32[2, 2, 5, 6])
        %7:float32[2, 3, 4, 6] = copy[x0](%6:float32[2, 3, 4, 6]@0[72, 6, 18, 1])
        """,  # noqa: E501
        """
        %7:float32[2, 2, 2, 3, 6]@0[72, 12, 6, 24, 1] = attention[accumulator=float32, score=select(less_equal(x1, add(add(x2, 0), 0)), mul(x0, 0.5), -inf), softmax=masked](q:float32[2, 2, 2, 3, 4]@0[48, 8, 4, 16, 1], k:float32[2, 2, 2, 4, 5]@0[40, 20, 0, 1, 4], v:float32[2, 2, 2, 5, 6]@0[60, 30, 0, 6, 1], positions:int64[2, 2, 2, 3, 5]@0[0, 0, 0, 0, 1], positions:int64[2, 2, 2, 3, 5]@0[0, 0, 0, 1, 0])
        """,  # noqa: E501
    )


def names(program):
    return [operation.primitive.name for operation in program.operations]


def results_stay(program, function, tolerance):
    """Runs the pass; checks that results are the same."""
    feeds = random_feeds(program)
    expected = evaluate_program(program, feeds)
    program = function(program)
    verify_program(program, "the pass")
    actual = evaluate_program(program, feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=tolerance)
    return program


BOOL, I64 = DType.BOOL, DType.INT64


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    ("scoring", "inputs", "kind"),
    [
        (Scoring(0.5, F32), {}, "plain"),
        (Scoring(0.5, F32, softcap=2.0, left=1, right=1), {}, "masked"),
        (Scoring(0.5, F32, from_end=True, right=0), {"lengths": ((2,), I64)}, "masked"),
        (Scoring(0.5, F32), {"bias": ((2, 1, 3, 5), F32)}, "masked"),
        (Scoring(0.5, F32), {"allowed": ((3, 5), BOOL)}, "masked"),
        (Scoring(0.5, F32, smooth=True), {"allowed": ((2, 1, 1, 5), BOOL)}, "smooth"),
        (Scoring(0.5, F32, precision=DType.FLOAT16), {}, "plain"),
    ],
)
def test_what_the_attention_operators_ask_for(scoring, inputs, kind, groups):
    b = Sketch()
    views = {name: b.input(name, *shape, dtype=dtype) for name, (shape, dtype) in inputs.items()}
    options = {**views, "allowed": [views["allowed"]]} if "allowed" in views else views
    before = attention(b, 4, groups, scoring, **options)
    assert names(before)[:3] == ["matmul", "norm", "matmul"]
    # Weights are no longer rounded to another precision.
    after = results_stay(before, fuse(b), 1e-5 if scoring.precision is None else 2e-3)
    fused = after.operations[0].primitive
    assert isinstance(fused, Attention)
    assert fused.softmax == kind
    assert "norm" not in names(after)


def test_devices_that_prefer_products_keep_them():
    b = Sketch()
    asked = []
    program = attention(b, 2, 2, Scoring(0.5, F32))
    before = operations_text(program)
    assert operations_text(fuse(b, asked.append)(program)) == before
    assert [operation.primitive.name for operation in asked] == ["attention"]


def test_scores_that_are_shown_stay():
    b = Sketch()
    program = attention(b, 2, 2, Scoring(0.5, F32, shown=0))
    before = operations_text(program)
    assert operations_text(fuse(b)(program)) == before


def test_weights_that_others_read_stay():
    b = Sketch()
    q, k, v = b.input("q", 3, 4), b.input("k", 4, 5), b.input("v", 5, 6)
    weights = softmax(b, b.matmul(q, k))
    program = prepared(b.program(y=b.matmul(weights, v), z=b.reduce("sum", weights, (0,), keepdims=True)))
    before = operations_text(program)
    assert operations_text(fuse(b)(program)) == before


def test_softmax_over_queries_stays():
    b = Sketch()
    q, k, v = b.input("q", 3, 4), b.input("k", 4, 5), b.input("v", 5, 6)
    scores = b.matmul(q, k)
    powers = b.scalar("exp", b.scalar("sub", scores, b.reduce("max", scores, (0,), keepdims=True)))
    weights = b.scalar("div", powers, b.reduce("sum", powers, (0,), keepdims=True))
    program = prepared(b.program(y=b.matmul(weights, v)))
    before = operations_text(program)
    assert "norm" in before
    assert operations_text(fuse(b)(program)) == before


def test_weights_as_the_right_operand_stay():
    b = Sketch()
    q, k, v = b.input("q", 3, 4), b.input("k", 4, 5), b.input("v", 6, 3)
    program = prepared(b.program(y=b.matmul(v, softmax(b, b.matmul(q, k)))))
    before = operations_text(program)
    assert operations_text(fuse(b)(program)) == before


def test_a_part_of_the_scores_stays():
    b = Sketch()
    q, k, v = b.input("q", 3, 4), b.input("k", 4, 5), b.input("v", 3, 6)
    weights = softmax(b, b.matmul(q, k).slice(1, 1, 3))
    program = prepared(b.program(y=b.matmul(weights, v)))
    before = operations_text(program)
    assert operations_text(fuse(b)(program)) == before


def guarded(x):
    powers = apply("exp", x - reduce("max", x))
    weights = powers * (1 / reduce("sum", powers))
    return select(apply("isnan", weights), 0.0, weights)


def scaled(x, y):
    score = y + cast(x, F32) * 2.0
    powers = apply("exp", score - reduce("max", score))
    return cast(powers / reduce("sum", powers), DType.FLOAT16)


def smooth(x):
    top = apply("max", 0.0, reduce("max", x))
    powers = apply("exp", x - top)
    return powers / (apply("exp", -top) + reduce("sum", powers))


def test_forms_of_softmax():
    assert find_softmax(trace(guarded, (F32,))).kind == "guarded"
    assert find_softmax(trace(smooth, (DType.FLOAT64,))).kind == "smooth"
    found = find_softmax(trace(scaled, (DType.FLOAT16, F32)))
    assert found.kind == "plain"
    assert str(found.score) == "add(x1, mul(cast<float32>(x0), 2))"


@pytest.mark.parametrize(
    "body",
    [
        lambda x: apply("exp", x - reduce("max", x)),
        lambda x: apply("exp", x) / reduce("sum", apply("exp", x)),
        lambda x: apply("exp", x - reduce("max", x)) / reduce("sum", apply("exp", x)),
        lambda x: apply("exp", x - reduce("min", x)) / reduce("sum", apply("exp", x - reduce("min", x))),
        lambda x: (
            apply("exp", x * 2.0 - reduce("max", x)) / reduce("sum", apply("exp", x - reduce("max", x)))
        ),
        lambda x: guarded(x - reduce("sum", x)),
    ],
)
def test_what_is_no_softmax(body):
    assert find_softmax(trace(body, (F32,))) is None


def test_softmax_that_rounds_each_operation_is_none():
    assert find_softmax(trace(guarded, (DType.FLOAT16,))) is None
