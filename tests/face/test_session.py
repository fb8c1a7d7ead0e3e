"""Sessions: how they are made, what they tell, plans, pickling, closing."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import logging
import pathlib
import pickle
import re
import subprocess
import sys
import threading
import weakref

import numpy as np
import onnx
import pytest
from face_models import EXTENT, A, B, C, copy_model, long_model, model, node, product_model, value
from onnx import helper

import onnxplan

FEEDS = {"a": A, "b": B}


def check(session):
    np.testing.assert_array_equal(session.run_sync(FEEDS)["c"], C)


def saved(tmp_path, proto=None) -> pathlib.Path:
    path = tmp_path / "model.onnx"
    onnx.save(proto or product_model(), path)
    return path


# Making


def test_every_way_to_give_a_model(tmp_path):
    path = saved(tmp_path)
    for source in (path, str(path), path.read_bytes(), bytearray(path.read_bytes()), product_model()):
        with onnxplan.InferenceSession(source) as session:
            check(session)


def test_create_makes_a_session_off_the_event_loop():
    async def main():
        async with await onnxplan.InferenceSession.create(product_model(), threads=1) as session:
            results = await session.run(FEEDS)
        assert session.closed
        return results

    np.testing.assert_array_equal(asyncio.run(main())["c"], C)


def test_errors_of_making_are_raised_by_both_forms(tmp_path):
    missing = tmp_path / "none.onnx"
    for options, kind in (
        ({}, FileNotFoundError),
        ({"device": "tpu"}, ValueError),
        ({"thread": 1}, TypeError),
    ):
        with pytest.raises(kind):
            onnxplan.InferenceSession(missing, **options)
        with pytest.raises(kind):
            asyncio.run(onnxplan.InferenceSession.create(missing, **options))


def test_unsupported_operators_are_listed():
    proto = model([node("Nonsense", "x", "y", name="n")], [value("x", [1])], ["y"])
    with pytest.raises(onnxplan.UnsupportedOperatorError, match="Nonsense") as caught:
        onnxplan.InferenceSession(proto)
    assert caught.value.operators == (("", "Nonsense", 17, ("n",)),)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"math": "exact"}, ValueError, "'strict' or 'fast', not 'exact'"),
        ({"threads": 0}, ValueError, "threads must be at least 1, not 0"),
        ({"threads": "2"}, TypeError, "threads must be an integer, not '2'"),
        ({"threads": True}, TypeError, "threads must be an integer"),
        ({"max_concurrency": 0}, ValueError, "max_concurrency must be at least 1"),
        ({"max_concurrency": 1.5}, TypeError, "max_concurrency must be an integer"),
        ({"max_plans": 0}, ValueError, "max_plans must be at least 1"),
        ({"max_plans": None}, TypeError, "max_plans must be an integer"),
        ({"optimize": 2}, ValueError, "optimize must be 0 or 1"),
        ({"device": "tpu"}, ValueError, "unknown device 'tpu'; expected 'cpu', 'cuda', 'cuda:N' or 'auto'"),
        ({"device": "cuda:x"}, ValueError, "unknown device 'cuda:x'"),
        ({"device": "CPU"}, ValueError, "unknown device 'CPU'"),
        ({"device": None}, TypeError, "device must be a string"),
        ({"devise": "cpu"}, TypeError, "devise"),
    ],
    ids=str,
)
def test_options_that_do_not_exist(options, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        onnxplan.InferenceSession(product_model(), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 1},
        {"threads": 4},
        {"math": "fast"},
        {"cache": False},
        {"optimize": 0},
        {"max_plans": 1},
        {"max_concurrency": 1},
        {"device": "auto"},
    ],
    ids=str,
)
def test_options(options):
    with onnxplan.InferenceSession(product_model(), **options) as session:
        check(session)


def test_cuda_is_never_replaced_silently():
    outcome = "unavailable"
    with contextlib.suppress(onnxplan.DeviceUnavailableError):
        outcome = onnxplan.InferenceSession(product_model(), device="cuda").device
    assert outcome == "unavailable" or outcome.startswith("cuda:")
    if outcome == "unavailable":
        with pytest.raises(onnxplan.DeviceUnavailableError, match=r"\w+ \w+ \w+") as caught:
            onnxplan.InferenceSession(product_model(), device="cuda")
        assert isinstance(caught.value, RuntimeError)


def test_auto_tells_what_it_chose(caplog):
    caplog.set_level(logging.INFO, "onnxplan")
    with onnxplan.InferenceSession(product_model(), device="auto") as session:
        check(session)
    assert re.fullmatch(r"cpu|cuda:\d+", session.device)
    assert any("auto" in record.getMessage() for record in caplog.records)


# Metadata


def test_metadata():
    proto = product_model("rows", 4, None)
    helper.set_model_props(proto, {"author": "somebody"})
    session = onnxplan.InferenceSession(proto)
    assert session.input_names == ("a", "b")
    assert session.output_names == ("c",)
    a, b = session.inputs
    assert (a.name, a.type, a.dims) == ("a", "float32", ("rows", 4))
    assert (b.name, b.type, b.dims) == ("b", "float32", (4, None))
    assert str(a) == "a: float32[rows, 4]"
    assert session.optional_inputs == ()
    assert session.device == "cpu"
    assert session.metadata == {"author": "somebody"}
    session.metadata["author"] = "changed"
    assert session.metadata == {"author": "somebody"}
    assert repr(session).startswith("<InferenceSession on cpu: (a: float32[rows, 4], b: float32[4, ?])")
    session.close()
    assert "closed" in repr(session)
    assert session.input_names == ("a", "b")


def test_what_a_model_does_not_declare_is_known_where_shapes_are_fixed():
    with onnxplan.InferenceSession(product_model()) as session:
        (c,) = session.outputs
        assert str(c) == "c: float32[3, 3]"
    with onnxplan.InferenceSession(product_model("rows", 4, 3)) as session:
        (c,) = session.outputs
        assert (c.type, c.dims) == (None, None)
        assert str(c) == "c: ?[...]"


# Pickling


@pytest.mark.parametrize("kind", ["path", "text", "bytes", "proto"])
def test_pickling(kind, tmp_path, monkeypatch):
    path = saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    source = {
        "path": pathlib.Path("model.onnx"),
        "text": "model.onnx",
        "bytes": path.read_bytes(),
        "proto": product_model(),
    }[kind]
    options = {"threads": 1, "math": "fast", "max_plans": 5, "max_concurrency": 2, "optimize": 0}
    with onnxplan.InferenceSession(source, **options) as session:
        data = pickle.dumps(session)
        monkeypatch.chdir("/")
        with pickle.loads(data) as again:
            assert type(again) is onnxplan.InferenceSession
            assert again._options == session._options
            check(again)
        with copy.copy(session) as again:
            check(again)
    assert len(data) < 2000
    # A closed one too: what is pickled is how to make it.
    with pickle.loads(pickle.dumps(session)) as again:
        check(again)


def test_pickles_load_in_another_process(tmp_path):
    with onnxplan.InferenceSession(product_model()) as session:
        (tmp_path / "session.pickle").write_bytes(pickle.dumps(session))
    code = (
        "import pickle, sys, numpy as np\n"
        "session = pickle.load(open(sys.argv[1], 'rb'))\n"
        "a, b = np.ones((3, 4), np.float32), np.ones((4, 3), np.float32)\n"
        "print(session.run_sync({'a': a, 'b': b})['c'].data.tolist())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "session.pickle")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str([4.0] * 9)


# Closing


def refuses_everything(session):
    calls = (
        lambda: session.run_sync(FEEDS),
        lambda: session.run_sync({}),
        lambda: session.run_sync(FEEDS, ["c"]),
        lambda: asyncio.run(session.run(FEEDS)),
        lambda: asyncio.run(session.warmup()),
        lambda: session.plan(),
        lambda: session.plans(),
    )
    for call in calls:
        with pytest.raises(onnxplan.SessionClosedError, match="closed"):
            call()


def test_a_closed_session_raises():
    session = onnxplan.InferenceSession(product_model())
    check(session)
    assert not session.closed
    session.close()
    assert session.closed
    session.close()
    session.close(wait=False)
    refuses_everything(session)


def test_context_managers():
    with onnxplan.InferenceSession(product_model()) as session:
        check(session)
    refuses_everything(session)

    async def main():
        async with onnxplan.InferenceSession(product_model()) as session:
            await session.run(FEEDS)
        return session

    refuses_everything(asyncio.run(main()))
    with pytest.raises(KeyError), onnxplan.InferenceSession(product_model()) as session:
        raise KeyError
    assert session.closed


def test_results_outlive_their_session():
    with onnxplan.InferenceSession(product_model()) as session:
        results = session.run_sync(FEEDS)
    del session
    gc.collect()
    np.testing.assert_array_equal(results["c"], C)


def test_closing_waits_for_runs_in_flight():
    session = onnxplan.InferenceSession(long_model())
    x = np.eye(EXTENT, dtype=np.float32)
    results, begun = [], threading.Event()

    def run():
        begun.set()
        results.append(session.run_sync({"x": x}))

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    while not session._running and not results:
        pass
    if not results:
        with pytest.raises(RuntimeError, match="in flight"):
            session.close(wait=False)
        assert not session.closed
    session.close()
    assert not session._running
    thread.join()
    assert len(results) == 1


def test_closing_from_many_threads():
    session = onnxplan.InferenceSession(long_model(10))
    x = np.eye(EXTENT, dtype=np.float32)
    outcomes = []

    def run():
        try:
            session.run_sync({"x": x})
            outcomes.append("run")
        except onnxplan.SessionClosedError:
            outcomes.append("refused")

    threads = [threading.Thread(target=run) for _ in range(4)]
    threads += [threading.Thread(target=session.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(outcomes) == 4
    refuses_everything(session)


def test_a_session_that_is_forgotten_is_released():
    session = onnxplan.InferenceSession(copy_model(1))
    session.run_sync({"x": np.zeros(3, np.float32)})
    reference = weakref.ref(session)
    engine = weakref.ref(session._engine)
    del session
    gc.collect()
    assert reference() is None
    assert engine() is None
