"""Sessions: what they are made of, what they tell, and how they fail, beside onnxruntime."""

from __future__ import annotations

import pathlib
import pickle
import threading
import time

import numpy as np
import onnx
import onnxruntime
import pytest
from both_modules import X, identity, info, model, outcome, same, sums
from onnx import TensorProto, helper

import onnxplan.onnxruntime
from onnxplan.onnxruntime.capi import onnxruntime_pybind11_state as state
from onnxplan.onnxruntime.errors import EXCEPTIONS
from onnxplan.runtime import origin
from onnxplan.runtime.artifact_planner import ArtifactPlanner
from onnxplan.runtime.model_keeper import KeepingPlanner


def metas(items):
    return [(item.name, item.type, item.shape, str(item)) for item in items]


SIGNATURES = {
    "default": sums(),
    "fixed": sums([3, 2]),
    "no names": model(
        [helper.make_node("Identity", ["x"], ["z"])],
        [info("x", [None, "n", "", 3])],
        [info("z", [None, None, None, None])],
    ),
    "no rank": model([helper.make_node("Identity", ["x"], ["z"])], [info("x", None)], [info("z", None)]),
    "scalar": identity(TensorProto.FLOAT, []),
    "inferred": model([helper.make_node("Shape", ["x"], ["z"])], [info("x", ["n", 2])], [info("z", None, 7)]),
    "names of its own": model(
        [helper.make_node("Relu", ["x"], ["z"])], [info("x", ["a", "b"])], [info("z", ["c", "d"])]
    ),
    **{
        kind: identity(getattr(TensorProto, kind))
        for kind in ("DOUBLE", "FLOAT16", "BFLOAT16", "STRING", "BOOL", "UINT8")
    },
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures(name):
    def call(ort):
        session = ort.InferenceSession(SIGNATURES[name])
        return [
            metas(session.get_inputs()),
            metas(session.get_outputs()),
            metas(session.get_overridable_initializers()),
        ]

    same(call)


def test_metadata():
    def call(ort):
        meta = ort.InferenceSession(sums(metadata={"character": "a\nb", "": "c"})).get_modelmeta()
        names = ("producer_name", "graph_name", "domain", "description", "graph_description", "version")
        return [getattr(meta, name) for name in names], meta.custom_metadata_map

    found = same(call)
    assert found[0] == ["maker", "graph", "a.domain", "about the model", "about the graph", 7]


def test_metadata_of_a_model_without_any():
    bare = onnx.load_model_from_string(sums())
    for field in ("producer_name", "domain", "model_version", "doc_string"):
        bare.ClearField(field)
    bare.graph.ClearField("doc_string")

    def call(ort):
        meta = ort.InferenceSession(bare.SerializeToString()).get_modelmeta()
        return [meta.producer_name, meta.domain, meta.description, meta.graph_description, meta.version]

    same(call)


def test_attributes_are_read_only(ort):
    meta = ort.InferenceSession(sums()).get_inputs()[0]
    with pytest.raises(AttributeError):
        meta.name = "other"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.onnx").write_bytes(sums())
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_text("hello")
    return tmp_path


def node_model(*nodes, **options):
    return model(list(nodes), [info("x", [2])], [info("z", [2])], **options)


SOURCES = {
    "path": lambda folder: str(folder / "model.onnx"),
    "pathlib": lambda folder: folder / "model.onnx",
    "no such file": lambda folder: str(folder / "none.onnx"),
    "damaged file": lambda folder: folder / "text.onnx",
    "empty file": lambda folder: folder / "empty.onnx",
    "folder": lambda folder: str(folder),
    "bytes": lambda _: sums(),
    "damaged bytes": lambda _: b"hello",
    "no bytes": lambda _: b"",
    "None": lambda _: None,
    "integer": lambda _: 4,
    "bytearray": lambda _: bytearray(sums()),
    "message": lambda _: onnx.load_model_from_string(sums()),
    "unknown operator": lambda _: node_model(helper.make_node("FooBar", ["x"], ["z"])),
    "unknown domain": lambda _: node_model(helper.make_node("FooBar", ["x"], ["z"], domain="foo")),
    "unknown attribute": lambda _: node_model(helper.make_node("Relu", ["x"], ["z"], foo=1)),
    "types that differ": lambda _: node_model(helper.make_node("Add", ["x", "i"], ["z"]), i=np.array([1, 2])),
    "shapes that differ": lambda _: node_model(
        helper.make_node("Add", ["x", "y"], ["z"]), y=np.ones(3, np.float32)
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source(name, folder):
    def call(ort):
        session = ort.InferenceSession(SOURCES[name](folder))
        path = session._model_path
        return [meta.name for meta in session.get_inputs()], path, type(path).__name__, session._model_bytes

    same(call)


def test_errors_of_models_name_file_and_cause(folder):
    for name, kind in (("none.onnx", state.NoSuchFile), ("text.onnx", state.InvalidProtobuf)):
        with pytest.raises(kind, match=name):
            onnxplan.onnxruntime.InferenceSession(folder / name)


def test_exceptions_have_the_bases_and_texts_of_the_real_ones():
    from onnxruntime.capi import onnxruntime_pybind11_state as real

    for kind in EXCEPTIONS:
        theirs = getattr(real, kind.__name__)
        assert [base.__name__ for base in theirs.__mro__[1:]] == ["Exception", "BaseException", "object"]
        for builtin in (RuntimeError, ValueError, OSError, ArithmeticError, LookupError, TypeError):
            assert not issubclass(kind, builtin)
        again = pickle.loads(pickle.dumps(kind("why")))
        assert type(again) is kind
        assert str(again) == f"[ONNXRuntimeError] : {kind.code} : {kind.status} : why"
        assert getattr(state, kind.__name__) is kind


def test_what_is_not_supported_says_so_by_name(tmp_path):
    ort = onnxplan.onnxruntime
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    for use, name in (
        (lambda: ort.LoraAdapter(), "LoraAdapter"),
        (lambda: ort.SparseTensor.sparse_coo_from_numpy(), "SparseTensor.sparse_coo_from_numpy"),
        (lambda: ort.get_ep_devices(), "get_ep_devices"),
        (lambda: ort.SessionOptions().register_custom_ops_library("x.so"), "register_custom_ops_library"),
        (lambda: ort.InferenceSession(sums(), options), "optimized_model_filepath"),
        (lambda: ort.InferenceSession(sums(), read_config_from_model=1), "read_config_from_model"),
    ):
        with pytest.raises(NotImplementedError, match=name):
            use()
        with pytest.raises(state.NotImplemented):
            use()


def test_sessions_pickle_with_options_and_providers(folder):
    ort = onnxplan.onnxruntime
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_initializer("y", ort.OrtValue.ortvalue_from_numpy(np.full(2, 9, np.float32)))
    for source in (sums(), folder / "model.onnx"):
        session = ort.InferenceSession(source, options, ["CPUExecutionProvider"])
        again = pickle.loads(pickle.dumps(session))
        assert again._model_path == session._model_path
        assert again.get_providers() == session.get_providers()
        assert again.get_session_options().intra_op_num_threads == 1
        np.testing.assert_array_equal(again.run(["z"], {"x": X})[0], X + 9)


class Picklable(onnxplan.onnxruntime.InferenceSession):
    """As insightface has it: only the path is kept."""

    def __init__(self, model_path, **options):
        super().__init__(model_path, **options)
        self.model_path = model_path

    def __getstate__(self):
        return {"model_path": self.model_path}

    def __setstate__(self, values):
        self.__init__(values["model_path"])


class Named(onnxplan.onnxruntime.InferenceSession):
    """A subclass with attributes of its own."""


@pytest.mark.parametrize("kind", [Picklable, Named])
def test_subclasses_pickle(folder, kind):
    session = kind(str(folder / "model.onnx"))
    session.label = "mine"
    again = pickle.loads(pickle.dumps(session))
    assert type(again) is kind
    assert getattr(again, "label", None) == ("mine" if kind is Named else None)
    np.testing.assert_array_equal(again.run(None, {"x": X})[0], X + 1)


def long_model(steps=200, extent=512):
    nodes = [helper.make_node("MatMul", [f"x{n}", "w"], [f"x{n + 1}"]) for n in range(steps)]
    return model(
        nodes, [info("x0", [extent, extent])], [info(f"x{steps}", None)], w=np.eye(extent, dtype=np.float32)
    )


def test_terminate_stops_a_run_in_progress_from_another_thread():
    ort = onnxplan.onnxruntime
    session = ort.InferenceSession(long_model())
    feeds = {"x0": np.zeros((512, 512), np.float32)}
    options = ort.RunOptions()

    def stop():
        time.sleep(0.01)
        options.terminate = True

    stopper = threading.Thread(target=stop)
    stopper.start()
    # Uninterrupted, this run takes fifty times as long as the other thread waits.
    with pytest.raises(state.Fail, match="terminate flag"):
        session.run(None, feeds, options)
    stopper.join()
    options.terminate = False
    assert not options.terminate


def test_terminated_options_stop_runs(ort):
    session = ort.InferenceSession(sums())
    options = ort.RunOptions()
    options.terminate = True
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.Fail, match="terminate flag"):
        session.run(None, {"x": X}, options)
    options.terminate = False
    np.testing.assert_array_equal(session.run(None, {"x": X}, options)[0], X + 1)


ASYNCHRONOUS = {
    "results": {"x": X},
    "wrong extent": {"x": np.ones((2, 3), np.float32)},
    "wrong type": {"x": X.astype(float)},
    "missing": {},
    "no tensor": {"x": 1.5},
}


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_run_async(name):
    def call(ort):
        session = ort.InferenceSession(sums())
        done = threading.Event()
        calls = []

        def callback(results, user_data, error):
            on_main = threading.current_thread() is threading.main_thread()
            calls.append((results, user_data, bool(error), on_main))
            done.set()

        session.run_async(["z"], ASYNCHRONOUS[name], callback, "mine")
        assert done.wait(10)
        return [calls[0][0], *calls[0][1:]]

    same(call)


def test_run_async_works_with_one_thread_and_says_what_failed():
    ort = onnxplan.onnxruntime
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(sums(), options)
    errors: list[str] = []
    finished = threading.Semaphore(0)

    def callback(results, expected, error):
        errors.append(error)
        if expected is not None:
            np.testing.assert_array_equal(results[0], expected)
        finished.release()

    for number in range(20):
        session.run_async(["z"], {"x": X + number}, callback, X + number + 1)
    session.run_async(["z"], {"x": X[0]}, callback, None)
    for _ in range(21):
        assert finished.acquire(timeout=10)
    assert sorted(errors)[:20] == [""] * 20
    assert sorted(errors)[20].startswith("Invalid rank for input: x")


def test_random_numbers_follow_the_seed():
    nodes = [helper.make_node("RandomNormalLike", ["x"], ["z"])]
    content = model(nodes, [info("x", [4])], [info("z", [4])])
    feeds = {"x": np.zeros(4, np.float32)}

    def drawn(ort, seed):
        ort.set_seed(seed)
        session = ort.InferenceSession(content)
        return [session.run(None, feeds)[0].tolist() for _ in range(2)]

    for ort in (onnxruntime, onnxplan.onnxruntime):
        first, second = drawn(ort, 3), drawn(ort, 4)
        assert first == drawn(ort, 3)
        assert first != second
        assert first[0] != first[1]


def test_free_functions():
    for name in ("get_all_providers", "get_version_string", "has_collective_ops", "disable_telemetry_events"):
        same(lambda ort, name=name: getattr(ort, name)())
    assert outcome(lambda ort: ort.set_default_logger_severity(7), onnxplan.onnxruntime)[0] == "RuntimeError"
    assert "onnxplan" in onnxplan.onnxruntime.get_build_info()


def test_the_logger_has_the_severity(caplog):
    import logging

    logger = logging.getLogger("onnxplan")
    level = logger.level
    try:
        for severity, expected in enumerate((10, 20, 30, 40, 50)):
            onnxplan.onnxruntime.set_default_logger_severity(severity)
            assert logger.level == expected
    finally:
        logger.setLevel(level)


def test_paths_of_artifacts_are_opened(tmp_path):
    onnxplan.compile(sums([2, 2], {"key": "value"}), tmp_path / "model.plan")
    session = onnxplan.onnxruntime.InferenceSession(pathlib.Path(tmp_path / "model.plan"))
    assert session.get_inputs()[0].shape == [2, 2]
    assert session.get_modelmeta().custom_metadata_map == {"key": "value"}
    np.testing.assert_array_equal(session.run(["r"], {"x": -X})[0], np.maximum(1 - X, 0))


def test_models_that_were_seen_before_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(origin, "RACY_SECONDS", -5.0)
    monkeypatch.delenv("ONNXPLAN_VERIFY", raising=False)
    monkeypatch.setenv("ONNXPLAN_CACHE_DIR", str(tmp_path / "store"))
    message = onnx.load_from_string(sums(["n", 2], {"key": "value"}))
    message.producer_name, message.domain, message.model_version = "me", "here", 5
    message.doc_string, message.graph.doc_string = "model", "graph"
    path = tmp_path / "model.onnx"
    path.write_bytes(message.SerializeToString())

    def call(ort):
        session = ort.InferenceSession(path)
        meta = session.get_modelmeta()
        names = ("producer_name", "graph_name", "domain", "description", "graph_description", "version")
        return (
            metas(session.get_inputs()),
            metas(session.get_outputs()),
            [getattr(meta, name) for name in (*names, "custom_metadata_map")],
            session.run(None, {"x": X}),
        )

    same(call)
    first = onnxplan.onnxruntime.InferenceSession(path)
    first.run(None, {"x": X})
    first._sess._engine.settle(wait=True)
    assert len(list(tmp_path.rglob("*.model"))) == 1
    assert isinstance(onnxplan.onnxruntime.InferenceSession(path)._sess._engine.planner, ArtifactPlanner)
    same(call)
    # What is overridden is another model.
    options = onnxplan.onnxruntime.SessionOptions()
    options.add_free_dimension_override_by_name("n", 3)
    session = onnxplan.onnxruntime.InferenceSession(path, options)
    assert session.get_inputs()[0].shape == [3, 2]
    assert not isinstance(session._sess._engine.planner, ArtifactPlanner | KeepingPlanner)
