"""Awaited runs of small plans on a device: started by the event loop, without a worker thread."""

from __future__ import annotations

import asyncio
import gc
import threading

import numpy as np
import pytest
from face_models import sums_model

import onnxplan
from onnxplan import SessionClosedError

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def cuda(emulated_cuda):
    yield emulated_cuda.standin
    emulated_cuda.standin.query_steps = 1
    gc.collect()
    emulated_cuda.check()


@pytest.fixture
def session(cuda):
    with onnxplan.InferenceSession(sums_model(["n", 3]), device="cuda") as opened:
        for _ in range(2):
            opened.run_sync({"x": X, "y": X})
        yield opened


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def check(results, x=X, y=X):
    np.testing.assert_array_equal(results["s"], x + y)
    np.testing.assert_array_equal(results["p"], x * y)


def test_no_other_thread_is_needed(session, cuda):
    cuda.query_steps = 100
    before = names()

    async def runs():
        for number in range(20):
            check(await session.run({"x": X + number, "y": X}), X + number)

    cuda.counters.clear()
    asyncio.run(runs())
    assert names() == before
    assert cuda.counters.copies == {"host to device": 20, "device to host": 20}
    assert cuda.counters.calls["graphLaunch"] == cuda.counters.calls["eventRecord"] == 20
    assert cuda.counters.synchronisations == 0


def test_what_takes_longer_is_waited_for_by_one_thread(session, cuda):
    cuda.query_steps = 0

    async def runs():
        return await asyncio.gather(*(session.run({"x": X + n, "y": X}) for n in range(12)))

    for _ in range(3):
        for number, results in enumerate(asyncio.run(runs())):
            check(results, X + number)
    assert "onnxplan-cuda:0-waiter-1" in names()
    assert "onnxplan-cuda:0-waiter-2" not in names()


def test_more_tasks_than_slots_need_no_worker(session, cuda, monkeypatch):
    """The event loop queues a second run in each slot."""

    async def runs(count):
        return await asyncio.gather(*(session.run({"x": X + n, "y": X}) for n in range(count)))

    # Each slot has its graph after two runs.
    executor = session._recent.executor
    arrays = [
        tuple(np.zeros(binding.shape, binding.dtype.numpy) for binding in bindings)
        for bindings in (executor.plan.inputs, executor.plan.outputs)
    ]
    for _ in range(2):
        for run in [executor.launch(*arrays) for _ in range(4)]:
            run.wait()
    cuda.query_steps = 0
    monkeypatch.setattr(session, "_submit", None)
    cuda.counters.clear()
    for number, results in enumerate(asyncio.run(runs(8))):
        check(results, X + number)
    assert cuda.counters.calls["graphLaunch"] == cuda.counters.calls["eventRecord"] == 8
    assert cuda.counters.copies == {"host to device": 8, "device to host": 8}
    assert executor.memory().slots == 4


def test_results_stay_on_the_device(session, cuda):
    async def runs():
        first = await session.run({"x": X, "y": X}, outputs="device")
        return await session.run({"x": first["s"], "y": first["p"]}, outputs="device")

    asyncio.run(runs())
    cuda.counters.clear()
    results = asyncio.run(runs())
    assert {tensor.location for tensor in results.values()} == {"cuda:0"}
    assert set(cuda.counters.copies) == {"host to device", "device to device"}
    check({name: tensor.numpy() for name, tensor in results.items()}, 2 * X, X * X)


def test_shapes_in_turn(session, cuda):
    feeds = [{"x": np.ones((n, 3), np.float32), "y": np.ones((n, 3), np.float32)} for n in (2, 4)]
    for _ in range(2):
        for each in feeds:
            session.run_sync(each)
    before = cuda.counters.calls["graphLaunch"]

    async def runs():
        for number in range(10):
            results = await session.run(feeds[number % 2])
            assert results["s"].dims == (2 + 2 * (number % 2), 3)

    known = names()
    asyncio.run(runs())
    assert cuda.counters.calls["graphLaunch"] == before + 10
    assert {name for name in names() - known if "waiter" not in name} == set()


def test_a_cancelled_task_leaves_the_run_to_the_thread(session, cuda):
    cuda.query_steps = 0

    async def runs():
        task = asyncio.create_task(session.run({"x": X, "y": X}))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for number in range(8):
            check(await session.run({"x": X + number, "y": X}), X + number)

    asyncio.run(runs())
    session.close()


def test_closing_waits_for_what_was_started(session, cuda):
    cuda.query_steps = 0

    async def runs():
        task = asyncio.create_task(session.run({"x": X, "y": X}))
        await asyncio.sleep(0)
        session.close()
        check(await task)
        with pytest.raises(SessionClosedError):
            await session.run({"x": X, "y": X})

    asyncio.run(runs())


def test_a_limit_of_runs_is_kept(cuda):
    model = sums_model(["n", 3])
    with onnxplan.InferenceSession(model, device="cuda", max_concurrency=2) as session:
        for _ in range(2):
            session.run_sync({"x": X, "y": X})
        cuda.query_steps = 0

        async def runs():
            return await asyncio.gather(*(session.run({"x": X + n, "y": X}) for n in range(9)))

        for number, results in enumerate(asyncio.run(runs())):
            check(results, X + number)
        assert session._recent.executor.memory().slots <= 2


def test_a_device_that_fails_says_so(cuda, session):
    cuda.faults.fail_call("graphLaunch", 1)
    with pytest.raises(onnxplan.OnnxPlanError, match="CUDA error 1"):
        asyncio.run(session.run({"x": X, "y": X}))
    check(asyncio.run(session.run({"x": X, "y": X})))
