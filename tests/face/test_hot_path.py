"""Plain feeds are checked by native code, anything else by Python: what is accepted must be the same."""

import asyncio
import pickle

import numpy as np
import pytest
from onnx import TensorProto, helper

import onnxplan
from onnxplan import InvalidFeedsError
from onnxplan.runtime.cancellation import CancelFlag


@pytest.fixture
def session():
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with onnxplan.InferenceSession(model) as opened:
        opened.run_sync({"x": np.zeros((3, 4), np.float32)})
        yield opened


def values(dtype=np.float32):
    return np.arange(-6, 6).reshape(3, 4).astype(dtype)


PLAIN = {
    "fresh": values(),
    "unpickled": pickle.loads(pickle.dumps(values())),
    "read-only": np.frombuffer(values().tobytes(), np.float32).reshape(3, 4),
}
OTHERS = {
    "strided": np.repeat(values(), 2, 1)[:, ::2],
    "transposed": np.asfortranarray(values()),
    "byte-swapped": values(">f4"),
    "misaligned": np.frombuffer(b"\0" + values().tobytes(), np.float32, offset=1).reshape(3, 4),
    "other shape": values()[:2],
    "list": values().tolist(),
    "subclass": values().view(np.matrix),
}
REFUSED = {
    "dtype of equal size": values(np.int32),
    "wider dtype": values(np.float64),
    "rank": values().reshape(3, 2, 2),
    "extent": values().reshape(4, 3),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_feeds_take_the_hot_path(session, name):
    results = session._try_recent(session._recent, {"x": PLAIN[name]}, "cpu")
    np.testing.assert_array_equal(results["y"].numpy(), np.maximum(values(), 0))


@pytest.mark.parametrize("name", OTHERS)
def test_other_feeds_do_not_but_work(session, name):
    feeds = {"x": OTHERS[name]}
    assert session._try_recent(session._recent, feeds, "cpu") is None
    np.testing.assert_array_equal(
        session.run_sync(feeds)["y"].numpy(), np.maximum(np.asarray(OTHERS[name]), 0)
    )


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_feeds_are_refused_on_both_paths(session, name):
    feeds = {"x": REFUSED[name]}
    assert session._try_recent(session._recent, feeds, "cpu") is None
    with pytest.raises(InvalidFeedsError, match="input x"):
        session.run_sync(feeds)
    np.testing.assert_array_equal(session.run_sync({"x": values()})["y"].numpy(), np.maximum(values(), 0))


@pytest.fixture
def handing_over(session):
    """A session whose runs are a worker thread's."""
    session._inline_seconds = 0.0
    return session


@pytest.mark.parametrize("name", PLAIN)
def test_plain_feeds_are_handed_over_as_they_are(handing_over, name, monkeypatch):
    monkeypatch.setattr(handing_over, "_check", lambda *_: pytest.fail("were checked at length"))
    results = asyncio.run(handing_over.run({"x": PLAIN[name]}))
    np.testing.assert_array_equal(results["y"].numpy(), np.maximum(values(), 0))


@pytest.mark.parametrize("name", OTHERS)
def test_other_feeds_are_converted_before(handing_over, name):
    feeds = {"x": OTHERS[name]}
    assert handing_over._recent.fitting(feeds) is None
    results = asyncio.run(handing_over.run(feeds))
    np.testing.assert_array_equal(results["y"].numpy(), np.maximum(np.asarray(OTHERS[name]), 0))


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_feeds_are_handed_to_no_thread(handing_over, name, monkeypatch):
    monkeypatch.setattr(handing_over, "_submit", lambda _: pytest.fail("was handed over"))
    with pytest.raises(InvalidFeedsError, match="input x"):
        asyncio.run(handing_over.run({"x": REFUSED[name]}))


@pytest.mark.parametrize("feeds", [{}, {"y": values()}, {"x": values(), "y": values()}], ids=len)
def test_wrong_names_are_handed_to_no_thread(handing_over, feeds, monkeypatch):
    monkeypatch.setattr(handing_over, "_submit", lambda _: pytest.fail("was handed over"))
    with pytest.raises(InvalidFeedsError):
        asyncio.run(handing_over.run(feeds))


def test_plans_are_kept_for_later_processes_behind_such_runs_too(handing_over):
    handing_over._engine._settled = False
    asyncio.run(handing_over.run({"x": values()}))
    assert handing_over._engine._settled


def test_inputs_are_told_apart_by_name_when_they_are_handed_over():
    infos = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "abc"}
    graph = helper.make_graph(
        [helper.make_node("Sub", ["b", "a"], ["c"])], "sub", [infos["a"], infos["b"]], [infos["c"]]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    a, b = np.arange(4, dtype=np.float32), np.full(4, 10, np.float32)
    with onnxplan.InferenceSession(model) as session:
        session._inline_seconds = 0.0

        async def runs():
            for feeds in ({"a": a, "b": b}, {"b": b, "a": a}):
                results = await session.run(feeds)
                np.testing.assert_array_equal(results["c"].numpy(), b - a)
                assert session._recent is not None

        asyncio.run(runs())


def test_runs_that_wait_when_the_session_closes_are_refused(handing_over):
    stage = handing_over._recent
    handing_over.close()
    with pytest.raises(onnxplan.SessionClosedError, match="before the run began"):
        handing_over._run_fitting(stage, (values(),), False, CancelFlag())
    with pytest.raises(onnxplan.SessionClosedError):
        asyncio.run(handing_over.run({"x": values()}))


@pytest.mark.parametrize("rows", [(3,), (3, 4)], ids=["one shape", "two shapes in turn"])
def test_runs_inside_the_coroutine_let_others_run(session, rows):
    """Awaiting short runs one after the other must not keep the event loop to oneself."""
    ticks = 0

    async def ticker():
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    async def runs():
        feeds = [{"x": np.ones((n, 4), np.float32)} for n in rows]
        for each in feeds:
            session.run_sync(each)
        other = asyncio.create_task(ticker())
        for number in range(20_000):
            await session.run(feeds[number % len(feeds)])
        other.cancel()

    asyncio.run(runs())
    assert ticks >= 20
