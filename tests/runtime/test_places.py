"""Places: a limit that tasks of all event loops share."""

from __future__ import annotations

import asyncio
import threading

import pytest

from onnxplan.runtime.places import Places


def test_as_many_as_there_are_and_in_order():
    places = Places(2)
    inside, order, most = 0, [], 0

    async def one(number):
        nonlocal inside, most
        await places.take()
        inside += 1
        most = max(most, inside)
        order.append(number)
        await asyncio.sleep(0)
        inside -= 1
        places.give()

    async def main():
        await asyncio.gather(*(one(number) for number in range(20)))

    asyncio.run(main())
    assert most == 2
    assert order == list(range(20))
    assert places._free == 2


@pytest.mark.parametrize("moment", ["waiting", "granted", "resumed"])
def test_a_cancelled_task_holds_no_place(moment):
    async def main():
        places = Places(1)
        await places.take()
        task = asyncio.create_task(places.take())
        await asyncio.sleep(0)
        if moment != "waiting":
            places.give()
        if moment == "resumed":
            # The place was granted, but the task has not gone on yet.
            loop = asyncio.get_running_loop()
            loop.call_soon(task.cancel)
            await asyncio.sleep(0)
        else:
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if moment == "waiting":
            places.give()
        await asyncio.wait_for(places.take(), 10)
        assert places._free == 0
        assert not places._waiting

    asyncio.run(main())


def test_places_pass_between_event_loops():
    places = Places(1)
    inside, wrong, done = [], [], []

    async def one(number):
        for _ in range(50):
            await places.take()
            inside.append(number)
            if inside != [number]:
                wrong.append(number)
            await asyncio.sleep(0)
            inside.remove(number)
            places.give()
        done.append(number)

    async def main(number):
        await asyncio.gather(*(one(10 * number + i) for i in range(3)))

    threads = [threading.Thread(target=asyncio.run, args=(main(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong
    assert len(done) == 12


def test_a_loop_that_was_closed_is_passed_over():
    places = Places(1)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(places.take())
    waiting = loop.create_task(places.take())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    places.give()
    asyncio.run(asyncio.wait_for(places.take(), 10))
    assert not waiting.done()
    # Else its destructor complains that it is pending.
    waiting._log_destroy_pending = False
