import json
import math

import numpy as np
import pytest
from fake_selector import FakeSelector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_programs import programs
from test_pipeline import transformer

from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.dtypes import DType
from onnxplan.compiler.pipeline import compile_program
from onnxplan.compiler.plan import Binding, ExecutionPlan, KernelSpec, Operand, Step
from onnxplan.compiler.trace import reduce, trace


@pytest.fixture(scope="module")
def plan():
    pool = ConstantPool()
    return compile_program(transformer(1, pool), FakeSelector(), pool).plan


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs())
def test_plans_survive_the_round_trip(drawn):
    program, _ = drawn
    plan = compile_program(program, FakeSelector(), ConstantPool(), optimize=1).plan
    assert ExecutionPlan.from_json(plan.to_json()) == plan


def test_kernels_and_numbers_are_exact(plan):
    expression = trace(lambda v: reduce("sum", v) * 0.1, (DType.FLOAT32,))
    kernel = KernelSpec("norm", (expression, ("float32", 3, True, -0.5), "x"))
    step = Step(kernel, (), (), (1, -(1 << 63), (1 << 63) - 1), 7, 64, 10**15, 3, 1 / 3, ("a", "b"))
    changed = ExecutionPlan(plan.target, plan.inputs, plan.outputs, plan.constants, (), (step,), 0, 0, 64)
    assert ExecutionPlan.from_json(changed.to_json()) == changed


def test_repeated_tables_stand_once(plan):
    document = json.loads(plan.to_json())
    assert len(document["layouts"]) < sum(len(step.operands) for step in plan.steps)
    assert len(set(map(str, document["layouts"]))) == len(document["layouts"])


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"format": "onnxplan-plan"}', "[" * 100000, "\x00"]
)
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(ValueError, match="not a plan"):
        ExecutionPlan.from_json(text)


BREAKAGES = {
    "format": lambda d: d.update(format="other"),
    "version": lambda d: d.update(version=1),
    "missing field": lambda d: d.pop("steps"),
    "unknown field": lambda d: d.update(extra=1),
    "target field": lambda d: d["target"].pop("isa"),
    "alignment": lambda d: d["target"].update(alignment=48),
    "threads": lambda d: d["target"].update(threads="2"),
    "input dtype": lambda d: d["inputs"][0].__setitem__(1, "float31"),
    "input shape": lambda d: d["inputs"][0].__setitem__(2, [-1]),
    "input name": lambda d: d["inputs"][0].__setitem__(0, 5),
    "space": lambda d: d["buffers"][0].__setitem__(0, "heap"),
    "buffer index": lambda d: d["buffers"][0].__setitem__(1, 99),
    "buffer size": lambda d: d["buffers"][0].__setitem__(3, 1 << 40),
    "buffer offset": lambda d: d["buffers"][0].__setitem__(2, -64),
    "arena size": lambda d: d.update(arena_bytes=64),
    "lifetime": lambda d: d["buffers"][-1].__setitem__(5, 10**6),
    "lifetime order": lambda d: d["buffers"][-1].__setitem__(6, 0),
    "kernel": lambda d: d["kernels"][0].__setitem__(0, None),
    "variant": lambda d: d["kernels"][0].__setitem__(1, [{"expression": "x"}]),
    "variant object": lambda d: d["kernels"][0].__setitem__(1, [{"other": []}]),
    "kernel number": lambda d: d["steps"][0].__setitem__(0, len(d["kernels"])),
    "operand buffer": lambda d: d["steps"][0][1][0].__setitem__(0, len(d["buffers"])),
    "operand offset": lambda d: d["steps"][0][1][0].__setitem__(1, 1 << 40),
    "operand offset below": lambda d: d["steps"][0][1][0].__setitem__(1, -4),
    "operand layout": lambda d: d["steps"][0][1][0].__setitem__(2, -1),
    "operand length": lambda d: d["steps"][0][1][0].append(0),
    "strides": lambda d: d["layouts"][0].__setitem__(2, [1 << 40] * len(d["layouts"][0][1])),
    "negative strides": lambda d: d["layouts"][0].__setitem__(2, [-1] * len(d["layouts"][0][1])),
    "stride count": lambda d: d["layouts"][0][2].append(1),
    "outputs": lambda d: d["steps"][0].__setitem__(2, [50]),
    "parameters": lambda d: d["steps"][0].__setitem__(3, [1 << 63]),
    "float parameter": lambda d: d["steps"][0].__setitem__(3, [0.5]),
    "tiles": lambda d: d["steps"][0].__setitem__(4, -1),
    "boolean tiles": lambda d: d["steps"][0].__setitem__(4, True),
    "seconds": lambda d: d["steps"][0].__setitem__(8, "nan"),
    "seconds text": lambda d: d["steps"][0].__setitem__(8, "soon"),
    "nodes": lambda d: d["steps"][0].__setitem__(9, [10**6]),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_broken_plans_are_refused(plan, name):
    document = json.loads(plan.to_json())
    BREAKAGES[name](document)
    with pytest.raises(ValueError, match="not a plan"):
        ExecutionPlan.from_json(json.dumps(document))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_damage_is_refused_or_harmless(plan, data):
    """Whatever replaces a value: a ``ValueError``, or a plan whose operands lie in their buffers."""
    document = json.loads(plan.to_json())
    place, key = document, data.draw(st.sampled_from(sorted(document)))
    while isinstance(place[key], (list, dict)) and place[key] and data.draw(st.integers(0, 5)):
        place = place[key]
        keys = sorted(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
    place[key] = data.draw(
        st.sampled_from([None, True, -1, 0, 1, 3, 1 << 40, 1 << 70, 0.5, math.inf, "", "x", [], [1], {}])
    )
    try:
        damaged = ExecutionPlan.from_json(json.dumps(document))
    except ValueError:
        return
    for step in damaged.steps:
        for operand in step.operands:
            assert isinstance(operand, Operand)
            check_inside(operand, damaged.buffers[operand.buffer])
    for binding in damaged.inputs:
        assert isinstance(binding, Binding)


def check_inside(operand, buffer):
    if 0 in operand.shape:
        return
    reaches = [(n - 1) * s for n, s in zip(operand.shape, operand.strides, strict=True)]
    size = operand.dtype.itemsize
    low = operand.offset + size * int(np.minimum(reaches, 0).sum())
    high = operand.offset + size * (int(np.maximum(reaches, 0).sum()) + 1)
    assert low >= 0
    assert high <= buffer.size
