"""Plain feeds are checked by native code, anything else by Python: what is accepted must be the same."""

import asyncio
import pickle

import numpy as np
import pytest
from onnx import TensorProto, helper

import onnxplan
from onnxplan import InvalidFeedsError


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
