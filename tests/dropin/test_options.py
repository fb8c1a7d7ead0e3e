"""Options of sessions and runs, beside onnxruntime."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from both_modules import X, info, model, outcome, same, sums
from onnx import helper

import onnxplan.onnxruntime
from onnxplan.onnxruntime.capi import onnxruntime_pybind11_state as state

ASSIGNMENTS = [
    ("intra_op_num_threads", lambda _: 2),
    ("intra_op_num_threads", lambda _: -1),
    ("intra_op_num_threads", lambda _: "a"),
    ("intra_op_num_threads", lambda _: 1.5),
    ("intra_op_num_threads", lambda _: np.int64(3)),
    ("inter_op_num_threads", lambda _: 1),
    ("graph_optimization_level", lambda _: 1),
    ("graph_optimization_level", lambda ort: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC),
    ("execution_mode", lambda ort: ort.ExecutionMode.ORT_PARALLEL),
    ("execution_order", lambda ort: ort.ExecutionOrder.PRIORITY_BASED),
    ("enable_profiling", lambda _: True),
    ("enable_profiling", lambda _: 1),
    ("enable_profiling", lambda _: "yes"),
    ("enable_cpu_mem_arena", lambda _: False),
    ("logid", lambda _: "x"),
    ("logid", lambda _: 3),
    ("log_severity_level", lambda _: 3),
    ("profile_file_prefix", lambda _: "p"),
    ("nothing", lambda _: 1),
]


@pytest.mark.parametrize("number", range(len(ASSIGNMENTS)))
def test_an_assignment(number):
    name, value = ASSIGNMENTS[number]

    def call(ort):
        options = ort.SessionOptions()
        setattr(options, name, value(ort))
        return repr(getattr(options, name))

    same(call)


@pytest.mark.parametrize("kind", ["SessionOptions", "RunOptions"])
def test_defaults(kind):
    def call(ort):
        options = getattr(ort, kind)()
        names = [name for name in dir(options) if not name.startswith("_")]
        real = getattr(__import__("onnxruntime"), kind)
        names = [name for name in names if hasattr(real, name) and not callable(getattr(options, name))]
        return {name: repr(getattr(options, name)) for name in names}

    assert len(same(call)) > 4


def test_enumerations_have_the_same_members():
    for name in (
        "GraphOptimizationLevel",
        "ExecutionMode",
        "ExecutionOrder",
        "OrtAllocatorType",
        "OrtMemType",
        "OrtSparseFormat",
    ):
        same(lambda ort, name=name: {k: int(v) for k, v in getattr(ort, name).__members__.items()})
        same(lambda ort, name=name: [repr(v) for v in getattr(ort, name).__members__.values()])
        same(lambda ort, name=name: [str(v) for v in getattr(ort, name).__members__.values()])


ENTRIES = [("a.key", "b"), ("a.key", 1), ("", "1"), ("k" * 2000, "1"), (3, "1")]


@pytest.mark.parametrize("entry", ENTRIES, ids=[str(entry)[:12] for entry in ENTRIES])
@pytest.mark.parametrize("kind", ["session", "run"])
@pytest.mark.filterwarnings("ignore:onnxplan.onnxruntime")
def test_configuration_entries(entry, kind):
    def call(ort):
        options = ort.SessionOptions() if kind == "session" else ort.RunOptions()
        getattr(options, f"add_{kind}_config_entry")(*entry)
        return getattr(options, f"get_{kind}_config_entry")(entry[0])

    (ours, _), (real, _) = outcome(call, onnxplan.onnxruntime), outcome(call, __import__("onnxruntime"))
    assert ours == real


def test_a_key_that_was_not_set():
    same(lambda ort: ort.SessionOptions().get_session_config_entry("q"))
    same(lambda ort: ort.RunOptions().get_run_config_entry("q"))


def test_entries_without_effect_are_warned_of_and_hints_are_not():
    ort = onnxplan.onnxruntime
    options = ort.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    assert outcome(lambda _: ort.InferenceSession(sums(), options).get_providers(), ort)[1] == []
    options.add_session_config_entry("no.such.entry", "1")
    with pytest.warns(UserWarning, match=r"no\.such\.entry"):
        ort.InferenceSession(sums(), options)
    with pytest.warns(UserWarning, match="other"):
        ort.RunOptions().add_run_config_entry("other", "1")


def test_threads_and_optimization_level_reach_the_session():
    ort = onnxplan.onnxruntime
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    content = model(nodes, [info("x", [2, 2])], [info("z", [2, 2])])
    plain, best = ort.InferenceSession(content, options), ort.InferenceSession(content)
    assert plain._sess.plan().target.threads == 1
    assert len(plain._sess.plan().steps) > len(best._sess.plan().steps)
    np.testing.assert_array_equal(plain.run(None, {"x": X})[0], best.run(None, {"x": X})[0])


OVERRIDES = {
    "name": lambda options: options.add_free_dimension_override_by_name("n", 2),
    "unknown name": lambda options: options.add_free_dimension_override_by_name("q", 2),
    "negative": lambda options: options.add_free_dimension_override_by_name("n", -2),
    "denotation": lambda options: options.add_free_dimension_override_by_denotation("DATA_BATCH", 3),
    "unknown denotation": lambda options: options.add_free_dimension_override_by_denotation("OTHER", 3),
}


@pytest.mark.parametrize("name", OVERRIDES)
@pytest.mark.parametrize("dim", ["n", None])
def test_free_dimensions(name, dim):
    x = info("x", [dim, 2], shape_denotation=["DATA_BATCH", ""])
    other = info("y", [dim, 2])
    content = model([helper.make_node("Add", ["x", "y"], ["z"])], [other, x], [info("z", [dim, 2])])

    def call(ort):
        options = ort.SessionOptions()
        OVERRIDES[name](options)
        session = ort.InferenceSession(content, options)
        shapes = [meta.shape for meta in session.get_inputs()]
        runs = [
            outcome(lambda _, n=n: session.run(None, {"x": np.ones((n, 2), np.float32), "y": X[:1]}), ort)[0]
            for n in (1, 2, 3)
        ]
        return shapes, runs

    found = {module: outcome(call, module)[0] for module in (__import__("onnxruntime"), onnxplan.onnxruntime)}
    real, ours = found.values()
    if name == "negative":
        # onnxruntime takes the size as it is, and then no shape fits.
        assert ours[0] == [[dim, 2], [dim, 2]]
        return
    assert ours == real


def test_initializers_are_replaced():
    tens, zero = np.full(2, 10, np.float32), np.zeros(1, np.float32)

    def call(ort):
        options = ort.SessionOptions()
        # onnxruntime reads the memory of values that nobody keeps.
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in (tens, zero)]
        for name, value in zip(("y", "nothing"), values, strict=True):
            options.add_initializer(name, value)
        session = ort.InferenceSession(sums(), options)
        return session.run(["z"], {"x": X}), [meta.name for meta in session.get_overridable_initializers()]

    assert same(call)[0][0][2] == (X + 10).tolist()


def test_constants_are_replaced_everywhere():
    """Also where a subgraph reads them."""
    branch = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["b"])], "then", [], [info("b", None)])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["c"])], "else", [], [info("c", None)])
    nodes = [
        helper.make_node("If", ["flag"], ["t"], then_branch=branch, else_branch=other),
        helper.make_node("Add", ["t", "w"], ["z"]),
    ]
    content = model(nodes, [info("x", [2]), info("flag", [], 9)], [info("z", [2])], w=np.ones(2, np.float32))

    def call(ort):
        options = ort.SessionOptions()
        value = ort.OrtValue.ortvalue_from_numpy(np.full(2, 10, np.float32))
        options.add_initializer("w", value)
        session = ort.InferenceSession(content, options)
        return session.run(None, {"x": X[1], "flag": np.array(True)})

    assert same(call)[0][2] == [30.0, 40.0]


def test_initializers_of_another_shape_are_refused():
    ort = onnxplan.onnxruntime
    options = ort.SessionOptions()
    options.add_initializer("y", ort.OrtValue.ortvalue_from_numpy(np.ones(3, np.float32)))
    with pytest.raises(state.Fail, match="'y'"):
        ort.InferenceSession(sums(), options)
    with pytest.raises(RuntimeError, match="OrtValue"):
        options.add_initializer("y", np.ones(2, np.float32))


def test_options_given_to_a_session_may_change_later():
    def call(ort):
        options = ort.SessionOptions()
        options.logid = "before"
        session = ort.InferenceSession(sums(), options)
        options.logid = "after"
        return session.get_session_options().logid

    assert same(call) == "before"


def test_options_copy():
    options = onnxplan.onnxruntime.SessionOptions()
    options.intra_op_num_threads = 3
    options.add_free_dimension_override_by_name("n", 2)
    again = copy.deepcopy(options)
    again.intra_op_num_threads = 4
    again.add_free_dimension_override_by_name("n", 3)
    assert options.intra_op_num_threads == 3
    assert options._dimensions == {"n": 2}


def test_memory_is_given_back_where_a_run_asks_for_it():
    ort = onnxplan.onnxruntime
    session = ort.InferenceSession(sums())
    session.run(None, {"x": X})
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    session.run(None, {"x": X}, options)
    assert session._sess.memory().slots == 0


def profile(ort, folder):
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(sums(), options)
    for _ in range(3):
        session.run(None, {"x": X})
    return session


def test_profiles_are_chrome_traces(ort, tmp_path):
    session = profile(ort, tmp_path)
    assert session.get_profiling_start_time_ns() > 1_600_000_000_000_000_000
    file = session.end_profiling()
    assert file.startswith(str(tmp_path / "profile_20"))
    assert file.endswith(".json")
    with open(file, encoding="utf-8") as text:
        events = json.load(text)
    runs = [event for event in events if event["name"] == "model_run"]
    assert len(runs) == 3
    assert {"cat", "pid", "tid", "dur", "ts", "ph", "name", "args"} <= set(runs[0])
    assert all(event["ph"] == "X" and event["dur"] >= 0 for event in events)
    assert [event["ts"] for event in runs] == sorted(event["ts"] for event in runs)
    assert "session_initialization" in {event["name"] for event in events}
    assert session.end_profiling() == ""
    np.testing.assert_array_equal(session.run(["z"], {"x": X})[0], X + 1)


def test_profiles_have_an_event_for_each_node(ort, tmp_path):
    """Fields and their types are onnxruntime's; a fused step has the types of all its nodes."""
    file = profile(ort, tmp_path).end_profiling()
    with open(file, encoding="utf-8") as text:
        events = json.load(text)
    nodes = [event for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]
    assert nodes
    assert len(nodes) % 3 == 0
    runs = [event for event in events if event["name"] == "model_run"]
    executions = [event for event in events if event["name"] == "SequentialExecutor::Execute"]
    assert len(executions) == len(runs) == 3
    for event in nodes:
        facts = event["args"]
        assert facts["op_name"]
        assert facts["provider"] == "CPUExecutionProvider"
        for name in ("node_index", "activation_size", "parameter_size", "output_size"):
            assert int(facts[name]) >= 0
        for name in ("input_type_shape", "output_type_shape"):
            assert all(isinstance(shape, list) for each in facts[name] for shape in each.values())
            assert {"float"} >= {kind for each in facts[name] for kind in each}
        inside = [
            run for run in runs if run["ts"] <= event["ts"] + 1 and event["ts"] <= run["ts"] + run["dur"] + 1
        ]
        assert len(inside) >= 1, "a node ran outside of all runs"


def test_fused_nodes_share_an_event(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], name="product"),
        helper.make_node("Relu", ["p"], ["y"], name="relu"),
    ]
    shaped = [helper.make_tensor_value_info(name, 1, [4, 4]) for name in ("x", "w", "y")]
    graph = helper.make_graph(nodes, "g", shaped[:2], shaped[2:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    ort = onnxplan.onnxruntime
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = ort.InferenceSession(proto.SerializeToString(), options)
    x, w = np.random.default_rng(0).standard_normal((2, 4, 4)).astype(np.float32)
    (found,) = session.run(None, {"x": x, "w": w})
    np.testing.assert_allclose(found, np.maximum(x @ w, 0), rtol=1e-5, atol=1e-6)
    events = json.loads(Path(session.end_profiling()).read_text())
    (event,) = [event for event in events if event["cat"] == "Node"]
    assert event["name"] == "product_kernel_time"
    assert event["args"]["op_name"] == "MatMul+Relu"
    assert event["args"]["nodes"] == ["product", "relu"]
    assert event["args"]["input_type_shape"] == [{"float": [4, 4]}, {"float": [4, 4]}]
    assert event["args"]["output_size"] == "64"


def test_profiles_are_bounded(tmp_path, monkeypatch, caplog):
    from onnxplan.onnxruntime import profiling

    monkeypatch.setattr(profiling, "MOST_EVENTS", 4)
    file = profile(onnxplan.onnxruntime, tmp_path).end_profiling()
    assert len(json.loads(Path(file).read_text())) == 4
    assert caplog.text.count("later ones are dropped") == 1


def test_profiles_of_sessions_that_go_are_written(tmp_path):
    profile(onnxplan.onnxruntime, tmp_path)
    (file,) = tmp_path.iterdir()
    assert "model_run" in file.read_text()


def test_sessions_without_profile_write_none(ort):
    session = ort.InferenceSession(sums())
    assert session.end_profiling() == ""
    assert session.get_profiling_start_time_ns() == 0
