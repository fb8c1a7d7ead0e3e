"""What a model's plans share never changes them: each is the one that is made for its shapes alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings

from onnxplan.compiler.constant_pool import ConstantPool
from onnxplan.compiler.errors import OnnxPlanError
from onnxplan.compiler.importer import load_model
from onnxplan.compiler.lowering import lower
from onnxplan.compiler.pipeline import compile_program
from onnxplan.kernels.cpu.registry import CpuKernels
from onnxplan.runtime.cpu.target import detect_target
from tests.fuzz.graphs import programs
from tests.models.light_networks import softened, with_random_weights

NETWORKS = ("resnet50", "shufflenet", "squeezenet")
BATCHES = (1, 3, 2, 1)
SLICES, COUNT = 4, 25
SELECTOR = CpuKernels(detect_target(2))


def planned(model, shapes, pool):
    return compile_program(lower(model, shapes, pool=pool).program, SELECTOR, pool)


def check(model, shapes, pool):
    """The plan from a pool in use is that from a new one, with the same constants."""
    found, alone = planned(model, shapes, pool), planned(model, shapes, ConstantPool())
    assert found.plan == alone.plan
    for constant, one, other in zip(found.plan.constants, found.constants, alone.constants, strict=True):
        same = one.view(np.uint8), other.view(np.uint8)
        assert one.shape == other.shape
        assert np.array_equal(*same), constant.name


def scaled(shapes, batch):
    """The shapes with their first extents ``batch`` times as large."""
    return {name: (batch * shape[0], *shape[1:]) if shape else () for name, shape in shapes.items()}


def has_plan(model, shapes):
    """Many models are for one shape only; what data decides has no plan without a run."""
    try:
        return lower(model, shapes).final
    except OnnxPlanError:
        return False


@pytest.mark.parametrize("name", NETWORKS)
def test_batches_of_light_networks(name):
    model = load_model(softened(with_random_weights(name)))
    shapes = {value.name: value.type.shape for value in model.graph.inputs if value.default is None}
    pool = ConstantPool()
    assert has_plan(model, shapes)
    for batch in BATCHES:
        if has_plan(model, scaled(shapes, batch)):
            check(model, scaled(shapes, batch), pool)
    kept = pool.nbytes, len(pool._recalled), len(pool.lowered)
    check(model, shapes, pool)
    assert (pool.nbytes, len(pool._recalled), len(pool.lowered)) == kept


@pytest.mark.parametrize("number", range(SLICES))
def test_shapes_of_random_models(number):
    planned_models = 0

    @seed(number)
    @settings(max_examples=COUNT, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(programs())
    def examine(program):
        nonlocal planned_models
        model = load_model(program.model)
        if any(not isinstance(value, np.ndarray) for value in program.feeds.values()):
            return
        shapes = {name: value.shape for name, value in program.feeds.items()}
        pool = ConstantPool()
        for batch in BATCHES:
            if has_plan(model, scaled(shapes, batch)):
                check(model, scaled(shapes, batch), pool)
                planned_models += 1

    examine()
    assert planned_models > COUNT
