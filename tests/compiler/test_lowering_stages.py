"""Models that data cuts into stages: each stage computes the answer the next one needs and what it reads."""

import numpy as np
import onnx
import pytest

from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.errors import InvalidModelError
from onnxplan.compiler.evaluate import evaluate_program
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import KNOWN_BYTES, lower
from onnxplan.compiler.plan import DEMAND
from onnxplan.compiler.registry import operator

X = np.array([1.0, -2.0, 3.0], np.float32)


def parse(text):
    header = '<ir_version: 10, opset_import: ["": 21, "test.stages": 1]>'
    return load_model(onnx.parser.parse_model(f"{header}\nmain {text}"))


def run(text, feeds, **settings):
    """The results and the stages."""
    model = parse(text)
    shapes = {name: np.shape(array) for name, array in feeds.items()}
    values = {name: np.asarray(array) for name, array in feeds.items()}
    pool, answers, stages = ConstantPool(), [], []
    while True:
        stage = lower(model, shapes, answers, pool=pool, **settings)
        stages.append(stage)
        # Only what a stage returned is known to the next.
        results = evaluate_program(stage.program, {name: values[name] for name in stage.program.inputs})
        if stage.final:
            return results, stages
        answers.append(results.pop(DEMAND))
        values |= results


def kept(stage):
    """How many values a stage hands on, apart from the answer."""
    return len(stage.program.outputs) - 1


def test_a_condition_that_a_run_computes_cuts_once():
    text = """(float[3] x) => (float[K] y) {
        zero = Constant <value_float = 0.0> ()
        n = Neg(x)
        m = ReduceMax <keepdims = 0> (x)
        c = Greater(m, zero)
        y = If (c) <
            then_branch = t () => (float[3] a) { a = Add(n, n) },
            else_branch = e () => (float[3] b) { b = Mul(n, x) }
        >
    }"""
    results, stages = run(text, {"x": X})
    assert [stage.final for stage in stages] == [False, True]
    np.testing.assert_array_equal(results["y"], -2 * X)
    assert kept(stages[0]) == 2  # the condition itself, and n; m is done with
    results, stages = run(text, {"x": -np.abs(X)})
    np.testing.assert_array_equal(results["y"], -np.abs(X) * np.abs(X))


def test_a_constant_condition_does_not_cut():
    text = """(float[3] x) => (float[3] y) {
        c = Constant <value = bool {1}> ()
        y = If (c) <
            then_branch = t () => (float[3] a) { a = Neg(x) },
            else_branch = e () => (float[3] b) { b = Abs(x) }
        >
    }"""
    results, stages = run(text, {"x": X})
    assert len(stages) == 1
    np.testing.assert_array_equal(results["y"], -X)


def test_a_graph_input_may_be_asked_for():
    """Nothing has to run before the first answer."""
    text = """(float[6] x, int64[2] shape) => (float[A, B] y) {
        y = Reshape(x, shape)
    }"""
    x = np.arange(6, dtype=np.float32)
    results, stages = run(text, {"x": x, "shape": np.array([2, 3])})
    assert len(stages) == 2
    assert stages[0].program.operations == []
    assert list(stages[0].program.inputs) == ["shape"]
    np.testing.assert_array_equal(results["y"], x.reshape(2, 3))


NESTED = """(float[3] x, bool c, bool d) => (float[3] y, float[3] z) {
    n = Neg(x)
    y, z = If (c) <
        then_branch = t () => (float[3] a, float[3] s) {
            w = Exp(x)
            s = Add(n, w)
            unused = Mul(s, s)
            p = If (d) <
                then_branch = tt () => (float[3] i) { i = Add(s, x) },
                else_branch = te () => (float[3] j) { j = Mul(s, n) }
            >
            a = Sub(p, s)
        },
        else_branch = e () => (float[3] b, float[3] q) {
            b = Abs(n)
            q = Identity(x)
        }
    >
}"""


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("inner", [True, False])
def test_if_in_if(outer, inner):
    results, stages = run(NESTED, {"x": X, "c": np.bool_(outer), "d": np.bool_(inner)})
    s = -X + np.exp(X)
    expected = ((s + X if inner else s * -X) - s, s) if outer else (np.abs(X), X)
    assert len(stages) == (3 if outer else 2)
    np.testing.assert_allclose(results["y"], expected[0], rtol=1e-5)
    np.testing.assert_allclose(results["z"], expected[1], rtol=1e-5)


def test_only_what_is_read_later_survives_a_cut_within_a_branch():
    _, stages = run(NESTED, {"x": X, "c": np.bool_(True), "d": np.bool_(True)})
    handed = [view.shape for name, view in stages[1].program.outputs.items() if name != DEMAND]
    # s, and n which the inner branches read; not w nor unused.
    assert len(handed) <= 2


def test_values_of_the_first_stage_are_read_in_the_last():
    text = """(float[3] x, bool c, bool d) => (float[3] y) {
        n = Neg(x)
        a = If (c) <
            then_branch = t () => (float[3] ta) { ta = Exp(x) },
            else_branch = e () => (float[3] ea) { ea = Abs(x) }
        >
        b = If (d) <
            then_branch = u () => (float[3] tb) { tb = Add(a, x) },
            else_branch = f () => (float[3] eb) { eb = Sub(a, x) }
        >
        y = Mul(n, b)
    }"""
    results, stages = run(text, {"x": X, "c": np.bool_(False), "d": np.bool_(False)})
    assert len(stages) == 3
    np.testing.assert_array_equal(results["y"], -X * (np.abs(X) - X))


LOOP = """(float[3] x, float limit) => (float[3] y, float[K, 3] all, float[K] sums) {
    start = Neg(x)
    y, all, sums = Loop (, , start) <
        body = b (int64 i, bool going, float[3] v) => (bool go, float[3] w, float[3] u, float s) {
            two = Constant <value_float = 2.0> ()
            f = Cast <to = 1> (i)
            d = Mul(v, two)
            w = Add(d, f)
            s = ReduceSum <keepdims = 0> (v)
            go = Less(s, limit)
            u = Sub(v, x)
        }
    >
}"""


@pytest.mark.parametrize(("limit", "iterations"), [(-99.0, 1), (20.0, 4), (90.0, 6)])
def test_a_loop_whose_condition_depends_on_data(limit, iterations):
    """Scan outputs of all iterations and what is carried live across the cuts."""
    x = -np.abs(X) / 6
    results, stages = run(LOOP, {"x": x, "limit": np.float32(limit)})
    v, scans, sums, i = -x, [], [], 0
    while True:
        scans.append(v - x)
        sums.append(v.sum())
        go = v.sum() < limit
        v, i = v * 2 + np.float32(i), i + 1
        if not go:
            break
    assert len(stages) == i + 1
    np.testing.assert_allclose(results["y"], v, rtol=1e-5)
    np.testing.assert_allclose(results["all"], np.array(scans), rtol=1e-5)
    np.testing.assert_allclose(results["sums"], np.array(sums), rtol=1e-5)
    assert i == iterations


def test_an_if_in_each_iteration_of_a_loop():
    text = """(float[3] x, float limit) => (float[3] y, float[K, 3] scans) {
        count = Constant <value_int = 4> ()
        n = Neg(x)
        y, scans = Loop (count, , x) <
            body = b (int64 i, bool going, float[3] v) => (bool go, float[3] w, float[3] e) {
                e = Exp(v)
                s = ReduceSum <keepdims = 0> (v)
                big = Greater(s, limit)
                w = If (big) <
                    then_branch = t () => (float[3] a) { a = Add(v, n) },
                    else_branch = f () => (float[3] b) { b = Sub(v, n) }
                >
                go = Identity(going)
            }
        >
    }"""
    x = np.array([0.5, 0.25, 1.0], np.float32)
    results, stages = run(text, {"x": x, "limit": np.float32(3)})
    v, scans = x, []
    for _ in range(4):
        scans.append(np.exp(v))
        v = v - x if v.sum() > 3 else v + x
    assert len(stages) == 5
    np.testing.assert_allclose(results["y"], v, rtol=1e-5)
    np.testing.assert_allclose(results["scans"], np.array(scans), rtol=1e-5)
    # Of an iteration that is over, only its scan output is handed on.
    assert all(kept(stage) <= 4 for stage in stages[:-1])


def test_only_elements_that_are_read_later_are_handed_on():
    """What was taken out of a sequence does not outlive the node that did it."""
    text = """(float[3] x, int64 i, int64 j) => (float[3] y, int64 length) {
        a = Neg(x)
        b = Exp(x)
        c = Abs(x)
        s = SequenceConstruct(a, b, c)
        t = SequenceErase(s, i)
        y = SequenceAt(t, j)
        length = SequenceLength(t)
    }"""
    results, stages = run(text, {"x": X, "i": np.int64(0), "j": np.int64(1)})
    # The answers are inputs: the first two stages only compute what the third one may read.
    assert [len(stage.program.operations) for stage in stages] == [3, 0, 0]
    assert kept(stages[0]) == 3
    assert len(stages[2].program.inputs) == 1
    np.testing.assert_array_equal(results["y"], np.abs(X))
    assert results["length"] == 2


def test_an_answer_is_known_in_sequences_too():
    """The shape asked for is an element: what hangs on that is folded, and not asked for."""
    text = """(float[6] x, float[2] f) => (float[A, B] y, float[A, B] z) {
        shape = Cast <to = 7> (f)
        s = SequenceConstruct(shape)
        y = Reshape(x, shape)
        zero = Constant <value_int = 0> ()
        again = SequenceAt(s, zero)
        two = Constant <value_ints = [1, 0]> ()
        flipped = Gather(again, two)
        z = Reshape(x, flipped)
    }"""
    x = np.arange(6, dtype=np.float32)
    results, stages = run(text, {"x": x, "f": np.array([2, 3], np.float32)})
    assert len(stages) == 2
    np.testing.assert_array_equal(results["z"], x.reshape(3, 2))


def test_what_hangs_on_an_answer_is_not_asked_for():
    """One cut, though two shapes are computed from the same run-time value."""
    text = """(float[6] x, float[2] f) => (float[A, B] y, float[A, B] z) {
        shape = Cast <to = 7> (f)
        zero = Constant <value_ints = [0]> ()
        one = Constant <value_ints = [1]> ()
        y = Reshape(x, shape)
        first = Gather(shape, zero)
        second = Gather(shape, one)
        flipped = Concat <axis = 0> (second, first)
        n = Neg(x)
        z = Reshape(n, flipped)
    }"""
    x = np.arange(6, dtype=np.float32)
    results, stages = run(text, {"x": x, "f": np.array([2, 3], np.float32)})
    assert len(stages) == 2
    np.testing.assert_array_equal(results["y"], x.reshape(2, 3))
    np.testing.assert_array_equal(results["z"], -x.reshape(3, 2))


def test_the_answer_may_be_an_output_too():
    text = """(float[6] x, float[2] f) => (float[A, B] y, int64[2] shape) {
        shape = Cast <to = 7> (f)
        y = Reshape(x, shape)
    }"""
    x = np.arange(6, dtype=np.float32)
    results, _ = run(text, {"x": x, "f": np.array([3, 2], np.float32)})
    np.testing.assert_array_equal(results["shape"], [3, 2])


def test_large_answers_do_not_become_constants():
    """They would fill the pool that all plans share."""
    count = KNOWN_BYTES // 8 + 1
    text = f"""(float[3] x, float[{count}] f) => (float[K] y, int64[{count}] shape) {{
        shape = Cast <to = 7> (f)
        y = Expand(x, shape)
        again = Identity(shape)
    }}"""
    model = parse(text)
    shapes = {"x": (3,), "f": (count,)}
    answer = np.array([1] * (count - 1) + [3], np.int64)
    stage = lower(model, shapes, [answer])
    assert not stage.program.outputs["shape"].is_constant


@operator("NegateThenReshape", domain="test.stages")
def negate_then_reshape(b, node, x, shape):
    """A rule that computes first and asks afterwards."""
    negated = b.scalar("neg", x)
    return b.reshape(negated, tuple(b.value(shape).tolist()))


def test_what_a_rule_has_computed_survives_its_question():
    text = """(float[6] x, int64[2] shape) => (float[A, B] y) {
        y = test.stages.NegateThenReshape(x, shape)
    }"""
    x = np.arange(6, dtype=np.float32)
    results, stages = run(text, {"x": x, "shape": np.array([3, 2])})
    assert len(stages) == 2
    assert stages[1].program.operations == []
    np.testing.assert_array_equal(results["y"], -x.reshape(3, 2))


def test_an_empty_tensor_is_known_without_asking():
    text = """(float x, int64[0] shape) => (float y) {
        y = Reshape(x, shape)
    }"""
    results, stages = run(text, {"x": np.float32(4), "shape": np.zeros(0, np.int64)})
    assert len(stages) == 1
    assert results["y"] == 4


def test_names_of_intermediate_results_avoid_the_inputs():
    text = """(float[3] x, bool c) => (float[3] y) {
        n = Neg(x)
        y = If (c) <
            then_branch = t () => (float[3] a) { a = Add(n, x) },
            else_branch = e () => (float[3] b) { b = Sub(n, x) }
        >
    }"""
    model = parse(text)
    for value in model.graph.inputs:
        value.name = {"x": "%1", "c": "%%2"}[value.name]
    stage = lower(model, {"%1": (3,), "%%2": ()})
    assert not set(stage.program.outputs) & {"%1", "%%2"}
    results = evaluate_program(
        lower(model, {"%1": (3,), "%%2": ()}, [np.bool_(True)]).program,
        {"%1": X, **{name: -X for name in stage.program.outputs if name != DEMAND}},
    )
    np.testing.assert_array_equal(results["y"], np.zeros(3))


def test_lowering_is_deterministic():
    model = parse(LOOP)
    shapes = {"x": (3,), "limit": ()}
    answers = [np.bool_(True)] * 3
    pool = ConstantPool()
    texts = {str(lower(model, shapes, answers, pool=pool).program) for _ in range(3)}
    assert len(texts) == 1


def test_only_the_fetched_outputs_are_returned():
    results, _ = run(NESTED, {"x": X, "c": np.bool_(False), "d": np.bool_(True)}, fetches=["z"])
    assert list(results) == ["z"]


def test_a_failure_in_a_branch_names_its_node():
    text = """(float[3] x, float[2] w, bool c) => (float[3] y) {
        y = If (c) <
            then_branch = t () => (float[3] a) { a = Add(x, w) },
            else_branch = e () => (float[3] b) { b = Neg(x) }
        >
    }"""
    model = parse(text)
    shapes = {"x": (3,), "w": (2,), "c": ()}
    assert lower(model, shapes, [np.bool_(False)]).final
    with pytest.raises(InvalidModelError, match="'a'"):
        lower(model, shapes, [np.bool_(True)])
