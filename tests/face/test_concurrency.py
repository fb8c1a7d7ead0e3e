"""Tasks, threads, event loops and processes on the same session."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading

import numpy as np
import pytest
from face_models import EXTENT, A, B, C, long_model, product_model, sums_model

import onnxplan


@pytest.fixture(scope="module")
def slow():
    with onnxplan.InferenceSession(long_model()) as session:
        yield session


def matrix(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((EXTENT, EXTENT)).astype(np.float32)


def test_the_event_loop_stays_responsive(slow):
    """While a long run goes on, other coroutines get their turns: many more than beside a blocked loop."""

    async def main():
        ticks = 0
        running = asyncio.create_task(slow.run({"x": matrix(0)}))
        while not running.done():
            await asyncio.sleep(0)
            ticks += 1
        return ticks, running.result()

    ticks, results = asyncio.run(main())
    np.testing.assert_array_equal(results["y"], slow.run_sync({"x": matrix(0)})["y"])
    assert ticks > 20


@pytest.mark.parametrize("max_concurrency", [None, 1, 3])
def test_many_tasks_get_their_own_results(max_concurrency):
    with onnxplan.InferenceSession(sums_model(["n", "m"]), max_concurrency=max_concurrency) as session:

        async def one(seed):
            random = np.random.default_rng(seed)
            # Two sizes: one that runs inline, and one for the workers.
            shape = (3, 4) if seed % 2 else (300, 4000)
            x, y = random.standard_normal((2, *shape)).astype(np.float32)
            for _ in range(5):
                results = await session.run({"x": x, "y": y})
                np.testing.assert_array_equal(results["s"], x + y)
                np.testing.assert_array_equal(results["p"], x * y)
            return seed

        async def main():
            return await asyncio.gather(*(one(seed) for seed in range(16)))

        assert asyncio.run(main()) == list(range(16))


def test_max_concurrency_is_kept(slow):
    """Never more runs than places, over all event loops, and never fewer than one."""
    with onnxplan.InferenceSession(long_model(4), max_concurrency=1) as session:
        seen = []

        def watched(real):
            def run(*arguments, **options):
                seen.append(len(session._running))
                return real(*arguments, **options)

            return run

        session._run_request, session._run_fitting = map(
            watched, (session._run_request, session._run_fitting)
        )

        async def main():
            await asyncio.gather(*(session.run({"x": matrix(i)}) for i in range(4)))

        threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
        assert seen == [0] * 12


def test_many_threads(slow):
    right = {seed: slow.run_sync({"x": matrix(seed)})["y"].numpy() for seed in range(4)}
    wrong = []

    def work(seed):
        for _ in range(3):
            if not np.array_equal(slow.run_sync({"x": matrix(seed)})["y"], right[seed]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in right]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_event_loops_in_several_threads():
    with onnxplan.InferenceSession(sums_model(["n"])) as session:
        problems = []

        async def main(seed):
            x = np.full(100_000 if seed % 2 else 10, seed, np.float32)
            for _ in range(10):
                results = await asyncio.gather(*(session.run({"x": x, "y": x}) for _ in range(3)))
                for result in results:
                    if not (result["s"].numpy() == 2 * seed).all():
                        problems.append(seed)

        threads = [threading.Thread(target=lambda seed=seed: asyncio.run(main(seed))) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
        assert not problems


def test_one_session_in_event_loops_one_after_the_other():
    for places in (None, 1):
        with onnxplan.InferenceSession(product_model(), max_concurrency=places) as session:
            for _ in range(3):
                results = asyncio.run(session.run({"a": A.tolist(), "b": B}))
                np.testing.assert_array_equal(results["c"], C)


def test_new_shapes_are_planned_while_others_run():
    with onnxplan.InferenceSession(sums_model(["n"]), max_plans=4) as session:

        async def one(extent):
            x = np.arange(extent, dtype=np.float32)
            for _ in range(3):
                results = await session.run({"x": x, "y": x})
                np.testing.assert_array_equal(results["s"], 2 * x)

        async def main():
            await asyncio.gather(*(one(extent) for extent in [*range(1, 10), *range(100_000, 100_005)]))

        asyncio.run(main())


# Cancellation


@pytest.mark.parametrize("places", [None, 1])
def test_a_cancelled_task_frees_its_place(places):
    with onnxplan.InferenceSession(long_model(100), max_concurrency=places) as session:

        async def main():
            for _ in range(3):
                task = asyncio.create_task(session.run({"x": matrix(0)}))
                while not session._running:
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            return await session.run({"x": matrix(1)})

        results = asyncio.run(main())
        np.testing.assert_array_equal(results["y"], session.run_sync({"x": matrix(1)})["y"])


@pytest.mark.parametrize("places", [None, 1])
def test_tasks_that_wait_can_be_cancelled(places):
    """The first run has the only place, so most of the others are cancelled while they wait."""
    with onnxplan.InferenceSession(long_model(10), max_concurrency=places) as session:

        async def main():
            tasks = [asyncio.create_task(session.run({"x": matrix(0)})) for _ in range(8)]
            await asyncio.sleep(0)
            for task in tasks[1:7]:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(item, asyncio.CancelledError) for item in outcomes] == [
                False,
                *[True] * 6,
                False,
            ]
            np.testing.assert_array_equal(outcomes[0]["y"], outcomes[7]["y"])
            return await session.run({"x": matrix(0)})

        asyncio.run(main())
        assert not session._running


def test_a_timeout_ends_a_run(slow):
    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(slow.run({"x": matrix(0)}), 0.001)
        return await slow.run({"x": matrix(2)})

    results = asyncio.run(main())
    np.testing.assert_array_equal(results["y"], slow.run_sync({"x": matrix(2)})["y"])


def test_an_event_loop_that_ends_early():
    """What was left running is cancelled, and the session serves the next event loop."""
    with onnxplan.InferenceSession(long_model(10), max_concurrency=1) as session:

        async def main():
            tasks = [asyncio.create_task(session.run({"x": matrix(0)})) for _ in range(3)]
            await asyncio.sleep(0)
            return tasks

        for task in asyncio.run(main()):
            assert task.cancelled()
        asyncio.run(session.run({"x": matrix(0)}))


# Closing


@pytest.mark.parametrize("places", [None, 1])
def test_closing_on_the_event_loop_while_tasks_wait(places):
    """It returns, and every task ends: with results, or refused."""
    session = onnxplan.InferenceSession(long_model(10), max_concurrency=places)

    async def main():
        tasks = [asyncio.create_task(session.run({"x": matrix(0)})) for _ in range(6)]
        while not session._running:
            await asyncio.sleep(0)
        session.close()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 120)

    outcomes = asyncio.run(main())
    kinds = {type(outcome) for outcome in outcomes}
    assert kinds <= {dict, onnxplan.SessionClosedError}
    assert onnxplan.SessionClosedError in kinds
    assert not session._running


def test_leaving_the_context_leaves_the_event_loop_free():
    async def main():
        async with onnxplan.InferenceSession(long_model(10)) as session:
            task = asyncio.create_task(session.run({"x": matrix(0)}))
            await asyncio.sleep(0)
        return await asyncio.gather(task, return_exceptions=True)

    (outcome,) = asyncio.run(main())
    assert isinstance(outcome, (dict, onnxplan.SessionClosedError))


# Processes


def _run_in_child(session, queue):
    async def main():
        results = await session.run({"a": A, "b": B})
        again = await asyncio.gather(*(session.run({"a": A.tolist(), "b": B}) for _ in range(4)))
        return [results, *again, session.run_sync({"a": A, "b": B})]

    right = all(np.array_equal(results["c"], C) for results in asyncio.run(main()))
    session.close()
    queue.put(right)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_children_of_a_fork():
    """The parent has run before and goes on while its children run."""
    with onnxplan.InferenceSession(product_model("rows", 4, 3), max_concurrency=2) as session:
        asyncio.run(session.run({"a": A.tolist(), "b": B}))
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        children = [context.Process(target=_run_in_child, args=(session, queue)) for _ in range(2)]
        for child in children:
            child.start()
        np.testing.assert_array_equal(session.run_sync({"a": A, "b": B})["c"], C)
        assert [queue.get(timeout=120) for _ in children] == [True, True]
        for child in children:
            child.join(60)
            assert child.exitcode == 0
        np.testing.assert_array_equal(session.run_sync({"a": A, "b": B})["c"], C)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_other_threads_run(slow):
    """Runs in flight in the parent do not exist in the child: it runs, and closing does not wait for them."""
    stop = threading.Event()

    def work():
        while not stop.is_set():
            slow.run_sync({"x": matrix(0)})

    thread = threading.Thread(target=work)
    thread.start()
    try:
        while not slow._running:
            pass
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=_close_in_child, args=(slow, queue))
        child.start()
        assert queue.get(timeout=120) == EXTENT
        child.join(60)
        assert child.exitcode == 0
    finally:
        stop.set()
        thread.join()
    assert not slow.closed


def _close_in_child(session, queue):
    results = session.run_sync({"x": matrix(1)})
    session.close()
    queue.put(results["y"].dims[0])


def test_spawned_processes():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with onnxplan.InferenceSession(product_model()) as session:
        child = context.Process(target=_run_in_child, args=(session, queue))
        child.start()
        assert queue.get(timeout=120) is True
        child.join(60)
        assert child.exitcode == 0
