"""Plans of sessions: asked for, made ahead, bounded in number."""

from __future__ import annotations

import asyncio
import gc
import weakref

import numpy as np
import onnx
import pytest
from face_models import A, B, C, model, node, product_model, sums_model, value

import onnxplan

FEEDS = {"a": A, "b": B}


def check(session):
    np.testing.assert_array_equal(session.run_sync(FEEDS)["c"], C)


def test_plan_of_fixed_shapes():
    with onnxplan.InferenceSession(product_model()) as session:
        plan = session.plan()
        assert plan is session.plan({"a": (3, 4)})
        assert plan is session.plan({"a": [3, 4], "b": np.array([4, 3])})
        assert session.plans() == (plan,)
        assert [binding.shape for binding in plan.outputs] == [(3, 3)]
        assert "product" in str(plan)
        with pytest.raises(onnxplan.InvalidFeedsError, match=r"dimension 0 is 5 .* expected 3"):
            session.plan({"a": (5, 4)})


def test_plan_of_symbolic_shapes():
    with onnxplan.InferenceSession(product_model("rows", "inner", "columns")) as session:
        plan = session.plan({"a": (2, 5), "b": (5, 7)})
        assert [binding.shape for binding in plan.outputs] == [(2, 7)]
        assert session.plan({"b": (5, 7), "a": (2, 5)}) is plan


@pytest.mark.parametrize(
    ("shapes", "part"),
    [
        (None, "no fixed shape, so it must be given: a: float32[rows, inner]; b: float32[inner, columns]"),
        ({}, "no fixed shape"),
        ({"a": (3, 4)}, "no fixed shape, so it must be given: b: float32[inner, columns]"),
        ({"a": (3, 4), "c": (4, 3)}, "no input 'c'"),
        ({"a": (3, 4), "b": (5, 3)}, "'inner' is 5"),
        ({"a": (3, 4), "b": (4, 3, 1)}, "rank 2"),
        ({"a": (3, 4), "b": 4}, "sequence of integers, such as (1, 3), not 4"),
        ({"a": (3, 4), "b": ("4", 3)}, "sequence of integers"),
        ({"a": (3, 4), "b": (4.0, 3)}, "sequence of integers"),
        ({"a": (3, 4), "b": None}, "sequence of integers"),
        ({"a": (3, 4), "b": (4, -3)}, "negative dimension"),
        ([(3, 4), (4, 3)], "must be a mapping"),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit(shapes, part):
    with onnxplan.InferenceSession(product_model("rows", "inner", "columns")) as session:
        with pytest.raises(onnxplan.InvalidFeedsError) as caught:
            session.plan(shapes)
        assert part in str(caught.value), str(caught.value)
        check(session)


def test_plans_are_bounded_and_those_in_use_stay():
    with onnxplan.InferenceSession(sums_model(["n"]), max_plans=3) as session:
        engine = session._engine

        def run(extent):
            x = np.arange(extent, dtype=np.float32)
            np.testing.assert_array_equal(session.run_sync({"x": x, "y": x})["s"], 2 * x)

        favourite = session.plan({"x": [5], "y": [5]})
        for extent in range(20, 40):
            run(5)
            run(extent)
            assert len(engine._first) <= 3
            assert len(engine.plain) <= 3
        assert session.plan({"x": [5], "y": [5]}) is favourite
        run(20)


def test_plans_that_were_dropped_are_released():
    with onnxplan.InferenceSession(sums_model(["n"]), max_plans=1) as session:
        x = np.zeros(7, np.float32)
        session.run_sync({"x": x, "y": x})
        (stage,) = session._engine.plain.values()
        executor = weakref.ref(stage.executor)
        del stage
        session.run_sync({"x": np.zeros(8, np.float32), "y": np.zeros(8, np.float32)})
        gc.collect()
        assert executor() is None
        np.testing.assert_array_equal(session.run_sync({"x": x, "y": x})["s"], x)


def test_stages_that_depend_on_data_are_bounded():
    nodes = [node("Range", "zero n one", "r"), node("Neg", "r", "y")]
    proto = model(nodes, [value("n", [], onnx.TensorProto.INT64)], ["y"], zero=np.int64(0), one=np.int64(1))
    with onnxplan.InferenceSession(proto, max_plans=1) as session:
        for n in [*range(40), 3, 39]:
            np.testing.assert_array_equal(session.run_sync({"n": np.int64(n)})["y"], -np.arange(n))
            assert len(session._engine._later) <= 16
        plans = session.plans()
        assert len(plans) > 2
        assert plans[0] is session.plan()


def test_warmup():
    with onnxplan.InferenceSession(sums_model(["n"])) as session:
        asyncio.run(session.warmup([{"x": (4,), "y": (4,)}, {"x": (5,), "y": (5,)}]))
        asyncio.run(session.warmup({"x": (6,), "y": (6,)}))
        session.warmup_sync({"x": (7,), "y": (7,)})
        assert sorted(session._engine.plain) == [((n,), (n,)) for n in (4, 5, 6, 7)]
        with pytest.raises(onnxplan.InvalidFeedsError, match="no fixed shape"):
            asyncio.run(session.warmup())
        with pytest.raises(onnxplan.InvalidFeedsError, match="'n' is 5"):
            session.warmup_sync([{"x": (4,), "y": (5,)}])
    with onnxplan.InferenceSession(product_model()) as session:
        session.warmup_sync()
        check(session)


def test_a_warm_session_compiles_nothing_more():
    with onnxplan.InferenceSession(sums_model(["n"])) as session:
        session.warmup_sync({"x": (4,), "y": (4,)})
        before = session.compiled_kernels
        x = np.ones(4, np.float32)
        session.run_sync({"x": x, "y": x})
        assert session.compiled_kernels == before


def test_runs_of_plans_that_read_inputs_in_another_order_are_prepared_as_well():
    proto = model([node("Sub", "y x", "d")], [value("x", [2]), value("y", [2])], ["d"])
    with onnxplan.InferenceSession(proto) as session:
        x, y = np.float32([1, 2]), np.float32([10, 20])
        session.run_sync({"x": x, "y": y})
        assert session._recent is not None
        np.testing.assert_array_equal(session.run_sync({"x": x, "y": y})["d"], [9, 18])
