import numpy as np
from fake_selector import TARGET, FakeSelector, run_plan
from hypothesis import HealthCheck, given, settings
from plan_checker import check_plan
from random_programs import programs

from onnxplan.compiler.builder import ConstantPool
from onnxplan.compiler.evaluate import evaluate_program
from onnxplan.compiler.pipeline import PASSES, compile_program
from onnxplan.compiler.verify import verify_program


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
