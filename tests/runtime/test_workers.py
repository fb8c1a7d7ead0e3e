"""Asynchronous work on the process's worker threads."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref

import pytest

from onnxplan.runtime.workers import Workers, workers_for

SECONDS = 30


def test_result_error_and_thread():
    async def main():
        loop_thread = threading.current_thread()
        thread = await workers_for("cpu", 2).submit(lambda _flag: threading.current_thread())
        assert thread is not loop_thread
        assert thread.daemon
        with pytest.raises(ZeroDivisionError):
            await workers_for("cpu", 2).submit(lambda _flag: 1 // 0)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await workers_for("cpu", 2).submit(lambda _flag: next(iter(())))

    asyncio.run(main())


def test_event_loop_stays_free():
    async def main():
        gate = threading.Event()
        job = workers_for("cpu", 2).submit(lambda _flag: gate.wait(SECONDS))
        await asyncio.sleep(0)
        assert not job.done()
        gate.set()
        assert await job

    asyncio.run(main())


def test_threads_are_bounded_and_all_work_is_done():
    pool = Workers(3)
    running, most, lock = 0, 0, threading.Lock()

    def work(number):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.001)
        with lock:
            running -= 1
        return number

    async def main():
        return await asyncio.gather(*(pool.submit(lambda _flag, n=n: work(n)) for n in range(100)))

    assert asyncio.run(main()) == list(range(100))
    assert pool.threads <= 3
    assert most <= 3
    pool.stop()


def test_what_happens_where_no_thread_can_be_started(monkeypatch, caplog):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    pool = Workers(3)
    release = threading.Event()

    async def main():
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pool.submit(lambda _flag: calls.append("refused"))
        first = pool.submit(lambda _flag: release.wait(SECONDS))
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            second = pool.submit(lambda _flag: "done after the first")
        release.set()
        return await asyncio.gather(first, second)

    calls = []
    assert asyncio.run(main()) == [True, "done after the first"]
    assert pool.threads == 1
    assert not calls
    assert "cannot start a worker thread" in caplog.text
    pool.stop()


def test_threads_are_made_only_as_needed():
    pool = Workers(4)

    async def main():
        for _ in range(20):
            await pool.submit(lambda _flag: None)
            await asyncio.sleep(0.002)

    asyncio.run(main())
    assert 1 <= pool.threads <= 2
    pool.stop()


def test_workers_tell_how_many_have_work():
    told = []
    pool = Workers(2, announce=told.append)
    gates = [threading.Event() for _ in range(3)]

    async def main():
        jobs = [pool.submit(lambda _flag, gate=gate: gate.wait(SECONDS)) for gate in gates]
        while told != [1, 2]:
            await asyncio.sleep(0.001)
        for gate in gates:
            gate.set()
        assert all(await asyncio.gather(*jobs))
        while told[-1]:
            await asyncio.sleep(0.001)
        assert told == [1, 2, 1, 0]
        assert await pool.submit(lambda _flag: told[-1]) == 1

    asyncio.run(main())
    pool.stop()


def test_cancelled_work_that_waits_is_dropped_at_once():
    class Feed:
        pass

    async def main():
        pool = Workers(1)
        gate = threading.Event()
        first = pool.submit(lambda _flag: gate.wait(SECONDS))
        feed, done = Feed(), []
        kept = weakref.ref(feed)
        waiting = pool.submit(lambda _flag, feed=feed: done.append(feed))
        del feed
        assert waiting.cancel()
        assert not waiting.cancel()
        gc.collect()
        assert kept() is None
        gate.set()
        assert await first
        assert await pool.submit(lambda _flag: 5) == 5
        assert not done
        pool.stop()

    asyncio.run(main())


def test_cancelling_a_task_sets_the_flag_of_running_work():
    async def main():
        begun, ended = threading.Event(), threading.Event()

        def work(flag):
            begun.set()
            while not flag.is_set:
                pass
            ended.set()

        task = asyncio.ensure_future(asyncio.wait_for(workers_for("cpu", 2).submit(work), SECONDS))
        await asyncio.to_thread(begun.wait, SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(ended.wait, SECONDS)
        assert await workers_for("cpu", 2).submit(lambda _flag: 1) == 1

    asyncio.run(main())


def test_loop_closed_before_the_work_is_over():
    gate, over = threading.Event(), threading.Event()
    pool = Workers(1)

    async def main():
        pool.submit(lambda _flag: gate.wait(SECONDS) and over.set())
        await asyncio.sleep(0)

    asyncio.run(main())
    gate.set()
    assert over.wait(SECONDS)

    async def later():
        return await pool.submit(lambda _flag: "still works")

    assert asyncio.run(later()) == "still works"
    pool.stop()


def test_result_is_not_kept_by_an_idle_thread():
    class Result:
        pass

    async def main():
        result = await workers_for("cpu", 2).submit(lambda _flag: Result())
        await workers_for("cpu", 2).submit(lambda _flag: None)
        kept = weakref.ref(result)
        del result
        for _ in range(100):
            gc.collect()
            if kept() is None:
                return True
            await asyncio.sleep(0.01)
        return False

    assert asyncio.run(main())


def test_many_event_loops_at_once():
    async def main(number):
        return [await workers_for("cpu", 2).submit(lambda _flag, n=n: n * number) for n in range(50)]

    results = {}
    threads = [
        threading.Thread(target=lambda n=n: results.update({n: asyncio.run(main(n))})) for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [n * number for n in range(50)] for number in range(6)}


def test_stopped_workers_refuse_and_end():
    pool = Workers(2)

    async def main():
        begun = threading.Event()

        def work(flag):
            begun.set()
            while not flag.is_set:
                pass

        pool.submit(work)
        await asyncio.to_thread(begun.wait, SECONDS)
        await asyncio.to_thread(pool.stop)
        with pytest.raises(RuntimeError, match="exits"):
            pool.submit(work)

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_child_of_a_fork_has_workers_of_its_own():
    async def main():
        return await workers_for("cpu", 2).submit(lambda _flag: os.getpid())

    assert asyncio.run(main()) == os.getpid()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if asyncio.run(main()) == os.getpid() else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert asyncio.run(main()) == os.getpid()
    assert workers_for("cpu", 2).threads
