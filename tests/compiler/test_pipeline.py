import numpy as np
import pytest
from fake_selector import TARGET, FakeSelector, run_plan
from hypothesis import HealthCheck, given, settings
from plan_checker import check_plan
from random_programs import programs

from onnxplan.compiler.builder import Builder
from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.errors import CompilerError, UnsupportedOperatorError
from onnxplan.compiler.evaluate import evaluate_program
from onnxplan.compiler.pipeline import NECESSARY, PASSES, compile_program, optimise
from onnxplan.compiler.program import Program
from onnxplan.compiler.trace import reduce
from onnxplan.compiler.verify import verify_program
from onnxplan.compiler.view import View


def assert_same(actual, expected, what=""):
    assert set(actual) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(
            actual[name], value, rtol=2e-4, atol=2e-4 * max(1, np.abs(value).max(initial=0)), err_msg=what
        )


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_every_pass_keeps_what_programs_compute(drawn):
    program, feeds = drawn
    expected = evaluate_program(program, feeds)
    pool = ConstantPool()
    verify_program(program, "building")
    for name, function in PASSES:
        before = str(program)
        program = function(program, pool)
        verify_program(program, name)
        assert_same(evaluate_program(program, feeds), expected, f"{name}:\n{before}\n->\n{program}")


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_plans_compute_what_programs_do_in_sound_memory(drawn):
    program, feeds = drawn
    expected = evaluate_program(program, feeds)
    selector = FakeSelector(TARGET)
    compiled = compile_program(program, selector, ConstantPool(), optimize=1)
    check_plan(
        compiled.plan, lambda step, output, source: selector.operations[step.kernel].primitive.name == "map"
    )
    assert_same(run_plan(compiled, selector, feeds), expected)


def sample():
    b = Builder(ConstantPool())
    x = b.new(DType.FLOAT32, (2, 3))
    x.storage.name = "x"
    y = b.scalar("exp", b.scalar("neg", x))
    return Program({"x": x}, {"y": y.transpose((1, 0))}, b.operations)


def test_passes_are_dumped_and_numbered(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXPLAN_DUMP", str(tmp_path / "dump"))
    optimise(sample(), ConstantPool())
    names = sorted(path.name for path in (tmp_path / "dump").iterdir())
    assert names[0] == "00-lowering.txt"
    assert names == [f"{n:02}-{name}.txt" for n, name in enumerate(("lowering", *(p[0] for p in PASSES)))]
    assert "map[neg(x0)]" in (tmp_path / "dump" / names[0]).read_text()
    assert "map[exp(neg(x0))]" in (tmp_path / "dump" / names[-1]).read_text()


@pytest.mark.parametrize("off", ["", "0"])
def test_inspections_that_are_off_change_nothing(tmp_path, monkeypatch, off):
    monkeypatch.chdir(tmp_path)
    expected = str(optimise(sample(), ConstantPool()))
    for name in ("DUMP", "STOP_AFTER", "VERIFY"):
        monkeypatch.setenv(f"ONNXPLAN_{name}", off)
    assert str(optimise(sample(), ConstantPool())) == expected
    assert not list(tmp_path.iterdir())


def test_the_pipeline_stops_where_it_is_told_to(monkeypatch):
    monkeypatch.setenv("ONNXPLAN_STOP_AFTER", "inline_scalars")
    program = optimise(sample(), ConstantPool())
    assert len(program.operations) == 3, "two maps and the copy that binds the output"
    monkeypatch.setenv("ONNXPLAN_STOP_AFTER", "eliminate_dead:2")
    assert len(optimise(sample(), ConstantPool()).operations) == 1
    monkeypatch.setenv("ONNXPLAN_STOP_AFTER", "eliminate_dead:3")
    with pytest.raises(ValueError, match="the passes are eliminate_dead, inline_scalars"):
        optimise(sample(), ConstantPool())


def test_a_failing_pass_is_named():
    def broken(program, pool):
        raise KeyError("lost")

    with pytest.raises(CompilerError, match="pass tidy failed: KeyError: 'lost'"):
        optimise(sample(), ConstantPool(), passes=(("tidy", broken),))


def test_a_pass_that_breaks_the_program_is_named(monkeypatch):
    def forgetful(program, pool):
        del program.operations[0]
        return program

    monkeypatch.setenv("ONNXPLAN_VERIFY", "1")
    with pytest.raises(CompilerError, match="after forget"):
        optimise(sample(), ConstantPool(), passes=(("forget", forgetful),))


def test_level_zero_only_does_what_is_necessary():
    selector = FakeSelector()
    plan = compile_program(sample(), selector, ConstantPool(), optimize=0).plan
    assert [step.kernel.family for step in plan.steps] == ["map", "map", "copy"]
    plan = compile_program(sample(), selector, ConstantPool(), optimize=1).plan
    assert [step.kernel.family for step in plan.steps] == ["map"]
    assert [name for name, _ in NECESSARY] == ["bind_outputs", "eliminate_dead"]


def test_missing_kernels_name_the_operation_and_its_nodes():
    class Poor(FakeSelector):
        def select(self, operation, emit):
            raise NotImplementedError("no kernel for exp")

    program = sample()
    program.operations[0].nodes = ("Exp_7",)
    with pytest.raises(UnsupportedOperatorError, match=r"no kernel for exp.*Exp_7"):
        compile_program(program, Poor(), ConstantPool(), optimize=1)


def transformer(layers, pool):
    """Layers of attention and feed-forward as exporters decompose them, from named weights."""
    b = Builder(pool)
    count = iter(range(10_000))

    def weights(*shape):
        key = f"weights {next(count)}"
        make = np.random.default_rng(1).standard_normal
        return View.dense(pool.get(key, lambda: make(shape).astype(np.float32) * np.float32(0.1)), shape)

    def linear(x, width):
        return b.scalar("add", b.matmul(x, weights(x.shape[-1], width)), weights(width))

    def mean(x):
        return b.compute(lambda v: reduce("sum", v) * (1 / x.shape[-1]), (x,), (x.rank - 1,))[0]

    def layer_norm(x):
        d = b.scalar("sub", x, mean(x))
        variance = b.scalar("add", mean(b.scalar("mul", d, d)), b.constant(np.float32(1e-5)))
        y = b.scalar("div", d, b.scalar("sqrt", variance))
        return b.scalar("add", b.scalar("mul", y, weights(x.shape[-1])), weights(x.shape[-1]))

    x = b.new(DType.FLOAT32, (1, 8, 16))
    x.storage.name = "x"
    mask = b.new(DType.FLOAT32, (1, 8))
    mask.storage.name = "mask"
    inputs = {"x": x, "mask": mask}
    bias = b.scalar("mul", b.scalar("sub", b.constant(np.float32(1)), mask), b.constant(np.float32(-1e9)))
    for _ in range(layers):
        q, k, v = (b.reshape(linear(x, 16), (1, 8, 4, 4)).transpose((0, 2, 1, 3)) for _ in range(3))
        scores = b.scalar("div", b.matmul(q, k.transpose((0, 1, 3, 2))), b.constant(np.float32(2)))
        scores = b.scalar("add", scores, bias.unsqueeze((1, 2)))
        e = b.scalar("exp", b.scalar("sub", scores, b.reduce("max", scores, (3,), keepdims=True)))
        heads = b.matmul(b.scalar("div", e, b.reduce("sum", e, (3,), keepdims=True)), v)
        merged = b.reshape(heads.transpose((0, 2, 1, 3)), (1, 8, 16))
        x = layer_norm(b.scalar("add", linear(merged, 16), x))
        hidden = linear(x, 32)
        gate = b.scalar("erf", b.scalar("div", hidden, b.constant(np.float32(1.4142135))))
        gate = b.scalar("add", gate, b.constant(np.float32(1)))
        hidden = b.scalar("mul", b.scalar("mul", hidden, gate), b.constant(np.float32(0.5)))
        x = layer_norm(b.scalar("add", linear(hidden, 16), x))
    return Program(inputs, {"y": x}, b.operations)


def test_a_transformer_layer_is_nine_operations():
    """One product for query, key and value, two of attention, one projection, two of the feed-forward part,
    softmax, two layer norms; and, once, a map for the mask."""
    pool = ConstantPool()
    program = transformer(2, pool)
    random = np.random.default_rng(0)
    feeds = {"x": random.standard_normal((1, 8, 16)).astype(np.float32), "mask": np.ones((1, 8), np.float32)}
    feeds["mask"][0, 5:] = 0
    expected = evaluate_program(program, feeds)
    program = optimise(program, pool)
    names = [operation.primitive.name for operation in program.operations]
    assert names.count("matmul") == 2 * 6
    assert names.count("norm") == 2 * 3
    assert len(names) <= 2 * 9 + 1
    assert_same(evaluate_program(program, feeds), expected)
    selector = FakeSelector()
    compiled = compile_program(transformer(2, pool), selector, pool)
    assert_same(run_plan(compiled, selector, feeds), expected)
    assert compiled.plan.arena_bytes <= 1.05 * compiled.plan.arena_lower_bound


def test_constants_are_shared_by_the_plans_of_a_model():
    pool = ConstantPool()
    first = compile_program(transformer(1, pool), FakeSelector(), pool)
    second = compile_program(transformer(1, pool), FakeSelector(), pool)
    for a, c in zip(first.constants, second.constants, strict=True):
        assert a.ctypes.data == c.ctypes.data
